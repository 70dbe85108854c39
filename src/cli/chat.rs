//! `antiphon chat`: talk to a server, or to one started for the talk, in the terminal.

mod client;

use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::failure::Failure;
use super::serve::{layers, serve_for, setting_args, variable};
use super::settings::{API_KEY_VARIABLE, QUIET_LOG_HELP};
use client::{Piece, Server, Turn};

/// The settings of the server that is started for the talk.
const SETTINGS: [&str; 8] = ["model", "profile", "device", "threads", "kv_bytes", "system_date", "prompt_version", "log_level"];

const WELCOME: &str = "An empty line or /exit ends the talk, /clear begins a new one.";

/// The command's options.
pub(super) fn command() -> Command {
    Command::new("chat")
        .about("Talk to a server, or to one started for the talk")
        .arg(Arg::new("prompt").value_name("PROMPT").help("Ask this, print the answer, and exit"))
        .arg(Arg::new("url").long("url").value_name("URL").help("A server to talk to, such as http://127.0.0.1:8000"))
        .arg(Arg::new("system").long("system").value_name("TEXT").help("Instructions that the talk begins with"))
        .arg(Arg::new("reasoning").long("reasoning").action(ArgAction::SetTrue).help("Show how the model reasons"))
        .args(setting_args(|setting| SETTINGS.contains(&setting.name)))
        .mut_arg("log_level", |arg| arg.help(QUIET_LOG_HELP))
}

/// What is asked of a talk.
#[derive(Clone)]
struct Talk {
    prompt: Option<String>,
    system: Option<String>,
    reasoning: bool,
}

/// Talks.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let talk = Talk { prompt: text("prompt"), system: text("system"), reasoning: matches.get_flag("reasoning") };
    match text("url") {
        Some(url) => talk.with(&Server::new(&url, variable(API_KEY_VARIABLE))?),
        None => {
            // At `info` its log would stand between the lines of the talk.
            let layers = layers(matches, &variable)?.or("log_level", "warn");
            serve_for(&layers, move |url, key| talk.with(&Server::new(&url, key)?))
        }
    }
}

impl Talk {
    fn with(&self, server: &Server) -> Result<(), Failure> {
        let model = server.model()?;
        let system = self.system.iter().map(|text| Turn { role: "system", content: text.clone() });
        let opening: Vec<Turn> = system.collect();
        let mut turns = opening.clone();
        if let Some(prompt) = &self.prompt {
            return self.answer(server, &model, &mut turns, prompt);
        }
        let interactive = stdin().is_terminal();
        if interactive {
            say(&format!("{model}. {WELCOME}\n"));
        }
        loop {
            if interactive {
                say("\n> ");
            }
            let mut line = String::new();
            let read = stdin().lock().read_line(&mut line).map_err(|error| anyhow::anyhow!("standard input: {error}"))?;
            match line.trim() {
                _ if read == 0 => return Ok(()),
                "" if interactive => return Ok(()),
                "" => {}
                "/exit" => return Ok(()),
                "/clear" => turns.clone_from(&opening),
                prompt => match self.answer(server, &model, &mut turns, prompt) {
                    Err(failure) if interactive => {
                        failure.report();
                        turns.pop();
                    }
                    answered => answered?,
                },
            }
        }
    }

    /// Asks, prints the answer as it comes, and adds both to the talk.
    fn answer(&self, server: &Server, model: &str, turns: &mut Vec<Turn>, prompt: &str) -> Result<(), Failure> {
        turns.push(Turn { role: "user", content: prompt.to_owned() });
        let (mut answer, mut reasoned) = (String::new(), false);
        let colour = stdout().is_terminal();
        server.stream(model, turns, &mut |piece| {
            let mut output = stdout().lock();
            let shown = match piece {
                Piece::Reasoning(_) if !self.reasoning => Ok(()),
                Piece::Reasoning(text) => {
                    reasoned = true;
                    let text = printable(text);
                    if colour { write!(output, "\x1b[2m{text}\x1b[0m") } else { write!(output, "{text}") }
                }
                Piece::Content(text) => {
                    let gap = if std::mem::take(&mut reasoned) { "\n\n" } else { "" };
                    answer.push_str(text);
                    write!(output, "{gap}{}", printable(text))
                }
            };
            shown.and_then(|()| output.flush())
        })?;
        turns.push(Turn { role: "assistant", content: answer });
        super::failure::print("\n")
    }
}

/// What a model says without what would steer the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || "\n\t".contains(*c)).collect()
}

/// Speaks to the person at the terminal, not to whoever reads the answers.
fn say(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}
