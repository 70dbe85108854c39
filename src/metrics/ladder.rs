//! Latencies in fine steps, for a plot that is watched: counted only while one is open.
//!
//! The histograms of `/metrics` have few, wide buckets. A plot that people read needs finer ones,
//! which cost nothing while no plot is open.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::Micros;

/// Steps a doubling: a value is known within an eighth.
const STEPS_PER_DOUBLING: usize = 8;
/// 2^31 µs is half an hour; what takes longer counts there.
const DOUBLINGS: usize = 32;
const RUNGS: usize = DOUBLINGS * STEPS_PER_DOUBLING;
/// How long after the last look latencies are still counted.
const WATCHED_MICROS: u64 = 10_000_000;

/// How many latencies fell on each rung of a logarithmic ladder.
#[derive(Debug)]
pub(super) struct Ladder([AtomicU64; RUNGS]);

impl Default for Ladder {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Ladder {
    fn add(&self, micros: u64) {
        self.0[rung(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// The rungs that something fell on: where each ends, in microseconds, and how much fell on it.
    fn read(&self) -> Vec<(u64, u64)> {
        let counts = self.0.iter().enumerate().map(|(rung, count)| (end(rung), count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// The rung of a latency: its highest bit, and the three bits after that.
fn rung(micros: u64) -> usize {
    let micros = micros.max(1);
    let doubling = micros.ilog2() as usize;
    // Shifted so that the bits after the highest are the lowest three, also where there are fewer.
    let step = ((u128::from(micros) << 3) >> doubling) as usize & (STEPS_PER_DOUBLING - 1);
    (doubling * STEPS_PER_DOUBLING + step).min(RUNGS - 1)
}

/// The smallest latency, in microseconds, that is above the rung.
fn end(rung: usize) -> u64 {
    let (doubling, step) = (rung / STEPS_PER_DOUBLING, rung % STEPS_PER_DOUBLING);
    (((STEPS_PER_DOUBLING + step + 1) as u64) << doubling).div_ceil(STEPS_PER_DOUBLING as u64)
}

/// What was counted while a plot was open; only grows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LatencyCounts {
    /// TTFT: where each rung ends, in microseconds, and how many fell on it; rungs without any are
    /// left out.
    pub ttft: Vec<(u64, u64)>,
    /// ITL, likewise.
    pub itl: Vec<(u64, u64)>,
}

/// Both ladders, and until when they are counted on.
#[derive(Debug, Default)]
pub(super) struct Watched {
    until: AtomicU64,
    ttft: Ladder,
    itl: Ladder,
}

impl Watched {
    /// Returns what was counted, and has it counted for ten seconds more.
    pub(super) fn look(&self, now: Micros) -> LatencyCounts {
        self.until.store(now.0.saturating_add(WATCHED_MICROS), Ordering::Relaxed);
        LatencyCounts { ttft: self.ttft.read(), itl: self.itl.read() }
    }

    pub(super) fn ttft(&self, micros: u64, now: Micros) {
        if now.0 < self.until.load(Ordering::Relaxed) {
            self.ttft.add(micros);
        }
    }

    pub(super) fn itl(&self, micros: u64, now: Micros) {
        if now.0 < self.until.load(Ordering::Relaxed) {
            self.itl.add(micros);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_known_within_an_eighth() {
        for micros in (1..5_000).chain([65_535, 65_536, 1_000_003, 90_000_000]) {
            let end = end(rung(micros));
            assert!(micros < end && end as f64 <= (micros as f64 * 1.125).max(micros as f64 + 1.0), "{micros}: below {end}");
        }
        assert_eq!((rung(0), rung(u64::MAX)), (0, RUNGS - 1));
        assert!((1..1_000_000).is_sorted_by_key(rung), "longer is never a lower rung");
    }

    #[test]
    fn only_what_is_watched_is_counted() {
        let watched = Watched::default();
        watched.itl(700, Micros(5));
        assert_eq!(watched.look(Micros(10)), LatencyCounts::default());
        watched.itl(700, Micros(20));
        watched.ttft(3_000, Micros(20));
        watched.itl(700, Micros(10 + WATCHED_MICROS));
        watched.ttft(700, Micros(10 + WATCHED_MICROS));
        let seen = watched.look(Micros(30));
        assert_eq!((seen.itl, seen.ttft), (vec![(704, 1)], vec![(3_072, 1)]));
    }
}
