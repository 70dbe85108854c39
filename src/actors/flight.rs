//! The flight recorder: what the last steps held, and when.
//!
//! Owns: a ring of the last [`STEPS_MAX_COUNT`] steps. Promises: a step costs a copy of some counts
//! and a lock that is held for that copy only; memory is bounded. Absent on purpose: clocks, for
//! the times are those that the scheduler was told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::actors::registry::LiveEntry;
use crate::actors::snapshot::{PromptSlice, StepTrace};
use crate::batch::{Micros, StepWork};
use crate::scheduler::{DraftCounts, SchedulerCounts};

/// Steps that are kept: 12 s of steps of 3 ms, each in less than 224 bytes and 24 a slice.
const STEPS_MAX_COUNT: usize = 4_096;
/// Slices of prompts that are kept of a step.
const SLICES_MAX_COUNT: usize = 16;

/// A slice of a prompt, and whose it is.
#[derive(Debug)]
pub(super) struct RecordedSlice {
    pub(super) live: Arc<LiveEntry>,
    pub(super) start: usize,
    pub(super) tokens: usize,
}

/// A step that was planned, and is recorded once it has ended.
#[derive(Debug)]
pub(super) struct RecordedStep {
    trace: StepTrace,
    slices: Vec<RecordedSlice>,
}

impl RecordedStep {
    /// A step planned at `planned`, with what the plan changed.
    pub(super) fn planned(planned: Micros, is_ahead: bool, before: &SchedulerCounts, after: &SchedulerCounts) -> Self {
        let trace = StepTrace {
            planned,
            is_ahead,
            prefilling_count: after.prefill_count,
            decoding_count: after.decode_count,
            waiting_count: after.waiting_count,
            blocks: after.blocks(),
            preemptions_count: after.preemptions_total - before.preemptions_total,
            cached_tokens: after.prefix_cache.hit_tokens_total - before.prefix_cache.hit_tokens_total,
            ..StepTrace::default()
        };
        Self { trace, slices: Vec::new() }
    }

    /// It holds this slice of a prompt.
    pub(super) fn add_slice(&mut self, slice: RecordedSlice) {
        if self.slices.len() < SLICES_MAX_COUNT {
            self.slices.push(slice);
        }
    }

    /// Of its tokens so many were guessed, and so many of those were right.
    pub(super) fn drafted(mut self, before: &DraftCounts, after: &DraftCounts) -> Self {
        let more = |after: u64, before: u64| u32::try_from(after - before).unwrap_or(u32::MAX);
        self.trace.draft_tokens = more(after.draft_tokens_total, before.draft_tokens_total);
        self.trace.accepted_draft_tokens = more(after.accepted_tokens_total, before.accepted_tokens_total);
        self
    }

    /// It is to compute this.
    pub(super) fn computes(&mut self, work: StepWork) {
        self.trace.work = work;
    }

    /// It was computed from `began` to `ended`, and drew so many tokens; `None`: it was lost.
    pub(super) fn ended(mut self, drawn: Option<usize>, began: Micros, ended: Micros) -> Self {
        self.trace.drawn_count = drawn.unwrap_or(0);
        self.trace.is_lost = drawn.is_none();
        (self.trace.began, self.trace.ended) = (began, ended);
        self
    }

    fn shown(&self) -> StepTrace {
        let slice = |slice: &RecordedSlice| PromptSlice {
            request_id: slice.live.request_id.clone(),
            start: slice.start,
            tokens: slice.tokens,
        };
        StepTrace { slices: self.slices.iter().map(slice).collect(), ..self.trace.clone() }
    }
}

/// The last steps.
#[derive(Debug, Default)]
pub(super) struct FlightRecorder {
    steps: Mutex<VecDeque<RecordedStep>>,
}

impl FlightRecorder {
    /// Records a step that has ended.
    pub(super) fn record(&self, mut step: RecordedStep) {
        let mut steps = self.locked();
        step.trace.number = steps.back().map_or(1, |last| last.trace.number + 1);
        if steps.len() == STEPS_MAX_COUNT {
            steps.pop_front();
        }
        steps.push_back(step);
    }

    /// The last steps, oldest first.
    pub(super) fn steps(&self) -> Vec<StepTrace> {
        self.locked().iter().map(RecordedStep::shown).collect()
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<RecordedStep>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_steps_are_kept_in_their_order() {
        let recorder = FlightRecorder::default();
        let counts = SchedulerCounts::default();
        for step in 0..STEPS_MAX_COUNT as u64 + 3 {
            let planned = RecordedStep::planned(Micros(step), false, &counts, &counts);
            recorder.record(planned.ended(Some(2), Micros(step), Micros(step + 1)));
        }
        assert!(size_of::<RecordedStep>() < 224 && size_of::<RecordedSlice>() == 24);
        let steps = recorder.steps();
        assert_eq!((steps.len(), steps[0].number, steps[0].planned), (STEPS_MAX_COUNT, 4, Micros(3)));
        assert!(steps.is_sorted_by(|one, other| one.number + 1 == other.number && one.ended <= other.began));
    }
}
