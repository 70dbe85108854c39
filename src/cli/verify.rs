//! `antiphon verify`: the acceptance suites against a server, or one started for them.

use std::cell::RefCell;
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::failure::{CommandFailure, can_be_written, print};
use super::layers::Layers;
use super::options::serve_options;
use super::serve::{layers, setting_args, variable};
use super::settings::{API_KEY_VARIABLE, SETTINGS};
use crate::app;
use crate::verify::{
    self, Case, CaseOutcome, Criteria, Level, Range, RunProgress, ServerProcess, Target, Verdict, VerifyReport,
};

/// The settings of the server that is started for the suites.
const OWN: [&str; 11] = [
    "model",
    "profile",
    "device",
    "threads",
    "kv_bytes",
    "system_date",
    "prompt_version",
    "prompt_cache_bytes",
    "http_workers",
    "text_threads",
    "stream_threads",
];

const MORE: &str = "Prints the plan's report; exit code 0 only if every test passed. A test that cannot be run is skipped with the \
                    reason, and a run with one has not passed: --skip leaves it out. What has no meaning for a server that runs \
                    elsewhere (ending it) is N/A. ANTIPHON_API_KEY holds the server's key.";

/// The command's options.
pub(super) fn command() -> Command {
    let text =
        |name: &'static str, value: &'static str, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    let level = Arg::new("level").value_name("LEVEL").required(true).value_parser(["quick", "full"]);
    Command::new("verify")
        .about("Run the acceptance suites against a server")
        .after_help(MORE)
        .arg(level.help("quick (under two minutes), or full (with ten minutes of watching the memory)"))
        .arg(text("url", "URL", "A server to test, such as http://127.0.0.1:8000").conflicts_with("embedded"))
        .arg(Arg::new("embedded").long("embedded").action(ArgAction::SetTrue).help("Start a server for the tests [default]"))
        .arg(
            text("only", "TEST", "Run this test or suite alone: ST01-3, ST01, Load; may be given again")
                .action(ArgAction::Append),
        )
        .arg(text("skip", "TEST", "Leave this test or suite out; may be given again").action(ArgAction::Append))
        .arg(file("report", "Write the Markdown report here too"))
        .arg(file("json", "Write the report as JSON here"))
        .arg(file("junit", "Write the report as JUnit XML here"))
        .arg(file("browser", "Chromium for the tests with a browser's tab [default: the one in PATH]"))
        .arg(text("stream-prompt", "TEXT", "Asked where the streaming suite counts chunks"))
        .args(criteria_args())
        .args(setting_args(|setting| OWN.contains(&setting.name)))
}

fn criteria_args() -> Vec<Arg> {
    let plan = Criteria::default();
    let pace = plan.pace_ms.map_or_else(|| "off".to_owned(), |ms| ms.to_string());
    let criterion = |name: &'static str, value: &'static str, default: String, help: &'static str| {
        let help = format!("{help} [default: {default}]");
        Arg::new(name).long(name).value_name(value).help(help).help_heading("Criteria").allow_hyphen_values(true)
    };
    vec![
        criterion(
            "pace",
            "MS|off",
            pace,
            "Where a server is too fast for --stream-seconds: the reader takes a chunk every so often",
        ),
        criterion("stream-chunks", "A..B", plan.chunks.to_string(), "Chunks of an answer"),
        criterion("stream-seconds", "A..B", plan.stream_seconds.to_string(), "Seconds of an answer"),
        criterion("chunks-per-second", "NUMBER", plan.chunks_per_second_min.to_string(), "Chunks a second, at least"),
        criterion("chunk-chars", "A..B", plan.chunk_chars.to_string(), "Characters of a chunk on average"),
        criterion("buffer-efficiency", "SHARE", plan.buffer_efficiency_min.to_string(), "Share of large chunks, at least"),
        criterion(
            "large-chunk-chars",
            "NUMBER",
            plan.large_chunk_chars.to_string(),
            "From so many characters on a chunk is large",
        ),
        criterion("ttft-p95-ms", "MS", plan.ttft_p95_ms.to_string(), "95th percentile of TTFT, at most"),
        criterion("e2e-p95-ms", "MS", plan.e2e_p95_ms.to_string(), "95th percentile of E2E, at most"),
        criterion("error-rate", "SHARE", plan.error_rate_max.to_string(), "Share of failed requests, below"),
        criterion("hit-rate", "SHARE", plan.hit_rate_min.to_string(), "Share of prompt cache hits, at least"),
        criterion("cancel-ms", "MS", plan.cancel_max_ms.to_string(), "Until a cancelled response holds nothing, at most"),
        criterion("leak-kib-per-minute", "KIB", plan.leak_max_kib_per_minute.to_string(), "Growth of memory, upper 95 % bound"),
        criterion("leak-seconds", "SECONDS", plan.leak_seconds.to_string(), "How long memory is watched"),
        criterion("requests", "COUNT", "24, full: 200".to_owned(), "Requests of the performance test"),
        criterion("concurrency", "COUNT", plan.concurrency.to_string(), "Clients of the performance and load tests"),
    ]
}

