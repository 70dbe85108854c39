//! What a load ends in: the figures of each run, as they are written to JSON and read again.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::options::{Arrivals, GoodputTargets, LoadOptions};
use super::record::{AttemptOutcome, Record};

/// A whole report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadReport {
    /// The version of antiphon that made it.
    pub version: String,
    /// When, in seconds since 1970.
    pub created_s: u64,
    /// The route.
    pub api: String,
    /// The model.
    pub model: String,
    /// The seed of every random choice.
    pub seed: u64,
    /// The load in words: prompts, lengths, turns.
    pub load: String,
    /// What a reader must know, such as how tokens were counted.
    pub notes: Vec<String>,
    /// Its runs: one, or one for each rate of a sweep, or in turn for each server.
    pub runs: Vec<LoadRun>,
    /// What the sweep found.
    pub sweep: Option<SweepFinding>,
}

/// What a sweep found.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SweepFinding {
    /// The highest rate tried that met the targets, in requests a second.
    pub met_rate: Option<f64>,
    /// The highest rate tried that the server kept up with: beyond it, latency grows and throughput
    /// does not.
    pub knee_rate: Option<f64>,
}

/// How requests ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndCounts {
    /// Sent.
    pub sent: usize,
    /// Answered to the end.
    pub completed: usize,
    /// Left by their client on purpose.
    pub left: usize,
    /// Cancelled on purpose.
    pub cancelled: usize,
    /// Refused with 429.
    pub refused: usize,
    /// Failed.
    pub failed: usize,
}

/// Failures of a kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorCount {
    /// How many.
    pub count: usize,
    /// One of them in words.
    pub example: String,
}

/// Quantiles, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Of how many values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half are not above it.
    pub p50: f64,
    /// 90 % are not above it.
    pub p90: f64,
    /// 95 % are not above it.
    pub p95: f64,
    /// 99 % are not above it.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    /// Exact quantiles; `None` of nothing.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let at = |share: f64| values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1];
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { count: values.len() as u64, mean, p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max })
    }

    /// Quantiles of a histogram in microseconds, within 0.1 %.
    #[must_use]
    pub fn of_histogram(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |share: f64| histogram.value_at_quantile(share) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max: histogram.max() as f64 / 1e3,
        })
    }
}

/// Latencies of completed requests, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LatencySummary {
    /// First byte of the body.
    pub first_byte: Option<Quantiles>,
    /// First reasoning.
    pub first_reasoning: Option<Quantiles>,
    /// First content.
    pub first_content: Option<Quantiles>,
    /// First token of either kind.
    pub ttft: Option<Quantiles>,
    /// Gap between two pieces of one answer.
    pub itl: Option<Quantiles>,
    /// Mean time of a token after the first, an answer each.
    pub tpot: Option<Quantiles>,
    /// The end of the answer.
    pub e2e: Option<Quantiles>,
    /// From `POST /cancel` to the end of the stream.
    pub cancel: Option<Quantiles>,
    /// How much later than intended requests were sent.
    pub late: Option<Quantiles>,
}

/// What counted the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenCount {
    /// The server, in the usage of each answer.
    Server,
    /// The client, by pieces of text: a server that joins tokens has more.
    Pieces,
}

/// A moment of a run, about a second after the one before.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RunSample {
    /// Seconds from the start.
    pub at_s: f64,
    /// Pieces of answers a second since the moment before.
    pub pieces_per_s: f64,
    /// Requests under way.
    pub in_flight: usize,
    /// The server's batch.
    pub running: Option<f64>,
    /// The server's queue.
    pub waiting: Option<f64>,
    /// The server's KV memory in use, 0 to 1.
    pub kv: Option<f64>,
}

/// One run: one way of sending, at one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadRun {
    /// The server.
    pub url: String,
    /// How requests were sent.
    pub arrivals: Arrivals,
    /// Why it ended before its time; its figures are of what there was.
    pub partial: Option<String>,
    /// From the first request to the end of the last, in seconds.
    pub wall_s: f64,
    /// How requests ended.
    pub counts: EndCounts,
    /// Failures by kind.
    pub errors: BTreeMap<String, ErrorCount>,
    /// Latencies.
    pub latencies: LatencySummary,
    /// Tokens of all answers.
    pub output_tokens: u64,
    /// Tokens of all prompts, where the server tells.
    pub prompt_tokens: u64,
    /// Tokens of prompts that a prefix cache had.
    pub cached_tokens: u64,
    /// What counted.
    pub token_count: TokenCount,
    /// Tokens of answers a second.
    pub output_tokens_per_s: f64,
    /// Tokens of prompts and answers a second.
    pub total_tokens_per_s: f64,
    /// Completed requests a second.
    pub requests_per_s: f64,
    /// Completed requests a second that met the targets, if there are any.
    pub goodput_per_s: Option<f64>,
    /// The share of requests that met the targets, of those that the client let go to their end.
    pub good_share: Option<f64>,
    /// The targets.
    pub targets: GoodputTargets,
    /// How often each time to the first token occurred: up to so many milliseconds, how many.
    pub ttft_bins: Vec<(f64, u64)>,
    /// The same of the gaps between pieces.
    pub itl_bins: Vec<(f64, u64)>,
    /// Second by second.
    pub samples: Vec<RunSample>,
}

