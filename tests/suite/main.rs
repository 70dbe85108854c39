//! The integration tests, in one binary.

mod actors;
mod fake_hub;
mod goldens;
mod http;
mod metrics;
mod simulation;
mod source;
mod supply;
mod tidy;
