//! The HTTP border: routes, the wire, SSE, errors, keys.
//!
//! Owns: sockets, the JSON shapes, the ids of requests. Promises: every answer carries `x-request-id`, every error is the error
//! object, a bad request is a plain 4xx before any stream begins, and the failure of one request ends that request alone. A
//! client that leaves drops the body or the waiting handler, and with it the parts: that is how a response is cancelled.
//!
//! Absent on purpose: scheduling, text work, the model. A page from elsewhere cannot read an answer, unless its origin is named.

mod accept;
mod body;
mod border;
mod chat;
mod completions;
mod connection;
mod cors;
mod errors;
mod front;
mod generate;
mod held;
mod key;
mod models;
pub mod observe;
mod options;
mod page;
mod probe;
mod respond;
mod routes;
mod server;
mod stream;
mod tokens;
mod wire;
mod workers;

pub use body::largest_body_bytes;
pub use cors::{AllowedOrigin, NoOrigin};
pub use key::{ApiKey, KeyError, KeyRing, Keys, MetricsAccess};
pub use options::{Backend, HttpOptions};
pub use server::{ServeError, ServerHandle, serve};
pub use wire::streaming::Dialect;
pub use wire::terms::RequestDefaults;
