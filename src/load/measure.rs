//! What all requests of a run add up to, while it goes on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;

use super::record::{AttemptOutcome, Record};

/// What a run shares.
pub(super) struct RunShared {
    pub(super) started: Instant,
    pub(super) in_flight: AtomicUsize,
    pub(super) pieces: AtomicU64,
    pub(super) ended: AtomicUsize,
    pub(super) failed: AtomicUsize,
    failed_in_a_row: AtomicUsize,
    /// Answers that were under way when a load was given up do not undo it.
    most_failed_in_a_row: AtomicUsize,
    sums: Mutex<Sums>,
}

/// Histograms are in microseconds with three digits.
pub(super) struct Sums {
    pub(super) itl: Histogram<u64>,
    pub(super) ttft: Histogram<u64>,
    pub(super) records: Vec<Record>,
    /// The last failure in words.
    pub(super) last_failure: Option<String>,
}

/// Longer times, in microseconds, count as this: a day.
const TIME_US_MAX: u64 = 24 * 3600 * 1_000_000;

/// A histogram of microseconds, up to a day, with three digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TIME_US_MAX, 3).expect("three digits of a day are allowed")
}

impl RunShared {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            in_flight: AtomicUsize::new(0),
            pieces: AtomicU64::new(0),
            ended: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            failed_in_a_row: AtomicUsize::new(0),
            most_failed_in_a_row: AtomicUsize::new(0),
            sums: Mutex::new(Sums { itl: histogram(), ttft: histogram(), records: Vec::new(), last_failure: None }),
        }
    }

    pub(super) fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is over.
    pub(super) fn ended(&self, record: &Record, gaps_us: &[u32]) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        match record.outcome {
            AttemptOutcome::Failed => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let in_a_row = self.failed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                self.most_failed_in_a_row.fetch_max(in_a_row, Ordering::Relaxed);
            }
            _ => self.failed_in_a_row.store(0, Ordering::Relaxed),
        }
        let mut sums = self.sums();
        for gap in gaps_us {
            sums.itl.saturating_record(u64::from(*gap));
        }
        if let Some(ttft) = record.ttft_ms {
            sums.ttft.saturating_record((ttft * 1e3) as u64);
        }
        if record.outcome == AttemptOutcome::Failed {
            sums.last_failure.clone_from(&record.message);
        }
        sums.records.push(record.clone());
    }

    /// Whether nothing went well for so many requests in a row.
    pub(super) fn is_hopeless(&self, failures_max: usize) -> bool {
        self.most_failed_in_a_row.load(Ordering::Relaxed) >= failures_max
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{answered, unanswered};
    use super::*;

    fn failed(index: usize) -> Record {
        unanswered(index, AttemptOutcome::Failed, Some(("broken", "gone")))
    }

    #[test]
    fn a_load_is_given_up_after_failures_in_a_row_and_not_after_as_many_between_answers() {
        let shared = RunShared::new(Instant::now());
        for index in 0..9 {
            let record = if index % 3 == 2 { answered(index, 10.0, 1.0) } else { failed(index) };
            shared.ended(&record, &[]);
        }
        assert!(shared.is_hopeless(2) && !shared.is_hopeless(3));
        // A refusal is an answer.
        shared.ended(&failed(9), &[]);
        shared.ended(&unanswered(10, AttemptOutcome::Refused, None), &[]);
        shared.ended(&failed(11), &[]);
        shared.ended(&failed(12), &[]);
        assert!(!shared.is_hopeless(3));
        shared.ended(&failed(13), &[]);
        assert!(shared.is_hopeless(3));
        shared.ended(&answered(14, 10.0, 1.0), &[]);
        assert!(shared.is_hopeless(3), "answers that were under way do not undo it");
    }

    #[test]
    fn what_ended_is_summed() {
        let shared = RunShared::new(Instant::now());
        shared.ended(&answered(0, 1.25, 1.0), &[100, 300]);
        shared.ended(&failed(1), &[]);
        shared.ended(&answered(2, 0.75, 1.0), &[200]);
        let sums = shared.sums();
        assert_eq!((sums.records.len(), sums.ttft.len(), sums.itl.len()), (3, 2, 3));
        assert_eq!((sums.ttft.max(), sums.ttft.min(), sums.itl.max(), sums.itl.min()), (1_250, 750, 300, 100));
        assert_eq!(sums.last_failure.as_deref(), Some("gone"));
        assert_eq!((shared.ended.load(Ordering::Relaxed), shared.failed.load(Ordering::Relaxed)), (3, 1));
    }
}
