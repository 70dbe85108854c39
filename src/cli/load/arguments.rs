//! The command line of a load.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

use super::super::failure::CommandFailure;
use super::super::presets::{self, Asked};
use super::super::serve::setting_args;
use super::super::settings::QUIET_LOG_HELP;
use super::api;
use crate::load::{Arrivals, GoodputTargets, LoadOptions, PromptSource, SweepOptions, is_own_field};

/// The settings of the server that `--embedded` starts.
const SETTINGS: [&str; 7] = ["model", "profile", "device", "threads", "kv_bytes", "prompt_version", "log_level"];

/// What is asked of a load.
pub(super) struct LoadArguments {
    /// Empty for a server of our own.
    pub(super) urls: Vec<String>,
    pub(super) ca_file: Option<String>,
    pub(super) model: Option<String>,
    pub(super) source: PromptSource,
    pub(super) prefix_tokens: u32,
    pub(super) load: LoadOptions,
    pub(super) sweep: Option<SweepOptions>,
    pub(super) rounds: usize,
    pub(super) failed_share_max: f64,
    /// Whether a server of our own keeps what prompts have in common; `None` leaves it to its
    /// settings.
    pub(super) prefix_cache: Option<String>,
    pub(super) json: Option<String>,
    pub(super) csv: Option<String>,
    pub(super) html: Option<String>,
}

/// The options, in groups.
pub(super) fn command() -> Command {
    let value = |name: &'static str, what: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(what).help(help).allow_hyphen_values(true)
    };
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let command = Command::new("load")
        .about("Load a server, and report what its users saw")
        .arg(
            value("url", "URL", "A server, such as http://127.0.0.1:8000; given twice, both are driven in turn and compared")
                .action(ArgAction::Append),
        )
        .arg(flag("embedded", "Start a server for this load").conflicts_with("url"))
        .arg(
            value("compare", "FILE", "Compare two reports written with --json, and send nothing")
                .num_args(2)
                .value_names(["A.json", "B.json"]),
        )
        .arg(value("api", "ROUTE", "chat, completions, responses, generate or generate-stream").default_value("chat"))
        .arg(value("request-model", "NAME", "The model to ask for [default: the first that the server names]"))
        .arg(value("ca-file", "FILE", "Certificates (PEM) to trust in place of the usual ones"))
        .arg(presets::argument())
        .next_help_heading("When requests are sent")
        .arg(value("concurrency", "N", "Closed loop: so many users; each asks again once it has an answer [default: 8]"))
        .arg(value("rate", "R", "Open loop: so many requests a second, whatever the server does"))
        .arg(value("arrivals", "HOW", "Of an open loop: poisson or constant").default_value("poisson"))
        .arg(value("burst", "N", "So many requests at once, again and again"))
        .arg(value("burst-every", "SECONDS", "From one burst to the next").default_value("5"))
        .arg(flag("sweep", "Rate after rate: finds the knee, and the highest rate that meets the targets"))
        .arg(value("sweep-from", "R", "The first rate of a sweep").default_value("1"))
        .arg(value("sweep-stages", "N", "Rates of a sweep at most").default_value("12"))
        .arg(value("requests", "N", "Conversations at most [default: 100, unless --duration is given]"))
        .arg(value("duration", "SECONDS", "No conversation starts after this"))
        .arg(value("warmup", "N", "Requests before, which are not counted").default_value("0"))
        .arg(value("rounds", "N", "How often it all is done again [default: 3 with two servers, else 1]"))
        .next_help_heading("What is asked")
        .arg(value("prompts", "FILE", "Prompts: JSON lines, or ShareGPT's form [default: a few questions of our own]"))
        .arg(value("prompt-tokens", "N|N-M", "Prompts of random words of so many tokens").conflicts_with("prompts"))
        .arg(
            value("shared-prefix-tokens", "N", "Instructions of so many tokens that all conversations share")
                .default_value("0"),
        )
        .arg(value("turns", "N", "Requests of a conversation, each with the history before it").default_value("1"))
        .arg(value("output-tokens", "N|N-M", "Tokens of an answer at most, or a limit between the two for each [default: 64]"))
        .arg(flag("ignore-eos", "Answers of exactly so many tokens, where the server knows ignore_eos"))
        .arg(value("temperature", "T", "The temperature").default_value("0"))
        .arg(value("extra-body", "JSON", "Fields of every request besides: {\"response_format\": {\"type\": \"json_object\"}}"))
        .arg(value("seed", "N", "What every random choice comes from").default_value("0"))
        .next_help_heading("Users that leave early")
        .arg(value("disconnect-rate", "SHARE", "Share of clients that leave at a random moment").default_value("0"))
        .arg(
            value("abort-rate", "SHARE", "Share of requests that are cancelled by POST /cancel at a random moment")
                .default_value("0"),
        )
        .arg(value("answer-max", "SECONDS", "How long an answer may take").default_value("600"))
        .next_help_heading("Reports")
        .arg(value("json", "FILE", "Write the report as JSON"))
        .arg(value("csv", "FILE", "Write every request as a line"))
        .arg(value("html", "FILE", "Write the report as one page with plots"));
    limits(command, value)
        .next_help_heading("The server of --embedded")
        .args(setting_args(|setting| SETTINGS.contains(&setting.name)))
        .mut_arg("log_level", |arg| arg.help(QUIET_LOG_HELP))
}

