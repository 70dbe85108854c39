//! The actors: shells around the pure rooms. RequestActor, SchedulerActor, StreamActor and their message table.

pub mod messages;
