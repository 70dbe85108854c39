//! The acceptance suites: what a server must do, asked of a running one, with a verdict for each
//! test.
//!
//! Owns: the tests of the two acceptance plans that antiphon answers to, and of what clients meet;
//! their criteria, the verdicts and the reports. Promises: a test passes only by what it saw; what
//! a server lacks fails or is skipped with the reason; a server that dies in the middle leaves the
//! results so far, marked as partial. Absent on purpose: how a server is made (a process that is
//! started, a service that is handed over), and the command line.

mod asking;
mod bench;
mod browser;
mod case;
mod connections;
mod criteria;
mod effort;
mod exposition;
#[cfg(test)]
mod made_up;
mod process;
mod python;
mod raw;
mod report;
mod run;
mod slope;
mod spread;
mod suites;

pub use bench::Target;
pub use case::{Case, CaseOutcome, Level, MeasuredFigure, Suite, Verdict};
pub use criteria::{Criteria, Range};
pub use exposition::{Exposition, ExpositionError};
pub use process::{ProcessError, ServerProcess};
pub use python::{PythonError, check_python, code_of};
pub use report::{Environment, Tested, VerifyReport};
pub use run::{RunProgress, VerifyError, cases, verify};
pub use slope::{Slope, slope};
