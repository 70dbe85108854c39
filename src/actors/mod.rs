//! The actors: shells around the pure rooms. RequestActor, SchedulerActor, StreamActor and their message table.

pub mod messages;
pub mod service;
pub mod snapshot;
