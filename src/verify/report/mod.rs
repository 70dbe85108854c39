//! What came of a run, in the plan's form and for machines.

mod junit;
mod markdown;

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::bench::Bench;
use super::case::{Case, CaseOutcome, Level, Suite, Verdict};
use super::criteria::Criteria;
use crate::client::Request;

/// Where the tests ran.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Environment {
    /// The server's address; `embedded` if it was started for the run.
    pub server: String,
    /// Its version, as it says.
    pub server_version: String,
    /// The model's name.
    pub model: String,
    /// Its size, the form of its weights, and the like, as the server says.
    pub tags: Value,
    /// The profile that it serves with.
    pub profile: String,
    /// GPUs as the server says; `none` computes on a CPU.
    pub gpu: String,
    /// The CUDA driver's version on this machine, if there is one.
    pub cuda: String,
    /// The processor of this machine, and how many threads it has.
    pub cpu: String,
    /// Version of the tests.
    pub verify_version: &'static str,
    /// Whether the tests' own binary is optimised.
    pub optimised: bool,
}

impl Environment {
    /// What the server and the machine say of themselves.
    pub(super) async fn of(bench: &Bench) -> Self {
        let ask = async |path: &str| match bench.client.call(&Request::get(path)).await {
            Ok(whole) => whole.json().unwrap_or_default(),
            Err(_) => Value::Null,
        };
        let (health, version) = (ask("/health").await, ask("/version").await);
        let said = |value: &Value| value.as_str().unwrap_or("not said").to_owned();
        let own = bench.target.process.is_some();
        let gpu_mode = &health["model"]["gpu_mode"];
        Self {
            server: if own { "embedded".to_owned() } else { bench.target.url.clone() },
            server_version: said(if health["version"].is_string() { &health["version"] } else { &version["version"] }),
            model: bench.model.clone(),
            tags: health["model"].clone(),
            profile: said(&health["profile"]),
            gpu: said(gpu_mode),
            cuda: first_line("/proc/driver/nvidia/version").unwrap_or_else(|| "none on this machine".to_owned()),
            cpu: cpu(),
            verify_version: crate::VERSION,
            optimised: !cfg!(debug_assertions),
        }
    }
}

fn first_line(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {threads} threads", name.unwrap_or("unknown"))
}

/// A test with its outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tested {
    /// The plan's part.
    pub suite: Suite,
    /// Its short name.
    pub id: &'static str,
    /// What it shows.
    pub name: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: CaseOutcome,
}

impl Tested {
    /// Joins the two.
    pub(super) fn new(case: &Case, outcome: CaseOutcome) -> Self {
        Self { suite: case.suite, id: case.id, name: case.name, outcome }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyReport {
    /// When it began.
    pub started: SystemTime,
    /// How much was run.
    pub level: Level,
    /// Where.
    pub environment: Environment,
    /// What was asked of the server.
    pub criteria: Criteria,
    /// Every test of the run.
    pub tests: Vec<Tested>,
    /// Why the run ended before its end, if it did.
    pub cut_short: Option<String>,
}

impl VerifyReport {
    /// Whether every test passed that has a meaning for this server.
    #[must_use]
    pub fn passed(&self) -> bool {
        let left = self.tests.len() - self.count(Verdict::NotApplicable);
        self.cut_short.is_none() && left > 0 && self.count(Verdict::Pass) == left
    }

    /// How many tests came out so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.tests.iter().filter(|test| test.outcome.verdict == verdict).count()
    }

    /// The run ends here; what is left was not run.
    pub(super) fn end_early(&mut self, left: &[Case], reason: &str) {
        for case in left {
            let message = reason.to_owned();
            let outcome = CaseOutcome { verdict: Verdict::NotRun, message, figures: Vec::new(), seconds: 0.0 };
            self.tests.push(Tested::new(case, outcome));
        }
        self.cut_short = Some(reason.to_owned());
    }

    /// The plan's Markdown block.
    #[must_use]
    pub fn markdown(&self) -> String {
        markdown::write(self)
    }

    /// Everything, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let counts = Verdict::ALL.map(|verdict| (verdict, self.count(verdict)));
        let counts: serde_json::Map<String, Value> = counts
            .into_iter()
            .map(|(verdict, count)| (verdict.name().to_lowercase().replace([' ', '/'], "_"), json!(count)))
            .collect();
        json!({
            "started": self.time(), "level": self.level, "passed": self.passed(), "partial": self.cut_short.is_some(),
            "cut_short": self.cut_short, "counts": counts, "environment": self.environment, "criteria": self.criteria,
            "tests": self.tests,
        })
    }

    /// The form that CI systems read.
    #[must_use]
    pub fn junit(&self) -> String {
        junit::write(self)
    }

    fn time(&self) -> String {
        let second = OffsetDateTime::from(self.started).replace_nanosecond(0).expect("zero nanoseconds are in a second");
        second.format(&Rfc3339).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests;
