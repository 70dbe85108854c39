//! Loads that were made up, for tests of what is made of them.

use std::time::Duration;

use super::measure::histogram;
use super::options::{Arrivals, GoodputTargets, LoadOptions};
use super::record::{AttemptOutcome, Record};
use super::report::{Gathered, LoadRun};
use crate::client::Api;

/// A load without limits or targets.
pub(super) fn options(arrivals: Arrivals) -> LoadOptions {
    LoadOptions {
        api: Api::Chat,
        model: "parrot".to_owned(),
        arrivals,
        requests_max: None,
        duration: None,
        output_tokens: 8,
        output_tokens_min: 8,
        ignore_eos: false,
        temperature: 0.0,
        extra_body: Default::default(),
        turns: 1,
        disconnect_rate: 0.0,
        abort_rate: 0.0,
        answer_max: Duration::from_secs(30),
        warmup: 0,
        targets: GoodputTargets::default(),
        seed: 1,
        progress: false,
        failures_max: 20,
    }
}

/// A request of 11 tokens that was answered in `ttft + 10 tpot`, all in milliseconds, and sent in
/// time.
pub(super) fn answered(index: usize, ttft: f64, tpot: f64) -> Record {
    Record {
        index,
        turn: 0,
        begun_s: 0.0,
        late_ms: 0.0,
        first_byte_ms: Some(ttft),
        first_reasoning_ms: None,
        first_content_ms: Some(ttft),
        ttft_ms: Some(ttft),
        tpot_ms: Some(tpot),
        e2e_ms: Some(ttft + 10.0 * tpot),
        cancel_ms: None,
        prompt_tokens: Some(5),
        cached_tokens: Some(2),
        output_tokens: 11,
        counted_by_server: true,
        events: 12,
        outcome: AttemptOutcome::Completed,
        error: None,
        message: None,
    }
}

/// A request that did not end well: no times, no tokens.
pub(super) fn unanswered(index: usize, outcome: AttemptOutcome, error: Option<(&str, &str)>) -> Record {
    Record {
        first_byte_ms: None,
        first_content_ms: None,
        ttft_ms: None,
        tpot_ms: None,
        e2e_ms: None,
        prompt_tokens: None,
        cached_tokens: None,
        output_tokens: 0,
        counted_by_server: false,
        events: 0,
        outcome,
        error: error.map(|(kind, _)| kind.to_owned()),
        message: error.map(|(_, message)| message.to_owned()),
        ..answered(index, 0.0, 0.0)
    }
}

/// The run of these requests.
pub(super) fn run(records: &[Record], wall_s: f64, arrivals: Arrivals, targets: GoodputTargets) -> LoadRun {
    let (mut itl, mut ttft) = (histogram(), histogram());
    for record in records {
        for (into, ms) in [(&mut itl, record.tpot_ms), (&mut ttft, record.ttft_ms)] {
            if let Some(ms) = ms {
                into.saturating_record((ms * 1e3) as u64);
            }
        }
    }
    let url = "http://made.up".to_owned();
    let gathered = Gathered { url, partial: None, wall_s, records, itl: &itl, ttft: &ttft, samples: Vec::new() };
    LoadRun::of(gathered, &LoadOptions { targets, ..options(arrivals) })
}

/// The smallest value that at least so many percent of all do not exceed, found by trying each; the
/// largest for 100.
pub(super) fn slow_quantile(values: &[u64], percent: usize) -> u64 {
    let holds = |most: u64| values.iter().filter(|value| **value <= most).count() * 100 >= percent * values.len();
    values.iter().copied().filter(|value| holds(*value)).min().expect("the largest one holds")
}