/// What a run's figures are made of.
pub(super) struct Gathered<'a> {
    pub(super) url: String,
    pub(super) partial: Option<String>,
    pub(super) wall_s: f64,
    pub(super) records: &'a [Record],
    pub(super) itl: &'a Histogram<u64>,
    pub(super) ttft: &'a Histogram<u64>,
    pub(super) samples: Vec<RunSample>,
}

impl LoadRun {
    pub(super) fn of(gathered: Gathered<'_>, options: &LoadOptions) -> Self {
        let Gathered { url, partial, wall_s, records, itl, ttft, samples } = gathered;
        let of = |value: fn(&Record) -> Option<f64>| Quantiles::of(records.iter().filter_map(value).collect());
        let sum = |value: fn(&Record) -> Option<u64>| records.iter().filter_map(value).sum::<u64>();
        let (output_tokens, prompt_tokens) = (sum(|record| Some(record.output_tokens)), sum(|record| record.prompt_tokens));
        let counts = counts(records);
        let good = records.iter().filter(|record| is_good(record, &options.targets)).count();
        let asked = counts.completed + counts.refused + counts.failed;
        let targets = &options.targets;
        let has_targets = targets.ttft_ms.or(targets.tpot_ms).or(targets.e2e_ms).is_some();
        let by_server =
            records.iter().filter(|record| record.outcome == AttemptOutcome::Completed).all(|record| record.counted_by_server);
        let span = wall_s.max(1e-9);
        Self {
            url,
            arrivals: options.arrivals,
            partial,
            wall_s,
            counts,
            errors: errors(records),
            latencies: LatencySummary {
                first_byte: of(|record| record.first_byte_ms),
                first_reasoning: of(|record| record.first_reasoning_ms),
                first_content: of(|record| record.first_content_ms),
                ttft: of(|record| record.ttft_ms),
                itl: Quantiles::of_histogram(itl),
                tpot: of(|record| record.tpot_ms),
                e2e: of(|record| record.e2e_ms),
                cancel: of(|record| record.cancel_ms),
                late: of(|record| Some(record.late_ms)),
            },
            output_tokens,
            prompt_tokens,
            cached_tokens: sum(|record| record.cached_tokens),
            token_count: if by_server { TokenCount::Server } else { TokenCount::Pieces },
            output_tokens_per_s: output_tokens as f64 / span,
            total_tokens_per_s: (output_tokens + prompt_tokens) as f64 / span,
            requests_per_s: counts.completed as f64 / span,
            goodput_per_s: has_targets.then(|| good as f64 / span),
            good_share: (has_targets && asked > 0).then(|| good as f64 / asked as f64),
            targets: options.targets,
            ttft_bins: bins(ttft),
            itl_bins: bins(itl),
            samples,
        }
    }

    /// Failures as a share of all requests.
    #[must_use]
    pub fn failed_share(&self) -> f64 {
        if self.counts.sent == 0 { 1.0 } else { self.counts.failed as f64 / self.counts.sent as f64 }
    }
}

fn counts(records: &[Record]) -> EndCounts {
    let of = |outcome: AttemptOutcome| records.iter().filter(|record| record.outcome == outcome).count();
    EndCounts {
        sent: records.len(),
        completed: of(AttemptOutcome::Completed),
        left: of(AttemptOutcome::Left),
        cancelled: of(AttemptOutcome::Cancelled),
        refused: of(AttemptOutcome::Refused),
        failed: of(AttemptOutcome::Failed),
    }
}

fn errors(records: &[Record]) -> BTreeMap<String, ErrorCount> {
    let mut errors = BTreeMap::new();
    for record in records {
        if let Some(kind) = &record.error {
            let example = || record.message.clone().unwrap_or_default();
            errors.entry(kind.clone()).or_insert_with(|| ErrorCount { count: 0, example: example() }).count += 1;
        }
    }
    errors
}

/// Whether a request was answered within its targets.
fn is_good(record: &Record, targets: &GoodputTargets) -> bool {
    let within = |value: Option<f64>, most: Option<f64>| most.is_none_or(|most| value.is_some_and(|value| value <= most));
    // An answer of one token has no time per token after it.
    let tpot = record.output_tokens < 2 || within(record.tpot_ms, targets.tpot_ms);
    record.outcome == AttemptOutcome::Completed
        && within(record.ttft_ms, targets.ttft_ms)
        && tpot
        && within(record.e2e_ms, targets.e2e_ms)
}

/// The histogram in bins whose edges grow evenly in proportion.
fn bins(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    const BINS: u16 = 48;
    if histogram.is_empty() {
        return Vec::new();
    }
    let (low, high) = (histogram.min().max(1) as f64, histogram.max().max(2) as f64 * 1.001);
    let step = (high / low).powf(1.0 / f64::from(BINS)).max(1.000_001);
    let mut bins: Vec<(f64, u64)> = (1..=BINS).map(|bin| (low * step.powi(i32::from(bin)), 0)).collect();
    for value in histogram.iter_recorded() {
        // Each recorded value goes to one bin: the histogram's own count of a range takes whole
        // buckets at both ends, twice.
        let at = bins.partition_point(|(edge, _)| *edge < value.value_iterated_to() as f64);
        bins[at.min(usize::from(BINS) - 1)].1 += value.count_at_value();
    }
    bins.into_iter().map(|(edge, count)| (edge / 1e3, count)).collect()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
