//! The integration tests, in one binary.

mod actors;
mod batch;
mod chat;
mod cli;
mod client;
mod deploy;
mod device;
mod embedded;
mod fake_hub;
mod goldens;
mod gpu_check;
mod http;
mod load;
mod metrics;
mod promises;
mod prompt;
mod puppet;
mod simulated;
mod simulation;
mod source;
mod supply;
mod tidy;
mod verify;
mod ways;
