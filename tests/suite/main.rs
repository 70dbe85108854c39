//! The integration tests, in one binary.

mod fake_hub;
mod metrics;
mod source;
mod supply;
mod tidy;
