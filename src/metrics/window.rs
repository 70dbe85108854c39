//! The recent past: a bounded ring of ended requests, and a rate over ten seconds.

use std::collections::VecDeque;

use super::RequestOutcome;
use crate::batch::Micros;

/// How many ended requests are remembered: 4,096 of 40 bytes, sorted in under a millisecond when a
/// client asks.
const RECENT_MAX_COUNT: usize = 4096;
/// How far back `qps` and `error_rate` look.
const WINDOW_MICROS: u64 = 60_000_000;
const SECOND_MICROS: u64 = 1_000_000;

/// A request that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) at: Micros,
    pub(super) outcome: RequestOutcome,
    pub(super) ttft_micros: Option<u64>,
    pub(super) e2e_micros: u64,
}

/// The requests that ended last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ended: VecDeque<Ended>,
}

impl Recent {
    pub(super) fn add(&mut self, ended: Ended) {
        if self.ended.len() == RECENT_MAX_COUNT {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    fn within_window(&self, now: Micros) -> impl Iterator<Item = &Ended> {
        self.ended.iter().filter(move |ended| now.since(ended.at) <= WINDOW_MICROS)
    }

    /// Requests that ended per second, over the last minute or the server's life if that is
    /// shorter.
    pub(super) fn qps(&self, now: Micros) -> f64 {
        let count = self.within_window(now).count();
        let mut span = now.0.min(WINDOW_MICROS);
        if count == RECENT_MAX_COUNT {
            // The ring is too short for the window: it covers only what it holds.
            let oldest = self.ended.iter().map(|ended| ended.at).min().unwrap_or(now);
            span = now.since(oldest);
        }
        count as f64 * SECOND_MICROS as f64 / span.max(SECOND_MICROS) as f64
    }

    /// Share of the requests of the last minute that failed; zero if none ended.
    pub(super) fn error_rate(&self, now: Micros) -> f64 {
        let (mut count, mut failed) = (0_usize, 0_usize);
        for ended in self.within_window(now) {
            count += 1;
            failed += usize::from(ended.outcome == RequestOutcome::Failed);
        }
        failed as f64 / count.max(1) as f64
    }

    /// TTFTs of the remembered requests, in microseconds.
    pub(super) fn ttfts(&self) -> Vec<u64> {
        self.ended.iter().filter_map(|ended| ended.ttft_micros).collect()
    }

    /// E2Es of the remembered requests that succeeded, in microseconds.
    pub(super) fn e2es(&self) -> Vec<u64> {
        self.ended.iter().filter(|ended| ended.outcome.status() == "success").map(|ended| ended.e2e_micros).collect()
    }
}

/// Counts in the last ten seconds, a bucket a second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    buckets: [(u64, u64); Rate::SECONDS as usize],
}

impl Rate {
    const SECONDS: u64 = 10;

    pub(super) fn add(&mut self, count: u64, now: Micros) {
        let second = now.0 / SECOND_MICROS;
        let bucket = &mut self.buckets[(second % Self::SECONDS) as usize];
        if bucket.0 != second {
            *bucket = (second, 0);
        }
        bucket.1 += count;
    }

    /// Counted per second, over the running second and the nine before it.
    pub(super) fn per_second(&self, now: Micros) -> f64 {
        let second = now.0 / SECOND_MICROS;
        let oldest = second.saturating_sub(Self::SECONDS - 1);
        let count: u64 = self.buckets.iter().filter(|(at, _)| (oldest..=second).contains(at)).map(|(_, count)| count).sum();
        let span = now.0 - oldest * SECOND_MICROS;
        count as f64 * SECOND_MICROS as f64 / span.max(SECOND_MICROS) as f64
    }
}
