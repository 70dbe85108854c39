//! How a command ends badly: one line on standard error, and an exit code.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::app::AppError;

/// The exit code of a server whose engine or HTTP server died for good: an internal error as
/// `sysexits.h` numbers it. Started anew it may serve.
const DIED: u8 = 70;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CommandFailure {
    /// The command line is wrong (exit code 2).
    Usage(String),
    /// The engine or the HTTP server died for good (exit code 70).
    Died(AppError),
    /// Anything else (exit code 1).
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for CommandFailure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<AppError> for CommandFailure {
    fn from(error: AppError) -> Self {
        match error {
            AppError::EngineDied { .. } | AppError::ServerDied { .. } => Self::Died(error),
            _ => Self::Failed(error.into()),
        }
    }
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Usage(text) => text.clone(),
            Self::Died(error) => error.to_string(),
            // Errors here name their causes themselves; anyhow's chain would name them twice.
            Self::Failed(error) => error.to_string(),
        };
        // One line, whatever a library put into its message.
        let line: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect();
        f.write_str(&line.join(" "))
    }
}

impl CommandFailure {
    /// Prints the line; its exit code.
    pub(super) fn report(&self) -> ExitCode {
        // A closed standard error is no reason to panic over the message.
        let _ = writeln!(std::io::stderr(), "antiphon: {self}");
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Died(_) => ExitCode::from(DIED),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

/// Prints to standard output; a reader that is gone (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), CommandFailure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(anyhow::anyhow!("standard output: {error}").into()),
        _ => Ok(()),
    }
}

/// Finds out before the work whether its report can be written; what the file holds stays.
pub(super) fn can_be_written(option: &str, path: &Path) -> Result<(), CommandFailure> {
    let is_there = path.exists();
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|error| anyhow::anyhow!("--{option} {}: {error}; expected a file that can be written", path.display()))?;
    if !is_there {
        // Nothing is left of a work that fails before its report.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// A complaint of clap about the options of a `command`, or about what stands in its place, as one
/// line: what is wrong, and the hint if there is one.
pub(super) fn usage(error: &clap::Error, command: Option<&str>) -> CommandFailure {
    let text = error.to_string();
    let said: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(|line| line.trim().trim_start_matches("error: ").trim_start_matches("tip: "))
        .filter(|line| !line.is_empty())
        .collect();
    let said = said.join("; ").replace(":; ", ": ");
    let place = command.map(|command| format!("{command} ")).unwrap_or_default();
    CommandFailure::Usage(format!("{said}; antiphon {place}--help lists what there is"))
}
