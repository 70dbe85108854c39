//! Antiphon: a server for OpenAI's GPT-OSS models.
//!
//! The rooms and what each may import are listed in `docs/architecture.md`; `tests/suite/tidy`
//! reads that table and checks it.
#![forbid(unsafe_code)]

pub mod actors;
pub mod app;
pub mod batch;
pub mod capacity;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cost;
pub mod engine;
pub mod http;
pub mod load;
pub mod metrics;
pub mod otel;
pub mod profile;
pub mod prompt;
pub mod scheduler;
pub mod simulate;
pub mod source;
pub mod store;
mod text_file;
pub mod verify;

/// The version in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this was built from, if the build was told (`ANTIPHON_COMMIT`).
pub const COMMIT: Option<&str> = option_env!("ANTIPHON_COMMIT");
