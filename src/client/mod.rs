//! The client of any server like OpenAI's: requests, event streams, and what they hold.
//!
//! Owns: connections and their reuse, the reading of event streams, the forms in which servers
//! stream answers. Promises: every arrival carries the time at which its bytes were read; an answer
//! or stream that is dropped closes its connection at once; what breaks the format of an event
//! stream is an error that shows the line. Absent on purpose: retries of what a server may
//! have acted on, limits on how long an answer takes (drop it), and statistics.

mod answer;
mod calls;
mod dialect;
mod error;
mod event;
mod request;
mod sse;
mod stream;
mod transport;
mod url;

pub use answer::{Answer, Timing, WholeAnswer};
pub use calls::{Client, ClientOptions};
pub use dialect::{Api, DecodeError, Decoder};
pub use error::{ClientError, ErrorStatus};
pub use event::{AnswerEvent, ErrorText, Usage};
pub use request::{Method, Request};
pub use sse::{SseError, SseEvent, SseParser};
pub use stream::{Arrival, EventStream};
pub use url::BaseUrl;