/// Reads a criterion, if it is given.
fn read<T>(
    matches: &ArgMatches,
    name: &str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, CommandFailure> {
    let Some(text) = matches.get_one::<String>(name) else { return Ok(None) };
    let wrong = || CommandFailure::Usage(format!("--{name}: found `{text}`, expected {expected}"));
    read(text.trim()).map(Some).ok_or_else(wrong)
}

fn criteria(matches: &ArgMatches) -> Result<Criteria, CommandFailure> {
    let range = |name: &str, value: &mut Range| -> Result<(), CommandFailure> {
        *value = read(matches, name, "two numbers such as 3..5", Range::parse)?.unwrap_or(*value);
        Ok(())
    };
    let number = |name: &str, value: &mut f64| -> Result<(), CommandFailure> {
        let positive = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        *value = read(matches, name, "a number from 0", positive)?.unwrap_or(*value);
        Ok(())
    };
    let count = |name: &str, least: usize| -> Result<Option<usize>, CommandFailure> {
        read(matches, name, &format!("a whole number from {least} to 100000"), |text| {
            text.parse().ok().filter(|value| (least..=100_000).contains(value))
        })
    };
    let mut criteria = Criteria::default();
    range("stream-chunks", &mut criteria.chunks)?;
    range("stream-seconds", &mut criteria.stream_seconds)?;
    range("chunk-chars", &mut criteria.chunk_chars)?;
    number("chunks-per-second", &mut criteria.chunks_per_second_min)?;
    number("buffer-efficiency", &mut criteria.buffer_efficiency_min)?;
    number("ttft-p95-ms", &mut criteria.ttft_p95_ms)?;
    number("e2e-p95-ms", &mut criteria.e2e_p95_ms)?;
    number("error-rate", &mut criteria.error_rate_max)?;
    number("hit-rate", &mut criteria.hit_rate_min)?;
    number("cancel-ms", &mut criteria.cancel_max_ms)?;
    number("leak-kib-per-minute", &mut criteria.leak_max_kib_per_minute)?;
    criteria.large_chunk_chars = count("large-chunk-chars", 1)?.unwrap_or(criteria.large_chunk_chars);
    criteria.leak_seconds = count("leak-seconds", 10)?.map_or(criteria.leak_seconds, |seconds| seconds as u64);
    criteria.requests = count("requests", 1)?;
    criteria.concurrency = count("concurrency", 1)?.unwrap_or(criteria.concurrency);
    let pace = |text: &str| match text {
        "off" => Some(None),
        _ => text.parse().ok().filter(|ms| (1..=10_000).contains(ms)).map(Some),
    };
    criteria.pace_ms = read(matches, "pace", "off or milliseconds from 1 to 10000", pace)?.unwrap_or(criteria.pace_ms);
    Ok(criteria)
}

/// Runs the suites.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let level =
        if matches.get_one::<String>("level").is_some_and(|level| level == "full") { Level::Full } else { Level::Quick };
    let criteria = criteria(matches)?;
    let names = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<String>>();
    let (only, skip) = (names("only"), names("skip"));
    let cases = verify::cases(level, &only, &skip).map_err(|error| CommandFailure::Usage(error.to_string()))?;
    for name in ["report", "json", "junit"] {
        matches.get_one::<PathBuf>(name).map_or(Ok(()), |path| can_be_written(name, path))?;
    }
    let layers = layers(matches, &variable)?;
    let target = target(matches, &layers)?;
    let report = watched(target, level, criteria, &cases)?;
    write(matches, &report)?;
    if report.passed() {
        return Ok(());
    }
    let counts =
        [Verdict::Fail, Verdict::Skip, Verdict::NotRun].map(|verdict| format!("{} {}", report.count(verdict), verdict.name()));
    let cut = report.cut_short.as_ref().map_or_else(String::new, |reason| format!("; PARTIAL: {reason}"));
    Err(anyhow::anyhow!("not every test passed: {}{cut}", counts.join(", ")).into())
}

