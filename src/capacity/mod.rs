//! Plans with numbers: what servers would do under a load, told by the scheduler core in virtual
//! time and a cost model.
//!
//! Owns: loads (traces, and made up from a seed), replicas, the choice of a replica, the figures.
//! Promises: the core is the one that serves, and its calls are those that the actors make. The
//! same load and options give the same figures. A line of a trace that makes no sense is refused
//! with its number and reason. Absent on purpose: clocks, threads, text, the network.
//!
//! What is not in it: tokens that are no text (the header of a chat's answer), clients that leave,
//! and whatever a cost model leaves out. `docs/simulator.md` compares it with real servers.

mod demand;
mod fleet;
mod replica;
mod report;
mod routing;
mod tally;
#[cfg(test)]
mod tests;
mod times;
mod trace;
mod tune;

pub use demand::{MadeUpLoad, OfferedLoad, TokenRange};
pub use fleet::{FleetOptions, run};
pub use report::{CapacityCounts, CapacityReport, KvFigures, PrefixFigures};
pub use routing::Routing;
pub use trace::{TraceRequest, read_trace};
pub use tune::{TuneTarget, Tuned, tune};

/// Why there is nothing to plan with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// The trace cannot be read.
    #[error("trace {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of the trace makes no sense.
    #[error("trace {path}, line {line}: {found}; expected {expected}")]
    Line {
        /// The file.
        path: String,
        /// Which line, counted from one.
        line: u64,
        /// What was found.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
}
