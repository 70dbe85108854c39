//! The load client: many users of one server, and what they saw.
//!
//! Owns: when requests are sent, what they ask, which users leave early, and the report. Promises:
//! in an open loop a latency counts from the moment at which the request was meant to be sent. A
//! run that is broken off keeps what it has and says so. The same seed sends the same requests at
//! the same intended times. Absent on purpose: the server's side, apart from its `/metrics`.

mod attempt;
mod body;
mod compare;
mod csv_file;
mod drive;
mod html;
#[cfg(test)]
mod made_up;
mod measure;
mod options;
mod prompts;
mod record;
mod report;
mod schedule;
mod scrape;
mod sweep;
mod table;

pub(crate) use body::is_own_field;
pub use compare::{Comparison, compare};
pub use csv_file::write_csv;
pub use drive::drive;
pub use html::html;
pub use measure::histogram;
pub use options::{Arrivals, GoodputTargets, LoadOptions, SweepOptions};
pub use prompts::{PromptSource, Prompts};
pub use record::{AttemptOutcome, Record};
pub use report::{EndCounts, ErrorCount, LatencySummary, LoadReport, LoadRun, Quantiles, RunSample, SweepFinding, TokenCount};
pub use schedule::times;
pub use sweep::sweep;
pub use table::table;

use crate::client::ClientError;

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The server cannot be asked at all.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file of prompts, or of an earlier report, that cannot be used.
    #[error("{path}{place}: {message}; expected {expected}")]
    File {
        /// The file.
        path: String,
        /// Where in it, such as `, line 3`; may be empty.
        place: String,
        /// What is wrong.
        message: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A report cannot be written.
    #[error("{path}: {message}")]
    Write {
        /// The file.
        path: String,
        /// What the system says.
        message: String,
    },
}
