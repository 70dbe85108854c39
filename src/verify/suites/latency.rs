//! Performance in the profile LATENCY_FIRST: latencies and errors under the plan's load.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::json;

use super::super::asking::{Heard, JAY};
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::spread::SortedValues;
use crate::client::{Api, ClientError};

pub(super) const QUESTIONS: [&str; 4] =
    [JAY, "What is 2+2?", "Count from 1 to 30", "Write a Python function that reverses a string."];

/// Asks one question of several, by turns.
pub(super) async fn ask(bench: &Bench, turn: usize) -> Result<Heard, ClientError> {
    let question = QUESTIONS[turn % QUESTIONS.len()];
    let body = bench.chat(question, &json!({"stream": true, "max_tokens": 256, "stream_options": {"include_usage": true}}));
    bench.hear(Api::Chat, &body).await
}

/// Whether an answer came to its end as it should.
pub(super) fn is_answered(heard: &Result<Heard, ClientError>) -> bool {
    heard.as_ref().is_ok_and(|heard| heard.error.is_none() && heard.finish.is_some() && heard.first_text.is_some())
}

pub(super) async fn under_load(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let requests = bench.effort.requests;
    let clients = bench.criteria.concurrency;
    let started = Instant::now();
    // Each client asks its next question when the last one is answered.
    let client = async |first: usize| {
        let mut heard = Vec::new();
        for turn in (first..requests).step_by(clients) {
            heard.push(ask(bench, turn).await);
        }
        heard
    };
    let heard: Vec<_> = join_all((0..clients).map(client)).await.into_iter().flatten().collect();
    let seconds = started.elapsed().as_secs_f64();
    let answered: Vec<&Heard> =
        heard.iter().filter(|heard| is_answered(heard)).filter_map(|heard| heard.as_ref().ok()).collect();
    let failed = heard.len() - answered.len();
    if let Some(error) = heard.iter().find_map(|heard| heard.as_ref().err()) {
        checks.note(format!("the first error: {error}"));
    }
    let (ttft, e2e) = (
        SortedValues::of(answered.iter().filter_map(|heard| heard.ttft_ms())),
        SortedValues::of(answered.iter().map(|heard| heard.seconds() * 1e3)),
    );
    checks.figure("requests", heard.len() as f64, "");
    checks.figure("clients", clients as f64, "");
    for (name, spread) in [("TTFT", &ttft), ("E2E", &e2e)] {
        checks.figure(&format!("p50 {name}"), spread.quantile(0.5), "ms");
        checks.figure(&format!("p99 {name}"), spread.quantile(0.99), "ms");
    }
    checks.that(!answered.is_empty(), || "no request was answered".to_owned());
    checks.at_most("p95 TTFT", ttft.quantile(0.95), "ms", bench.criteria.ttft_p95_ms);
    checks.at_most("p95 E2E", e2e.quantile(0.95), "ms", bench.criteria.e2e_p95_ms);
    let rate = failed as f64 / heard.len().max(1) as f64;
    checks.figure("errors", rate * 100.0, "%");
    checks.that(rate < bench.criteria.error_rate_max, || {
        format!("{failed} of {} requests failed, less than {} % expected", heard.len(), bench.criteria.error_rate_max * 100.0)
    });
    checks.figure("requests a second", heard.len() as f64 / seconds, "/s");
    let pieces: usize = answered.iter().map(|heard| heard.content.len()).sum();
    checks.figure("pieces of text a second", pieces as f64 / seconds, "/s");
    if let Ok(health) = bench.ask("/health").await {
        checks.note(format!("profile {}", health["profile"].as_str().unwrap_or("not said")));
    }
    Ok(())
}
