//! Where the time to a request's first text went, for the console and the debug routes.
//!
//! Owns: the marks that the scheduler's events leave on a request. Promises: the parts are whole
//! microseconds, none is counted twice, and their sum is the time to the first text, or the
//! request's age while there is none. Of several choices the first counts. Absent on purpose:
//! clocks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::actors::snapshot::{FirstTextParts, Timeline};
use crate::batch::Micros;

/// What happened to a request before its first token, besides its phases. Written by the
/// SchedulerActor alone.
#[derive(Debug, Default)]
pub(super) struct FirstTokenMarks {
    /// How long a window held it, of the time that it waited.
    held_micros: AtomicU64,
    /// Tokens of its prompt that were found computed, that were not, and those of the latter that a
    /// cache with everything would have had.
    cached_tokens: AtomicU64,
    computed_tokens: AtomicU64,
    missed_tokens: AtomicU64,
    /// Slices of its prompt.
    slices: AtomicU32,
    /// When it was sent back to the queue, if it waits there; zero if not.
    sent_back_at: AtomicU64,
    /// How long it waited there in all.
    away_micros: AtomicU64,
}

/// What was found of a prompt when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BegunPrompt {
    /// How long a window held it.
    pub(super) held_micros: u64,
    /// Its tokens that were found computed.
    pub(super) cached_tokens: usize,
    /// Its other tokens.
    pub(super) computed_tokens: usize,
    /// Those of them that a cache with everything would have had.
    pub(super) missed_tokens: usize,
}

impl FirstTokenMarks {
    /// It began to run.
    pub(super) fn began(&self, begun: BegunPrompt) {
        self.held_micros.store(begun.held_micros, Ordering::Relaxed);
        self.cached_tokens.store(begun.cached_tokens as u64, Ordering::Relaxed);
        self.computed_tokens.store(begun.computed_tokens as u64, Ordering::Relaxed);
        self.missed_tokens.store(begun.missed_tokens as u64, Ordering::Relaxed);
    }

    /// A slice of its prompt is in a step.
    pub(super) fn add_slice(&self) {
        self.slices.fetch_add(1, Ordering::Relaxed);
    }

    /// It was sent back to the queue.
    pub(super) fn sent_back(&self, now: Micros) {
        self.sent_back_at.store(now.0.max(1), Ordering::Relaxed);
    }

    /// It runs again.
    pub(super) fn resumed(&self, now: Micros) {
        let since = self.sent_back_at.swap(0, Ordering::Relaxed);
        if since > 0 {
            self.away_micros.fetch_add(now.since(Micros(since)), Ordering::Relaxed);
        }
    }

    /// The parts of the time to the first text of a request with this timeline, which is
    /// `age_micros` old.
    pub(super) fn parts(&self, timeline: &Timeline, age_micros: u64) -> FirstTextParts {
        let read = |mark: &AtomicU64| mark.load(Ordering::Relaxed);
        let end = timeline.first_text_micros.unwrap_or(age_micros);
        // What has not happened yet happens at the end at the earliest, and in this order.
        let queued = timeline.queued_micros.unwrap_or(end).min(end);
        let began = timeline.prefill_micros.unwrap_or(end).clamp(queued, end);
        let token = timeline.decode_micros.unwrap_or(end).clamp(began, end);
        let waited = began - queued;
        let window = read(&self.held_micros).min(waited);
        let now = timeline.received.plus(end);
        let away_since = read(&self.sent_back_at);
        let still_away = if away_since == 0 { 0 } else { now.since(Micros(away_since)) };
        let preempted = (read(&self.away_micros) + still_away).min(token - began);
        let prompt = token - began - preempted;
        let (missed, computed) = (read(&self.missed_tokens), read(&self.computed_tokens));
        let cache_miss = if computed == 0 { 0 } else { share_of(prompt, missed.min(computed), computed) };
        FirstTextParts {
            building_micros: queued,
            queued_micros: waited - window,
            window_micros: window,
            prefill_micros: prompt - cache_miss,
            cache_miss_micros: cache_miss,
            preempted_micros: preempted,
            decode_micros: end - token,
            slices_count: self.slices.load(Ordering::Relaxed),
            cached_tokens: read(&self.cached_tokens),
        }
    }
}

/// `whole * part / all`, rounded down.
fn share_of(whole: u64, part: u64, all: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(part) / u128::from(all)).expect("a share is no more than the whole")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(marks: [Option<u64>; 4]) -> Timeline {
        let [queued_micros, prefill_micros, decode_micros, first_text_micros] = marks;
        Timeline {
            received: Micros(5_000),
            queued_micros,
            prefill_micros,
            decode_micros,
            first_text_micros,
            sending_micros: None,
        }
    }

    #[test]
    fn the_parts_are_those_that_were_and_their_sum_is_the_time_to_the_first_text() {
        let marks = FirstTokenMarks::default();
        marks.began(BegunPrompt { held_micros: 300, cached_tokens: 32, computed_tokens: 100, missed_tokens: 96 });
        (0..3).for_each(|_| marks.add_slice());
        marks.sent_back(Micros(5_000 + 2_000));
        marks.resumed(Micros(5_000 + 2_500));
        let parts = marks.parts(&timeline([Some(100), Some(1_100), Some(4_600), Some(5_000)]), 9_999);
        let expected = FirstTextParts {
            building_micros: 100,
            queued_micros: 700,
            window_micros: 300,
            prefill_micros: 120,
            cache_miss_micros: 2_880,
            preempted_micros: 500,
            decode_micros: 400,
            slices_count: 3,
            cached_tokens: 32,
        };
        assert_eq!(parts, expected);
        assert_eq!(parts.sum_micros(), 5_000);
    }

    /// Whatever has happened so far, and whatever was marked, nothing is lost and nothing is
    /// counted twice.
    #[test]
    fn the_sum_is_the_age_until_there_is_text() {
        for marked in 0..16_u32 {
            let at = |bit: u32, micros: u64| (marked >> bit & 1 == 1).then_some(micros);
            let marks = FirstTokenMarks::default();
            assert_eq!(marks.parts(&timeline([at(0, 10), at(1, 30), at(2, 70), None]), 90).sum_micros(), 90, "{marked:b}");
            marks.began(BegunPrompt { held_micros: u64::MAX, computed_tokens: 3, missed_tokens: 7, ..BegunPrompt::default() });
            marks.sent_back(Micros(5_020));
            let parts = marks.parts(&timeline([at(0, 10), at(1, 30), at(2, 70), at(3, 80)]), 90);
            assert_eq!(parts.sum_micros(), if marked >> 3 & 1 == 1 { 80 } else { 90 }, "{marked:b}: {parts:?}");
        }
    }
}
