//! What the log saw: the last warnings, and how many lines could not be written.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;

const WARNINGS_MAX_COUNT: usize = 64;
const MESSAGE_MAX_CHARS: usize = 400;

/// A warning or an error that was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// When, in seconds since 1970-01-01 UTC.
    pub unix_seconds: u64,
    /// `WARN` or `ERROR`.
    pub level: &'static str,
    /// Message and fields, cut to 400 characters.
    pub message: String,
}

/// Written by the log, read by `/metrics` and the debug bundle. Clones share what they saw.
#[derive(Debug, Clone, Default)]
pub struct LogWatch {
    seen: Arc<SeenLines>,
}

#[derive(Debug, Default)]
struct SeenLines {
    dropped: AtomicU64,
    warnings: Mutex<VecDeque<Warning>>,
}

impl LogWatch {
    /// A line could not be written.
    pub fn dropped(&self) {
        self.seen.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How many lines could not be written.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.seen.dropped.load(Ordering::Relaxed)
    }

    /// A warning or an error was logged.
    pub fn warned(&self, unix_seconds: u64, level: &'static str, message: &str) {
        let message = message.chars().take(MESSAGE_MAX_CHARS).collect();
        let mut warnings = lock(&self.seen.warnings);
        if warnings.len() == WARNINGS_MAX_COUNT {
            warnings.pop_front();
        }
        warnings.push_back(Warning { unix_seconds, level, message });
    }

    /// The last 64 warnings, oldest first.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        lock(&self.seen.warnings).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_warnings_are_kept_and_cut() {
        let log = LogWatch::default();
        for second in 0..70 {
            log.clone().warned(second, "WARN", &"ä".repeat(500));
        }
        let kept = log.warnings();
        assert_eq!((kept.len(), kept[0].unix_seconds, kept[63].unix_seconds), (64, 6, 69));
        assert_eq!((kept[0].level, kept[0].message.chars().count()), ("WARN", 400));
        (0..3).for_each(|_| log.dropped());
        assert_eq!(log.dropped_total(), 3);
    }
}
