//! Text to tokens and back: harmony's renderer and its streaming parser, the tokenizer, what an
//! answer may be, stop strings, the prompt cache.
//!
//! Pure: the same input gives the same tokens. Absent on purpose: clocks (the date is an input),
//! wire formats, actors.

pub mod builder;
pub mod constraint;
pub mod conversation;
pub mod detokenizer;
pub mod harmony;
pub mod stop;
pub mod tokenizer;

mod cache;
mod cache_key;
mod error;
mod normalise;
mod python_json;
