//! Where a talk's texts come from: a terminal with an editor, or a pipe.

use std::io::{IsTerminal, stdin};

use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Behavior, Config, Editor};

use crate::cli::failure::CommandFailure;

/// Texts, one after the other. What is pasted into a terminal is one, as its brackets tell; in a
/// pipe each line is one.
pub(super) enum Lines {
    /// A person types; the history lasts as long as the talk, so that nothing that was said is
    /// written to a disk.
    Terminal(Box<Editor<(), MemHistory>>),
    /// A program writes.
    Pipe,
}

impl Lines {
    /// Standard input.
    pub(super) fn open() -> Result<Self, CommandFailure> {
        if !stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        // The terminal itself, not standard output, which may be a file that collects the answers.
        let config = Config::builder().behavior(Behavior::PreferTerm).build();
        let history = MemHistory::with_config(&config);
        let editor = Editor::with_history(config, history);
        Ok(Self::Terminal(Box::new(editor.map_err(|error| anyhow::anyhow!("the terminal: {error}"))?)))
    }

    /// Whether a person types.
    pub(super) fn are_typed(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next text; none at the end of the input, and at Ctrl-C while a text is typed.
    pub(super) fn next(&mut self) -> Result<Option<String>, CommandFailure> {
        let Self::Terminal(editor) = self else {
            let mut line = String::new();
            let read = stdin().read_line(&mut line).map_err(|error| anyhow::anyhow!("standard input: {error}"))?;
            return Ok((read > 0).then_some(line));
        };
        match editor.readline("> ") {
            Ok(text) => {
                if !text.trim().is_empty() {
                    // A text that cannot be remembered can still be sent.
                    let _ = editor.add_history_entry(text.as_str());
                }
                Ok(Some(text))
            }
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
            Err(error) => Err(anyhow::anyhow!("the terminal: {error}").into()),
        }
    }
}
