//! The command line: `serve`, `inspect`, `simulate`, `chat`, `batch`, `load`, `verify`, `synth`,
//! `health`.
//!
//! Owns: the settings and their layers (flag, environment, file, profile), the log, the exit code.
//! Promises: a failure is one line on standard error, `antiphon: what; what was expected; where it
//! was given`. The exit code is then 1, or 2 if the command line is at fault, or 70 if the engine
//! died for good while it served. Absent on purpose: what the commands do, which is the other
//! rooms' part.

mod batch;
mod chat;
mod failure;
mod file;
mod health;
mod inspect;
mod layers;
mod load;
mod options;
mod presets;
mod serve;
mod settings;
mod simulate;
mod synth;
mod verify;

use std::process::ExitCode;

use clap::Command;
use clap::error::ErrorKind;

use failure::CommandFailure;

fn command() -> Command {
    let version = match crate::COMMIT {
        Some(commit) => format!("{} ({commit})", crate::VERSION),
        None => crate::VERSION.to_owned(),
    };
    Command::new("antiphon")
        .about("A server for OpenAI's GPT-OSS models")
        .version(version)
        .subcommand_required(true)
        .subcommands([serve::command(), inspect::command(), simulate::command(), chat::command()])
        .subcommands([batch::command(), load::command(), verify::command(), synth::command(), health::command()])
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch() -> Result<(), CommandFailure> {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        // Help and version are no failures, and go to standard output.
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return failure::print(&error.to_string());
        }
        Err(error) => {
            let named = std::env::args().nth(1).filter(|name| command().find_subcommand(name).is_some());
            return Err(failure::usage(&error, named.as_deref()));
        }
    };
    match matches.subcommand() {
        Some(("serve", matches)) => serve::run(matches),
        Some(("inspect", matches)) => inspect::run(matches),
        Some(("simulate", matches)) => simulate::run(matches),
        Some(("chat", matches)) => chat::run(matches),
        Some(("batch", matches)) => batch::run(matches),
        Some(("load", matches)) => load::run(matches),
        Some(("verify", matches)) => verify::run(matches),
        Some(("synth", matches)) => synth::run(matches),
        Some(("health", matches)) => health::run(matches),
        _ => unreachable!("clap demands a command of the list"),
    }
}
