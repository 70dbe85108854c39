//! The sequences that wait.

use std::collections::BTreeMap;

use super::geometry::{BlockCounts, Geometry};
use super::sequence::{Sequence, SequenceIndex, Sequences};
use crate::batch::{Micros, SeqId};

/// What waiting sequences ask for, one or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Demand {
    /// Tokens of the prompts.
    pub(super) prompt_tokens: usize,
    /// Tokens that a step would compute if it took them all.
    pub(super) step_tokens: usize,
    /// Blocks that must be free so that they can be taken.
    pub(super) blocks: BlockCounts,
}

impl Demand {
    /// What `sequence` asks for. It does not change while the sequence waits.
    pub(super) fn of(sequence: &Sequence, geometry: &Geometry) -> Self {
        Self {
            prompt_tokens: sequence.prompt_len,
            step_tokens: sequence.tokens.len().min(geometry.slice_tokens_max),
            blocks: geometry.need(sequence.tokens.len()),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            step_tokens: self.step_tokens + other.step_tokens,
            blocks: self.blocks.plus(other.blocks),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens - other.prompt_tokens,
            step_tokens: self.step_tokens - other.step_tokens,
            blocks: self.blocks.less(other.blocks),
        }
    }
}

/// The waiting sequences, in the order in which they are served: first those that ran before, then
/// those that never ran, each by their ids.
///
/// So a sequence that is sent back has its place without anyone putting it there, and an admission
/// that fails leaves the queue as it was.
#[derive(Debug, Default)]
pub(super) struct WaitingQueue {
    begun: BTreeMap<SeqId, SequenceIndex>,
    fresh: BTreeMap<SeqId, SequenceIndex>,
    /// The fresh ones in the order in which their requests arrived.
    arrivals: BTreeMap<(Micros, SeqId), SequenceIndex>,
    demand: Demand,
}

impl WaitingQueue {
    pub(super) fn count(&self) -> usize {
        self.begun.len() + self.fresh.len()
    }

    /// What all that wait ask for together.
    pub(super) fn demand(&self) -> Demand {
        self.demand
    }

    pub(super) fn front(&self) -> Option<(SeqId, SequenceIndex)> {
        self.begun.first_key_value().or(self.fresh.first_key_value()).map(|(id, place)| (*id, *place))
    }

    /// Whether the first has never run, and so none has.
    pub(super) fn is_all_fresh(&self) -> bool {
        self.begun.is_empty()
    }

    /// Those that never ran, in the order in which their requests arrived.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = SequenceIndex> {
        self.arrivals.values().copied()
    }

    pub(super) fn find(&self, seq: SeqId) -> Option<SequenceIndex> {
        self.begun.get(&seq).or(self.fresh.get(&seq)).copied()
    }

    /// Those that ran before.
    pub(super) fn begun(&self) -> impl DoubleEndedIterator<Item = (SeqId, SequenceIndex)> {
        self.begun.iter().map(|(id, place)| (*id, *place))
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (SeqId, SequenceIndex)> {
        self.begun().chain(self.fresh.iter().map(|(id, place)| (*id, *place)))
    }

    pub(super) fn enter(&mut self, place: SequenceIndex, sequence: &Sequence, geometry: &Geometry) {
        self.demand = self.demand.plus(Demand::of(sequence, geometry));
        let before = if sequence.has_run {
            self.begun.insert(sequence.id, place)
        } else {
            self.arrivals.insert((sequence.arrived, sequence.id), place);
            self.fresh.insert(sequence.id, place)
        };
        assert!(before.is_none(), "sequence {} waits twice", sequence.id.0);
    }

    pub(super) fn leave(&mut self, sequence: &Sequence, geometry: &Geometry) {
        self.demand = self.demand.minus(Demand::of(sequence, geometry));
        let before = if sequence.has_run {
            self.begun.remove(&sequence.id)
        } else {
            self.arrivals.remove(&(sequence.arrived, sequence.id));
            self.fresh.remove(&sequence.id)
        };
        assert!(before.is_some(), "sequence {} does not wait", sequence.id.0);
    }

    /// Panics unless each waits among its like.
    pub(super) fn check(&self, sequences: &Sequences) {
        assert!(self.begun.values().all(|place| sequences[*place].has_run), "what ran waits before what did not");
        assert!(self.fresh.values().all(|place| !sequences[*place].has_run), "what never ran waits behind what did");
        assert_eq!(self.arrivals.len(), self.fresh.len(), "the arrivals are those of the fresh");
    }
}
