//! The integration tests, in one binary.

mod supply;
mod tidy;
