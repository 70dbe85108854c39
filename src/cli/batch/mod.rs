//! `antiphon batch`: the requests of a file, answered by a server that is started for them, or by
//! one that is there.

mod lines;

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::failure::CommandFailure;
use super::serve::{layers, serve_for, setting_args, variable};
use super::settings::{API_KEY_VARIABLE, QUIET_LOG_HELP};
use crate::client::{Client, ClientOptions, Request};
use lines::FileLine;

/// The settings of the server that is started for the file.
const SETTINGS: [&str; 9] =
    ["model", "profile", "device", "threads", "kv_bytes", "system_date", "prompt_version", "cpu_math", "log_level"];

/// The options that only a server started for the file has a use for.
const OF_OUR_SERVER: [&str; 10] =
    ["config", "model", "profile", "device", "threads", "kv_bytes", "system_date", "prompt_version", "cpu_math", "log_level"];

const MORE: &str = "A line of the file is a request as OpenAI's batch files have it: {\"custom_id\": \"1\", \"method\": \"POST\", \
                    \"url\": \"/v1/chat/completions\", \"body\": {…}}. A line of the output is what became of one, answers and \
                    errors alike, in the order in which they came. Started again with the same files, it goes on with the \
                    requests that have no outcome. ANTIPHON_API_KEY holds the key of the server at --url.";

/// Longest pause before a request is sent again that had no room.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The command's options.
pub(super) fn command() -> Command {
    let file = |name: &'static str| Arg::new(name).value_name("FILE").value_parser(value_parser!(PathBuf));
    Command::new("batch")
        .about("Answer the requests of a file")
        .after_help(MORE)
        .arg(file("input").required(true).help("The requests, one a line"))
        .arg(file("output").long("output").help("Where their outcomes go [default: beside FILE, ending in .out.jsonl]"))
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .conflicts_with_all(OF_OUR_SERVER)
                .help("A server to ask, such as http://127.0.0.1:8000"),
        )
        .arg(
            Arg::new("concurrency")
                .long("concurrency")
                .value_name("COUNT")
                .value_parser(value_parser!(u16).range(1..=4096))
                .default_value("32")
                .help("Requests that are sent at the same time"),
        )
        .args(setting_args(|setting| SETTINGS.contains(&setting.name)))
        .mut_arg("log_level", |arg| arg.help(QUIET_LOG_HELP))
}

/// Runs the file.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let input = matches.get_one::<PathBuf>("input").expect("it is required");
    let output = matches.get_one::<PathBuf>("output").cloned().unwrap_or_else(|| input.with_extension("out.jsonl"));
    let concurrency = usize::from(*matches.get_one::<u16>("concurrency").expect("it has a default"));
    let batch = BatchFile::open(input, &output, concurrency)?;
    if let Some(url) = matches.get_one::<String>("url") {
        return Ok(batch.run(url, variable(API_KEY_VARIABLE))?);
    }
    if batch.missing.is_empty() {
        batch.report(0);
        return Ok(());
    }
    // At `info` its log would stand between the bar and the summary.
    let layers = layers(matches, &variable)?.or("log_level", "warn");
    serve_for(&layers, true, move |url, key| Ok(batch.run(&url, key)?))
}

/// A file of requests, and where it is to go on.
struct BatchFile {
    missing: Vec<FileLine>,
    total: usize,
    file: File,
    output: PathBuf,
    concurrency: usize,
}

/// What became of a request, as the output has it.
struct LineOutcome {
    text: String,
    is_answer: bool,
}

impl BatchFile {
    fn open(input: &Path, output: &Path, concurrency: usize) -> anyhow::Result<Self> {
        let named = |path: &Path, error: &anyhow::Error| anyhow!("{}: {error:#}", path.display());
        let text = std::fs::read_to_string(input).map_err(|error| named(input, &error.into()))?;
        let lines = lines::read(&text).map_err(|error| named(input, &error))?;
        let (file, done) = lines::open_output(output, &lines).map_err(|error| named(output, &error))?;
        let total = lines.len();
        let missing = lines.into_iter().filter(|line| !done.contains(&line.custom_id)).collect();
        Ok(Self { missing, total, file, output: output.to_owned(), concurrency })
    }

    fn run(self, url: &str, api_key: Option<String>) -> anyhow::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = Client::new(url, &ClientOptions { api_key, ..ClientOptions::default() })?;
        runtime.block_on(self.answered(client))
    }

    /// Sends what is missing. A server that is gone ends it: what came so far is in the output.
    async fn answered(mut self, client: Client) -> anyhow::Result<()> {
        let bar = self.bar();
        let mut missing = std::mem::take(&mut self.missing).into_iter();
        let (mut running, mut failed_count) = (JoinSet::new(), 0);
        loop {
            while running.len() < self.concurrency
                && let Some(line) = missing.next()
            {
                running.spawn(ask(client.clone(), line));
            }
            let Some(ended) = running.join_next().await else { break };
            let LineOutcome { mut text, is_answer } = ended.map_err(|error| anyhow!("a request broke inside: {error}"))??;
            text.push('\n');
            self.file.write_all(text.as_bytes()).with_context(|| self.output.display().to_string())?;
            failed_count += usize::from(!is_answer);
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.report(failed_count);
        Ok(())
    }

    fn bar(&self) -> ProgressBar {
        let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} requests, {per_sec}, {eta} left");
        let bar = ProgressBar::with_draw_target(Some(self.total as u64), target);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position((self.total - self.missing.len()) as u64);
        // The rate is that of this run.
        bar.reset_eta();
        bar
    }

    fn report(&self, failed_count: usize) {
        // A closed standard error is no reason to fail what is done.
        let _ = writeln!(stderr(), "{} requests in {}; {failed_count} of this run failed", self.total, self.output.display());
    }
}

/// Sends a request until it has an outcome: one that had no room is sent again.
async fn ask(client: Client, line: FileLine) -> anyhow::Result<LineOutcome> {
    let request = Request::post_json(&line.url, &line.body);
    loop {
        let answer = client.call(&request).await?;
        if [429, 503].contains(&answer.status) {
            let asked = answer.header("retry-after").and_then(|text| text.parse().ok());
            tokio::time::sleep(Duration::from_secs(asked.unwrap_or(1)).min(PAUSE_MAX)).await;
            continue;
        }
        let request_id = answer.header("x-request-id").unwrap_or_default().to_owned();
        let body = answer.json().unwrap_or_else(|_| Value::String(answer.text()));
        let response = json!({"status_code": answer.status, "request_id": request_id, "body": body});
        let id = format!("batch_req_{request_id}");
        let outcome = json!({"id": id, "custom_id": line.custom_id, "response": response, "error": null});
        return Ok(LineOutcome { text: outcome.to_string(), is_answer: answer.status < 300 });
    }
}