/// The options that say what is good enough.
fn limits(command: Command, value: impl Fn(&'static str, &'static str, &'static str) -> Arg) -> Command {
    command
        .next_help_heading("What is good enough")
        .arg(value("target-ttft", "MS", "Most milliseconds to the first token"))
        .arg(value("target-tpot", "MS", "Most milliseconds a token after the first"))
        .arg(value("target-e2e", "MS", "Most milliseconds to the end of the answer"))
        .arg(
            value("target-share", "SHARE", "Share of requests that must meet the targets for a rate to do so")
                .default_value("0.95"),
        )
        .arg(
            value("failed-max", "SHARE", "Share of requests that may fail (429s do not count) before the exit code is 1")
                .default_value("0"),
        )
        .arg(value("failures-in-a-row", "N", "After so many the load is broken off").default_value("50"))
}

impl LoadArguments {
    /// Reads the command line.
    pub(super) fn read(matches: &ArgMatches) -> Result<Self, CommandFailure> {
        let read = Asked::new(matches)?;
        let urls: Vec<String> = matches.get_many::<String>("url").map(|urls| urls.cloned().collect()).unwrap_or_default();
        if urls.is_empty() && !matches.get_flag("embedded") {
            return Err(CommandFailure::Usage(
                "no server is named; expected --url URL, or --embedded for one of our own".to_owned(),
            ));
        }
        if urls.len() > 2 {
            return Err(CommandFailure::Usage(format!("{} servers are named; expected one, or two to compare", urls.len())));
        }
        let text = |name: &str| read.text(name).map(str::to_owned);
        let rounds = read.count("rounds", 1)?.unwrap_or(if urls.len() == 2 { 3 } else { 1 });
        let sweep = matches.get_flag("sweep").then_some(());
        let sweep = match sweep {
            None => None,
            Some(()) => Some(SweepOptions {
                from_rate: read.positive("sweep-from")?.unwrap_or(1.0),
                stages_max: read.count("sweep-stages", 1)?.unwrap_or(12),
            }),
        };
        Ok(Self {
            urls,
            ca_file: text("ca-file"),
            model: text("request-model"),
            source: source(&read)?,
            prefix_tokens: read.within("shared-prefix-tokens", "a whole number", 0, 10_000_000)?.unwrap_or(0),
            load: load(&read)?,
            sweep,
            rounds,
            failed_share_max: read.share("failed-max")?,
            prefix_cache: text("prefix-cache"),
            json: text("json"),
            csv: text("csv"),
            html: text("html"),
        })
    }

    /// The load in words.
    pub(super) fn describe(&self) -> String {
        let prompts = match &self.source {
            PromptSource::BuiltIn => "built-in prompts".to_owned(),
            PromptSource::File(path) => format!("prompts of {path}"),
            PromptSource::Random { from, to } if from == to => format!("random prompts of {from} tokens"),
            PromptSource::Random { from, to } => format!("random prompts of {from} to {to} tokens"),
        };
        let load = &self.load;
        let limit = match (load.output_tokens_min, load.output_tokens) {
            (least, most) if least == most => most.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        let mut text = format!("{prompts}, answers of at most {limit} tokens, temperature {}", load.temperature);
        if self.prefix_tokens > 0 {
            text.push_str(&format!(", {} tokens shared by all", self.prefix_tokens));
        }
        if !load.extra_body.is_empty() {
            let names: Vec<&str> = load.extra_body.keys().map(String::as_str).collect();
            text.push_str(&format!(", with {}", names.join(", ")));
        }
        if load.turns > 1 {
            text.push_str(&format!(", {} turns a conversation", load.turns));
        }
        if load.disconnect_rate > 0.0 {
            text.push_str(&format!(", {:.0} % leave", load.disconnect_rate * 100.0));
        }
        if load.abort_rate > 0.0 {
            text.push_str(&format!(", {:.0} % are cancelled", load.abort_rate * 100.0));
        }
        text
    }
}

fn source(read: &Asked<'_>) -> Result<PromptSource, CommandFailure> {
    if let Some(path) = read.text("prompts") {
        return Ok(PromptSource::File(path.to_owned()));
    }
    let tokens = read.tokens("prompt-tokens")?;
    Ok(tokens.map_or(PromptSource::BuiltIn, |(from, to)| PromptSource::Random { from, to }))
}

fn arrivals(read: &Asked<'_>) -> Result<Arrivals, CommandFailure> {
    let how = read.text("arrivals").unwrap_or_default();
    let constant = match how {
        "poisson" => false,
        "constant" => true,
        _ => return Err(CommandFailure::Usage(format!("--arrivals is `{how}`; expected poisson or constant"))),
    };
    let given = (read.count("concurrency", 1)?, read.positive("rate")?, read.count("burst", 1)?);
    match given {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            Err(CommandFailure::Usage("expected one of --concurrency, --rate and --burst".to_owned()))
        }
        (_, Some(rate), _) => Ok(if constant { Arrivals::Constant { rate } } else { Arrivals::Poisson { rate } }),
        (_, _, Some(count)) => Ok(Arrivals::Bursts { count, every_s: read.positive("burst-every")?.unwrap_or(5.0) }),
        // A sweep sets the rate, and takes from here how its requests arrive.
        _ if read.flag("sweep") && constant => Ok(Arrivals::Constant { rate: 1.0 }),
        (concurrency, ..) => Ok(Arrivals::Closed { concurrency: concurrency.unwrap_or(8) }),
    }
}

fn extra_body(read: &Asked<'_>) -> Result<Map<String, Value>, CommandFailure> {
    let Some(text) = read.text("extra-body") else { return Ok(Map::new()) };
    let fields: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| CommandFailure::Usage(format!("--extra-body: {error}; expected an object of JSON")))?;
    match fields.keys().find(|name| is_own_field(name)) {
        Some(name) => Err(CommandFailure::Usage(format!(
            "--extra-body has `{name}`, which the load writes itself; expected other fields, and its option for this one"
        ))),
        None => Ok(fields),
    }
}

