//! What the generating routes share of an answer: from parts to a stream of events, or to one
//! piece.
//!
//! `respond` begins either; `encoder` and `stream` send events in the client's dialect, `whole`
//! gathers. Heading, progress and log-probabilities are the pieces of every answer's JSON; `blocks`
//! cuts text for the APIs in which an answer is a list, and `sealing` seals its reasoning.

pub(in crate::http) mod blocks;
pub(in crate::http) mod encoder;
pub(in crate::http) mod heading;
pub(in crate::http) mod logprobs;
pub(in crate::http) mod progress;
pub(in crate::http) mod respond;
pub(in crate::http) mod sealing;
pub(in crate::http) mod stream;
pub(in crate::http) mod whole;
