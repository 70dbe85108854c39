//! What always holds, whatever was called.

use super::Scheduler;
use super::queue::Demand;
use crate::batch::SeqId;

impl Scheduler {
    /// Panics if a cheap invariant does not hold; called at the end of each public method that changes something.
    pub(super) fn check(&self) {
        assert_eq!(
            self.sequences.count(),
            self.waiting.count() + self.running.len(),
            "a sequence either waits or runs, never both and never neither"
        );
        assert!(self.running.len() <= self.limits.running_max(), "more sequences run than may");
        if let (Some((newest, _)), Some((front, _))) = (self.running.last_key_value(), self.waiting.front()) {
            assert!(*newest < front, "sequence {} runs, and {} that came before waits", newest.0, front.0);
        }
    }

    /// Panics if any invariant does not hold. Takes time in proportion to everything there is: debug builds call it at each plan
    /// and commit, the simulation after each call.
    pub fn check_all(&self) {
        self.check();
        self.check_running();
        self.check_waiting();
        let held = || self.running.values().map(|place| &self.sequences[*place].tables);
        self.pools.full.check(held().flat_map(|tables| tables.full().iter().copied()));
        self.pools.sliding.check(held().flat_map(|tables| tables.sliding().iter().copied()));
        for suspect in self.suspects.iter() {
            assert!(
                self.running.contains_key(&suspect) || self.waiting.find(suspect).is_some(),
                "sequence {} is a suspect and has ended",
                suspect.0
            );
        }
    }

    fn check_running(&self) {
        let mut decoding_count = 0;
        for (seq, place) in &self.running {
            let sequence = &self.sequences[*place];
            assert_eq!(sequence.id, *seq, "a running sequence is at its place");
            assert!(sequence.pending() > 0, "sequence {} runs with nothing to compute", seq.0);
            assert!(sequence.generated() < sequence.max_tokens as usize, "sequence {} has not ended", seq.0);
            assert!(!self.is_fresh(*seq), "sequence {} runs and has never run", seq.0);
            sequence.tables.check(sequence.computed, &self.geometry);
            assert_eq!(sequence.decoding, sequence.has_caught_up(), "sequence {} decodes or not", seq.0);
            assert_eq!(sequence.tokens.last(), Some(&sequence.last), "sequence {} knows its last token", seq.0);
            decoding_count += usize::from(sequence.decoding);
        }
        assert_eq!(self.decoding_count, decoding_count, "as many decode as are counted");
    }

    fn check_waiting(&self) {
        let mut demand = Demand::default();
        let mut fresh_count = 0;
        for (seq, place) in self.waiting.iter() {
            let sequence = &self.sequences[place];
            assert_eq!(sequence.id, seq, "a waiting sequence is at its place");
            assert!(!sequence.decoding, "sequence {} waits and decodes", seq.0);
            assert_eq!(sequence.computed, 0, "sequence {} waits with something computed", seq.0);
            assert!(sequence.tables.full().is_empty(), "sequence {} waits and holds full blocks", seq.0);
            assert!(sequence.tables.sliding().is_empty(), "sequence {} waits and holds sliding blocks", seq.0);
            demand = demand.plus(Demand::of(sequence, &self.geometry));
            fresh_count += usize::from(self.is_fresh(seq));
        }
        assert_eq!(self.waiting.demand(), demand, "the queue's sums are those of its sequences");
        assert!(fresh_count <= self.limits.waiting_max_count, "more sequences wait than may");
        let last = self.waiting.iter().next_back().map(|(seq, _)| seq);
        assert!(last < Some(SeqId(self.next_id)), "sequence {last:?} was never submitted");
    }
}
