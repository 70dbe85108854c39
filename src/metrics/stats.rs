//! The numbers of `/stats`, read at one moment.

use std::sync::atomic::Ordering;

use super::{MetricsShared, lock};
use crate::batch::Micros;

/// Admitted requests, by what became of them: `total = success + failed + cancelled + active`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    /// All of them.
    pub total: u64,
    /// Ended well.
    pub success: u64,
    /// Ended through the server's fault.
    pub failed: u64,
    /// Cancelled, or left by their client.
    pub cancelled: u64,
    /// Not ended.
    pub active: u64,
}

/// The prompt builder's counts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PromptCounts {
    /// Prompts found in its cache.
    pub hits: u64,
    /// Prompts that had to be built.
    pub misses: u64,
    /// Prompts cut to fit the context.
    pub truncations: u64,
    /// `hits / (hits + misses)`; zero before the first.
    pub hit_rate: f64,
    /// Prompts in its cache.
    pub entries: u64,
}

/// Three ranks of a set of durations, in milliseconds; zero if the set is empty.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Percentiles {
    /// The median.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
}

impl Percentiles {
    /// By nearest rank: the smallest value that at least the share of all values does not exceed.
    #[must_use]
    pub fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let rank = |percent: usize| match (micros.len() * percent).div_ceil(100) {
            0 => 0.0,
            rank => micros[rank - 1] as f64 / 1e3,
        };
        Self { p50_ms: rank(50), p95_ms: rank(95), p99_ms: rank(99) }
    }
}

/// The numbers of `/stats`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stats {
    /// Admitted requests.
    pub requests: RequestCounts,
    /// Requests that were refused before a byte was sent.
    pub rejected: u64,
    /// Streams that are open.
    pub stream_active: u64,
    /// Streams that ended before they were finished.
    pub stream_cancelled: u64,
    /// Requests that ended per second, over the last minute.
    pub qps: f64,
    /// Share of the requests of the last minute that failed.
    pub error_rate: f64,
    /// TTFT of the last 4,096 requests.
    pub ttft: Percentiles,
    /// E2E of those of the last 4,096 requests that succeeded.
    pub e2e: Percentiles,
    /// Since the server's clock was started.
    pub uptime_seconds: f64,
    /// Tokens generated per second, over the last ten seconds.
    pub tokens_per_second: f64,
    /// Share of the last ten seconds in which the engine computed, 0 to 1.
    pub busy_share: f64,
    /// The prompt builder.
    pub prompts: PromptCounts,
    /// Sessions that are alive.
    pub sessions_active: u64,
}

impl Stats {
    pub(super) fn read(inner: &MetricsShared, now: Micros) -> Self {
        let families = &inner.families;
        let requests = &families.requests;
        // Requests change under this lock, so their counts agree with each other.
        let recent = lock(&inner.recent);
        let ended = |status: &str| requests.ended.with_label_values(&[status]).get();
        let counts = RequestCounts {
            total: requests.admitted.get(),
            success: ended("success"),
            failed: ended("failed"),
            cancelled: ended("cancelled"),
            active: unsigned(requests.active.get()),
        };
        let (qps, error_rate) = (recent.qps(now), recent.error_rate(now));
        let (ttfts, e2es) = (recent.ttfts(), recent.e2es());
        drop(recent);
        Self {
            requests: counts,
            rejected: super::RejectKind::ALL.iter().map(|kind| requests.rejected.with_label_values(&[kind.name()]).get()).sum(),
            stream_active: unsigned(requests.stream_active.get()),
            stream_cancelled: requests.stream_cancelled.get(),
            qps,
            error_rate,
            ttft: Percentiles::of(ttfts),
            e2e: Percentiles::of(e2es),
            uptime_seconds: now.0 as f64 / 1e6,
            tokens_per_second: lock(&inner.generated).per_second(now),
            // A step counts when it ends: one that began before the ten seconds counts whole.
            busy_share: (lock(&inner.busy_micros).per_second(now) / 1e6).min(1.0),
            prompts: prompts(inner),
            sessions_active: unsigned(requests.sessions_active.get()),
        }
    }
}

fn prompts(inner: &MetricsShared) -> PromptCounts {
    let prompts = &inner.families.prompts;
    let (hits, misses) = (prompts.hits.get(), prompts.misses.get());
    PromptCounts {
        hits,
        misses,
        truncations: prompts.truncations.get(),
        hit_rate: hits as f64 / (hits + misses).max(1) as f64,
        entries: inner.prompt_cache_entries.load(Ordering::Relaxed),
    }
}

/// A gauge that never falls below zero.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
