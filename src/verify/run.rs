//! A run: the tests one after another, with what to do when the server goes away.

use std::future::Future;
use std::pin::pin;
use std::time::{Instant, SystemTime};

use super::bench::{Bench, Target};
use super::case::{Case, CaseOutcome, Checks, Level, Verdict};
use super::criteria::Criteria;
use super::effort::Effort;
use super::report::{Environment, Tested, VerifyReport};
use super::suites;
use crate::client::{Client, ClientError, ClientOptions, Request};

/// Why there is no run at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The server does not answer as one does.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It has another model.
    #[error("the server has no model `{asked}`; it has: {known}; given by --model")]
    Model {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: String,
    },
    /// A test's name that is none.
    #[error("`{name}` names no test and no suite; expected one of: {known}")]
    Test {
        /// What was given.
        name: String,
        /// What there is.
        known: String,
    },
    /// Nothing is left to run.
    #[error("no test is left to run; expected --only and --skip to leave one")]
    Nothing,
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub enum RunProgress<'a> {
    /// A test begins.
    Started(&'a Case),
    /// A test has ended.
    Ended(&'a Case, &'a CaseOutcome),
}

/// The tests of a level, less what is left out. `only` and `skip` hold ids or beginnings of them
/// (`ST01`), or suites' names.
///
/// # Errors
/// [`VerifyError::Test`], [`VerifyError::Nothing`].
pub fn cases(level: Level, only: &[String], skip: &[String]) -> Result<Vec<Case>, VerifyError> {
    let all = suites::all();
    let meant = |case: &Case, name: &str| {
        let (name, id) = (name.to_lowercase(), case.id.to_lowercase());
        id == name
            || id.strip_prefix(&name).is_some_and(|rest| rest.starts_with('-'))
            || case.suite.name().to_lowercase() == name
    };
    for name in only.iter().chain(skip) {
        if !all.iter().any(|case| meant(case, name)) {
            let known: Vec<&str> = all.iter().map(|case| case.id).collect();
            return Err(VerifyError::Test { name: name.clone(), known: known.join(", ") });
        }
    }
    let named = |case: &Case| only.iter().any(|name| meant(case, name));
    let wanted = |case: &Case| {
        let of_level = level == Level::Full || !case.full_only;
        (named(case) || (only.is_empty() && of_level)) && !skip.iter().any(|name| meant(case, name))
    };
    let left: Vec<Case> = all.into_iter().filter(wanted).collect();
    if left.is_empty() { Err(VerifyError::Nothing) } else { Ok(left) }
}

/// Runs tests against a server.
///
/// When `stop` is done the run ends, as it does when the server goes away: with what was found so
/// far in the report.
///
/// # Errors
/// [`VerifyError`] if the server cannot be tested at all.
pub async fn verify(
    target: Target,
    level: Level,
    criteria: Criteria,
    cases: &[Case],
    stop: impl Future<Output = ()>,
    watch: &mut dyn FnMut(RunProgress<'_>),
) -> Result<VerifyReport, VerifyError> {
    let bench = open(target, level, criteria).await?;
    Ok(run(&bench, cases, stop, watch).await)
}

/// Runs tests against a server that was reached.
pub(super) async fn run(
    bench: &Bench,
    cases: &[Case],
    stop: impl Future<Output = ()>,
    watch: &mut dyn FnMut(RunProgress<'_>),
) -> VerifyReport {
    let mut stop = pin!(stop);
    let mut report = VerifyReport {
        started: SystemTime::now(),
        level: bench.level,
        environment: Environment::of(bench).await,
        criteria: bench.criteria.clone(),
        tests: Vec::new(),
        cut_short: None,
    };
    for (index, case) in cases.iter().enumerate() {
        watch(RunProgress::Started(case));
        let started = Instant::now();
        let mut checks = Checks::default();
        let ended = tokio::select! {
            ended = (case.run)(bench, &mut checks) => Some(ended),
            () = &mut stop => None,
        };
        let Some(ended) = ended else {
            report.end_early(&cases[index..], &format!("the run was stopped during {}", case.id));
            break;
        };
        let outcome = checks.outcome(ended, started.elapsed().as_secs_f64());
        watch(RunProgress::Ended(case, &outcome));
        let is_well = matches!(outcome.verdict, Verdict::Pass | Verdict::NotApplicable);
        report.tests.push(Tested::new(case, outcome));
        // The last test stops the server on purpose.
        if !is_well && index + 1 < cases.len() && !is_there(bench).await {
            let how = bench.target.process.as_ref().and_then(super::process::ServerProcess::ended);
            let how = how.map_or_else(String::new, |status| format!(" ({status})"));
            report.end_early(&cases[index + 1..], &format!("the server went away during {}{how}", case.id));
            break;
        }
    }
    report
}

/// The embedded model's answer to the plan's question has 25 characters, which no server can cut
/// into 50 chunks.
const TINY_PROMPT: &str = "Count from 1 to 90";

/// Reaches the server, and finds the model.
pub(super) async fn open(mut target: Target, level: Level, criteria: Criteria) -> Result<Bench, VerifyError> {
    let options = ClientOptions { api_key: target.api_key.clone(), ..ClientOptions::default() };
    let client = Client::new(&target.url, &options)?;
    let first = client.model().await?;
    let model = match target.model.take() {
        None => first,
        Some(asked) => {
            let list = client.json(&Request::get("/v1/models")).await?;
            let known: Vec<&str> =
                list["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str()).collect();
            if !known.contains(&asked.as_str()) {
                return Err(VerifyError::Model { asked, known: known.join(", ") });
            }
            asked
        }
    };
    let stats = client.call(&Request::get("/stats")).await?.json().unwrap_or_default();
    let about = &stats["model_info"];
    if about["model_size"] == "tiny" {
        target.stream_prompt.get_or_insert_with(|| TINY_PROMPT.to_owned());
    }
    let context_tokens = about["context_tokens_max"].as_u64().unwrap_or(2_048);
    let effort = Effort::of(level, &criteria);
    Ok(Bench { client, target, model, level, criteria, effort, context_tokens })
}

/// Whether anything answers still.
async fn is_there(bench: &Bench) -> bool {
    bench.client.call(&Request::get("/v1/models")).await.is_ok()
}
