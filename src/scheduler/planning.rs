//! Who is in the next step.

use super::Scheduler;
use super::windows::Gate;
use crate::batch::Micros;

impl Scheduler {
    /// Chooses the next step. `Some`: nobody is in it, because it is held until then.
    pub(super) fn choose(&mut self, now: Micros) -> Option<Micros> {
        self.step.clear();
        if !self.suspects.is_empty() {
            self.choose_apart();
            return None;
        }
        self.step.candidates.extend(self.running.values());
        let room = self.catch_up(self.decoding_count);
        let gate = self.gate(now, room);
        if let Some(until) = self.decode_hold(gate) {
            self.step.clear();
            return Some(until);
        }
        self.admit(gate, room);
        match gate {
            Gate::Held { until } if self.step.is_empty() => Some(until),
            _ => None,
        }
    }

    /// Gives each candidate, oldest first, a slice of what it has not computed, and the blocks for it; `decoding_count` of them
    /// decode. Answers how many tokens of the budget are left for admissions.
    ///
    /// **Every candidate that decodes is in the step**, unless it is preempted: decode before prefill, because a waiting prompt
    /// can wait one step (TTFT), and a stalled answer is seen at once (ITL). Blocks go by age instead, so that the oldest
    /// always gets on, and whoever is preempted has no slice in this step yet.
    pub(super) fn catch_up(&mut self, decoding_count: usize) -> usize {
        let mut room = self.limits.token_budget_tokens - decoding_count;
        let preemptions_before = self.totals.preemptions;
        let mut next = 0;
        while let Some(&place) = self.step.candidates.get(next) {
            next += 1;
            let sequence = &self.sequences[place];
            if sequence.decoding {
                if self.secure_blocks(place, 1) {
                    self.step.write(place, &self.sequences[place], 1, &self.geometry);
                }
            } else {
                let len = sequence.pending().min(self.geometry.slice_tokens_max).min(room);
                if len > 0 && self.secure_blocks(place, len) {
                    room -= len;
                    self.step.prefills.push((place, len));
                }
            }
        }
        // Whoever was preempted just now would be the first to be admitted again.
        if self.totals.preemptions == preemptions_before { room } else { 0 }
    }
}
