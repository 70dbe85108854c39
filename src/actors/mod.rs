//! The actors: shells around the pure rooms. RequestActor, SchedulerActor, StreamActor and their
//! message table.
//!
//! Owns: threads and mailboxes, the registry of live requests, the supervision of the engine.
//! Promises: a request's failure ends that request alone; a request that ends, for whatever reason,
//! leaves no block, no registry entry and no actor behind. Absent on purpose: wire formats, and
//! decisions, which are the scheduler core's.
//!
//! Everything begins with [`start()`], inside an actix `System`; http talks to the
//! [`Service`](service::Service) that it returns.

pub mod budget;
mod coalesce;
mod compiler;
mod concurrency_limit;
mod ends;
mod engine_seat;
mod engine_thread;
#[cfg(test)]
mod fixtures;
mod flight;
mod forms;
mod guard;
mod held_logprobs;
mod mail;
mod masks;
pub mod messages;
mod offload;
mod options;
mod outbox;
pub mod parts;
mod prepare;
mod refusal;
mod registry;
mod repetition;
mod request;
mod routes;
mod scheduling;
pub mod service;
pub mod snapshot;
mod start;
mod status;
mod stepper;
mod stream;
mod stream_threads;
mod supervision;
mod text;
mod text_rules;
mod token_rate;
mod ttft;

pub use options::{SchedulingOptions, StartOptions};
pub use start::{StartError, start};
