//! Which sequences are in the next step.

use super::Scheduler;
use super::running::Runner;
use super::step::Material;
use super::windows::AdmissionWindow;
use crate::batch::Micros;

impl Scheduler {
    /// Chooses the next step. `Some`: it is empty, because it is held until then.
    pub(super) fn choose(&mut self, now: Micros) -> Option<Micros> {
        self.running.tidy();
        self.running.pack(&mut self.tables);
        self.step.begin();
        if !self.suspects.is_empty() {
            self.held.note(AdmissionWindow::Open, now);
            self.choose_apart();
            return None;
        }
        self.guess();
        let room = self.catch_up(self.running.decoding_count(), |_, _| true);
        let gate = self.gate(now, room);
        if let Some(until) = self.decode_hold(gate) {
            self.step.withdraw();
            return Some(until);
        }
        self.admit(gate, room);
        match gate {
            AdmissionWindow::Held { until } if self.step.is_empty() => Some(until),
            _ => None,
        }
    }

    /// Gives each candidate, in the order of service, a slice of what it has not computed, and the
    /// blocks for it; `decoding_count` of them decode. Answers how many tokens of the budget are
    /// left for admissions.
    ///
    /// **Every candidate that decodes is in the step**, unless it is preempted, or lacks blocks
    /// that are kept for one that was. Decode goes before prefill, because a waiting prompt can
    /// wait one step (TTFT), and a stalled answer is seen at once (ITL). Blocks go by the order of
    /// service instead, so that the first gets on, and a sequence that is preempted has no slice
    /// in this step yet.
    pub(super) fn catch_up(&mut self, decoding_count: usize, is_candidate: impl Fn(&Self, &Runner) -> bool) -> usize {
        let mut room = self.prefill_room(decoding_count);
        let mut next = 0;
        // The line may become shorter on the way.
        while next < self.running.line_len() {
            let at = next;
            next += 1;
            let runner = &self.running[at];
            if runner.is_gone() || !is_candidate(self, runner) {
                continue;
            }
            if runner.decoding {
                if self.secure_blocks(at, 1) {
                    let Self { step, running, sequences, tables, geometry, .. } = self;
                    step.write(at, 1, Material { running, sequences, tables, geometry });
                }
            } else {
                let len = runner.pending().min(self.geometry.slice_tokens_max).min(room);
                if len > 0 && self.secure_blocks(at, len) {
                    room -= len;
                    self.step.prefills.push((at, len));
                }
            }
        }
        // A sequence preempted just now would be the first to be admitted again.
        if self.step.lacks_blocks { 0 } else { room }
    }

    /// Gives the step that was chosen to the engine, unless it is empty. Returns whether it did.
    pub(super) fn hand_out(&mut self) -> bool {
        if self.step.is_empty() {
            return false;
        }
        self.let_go_of_copied();
        let Self { step, running, sequences, tables, geometry, now, .. } = self;
        self.under_way.push(step.complete(Material { running, sequences, tables, geometry }, *now));
        true
    }
}
