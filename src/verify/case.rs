//! A test: its name, how it is run, and what came of it.

use std::future::Future;
use std::pin::Pin;

use serde::Serialize;

use super::bench::Bench;
use crate::client::ClientError;

/// Which plan's part a test belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Suite {
    /// The plan's manual checklist, automated.
    #[serde(rename = "Manual checklist")]
    Checklist,
    /// Determinism of prompts.
    #[serde(rename = "PR-PF01")]
    Prompts,
    /// Event streams, and cancelling them.
    #[serde(rename = "PR-ST01")]
    Streams,
    /// What other people's clients send.
    Clients,
    /// Tags of the model in everything that observes the server.
    #[serde(rename = "PR-OBS01")]
    Tags,
    /// Latency and errors under the plan's load.
    #[serde(rename = "Performance LATENCY_FIRST")]
    Latency,
    /// Continuous requests, stability, memory.
    #[serde(rename = "Load")]
    Load,
    /// The seven streaming cases.
    #[serde(rename = "Streaming")]
    Streaming,
}

impl Suite {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 8] =
        [Self::Checklist, Self::Prompts, Self::Streams, Self::Clients, Self::Tags, Self::Latency, Self::Load, Self::Streaming];

    /// Its name in the plan.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Checklist => "Manual checklist",
            Self::Prompts => "PR-PF01",
            Self::Streams => "PR-ST01",
            Self::Clients => "Clients",
            Self::Tags => "PR-OBS01",
            Self::Latency => "Performance LATENCY_FIRST",
            Self::Load => "Load",
            Self::Streaming => "Streaming",
        }
    }
}

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every test, with few requests; the test of memory is left to `full`.
    Quick,
    /// Every test, as long as the plan says.
    Full,
}

impl Level {
    /// `quick` or `full`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

pub(super) type CaseFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Halt>> + 'a>>;

/// A test.
#[derive(Clone, Copy)]
pub struct Case {
    /// The plan's part.
    pub suite: Suite,
    /// Its short name, unique: `ST01-3`.
    pub id: &'static str,
    /// What it shows.
    pub name: &'static str,
    /// Only in `full`.
    pub full_only: bool,
    pub(super) run: for<'a> fn(&'a Bench, &'a mut Checks) -> CaseFuture<'a>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What came of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Every check held.
    Pass,
    /// A check did not hold, or the test could not be carried through.
    Fail,
    /// It cannot be run here; the message says why. A run with one has not passed.
    Skip,
    /// It has no meaning for a server that the run did not start; the message says why. A run with
    /// one may pass.
    #[serde(rename = "N/A")]
    NotApplicable,
    /// The run ended before it.
    #[serde(rename = "NOT RUN")]
    NotRun,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pass, Self::Fail, Self::Skip, Self::NotApplicable, Self::NotRun];

    /// As the report writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::NotApplicable => "N/A",
            Self::NotRun => "NOT RUN",
        }
    }
}

/// A number that a test measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasuredFigure {
    /// What.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what: `ms`, `chunks/s`.
    pub unit: &'static str,
}

/// What a test found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseOutcome {
    /// The verdict.
    pub verdict: Verdict,
    /// What did not hold, why it was skipped, or what was seen.
    pub message: String,
    /// What was measured.
    pub figures: Vec<MeasuredFigure>,
    /// How long it took.
    pub seconds: f64,
}

/// Why a test ends before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Halt {
    /// It cannot be run against this server.
    Skip(String),
    /// It has no meaning for this server.
    NotApplicable(String),
    /// It cannot be carried through.
    Fail(String),
}

impl From<ClientError> for Halt {
    fn from(error: ClientError) -> Self {
        Self::Fail(error.to_string())
    }
}

/// What a test has seen so far.
#[derive(Debug, Default)]
pub(super) struct Checks {
    held: usize,
    failures: Vec<String>,
    notes: Vec<String>,
    figures: Vec<MeasuredFigure>,
}

impl Checks {
    /// Notes whether a check holds; `what` says what was seen and what was expected.
    pub(super) fn that(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if holds {
            self.held += 1;
        } else {
            self.failures.push(what());
        }
    }

