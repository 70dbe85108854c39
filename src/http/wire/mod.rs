//! The wire: every JSON shape that a client sends or reads, and nothing else.
//!
//! Reading: [`document`] turns bytes into a tree that holds no key twice, [`fields`] reads the tree
//! and knows where it is, so that each complaint names its parameter; the request files say which
//! fields there are. Writing: the answer files hold the typed shapes, and pure encoders from
//! [`Part`](crate::actors::messages::Part) to SSE frames.
//!
//! Promises: unknown fields are accepted, null is as good as absent, and no input panics.
//! Absent on purpose: sockets, clocks, randomness; ids, times and drawn seeds come in as arguments.

pub(crate) mod defaults;
pub(crate) mod document;
pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod foreign;
pub(crate) mod form;
pub(crate) mod models;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod sampling;
pub(crate) mod streaming;
pub(crate) mod tokens;
