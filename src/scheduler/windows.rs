//! How long a step is held so that others join it.
//!
//! Two windows, both in the profile:
//!
//! * The **prefill window** holds those that have never run, counted from the first arrival among
//!   them, so that others that arrive meanwhile are prefilled in the same step. Sequences that run
//!   go on meanwhile; those that were preempted are not held. **The window of a full batch is over
//!   at once**: full means that one more sequence could not join, for want of tokens in the budget,
//!   of running places, of blocks, or of room in the queue.
//! * The **decode window** holds a step of decode slices alone, counted from the commit before it,
//!   so that a sequence that is about to join does join. One is about to join if the prefill window
//!   lets it go before the decode window is over; there is no other way to know that a sequence
//!   comes. So **a decode step is held only for a sequence that will be in it**, and a decode
//!   window longer than the prefill window means that prompts and answers always move in common
//!   steps.
//!
//! While a lost step's suspects are tried nothing is held.

use super::Scheduler;
use crate::batch::Micros;

/// Whether sequences that have never run may be admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdmissionWindow {
    /// They may.
    Open,
    /// The first of them is held for others.
    Held {
        /// Until then at the latest.
        until: Micros,
    },
}

impl AdmissionWindow {
    pub(super) fn is_held(self) -> bool {
        self != Self::Open
    }
}

/// How long the prefill window has held sequences, in all.
#[derive(Debug, Default)]
pub(super) struct HeldTime {
    micros: u64,
    /// It holds some since then.
    since: Option<Micros>,
}

impl HeldTime {
    /// Until now.
    pub(super) fn at(&self, now: Micros) -> u64 {
        self.micros + self.since.map_or(0, |since| now.since(since))
    }

    /// From now on it holds those that never ran, or does not.
    pub(super) fn note(&mut self, window: AdmissionWindow, now: Micros) {
        self.micros = self.at(now);
        self.since = window.is_held().then_some(now);
    }
}

impl Scheduler {
    /// Whether the prefill window holds the first fresh sequence, in a step with `room` tokens
    /// left.
    pub(super) fn gate(&mut self, now: Micros, room: usize) -> AdmissionWindow {
        let window = self.window(now, room);
        self.held.note(window, now);
        window
    }

    fn window(&self, now: Micros, room: usize) -> AdmissionWindow {
        let window = self.limits.prefill_window_micros;
        let Some(first) = self.waiting.arrivals().next().filter(|_| window > 0) else {
            return AdmissionWindow::Open;
        };
        let until = self.sequences[first].arrived.plus(window);
        if until <= now || self.nobody_could_join(room) { AdmissionWindow::Open } else { AdmissionWindow::Held { until } }
    }

    /// Whether those that wait leave no room for one more.
    fn nobody_could_join(&self, room: usize) -> bool {
        let demand = self.waiting.demand();
        let available = self.available();
        let growth = self.growth_blocks(self.running.count());
        demand.step_tokens >= room
            || self.running.count() + self.waiting.count() >= self.limits.running_max()
            || demand.blocks.global + growth >= available.global
            || demand.blocks.sliding >= available.sliding
            || self.excess(1, 1) != (0, 0)
    }

    /// Until when the decode slices of this step are held for the sequence behind `gate`; `None` to
    /// go on at once.
    pub(super) fn decode_hold(&self, gate: AdmissionWindow) -> Option<Micros> {
        let AdmissionWindow::Held { until } = gate else { return None };
        // A preempted sequence in front is not held: it joins this step, and makes it more than a
        // decode step.
        let decode_step = self.step.prefills.is_empty() && self.waiting.is_all_fresh() && !self.step.planned.is_empty();
        let joins = until <= self.committed_at.plus(self.limits.decode_window_micros);
        (decode_step && joins).then_some(until)
    }
}