/// The server to test: one elsewhere, or one started here.
fn target(matches: &ArgMatches, layers: &Layers) -> Result<Target, CommandFailure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let browser = matches.get_one::<PathBuf>("browser").cloned();
    let given = Target { browser, stream_prompt: text("stream-prompt"), ..Target::default() };
    if let Some(url) = text("url") {
        return Ok(Target { url, api_key: variable(API_KEY_VARIABLE), model: text("model"), ..given });
    }
    let mut options = serve_options(layers, &variable)?;
    "127.0.0.1".clone_into(&mut options.host);
    options.port = 0;
    let program = std::env::current_exe().map_err(|error| anyhow::anyhow!("the own binary: {error}"))?;
    let flags: Vec<String> = SETTINGS
        .iter()
        .filter(|setting| OWN.contains(&setting.name))
        .filter(|setting| !layers.value(setting.name).text.is_empty())
        .map(|setting| format!("--{}={}", setting.flag(), layers.value(setting.name).text))
        .collect();
    let api_key = options.api_keys.first().map(|key| key.reveal().to_owned());
    let process = ServerProcess::start(&program, &flags).map_err(|error| CommandFailure::Failed(error.into()))?;
    let service = app::serve_beside(options)?;
    Ok(Target {
        url: process.url(),
        api_key,
        model: None,
        process: Some(process),
        again: Some((program, flags)),
        service: Some(service),
        ..given
    })
}

/// Runs the tests with a live list on standard error; Ctrl-C ends the run, with what was found so
/// far.
fn watched(target: Target, level: Level, criteria: Criteria, cases: &[Case]) -> Result<VerifyReport, CommandFailure> {
    let live = LiveList { terminal: stderr().is_terminal(), total: cases.len(), done: RefCell::new(0) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| anyhow::anyhow!("no runtime: {error}"))?;
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without the signal's handler Ctrl-C ends the process, as it does by default.
            std::future::pending::<()>().await;
        }
    };
    runtime
        .block_on(verify::verify(target, level, criteria, cases, stop, &mut |progress| live.show(progress)))
        .map_err(|error| CommandFailure::Failed(error.into()))
}

/// The list of tests while they run.
struct LiveList {
    terminal: bool,
    total: usize,
    done: RefCell<usize>,
}

impl LiveList {
    fn show(&self, progress: RunProgress<'_>) {
        let text = match progress {
            RunProgress::Started(case) if self.terminal => {
                format!("\r\x1b[K  ...  [{}/{}] {} {}", *self.done.borrow() + 1, self.total, case.id, case.name)
            }
            RunProgress::Started(_) => return,
            RunProgress::Ended(case, outcome) => {
                *self.done.borrow_mut() += 1;
                self.line(case, outcome)
            }
        };
        // A closed standard error is no reason to stop testing.
        let _ = stderr().write_all(text.as_bytes());
    }

    fn line(&self, case: &Case, outcome: &CaseOutcome) -> String {
        let verdict = match (self.terminal, outcome.verdict) {
            (false, verdict) => verdict.name().to_owned(),
            (true, Verdict::NotApplicable) => outcome.verdict.name().to_owned(),
            (true, Verdict::Pass) => "\x1b[32mPASS\x1b[0m".to_owned(),
            (true, verdict) => format!("\x1b[31m{}\x1b[0m", verdict.name()),
        };
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        let message = outcome.message.replace(char::is_control, " ");
        format!("{start}{verdict}  {} {} ({:.1} s): {message}\n", case.id, case.name, outcome.seconds)
    }
}

/// Prints the report, and writes the files that are asked for.
fn write(matches: &ArgMatches, report: &VerifyReport) -> Result<(), CommandFailure> {
    let markdown = report.markdown();
    for (name, text) in [("report", markdown.clone()), ("json", format!("{:#}\n", report.json())), ("junit", report.junit())] {
        if let Some(path) = matches.get_one::<PathBuf>(name) {
            std::fs::write(path, text).map_err(|error| anyhow::anyhow!("--{name} {}: {error}", path.display()))?;
        }
    }
    print(&markdown)
}
