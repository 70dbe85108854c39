//! The wire: every JSON shape that a client sends or reads, and nothing else.
//!
//! Reading: [`document`] turns bytes into a tree that holds no key twice, [`fields`] reads the tree and knows where it is, so
//! that each complaint names its parameter; the request files say which fields there are. Writing: the answer files hold
//! the typed shapes, and pure encoders from [`Part`](crate::actors::messages::Part) to SSE frames.
//!
//! Promises: unknown fields are accepted, null is as good as absent, and no input panics.
//! Absent on purpose: sockets, clocks, randomness; ids, times and drawn seeds come in as arguments.

pub(crate) mod chat_answer;
pub(crate) mod chat_request;
pub(crate) mod completion_answer;
pub(crate) mod completion_request;
pub(crate) mod document;
pub(crate) mod encoder;
pub(crate) mod error;
pub(crate) mod event_answer;
pub(crate) mod fields;
pub(crate) mod foreign;
pub(crate) mod form;
pub(crate) mod heading;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod progress;
pub(crate) mod reasoning;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod sampling;
pub(crate) mod streaming;
pub(crate) mod terms;
pub(crate) mod text_answer;
pub(crate) mod text_request;
pub(crate) mod tokens;
pub(crate) mod tools;
pub(crate) mod whole;
