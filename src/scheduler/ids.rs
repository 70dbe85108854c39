//! The ids of sequences: **their order is the order of service.**
//!
//! A level of priority is worth a time: a sequence of priority `p` stands among others as if it had
//! arrived `p` times that time later than it did. So the order of any two never changes while they
//! wait, and it is known when they arrive: the id holds it. That is what ages them: of two that
//! wait, both grow older alike, and one that arrives later than the levels between them are worth
//! is behind, whatever its priority. **Nothing starves: a sequence is passed only by those that
//! arrive within the time that the levels above it are worth**, at most 200 of them.
//!
//! An id is the time in microseconds, and the level in its last eight bits, so that two levels
//! never give the same one. Of one level every id is greater than the one before.

use crate::batch::{Micros, SeqId};

/// Priorities beyond plus and minus this count as this: what is passed by others is passed for a
/// bounded time.
const PRIORITY_MAX: i32 = 100;
const LEVELS_COUNT: usize = 2 * PRIORITY_MAX as usize + 1;
const LEVEL_BITS: u32 = 8;

/// Gives ids.
#[derive(Debug)]
pub(super) struct SeqIds {
    /// What a level is worth; zero: priorities do not count, and ids are counted from zero.
    level_micros: u64,
    /// By level: the earliest time that its next id may hold. One entry without levels.
    next: Vec<u64>,
}

impl SeqIds {
    /// No id was given.
    pub(super) fn new(level_micros: u64) -> Self {
        Self { level_micros, next: vec![0; if level_micros == 0 { 1 } else { LEVELS_COUNT }] }
    }

    /// The id that a sequence of this priority would get now: less than those of all that it goes
    /// before.
    pub(super) fn peek(&self, priority: i32, now: Micros) -> SeqId {
        let (level, at) = self.place(priority, now);
        if self.level_micros == 0 { SeqId(at) } else { SeqId(at << LEVEL_BITS | level as u64) }
    }

    /// An id that no sequence has had.
    pub(super) fn give(&mut self, priority: i32, now: Micros) -> SeqId {
        let id = self.peek(priority, now);
        let (level, at) = self.place(priority, now);
        self.next[level] = at + 1;
        id
    }

    /// Whether a sequence has had this id, or one that comes before it in its level.
    pub(super) fn has_given(&self, seq: SeqId) -> bool {
        if self.level_micros == 0 {
            return seq.0 < self.next[0];
        }
        let level = (seq.0 & ((1 << LEVEL_BITS) - 1)) as usize;
        self.next.get(level).is_some_and(|next| seq.0 >> LEVEL_BITS < *next)
    }

    /// The level of a priority, and the time that stands in its next id.
    fn place(&self, priority: i32, now: Micros) -> (usize, u64) {
        if self.level_micros == 0 {
            return (0, self.next[0]);
        }
        let level = (priority.clamp(-PRIORITY_MAX, PRIORITY_MAX) + PRIORITY_MAX) as usize;
        let at = now.plus(level as u64 * self.level_micros).0;
        assert!(at < 1 << (u64::BITS - LEVEL_BITS), "the clock shows more than two thousand years");
        (level, at.max(self.next[level]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_worth_its_time() {
        let mut ids = SeqIds::new(1_000);
        let first = ids.give(0, Micros(0));
        // A level earlier, it goes before what came up to a millisecond sooner.
        let sooner = ids.give(-1, Micros(999));
        assert!(sooner < first && ids.peek(-1, Micros(1_000)) < first, "of the same time the lower number goes first");
        assert!(ids.peek(-1, Micros(1_001)) > first);
        // A level later, it is passed by what comes within a millisecond, and by nothing after
        // that.
        let later = ids.give(1, Micros(2_000));
        assert!(ids.peek(0, Micros(3_000)) < later && ids.peek(0, Micros(3_001)) > later);
        assert_eq!(ids.peek(i32::MIN, Micros(5)), ids.peek(-100, Micros(5)));
        assert_eq!(ids.peek(i32::MAX, Micros(5)), ids.peek(100, Micros(5)));
        assert!(ids.has_given(sooner) && !ids.has_given(ids.peek(-1, Micros(999))));
    }

    #[test]
    fn ids_of_one_moment_differ_and_keep_the_order_of_arrival() {
        let mut ids = SeqIds::new(7);
        let all: Vec<SeqId> = (0..600).map(|at| ids.give(at % 3, Micros(50))).collect();
        for level in 0..3 {
            assert!(all.iter().skip(level).step_by(3).is_sorted_by(|one, other| one < other));
        }
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 600);
        let mut plain = SeqIds::new(0);
        assert_eq!([5, -5, 0].map(|priority| plain.give(priority, Micros(9))), [0, 1, 2].map(SeqId));
    }
}