    /// Notes whether two things are the same.
    pub(super) fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: &T, expected: &T) {
        self.that(found == expected, || format!("{what}: {found:?}, expected {expected:?}"));
    }

    /// Notes a number, and whether it is at most so much.
    pub(super) fn at_most(&mut self, name: &str, value: f64, unit: &'static str, most: f64) {
        self.figure(name, value, unit);
        self.that(value <= most, || format!("{name}: {} {unit}, at most {} expected", round(value), round(most)));
    }

    /// Notes a number, and whether it is at least so much.
    pub(super) fn at_least(&mut self, name: &str, value: f64, unit: &'static str, least: f64) {
        self.figure(name, value, unit);
        self.that(value >= least, || format!("{name}: {} {unit}, at least {} expected", round(value), round(least)));
    }

    /// Notes a number.
    pub(super) fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push(MeasuredFigure { name: name.to_owned(), value, unit });
    }

    /// Notes something that the report's reader must know.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The outcome of a test that ended so.
    pub(super) fn outcome(self, ended: Result<(), Halt>, seconds: f64) -> CaseOutcome {
        let Self { held, mut failures, notes, figures } = self;
        let (verdict, said) = match ended {
            Err(Halt::Skip(reason)) if failures.is_empty() => (Verdict::Skip, reason),
            Err(Halt::NotApplicable(reason)) if failures.is_empty() => (Verdict::NotApplicable, reason),
            Err(Halt::Skip(reason) | Halt::NotApplicable(reason) | Halt::Fail(reason)) => {
                failures.push(reason);
                (Verdict::Fail, failures.join("; "))
            }
            Ok(()) if !failures.is_empty() => (Verdict::Fail, failures.join("; ")),
            // A test that checked nothing has shown nothing.
            Ok(()) if held == 0 => (Verdict::Fail, "nothing was checked".to_owned()),
            Ok(()) => (Verdict::Pass, format!("{held} checks hold")),
        };
        let message = std::iter::once(said).chain(notes).collect::<Vec<_>>().join(". ");
        CaseOutcome { verdict, message, figures, seconds }
    }
}

/// A number as people read it.
pub(super) fn round(value: f64) -> String {
    let digits = if value.fract() == 0.0 || value.abs() >= 1000.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        3
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_checked_nothing_fails() {
        assert_eq!(Checks::default().outcome(Ok(()), 0.0).verdict, Verdict::Fail);
    }

    #[test]
    fn one_check_that_does_not_hold_fails_the_test_and_is_named() {
        let mut checks = Checks::default();
        checks.that(true, String::new);
        checks.at_most("p95", 3.0, "s", 2.0);
        let outcome = checks.outcome(Ok(()), 0.0);
        assert_eq!((outcome.verdict, outcome.message.as_str()), (Verdict::Fail, "p95: 3 s, at most 2 expected"));
        assert_eq!(outcome.figures.len(), 1);
    }

    #[test]
    fn a_skip_never_hides_a_failure() {
        let mut checks = Checks::default();
        checks.that(false, || "wrong".to_owned());
        assert_eq!(checks.outcome(Err(Halt::Skip("gone".to_owned())), 0.0).verdict, Verdict::Fail);
        assert_eq!(Checks::default().outcome(Err(Halt::Skip("gone".to_owned())), 0.0).verdict, Verdict::Skip);
    }
    #[test]
    fn numbers_have_the_digits_that_people_read() {
        let numbers = [5.0, 0.0, 1.2346, 9.5, 10.04, -10.04, 999.55, 1_000.4, -2_000.5, 123_456.0].map(round);
        assert_eq!(numbers, ["5", "0", "1.235", "9.500", "10.0", "-10.0", "999.5", "1000", "-2000", "123456"]);
    }

    #[test]
    fn what_is_noted_stands_behind_the_verdict() {
        let mut checks = Checks::default();
        checks.that(true, String::new);
        checks.note("one".to_owned());
        checks.note("two".to_owned());
        assert_eq!(checks.outcome(Ok(()), 2.5).message, "1 checks hold. one. two");
    }
}
