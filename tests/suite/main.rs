//! The integration tests, in one binary.

mod actors;
mod metrics;
mod supply;
mod tidy;
