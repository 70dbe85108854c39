//! Taking a running sequence's blocks when they run out: it is computed again later.

use super::Scheduler;
use super::sequence::Place;

impl Scheduler {
    /// Takes the blocks for the next `len` tokens of a running sequence, from newer ones if none are free. Answers whether it
    /// could: not if it is the newest itself, and was preempted.
    ///
    /// **The oldest running sequence always gets its blocks**: nobody is admitted whose need exceeds what there is.
    pub(super) fn secure_blocks(&mut self, place: Place, len: usize) -> bool {
        loop {
            let sequence = &mut self.sequences[place];
            let missing = sequence.tables.missing(sequence.computed + len, &self.geometry);
            if missing.fit(self.pools.free()) {
                sequence.tables.grow(missing, &mut self.pools);
                return true;
            }
            assert!(self.running.len() > 1, "a sequence that runs alone has too few blocks: its need was miscounted");
            if self.preempt_newest() == place {
                return false;
            }
        }
    }

    /// Sends the newest running sequence back to the front of the queue, without its blocks.
    ///
    /// The newest, because it has the least to compute again as a rule, and because whoever came first is served first.
    fn preempt_newest(&mut self) -> Place {
        let (_, place) = self.running.pop_last().expect("who needs blocks runs");
        if self.step.candidates.last() == Some(&place) {
            self.step.candidates.pop();
        }
        self.totals.preemptions += 1;
        self.send_back(place);
        place
    }

    /// Puts a sequence that does not run any more into the queue; its id makes it first there.
    pub(super) fn send_back(&mut self, place: Place) {
        self.set_decoding(place, false);
        let sequence = &mut self.sequences[place];
        sequence.forget_computed(&mut self.pools);
        self.waiting.enter(place, sequence, &self.geometry);
    }
}