fn load(read: &Asked<'_>) -> Result<LoadOptions, CommandFailure> {
    let name = read.text("api").unwrap_or_default();
    let expected = "chat, completions, responses, generate or generate-stream";
    let api = api(name).ok_or_else(|| CommandFailure::Usage(format!("--api is `{name}`; expected {expected}")))?;
    let duration = read.positive("duration")?.map(Duration::from_secs_f64);
    let arrivals = arrivals(read)?;
    let users = if let Arrivals::Closed { concurrency } = arrivals { Some(concurrency) } else { None };
    let requests = read.conversations(users)?;
    let (output_tokens_min, output_tokens) = read.tokens("output-tokens")?.unwrap_or((64, 64));
    let (disconnect_rate, abort_rate) = (read.share("disconnect-rate")?, read.share("abort-rate")?);
    if disconnect_rate + abort_rate > 1.0 {
        return Err(CommandFailure::Usage("--disconnect-rate and --abort-rate add up to more than 1".to_owned()));
    }
    Ok(LoadOptions {
        api,
        model: String::new(),
        arrivals,
        requests_max: requests.or(if duration.is_none() { Some(100) } else { None }),
        duration,
        output_tokens,
        output_tokens_min,
        ignore_eos: read.flag("ignore-eos"),
        temperature: read.within("temperature", "a number from 0 to 2", 0.0, 2.0)?.unwrap_or(0.0),
        extra_body: extra_body(read)?,
        turns: read.count("turns", 1)?.unwrap_or(1),
        disconnect_rate,
        abort_rate,
        answer_max: Duration::from_secs_f64(read.positive("answer-max")?.unwrap_or(600.0)),
        warmup: read.count("warmup", 0)?.unwrap_or(0),
        targets: GoodputTargets {
            ttft_ms: read.positive("target-ttft")?,
            tpot_ms: read.positive("target-tpot")?,
            e2e_ms: read.positive("target-e2e")?,
            share: read.share("target-share")?,
        },
        seed: read.within("seed", "a whole number", 0, u64::MAX)?.unwrap_or(0),
        progress: true,
        failures_max: read.count("failures-in-a-row", 1)?.unwrap_or(50),
    })
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
