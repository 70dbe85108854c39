//! `antiphon chat`: talk to a server, or to one started for the talk, in the terminal.

mod client;
mod input;
mod lines;
mod settings;

use std::io::{IsTerminal, Write, stderr, stdout};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::failure::{CommandFailure, print};
use super::serve::{layers, serve_for, setting_args, variable};
use super::settings::{API_KEY_VARIABLE, QUIET_LOG_HELP};
use client::{AnswerPiece, ChatServer, Stopped, Turn};
use input::TypedInput;
use lines::Lines;
use settings::ChatSettings;

/// The settings of the server that is started for the talk.
const SETTINGS: [&str; 8] = ["model", "profile", "device", "threads", "kv_bytes", "system_date", "prompt_version", "log_level"];

/// The options that only a server started for the talk has a use for.
const OF_OUR_SERVER: [&str; 8] =
    ["config", "profile", "device", "threads", "kv_bytes", "system_date", "prompt_version", "log_level"];

const MODEL_HELP: &str = "tiny (in the binary), 20b, 120b, a directory, or org/name on the Hugging Face hub; with --url, the name by \
                          which that server knows the model [default: tiny; with --url, the first that it lists]";

/// The command's options.
pub(super) fn command() -> Command {
    Command::new("chat")
        .about("Talk to a server, or to one started for the talk")
        .arg(Arg::new("prompt").value_name("PROMPT").help("Ask this, print the answer, and exit"))
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .conflicts_with_all(OF_OUR_SERVER)
                .help("A server to talk to, such as http://127.0.0.1:8000"),
        )
        .arg(Arg::new("system").long("system").value_name("TEXT").help("Instructions that the talk begins with"))
        .arg(Arg::new("reasoning").long("reasoning").action(ArgAction::SetTrue).help("Show how the model reasons"))
        .args(setting_args(|setting| SETTINGS.contains(&setting.name)))
        .mut_arg("model", |arg| arg.help(MODEL_HELP))
        .mut_arg("log_level", |arg| arg.help(QUIET_LOG_HELP))
}

/// What is asked of a talk.
struct ChatArguments {
    prompt: Option<String>,
    system: Option<String>,
    model: Option<String>,
    reasoning: bool,
}

/// Talks.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let (prompt, system, reasoning) = (text("prompt"), text("system"), matches.get_flag("reasoning"));
    match text("url") {
        Some(url) => {
            let server = ChatServer::new(&url, variable(API_KEY_VARIABLE))?;
            ChatArguments { prompt, system, model: text("model"), reasoning }.with(server)
        }
        None => {
            // At `info` its log would stand between the lines of the talk.
            let layers = layers(matches, &variable)?.or("log_level", "warn");
            // Ctrl-C is the talk's: it stops an answer, not the server.
            let interrupt_stops = false;
            serve_for(&layers, interrupt_stops, move |url, key| {
                ChatArguments { prompt, system, model: None, reasoning }.with(ChatServer::new(&url, key)?)
            })
        }
    }
}

impl ChatArguments {
    fn with(self, server: ChatServer) -> Result<(), CommandFailure> {
        let model = self.model.map_or_else(|| server.model(), Ok)?;
        let mut talk =
            Talk { server, model, system: self.system, turns: Vec::new(), settings: ChatSettings::new(self.reasoning) };
        if let Some(prompt) = &self.prompt {
            return talk.answer(prompt, false);
        }
        talk.go_on(&mut Lines::open()?)
    }
}

/// A talk, and what was said so far.
struct Talk {
    server: ChatServer,
    model: String,
    system: Option<String>,
    turns: Vec<Turn>,
    settings: ChatSettings,
}

impl Talk {
    /// Takes texts to their end. What goes wrong ends a talk with a program, and is only said to a
    /// person.
    fn go_on(&mut self, lines: &mut Lines) -> Result<(), CommandFailure> {
        let typed = lines.are_typed();
        if typed {
            say(&format!("{}. /help lists the commands, Ctrl-D ends the talk.\n\n", self.model));
        }
        while let Some(text) = lines.next()? {
            let done = match input::read(&text) {
                TypedInput::Nothing => continue,
                TypedInput::Exit => break,
                TypedInput::Message(message) => self.answer(message, typed),
                command => self.obey(command).map_err(|why| anyhow::anyhow!(why).into()),
            };
            match done {
                Err(failure) if typed => _ = failure.report(),
                done => done?,
            }
            if typed {
                say("\n");
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: TypedInput<'_>) -> Result<(), String> {
        match command {
            TypedInput::Help => say(input::HELP),
            TypedInput::Clear => self.turns.clear(),
            TypedInput::System("") => {
                say(&format!("{}\n", printable(self.system.as_deref().unwrap_or("There are no instructions."))));
            }
            TypedInput::System("none") => self.system = None,
            TypedInput::System(text) => self.system = Some(text.to_owned()),
            TypedInput::Set(name, "") if name.is_empty() || !self.settings.shown(name).is_empty() => {
                say(&self.settings.shown(name));
            }
            TypedInput::Set(name, value) => self.settings.set(name, value)?,
            TypedInput::Unknown(why) => return Err(why),
            TypedInput::Nothing | TypedInput::Exit | TypedInput::Message(_) => {}
        }
        Ok(())
    }

    /// Asks, prints the answer as it comes, and adds both to the talk. An answer that Ctrl-C
    /// stopped stays as far as it came; of one that failed nothing does.
    fn answer(&mut self, prompt: &str, stoppable: bool) -> Result<(), CommandFailure> {
        let system = self.system.iter().map(|text| Turn { role: "system", content: text.clone() });
        let asked = Turn { role: "user", content: prompt.to_owned() };
        let turns: Vec<Turn> = system.chain(self.turns.iter().cloned()).chain([asked.clone()]).collect();
        let (mut answer, mut reasoned) = (String::new(), false);
        let (colour, shows_reasoning) = (stdout().is_terminal(), self.settings.shows_reasoning);
        let request = client::body(&self.model, &turns, self.settings.sent());
        let stopped = self.server.stream(request, stoppable, &mut |piece| {
            let mut output = stdout().lock();
            let shown = match piece {
                AnswerPiece::Reasoning(_) if !shows_reasoning => Ok(()),
                AnswerPiece::Reasoning(text) => {
                    reasoned = true;
                    let text = printable(text);
                    if colour { write!(output, "\x1b[2m{text}\x1b[0m") } else { write!(output, "{text}") }
                }
                AnswerPiece::Content(text) => {
                    let gap = if std::mem::take(&mut reasoned) { "\n\n" } else { "" };
                    answer.push_str(text);
                    write!(output, "{gap}{}", printable(text))
                }
            };
            shown.and_then(|()| output.flush())
        })?;
        if stopped == Stopped::No || !answer.is_empty() {
            self.turns.extend([asked, Turn { role: "assistant", content: answer }]);
        }
        print("\n")?;
        if stopped == Stopped::Yes {
            say("Stopped.\n");
        }
        Ok(())
    }
}

/// What a model says without what would steer the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || "\n\t".contains(*c)).collect()
}

/// Speaks to the terminal, not to the reader of the answers.
fn say(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}
