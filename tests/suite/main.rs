//! The integration tests, in one binary.

mod fake_hub;
mod metrics;
mod simulation;
mod source;
mod supply;
mod tidy;
