//! What all requests add up to.

use hdrhistogram::Histogram;

use super::report::CapacityCounts;
use crate::load::{GoodputTargets, Quantiles, histogram};

/// A request that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestFigures {
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    /// From its arrival to its first token.
    pub(super) ttft_micros: u64,
    /// From the first token to the last.
    pub(super) decode_micros: u64,
    /// From its arrival to its end.
    pub(super) e2e_micros: u64,
}

/// Sums and values, in milliseconds where they are times.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) counts: CapacityCounts,
    pub(super) targets: GoodputTargets,
    pub(super) good: u64,
    pub(super) prompt_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) ttft: Vec<f64>,
    pub(super) tpot: Vec<f64>,
    pub(super) e2e: Vec<f64>,
    itl: Histogram<u64>,
}

impl Tally {
    pub(super) fn new(targets: GoodputTargets) -> Self {
        Self {
            counts: CapacityCounts::default(),
            targets,
            good: 0,
            prompt_tokens: 0,
            output_tokens: 0,
            ttft: Vec::new(),
            tpot: Vec::new(),
            e2e: Vec::new(),
            itl: histogram(),
        }
    }

    /// The time between two tokens of an answer, in microseconds.
    pub(super) fn gap(&mut self, micros: u64) {
        self.itl.saturating_record(micros);
    }

    pub(super) fn answered(&mut self, request: RequestFigures) {
        let millis = |micros: u64| micros as f64 / 1e3;
        let (ttft, e2e) = (millis(request.ttft_micros), millis(request.e2e_micros));
        // An answer of one token has no time per token after it.
        let later = request.output_tokens - 1;
        let tpot = (later > 0).then(|| millis(request.decode_micros) / f64::from(later));
        self.counts.completed += 1;
        self.prompt_tokens += u64::from(request.prompt_tokens);
        self.output_tokens += u64::from(request.output_tokens);
        self.ttft.push(ttft);
        self.tpot.extend(tpot);
        self.e2e.push(e2e);
        let within = |value: f64, most: Option<f64>| most.is_none_or(|most| value <= most);
        let targets = &self.targets;
        let is_good = within(ttft, targets.ttft_ms)
            && tpot.is_none_or(|tpot| within(tpot, targets.tpot_ms))
            && within(e2e, targets.e2e_ms);
        self.good += u64::from(is_good);
    }

    /// The times between two tokens.
    pub(super) fn itl(&self) -> Option<Quantiles> {
        Quantiles::of_histogram(&self.itl)
    }
}
