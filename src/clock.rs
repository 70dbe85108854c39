//! The only reader of the system clock.
//!
//! Everything that decides by time takes a [`Micros`] as an argument, so that the same calls give
//! the same decisions in a simulation, in a test and in the server.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub use crate::batch::Micros;

/// A monotonic clock that starts at zero when it is made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that reads zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Time since the clock was started; never goes back.
    #[must_use]
    pub fn now(&self) -> Micros {
        // 2^64 microseconds are 584,000 years.
        Micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Today's date where this machine is (`2025-11-22`), as `TZ` or `/etc/localtime` says; in UTC if
/// neither does.
#[must_use]
pub fn local_date() -> String {
    jiff::ZonedDateTime::now().date().to_string()
}

/// Seconds since 1970-01-01 UTC, for `created` fields; zero if the system clock lies before that.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Nanoseconds since 1970-01-01 UTC, for spans; zero if the system clock lies before that.
#[must_use]
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // 2^64 nanoseconds end in the year 2554.
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Now in UTC, as RFC 3339 writes it (`2025-11-22T08:30:00.5Z`).
#[must_use]
pub fn utc_timestamp() -> String {
    jiff::Timestamp::now().to_string()
}
