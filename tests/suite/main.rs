//! The integration tests, in one binary.

mod metrics;
mod supply;
mod tidy;
