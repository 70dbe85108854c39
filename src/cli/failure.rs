//! How a command ends badly: one line on standard error, and an exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line is wrong (exit code 2).
    Usage(String),
    /// Anything else (exit code 1).
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Usage(text) => text.clone(),
            // Errors here name their causes themselves; anyhow's chain would name them twice.
            Self::Failed(error) => error.to_string(),
        };
        // One line, whatever a library put into its message.
        let line: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect();
        f.write_str(&line.join(" "))
    }
}

impl Failure {
    /// Prints the line; its exit code.
    pub(super) fn report(&self) -> ExitCode {
        // A closed standard error is no reason to panic over the message.
        let _ = writeln!(std::io::stderr(), "antiphon: {self}");
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

/// Prints to standard output; that nobody reads it any more (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(anyhow::anyhow!("standard output: {error}").into()),
        _ => Ok(()),
    }
}

/// A complaint of clap as one line: what is wrong, and the hint if there is one.
pub(super) fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let said: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(|line| line.trim().trim_start_matches("error: ").trim_start_matches("tip: "))
        .filter(|line| !line.is_empty())
        .collect();
    Failure::Usage(format!("{}; antiphon --help lists what there is", said.join("; ")))
}
