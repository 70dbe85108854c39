//! The integration tests, in one binary.

mod actors;
mod fake_hub;
mod metrics;
mod source;
mod supply;
mod tidy;
