//! Taking a running sequence's blocks when they run out: it is computed again later.

use super::Scheduler;
use super::sequence::PromptLogprobs;

impl Scheduler {
    /// Takes the blocks for the next `len` tokens of a running sequence, from newer ones if none
    /// are available. Returns whether it could: not if it is the newest itself, and was
    /// preempted.
    ///
    /// **The oldest running sequence always gets its blocks**: no sequence is admitted whose need
    /// exceeds what there is.
    pub(super) fn secure_blocks(&mut self, at: usize, len: usize) -> bool {
        loop {
            let runner = &mut self.running[at];
            let missing = runner.tables.missing(runner.computed + len, &self.geometry);
            if missing.fit(self.pools.available()) {
                runner.tables.grow(missing, &mut self.tables, &mut self.pools);
                return true;
            }
            assert!(self.running.count() > 1, "a sequence that runs alone has too few blocks: its need was miscounted");
            // The newest, because it has the least to compute again as a rule, and because the
            // oldest is served first.
            self.totals.preemptions += 1;
            if self.send_back_newest() == Some(at) {
                return false;
            }
        }
    }

    /// Sends the newest running sequence back to the front of the queue, without its blocks; its id
    /// makes it first there. Answers where it was.
    pub(super) fn send_back_newest(&mut self) -> Option<usize> {
        let (at, place) = self.running.take_newest(&mut self.sequences, &mut self.tables, &mut self.pools)?;
        let sequence = &mut self.sequences[place];
        if let PromptLogprobs::Gathering(logprobs) = &mut sequence.prompt_logprobs {
            logprobs.clear();
        }
        self.waiting.enter(place, sequence, &self.geometry);
        Some(at)
    }
}
