//! The integration tests, in one binary.

mod fake_hub;
mod http;
mod metrics;
mod source;
mod supply;
mod tidy;
