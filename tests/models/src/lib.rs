//! The project's own concurrent code, compiled with loom's threads, locks and atomics in place of
//! the standard library's. A model is run once for each order in which its threads may go and each
//! value that an atomic may show (docs/adr/0037).
//!
//! Owns: stand-ins ([`sync`]) and models. Promises: what is modelled is the file that ships, not a
//! copy of it. Absent: everything whose threads share nothing but channels and locks.

// The included files bring unit tests of their own, which run where the files live.
#![cfg(not(test))]

// What the included files call `tokio` is this package: of it they use `tokio::sync::Notify`.
extern crate self as tokio;

pub mod actors;
mod cpu;
pub mod sync;

pub use cpu::pool;

// Where the included files look for what they use besides.
use antiphon::{batch, clock, metrics};
