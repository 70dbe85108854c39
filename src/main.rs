//! The command line: everything it does lives in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    antiphon::cli::run()
}
