//! Taking a running sequence's blocks when they run out: it is computed again later.
//!
//! **A preempted sequence is not preempted again before it has got further than it ever was**: by a
//! new token, or by a slice of its prompt. Until then it *returns*: what it needs for that is kept
//! for it, and what others lack meanwhile they do not take from it. They wait a step; it gets on in
//! each. Else a sequence could be computed again and again for nothing (a storm), while those that
//! push it out gain a block at a time.

use super::geometry::BlockCounts;
use super::sequence::{PromptLogprobs, SequenceIndex};
use super::{Scheduler, SequenceEvent};

impl Scheduler {
    /// Takes the blocks for the next `len` tokens of a running sequence, from later ones if none
    /// are available. Returns whether it could: not if it is the last itself and was preempted, nor
    /// if all after it return; then it waits a step.
    ///
    /// **The first running sequence gets its blocks, or one gets on that returns**: no sequence is
    /// admitted whose need exceeds what there is.
    pub(super) fn secure_blocks(&mut self, at: usize, len: usize) -> bool {
        loop {
            let runner = &mut self.running[at];
            let missing = runner.tables.missing(runner.computed + len, &self.geometry);
            // The usual decode step needs no block.
            if missing == BlockCounts::default() || missing.fit(self.available_beside(at)) {
                let runner = &mut self.running[at];
                runner.tables.grow(missing, &mut self.tables, &mut self.pools);
                return true;
            }
            assert!(self.running.count() > 1, "a sequence that runs alone has too few blocks: its need was miscounted");
            self.step.lacks_blocks = true;
            let last = self.running.last_settled(at).expect("what is kept for a sequence that returns suffices for it");
            if last == at && !self.running.is_last(at) {
                return false;
            }
            // The last, because it has the least to compute again as a rule, and because the first
            // is served first.
            self.totals.preemptions += 1;
            self.preempt(last);
            if last == at {
                return false;
            }
        }
    }

    /// Blocks that no sequence holds, but for those that are kept for sequences that return.
    pub(super) fn available(&self) -> BlockCounts {
        self.available_beside(usize::MAX)
    }

    /// The same, with what is kept for the sequence at `at`.
    fn available_beside(&self, at: usize) -> BlockCounts {
        self.pools.available().less(self.kept(at))
    }

    /// Blocks that are kept for sequences that return, but for the one at `but`: what they need,
    /// but for the blocks that serve their later tokens too. Those are the global ones that they
    /// hold, and the sliding ones that no other sequence holds: one that another holds is not free
    /// once it leaves their window.
    fn kept(&self, but: usize) -> BlockCounts {
        let returning = self.running.returning().iter().filter_map(|seq| self.running.find(*seq)).filter(|at| *at != but);
        let (mut kept, mut sliding) = (BlockCounts::default(), Vec::new());
        for runner in returning.map(|at| &self.running[at]) {
            let held = BlockCounts { sliding: 0, ..runner.tables.counts() };
            kept = kept.plus(self.geometry.need(runner.tokens_count).less(held));
            sliding.extend_from_slice(runner.tables.sliding(&self.tables));
        }
        // What they hold together is free once all of them are past it.
        sliding.sort_unstable_by_key(|block| block.0);
        let same = sliding.chunk_by(|block, next| block == next);
        let own_count = same.filter(|same| self.pools.sliding.holders(same[0]) as usize == same.len()).count();
        kept.less(BlockCounts { global: 0, sliding: own_count })
    }

    /// Panics unless what is kept for sequences that return is there.
    pub(super) fn check_kept(&self) {
        let (kept, available) = (self.kept(usize::MAX), self.pools.available());
        assert!(kept.fit(available), "{kept:?} are kept for those that return, of {available:?}");
    }

    /// The sequence at `at`, which returns, has computed more of its tokens.
    pub(super) fn note_return(&mut self, at: usize) {
        let runner = &self.running[at];
        if runner.computed >= self.sequences[runner.place].advances_at {
            self.sequences[runner.place].advances_at = 0;
            self.running.set_returned(at);
        }
    }

    /// Sends a running sequence back to the queue, without its blocks: before all that never ran.
    fn preempt(&mut self, at: usize) {
        let computed = self.running[at].computed;
        let place = self.running.take_out(at, &mut self.sequences, &mut self.tables, &mut self.pools);
        // Suspects are tried alone, and none of them may keep the trial of another from running.
        if self.suspects.is_empty() {
            let sequence = &mut self.sequences[place];
            sequence.advances_at = sequence.advances_at.max(computed + 1);
        }
        self.send_back(place);
    }

    /// Sends all running sequences back to the queue: the engine has lost what was computed of
    /// them, and of those that wait.
    pub(super) fn send_all_back(&mut self) {
        while let Some(place) = self.running.take_last(&mut self.sequences, &mut self.tables, &mut self.pools) {
            self.send_back(place);
        }
        for (_, place) in self.waiting.begun() {
            self.sequences[place].advances_at = 0;
        }
    }

    fn send_back(&mut self, place: SequenceIndex) {
        let sequence = &mut self.sequences[place];
        if let PromptLogprobs::Gathering(logprobs) = &mut sequence.prompt_logprobs {
            logprobs.clear();
        }
        self.moves.push(SequenceEvent::SentBack { seq: sequence.id });
        self.waiting.enter(place, sequence, &self.geometry);
    }
}
