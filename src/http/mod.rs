//! The HTTP border: routes, the wire, SSE, errors, keys.
//!
//! Owns: sockets, the JSON shapes, the ids of requests. Promises: every answer carries
//! `x-request-id`, every error is the error object, a bad request is a plain 4xx before any stream
//! begins, and the failure of one request ends that request alone. A client that leaves drops the
//! body or the waiting handler, and with it the parts: that is how a response is cancelled.
//!
//! A conversation is a folder: `chat`, `completions`, `responses`, `messages`, `legacy`. What they
//! share of an answer is in `answer`, what all routes read alike in `wire`; a request passes
//! `listen` and `middleware` before `routes` finds its handler, which works with `state`.
//!
//! Absent on purpose: scheduling, text work, the model. A page from elsewhere cannot read an
//! answer, unless its origin is named.

mod answer;
mod batches;
mod body;
mod chat;
mod completions;
mod errors;
mod legacy;
mod listen;
mod messages;
mod middleware;
mod models;
pub mod observe;
mod openapi;
mod options;
mod page;
mod render;
mod responses;
mod routes;
mod state;
mod tokens;
mod wire;

pub use body::largest_body_bytes;
pub use listen::server::{ServeError, ServerHandle, serve};
pub use middleware::cors::{AllowedOrigin, NoOrigin};
pub use middleware::key::{ApiKey, KeyError, KeyRing, Keys, MetricsAccess};
pub use options::{Backend, HttpOptions};
pub use wire::defaults::RequestDefaults;
pub use wire::streaming::Dialect;
