//! How much each test asks of a server, and for how long.

use std::time::Duration;

use super::case::Level;
use super::criteria::Criteria;

/// Counts and times of the tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effort {
    /// Requests of the performance test.
    pub(super) requests: usize,
    /// Requests one after another.
    pub(super) continuous: usize,
    /// How long several clients ask.
    pub(super) stable: Duration,
    /// Requests at once.
    pub(super) burst: usize,
    /// How long clients leave beside some that stay.
    pub(super) leaving: Duration,
    /// Streams that are left, and as many that are cancelled by their id.
    pub(super) cancelled: usize,
    /// Tabs of a browser.
    pub(super) tabs: usize,
    /// Streams that are cancelled before memory is looked at: buffers and pools are filled once.
    pub(super) growth_warm_up: usize,
    /// Streams that may leave nothing behind.
    pub(super) growth: usize,
    /// Requests before memory is watched: what is remembered of the last requests is full then. The
    /// 4,096 behind the percentiles of /stats are the most, 40 bytes each. One request of the mix
    /// in six is refused, and not among them.
    pub(super) leak_warm_up: usize,
    /// How long memory is watched.
    pub(super) leak: Duration,
    /// Between two looks at the memory.
    pub(super) leak_sample: Duration,
    /// After this nothing is waited for any more.
    pub(super) freed_max: Duration,
}

impl Effort {
    /// What the plans ask for in `full`, and a tenth or so of it in `quick`.
    pub(super) fn of(level: Level, criteria: &Criteria) -> Self {
        let full = Self {
            requests: 200,
            continuous: 400,
            stable: Duration::from_secs(60),
            burst: 256,
            leaving: Duration::from_secs(30),
            cancelled: 50,
            tabs: 5,
            growth_warm_up: 100,
            growth: 200,
            leak_warm_up: 5_000,
            leak: Duration::from_secs(criteria.leak_seconds),
            leak_sample: Duration::from_secs(1),
            freed_max: Duration::from_secs(10),
        };
        let all = match level {
            Level::Full => full,
            Level::Quick => Self {
                requests: 24,
                continuous: 40,
                stable: Duration::from_secs(6),
                burst: 64,
                leaving: Duration::from_secs(3),
                cancelled: 10,
                tabs: 2,
                ..full
            },
        };
        Self { requests: criteria.requests.unwrap_or(all.requests), ..all }
    }
}
