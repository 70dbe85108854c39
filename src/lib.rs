//! Antiphon: a server for OpenAI's GPT-OSS models.
//!
//! The rooms and who may import whom are listed in `docs/architecture.md`; `tests/suite/tidy.rs` holds the table and checks it.
#![forbid(unsafe_code)]

pub mod actors;
pub mod batch;
pub mod clock;
pub mod engine;
pub mod prompt;
pub mod scheduler;
pub mod simulate;
