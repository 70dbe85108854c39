//! What all routes read alike, and the small shapes that belong to no conversation.
//!
//! [`document`] turns bytes into a tree that holds no key twice, [`fields`] reads the tree and
//! knows where it is, so that each complaint names its parameter. `sampling`, `streaming`, `form`,
//! `tools`, `reasoning` and `foreign` read the fields that several routes have; `history` makes
//! messages of items.
//!
//! Promises: unknown fields are accepted, null is as good as absent, and no input panics.
//! Absent on purpose: sockets, clocks, randomness; ids, times and drawn seeds come in as arguments.

pub(crate) mod custom;
pub(crate) mod defaults;
pub(crate) mod document;
pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod foreign;
pub(crate) mod form;
pub(crate) mod functions;
pub(crate) mod history;
pub(crate) mod limits;
pub(crate) mod lists;
pub(crate) mod models;
pub(crate) mod noted;
pub(crate) mod parts;
pub(crate) mod reasoning;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod sampling;
pub(crate) mod streaming;
pub(crate) mod tokens;
pub(crate) mod tools;
