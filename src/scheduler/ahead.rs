//! Planning a step while the one before it is computed.
//!
//! A device that is given its next step before it ends one never waits for the host. What the step under way draws is not known
//! yet; that it ends well is **presumed**: whoever is in it has computed its token and has one more, which the next step awaits.
//! The commit finds out. Who ended after all is in the next step for nothing, as if it had been cancelled: its report is dropped.
//! Its blocks are free at once, since **steps are computed in the order of their plans**: whoever gets a block writes to it after all
//! that was planned before. If the step is lost, the one planned ahead is lost with it.
//!
//! Not every step can be planned ahead, and then it is planned after the commit, as ever:
//!
//! * Beside a step that prefills little: one that prefills much takes long, so that there is little to gain, and whoever arrives
//!   meanwhile would wait for the next one too.
//! * Nobody in it draws with a history, which would lack a token, or gathers what is reported of its prompt.
//! * No suspects are tried, and nobody is held by a window.
//! * The blocks suffice: nobody is preempted, because whoever is in the step under way keeps its place in the line till its commit.

use super::Scheduler;
use super::geometry::BlockCounts;
use crate::batch::Micros;

/// A step that prefills so many tokens, or as many as it decodes, takes not much longer than one that prefills none: a GPU reads the
/// weights once for all of them, and is not busy with products before that.
const LITTLE_TOKENS: usize = 256;

impl Scheduler {
    /// Whether the step under way is one beside which the next can be planned.
    pub(super) fn is_followed(&self) -> bool {
        let [step] = self.under_way.as_slice() else { return false };
        let is_short = step.prefill_tokens() <= LITTLE_TOKENS.max(step.planned.len());
        is_short && step.says_only_tokens && self.suspects.is_empty() && self.running.is_tidy()
    }

    /// Presumes that the step under way ends well; its commit settles the tokens. Answers how many of those that decode have
    /// all their tokens with it.
    pub(super) fn presume(&mut self) -> usize {
        let step = &mut self.under_way[0];
        step.is_presumed = true;
        let planned = std::mem::take(&mut step.planned);
        let mut complete_count = 0;
        for (index, slice) in planned.iter().enumerate() {
            if !self.running[slice.at].is_gone() {
                self.commit_slice(slice);
                if slice.draws {
                    self.running.set_decoding(slice.at, true);
                    let runner = &mut self.running[slice.at];
                    runner.append_awaited(index, &mut self.sequences);
                    complete_count += usize::from(runner.is_complete());
                }
            }
        }
        self.under_way[0].planned = planned;
        complete_count
    }

    /// Chooses the step after the one under way, `complete_count` of whose decoding sequences are complete. Nobody is in it if it has
    /// to wait for the commit.
    pub(super) fn choose_ahead(&mut self, now: Micros, complete_count: usize) {
        self.step.begin();
        if !self.suffices_for_all() {
            return;
        }
        let decoding_count = self.running.decoding_count() - complete_count;
        let room = self.catch_up(decoding_count, |_, runner| !runner.is_complete());
        let gate = self.gate(now, room);
        if gate.is_held() {
            return self.step.withdraw();
        }
        self.admit(gate, room);
    }

    /// Whether there are blocks for the next slice of all that run, however long it may be.
    fn suffices_for_all(&self) -> bool {
        let mut missing = BlockCounts::default();
        for runner in self.running.iter().filter(|runner| !runner.is_complete()) {
            let end = runner.computed + runner.pending().min(self.geometry.slice_tokens_max);
            let more = runner.tables.missing(end, &self.geometry);
            missing = BlockCounts { full: missing.full + more.full, sliding: missing.sliding + more.sliding };
        }
        missing.fit(self.pools.free())
    }
}
