//! Planning a step while the one before it is computed.
//!
//! A device that is given its next step before it ends one never waits for the host. What the step
//! under way draws is not known yet; that it ends well is **presumed**: each of its sequences has
//! computed its token and has one more, which the next step awaits. The commit finds out. A
//! sequence that turns out to have ended is computed once more; its report is dropped, as after a
//! cancel. Its blocks are free at once, since **steps are computed in the order of their plans**: a
//! block's next holder writes to it after all that was planned before. If the step is lost, the one
//! planned ahead is lost with it.
//!
//! ```text
//! device   | step 1 ............... | step 2 ............... | step 3 ...
//! host     plan 2      commit 1, plan 3          commit 2, plan 4
//!          (1 runs)    (2 runs)                  (3 runs)
//! ```
//!
//! While step 1 is computed, step 2 is planned as if step 1 had ended well: a sequence of both
//! awaits the token that step 1 draws. Commit 1 brings that token while step 2 is computed, and
//! only then is step 3 planned.
//!
//! Not every step can be planned ahead, and then it is planned after the commit, as ever:
//!
//! * Beside a step that prefills little: one that prefills much takes long, so that there is little
//!   to gain, and a request that arrives meanwhile would wait for the next one too.
//! * No sequence in it draws with a history, which would lack a token, and no sequence of either
//!   awaits log-probabilities of its prompt.
//! * No sequence in it has drafts, for how many tokens it draws is not known, and none repeats what
//!   stood before, which is worth more than planning ahead (`speculation`).
//! * No suspects are tried, and no window holds a sequence.
//! * Few in the line of those that run have ended, and none was admitted that goes before others:
//!   the line is tidied between a commit and a plan, where no step knows its places.
//! * No sequence is in both whose next mask follows from the token that is awaited. It is left out
//!   of the step that is planned ahead, and is in the next one; the others do not wait.
//! * A mask that holds on (`MaskOutlook`) is presumed to. If the token changes it after all, which
//!   happens where a message ends, the slice that was planned ahead is **void**. It counts as if it
//!   had not been in its step, and is computed again under the mask that is known then.
//! * The blocks suffice: nothing is preempted, because a sequence of the step under way keeps its
//!   place in the line till its commit.

use super::Scheduler;
use super::geometry::BlockCounts;
use super::running::Runner;
use crate::batch::Micros;

/// Up to this many tokens a GPU step is bound by reading weights, so prefilling them is nearly
/// free.
const LITTLE_TOKENS: usize = 256;

impl Scheduler {
    /// Whether the next step can be planned beside the one under way.
    pub(super) fn can_be_followed(&mut self) -> bool {
        let [step] = self.under_way.as_slice() else { return false };
        let is_short = step.prefill_tokens() <= LITTLE_TOKENS;
        is_short
            && !step.blocks_planning_ahead
            && self.suspects.is_empty()
            && self.running.is_tidy()
            && self.running.is_in_order()
            && !self.guesses_next()
    }

    /// Presumes that the step under way ends well; its commit settles the tokens.
    pub(super) fn presume(&mut self) {
        let step = &mut self.under_way[0];
        step.is_presumed = true;
        let planned = std::mem::take(&mut step.planned);
        for (index, slice) in planned.iter().enumerate() {
            if !self.running[slice.at].is_gone() && !slice.is_void {
                self.commit_slice(slice);
                if slice.draws {
                    self.running.set_decoding(slice.at, true);
                    self.running[slice.at].append_awaited(index, &mut self.sequences);
                }
            }
        }
        self.under_way[0].planned = planned;
    }

    /// Chooses the step after the one under way. It is empty if it has to wait for the commit.
    pub(super) fn choose_ahead(&mut self, now: Micros) {
        self.running.pack(&mut self.tables);
        self.step.begin();
        if !self.suffices_for_all() {
            return;
        }
        let is_left_out = |runner: &Runner| runner.is_complete() || runner.awaits_mask();
        let left_out_count = self.running.iter().filter(|runner| is_left_out(runner)).count();
        let decoding_count = self.running.decoding_count() - left_out_count;
        let room = self.catch_up(decoding_count, |_, runner| !is_left_out(runner));
        let gate = self.gate(now, room);
        if gate.is_held() {
            return self.step.withdraw();
        }
        self.admit(gate, room);
        // Its log-probabilities may take several rounds, and an engine that computes those reports
        // the step before it only then.
        if self.step.prefills.iter().any(|(at, _)| self.running[*at].awaits_prompt_logprobs) {
            self.step.withdraw();
        }
    }

    /// Whether there are blocks for the next slice of all that run, however long it may be.
    fn suffices_for_all(&self) -> bool {
        self.next_missing().fit(self.available())
    }

    /// Blocks that the next slices take of all that run, however long they may be. What those need
    /// that return is kept for them.
    pub(super) fn next_missing(&self) -> BlockCounts {
        let mut missing = BlockCounts::default();
        for runner in self.running.iter().filter(|runner| !runner.is_complete() && !runner.is_returning()) {
            let end = runner.computed + runner.pending().min(self.geometry.slice_tokens_max);
            missing = missing.plus(runner.tables.missing(end, &self.geometry));
        }
        missing
    }
}
