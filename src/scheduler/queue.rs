//! The sequences that wait, first come first served.

use std::collections::BTreeMap;

use super::geometry::{BlockCounts, Geometry};
use super::sequence::{Sequence, SequenceIndex};
use crate::batch::SeqId;

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
            blocks: BlockCounts {
                global: self.blocks.global + other.blocks.global,
                sliding: self.blocks.sliding + other.blocks.sliding,
            },
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens - other.prompt_tokens,
            step_tokens: self.step_tokens - other.step_tokens,
            blocks: BlockCounts {
                global: self.blocks.global - other.blocks.global,
                sliding: self.blocks.sliding - other.blocks.sliding,
            },
        }
    }
}

/// The waiting sequences, in the order of their ids, which is the order of their arrival.
///
/// A sequence that ran and waits again has a smaller id than all that never ran, so its place is
/// the front without anyone putting it there; and an admission that fails leaves the queue as it
/// was.
#[derive(Debug, Default)]
pub(super) struct WaitingQueue {
    line: BTreeMap<SeqId, SequenceIndex>,
    demand: Demand,
}

impl WaitingQueue {
    pub(super) fn count(&self) -> usize {
        self.line.len()
    }

    /// What all that wait ask for together.
    pub(super) fn demand(&self) -> Demand {
        self.demand
    }

    pub(super) fn front(&self) -> Option<(SeqId, SequenceIndex)> {
        self.line.first_key_value().map(|(id, place)| (*id, *place))
    }

    /// Those whose ids are not below `from`.
    pub(super) fn from(&self, from: SeqId) -> impl Iterator<Item = SequenceIndex> {
        self.line.range(from..).map(|(_, place)| *place)
    }

    pub(super) fn find(&self, seq: SeqId) -> Option<SequenceIndex> {
        self.line.get(&seq).copied()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (SeqId, SequenceIndex)> {
        self.line.iter().map(|(id, place)| (*id, *place))
    }

    pub(super) fn enter(&mut self, place: SequenceIndex, sequence: &Sequence, geometry: &Geometry) {
        self.demand = self.demand.plus(Demand::of(sequence, geometry));
        let before = self.line.insert(sequence.id, place);
        assert!(before.is_none(), "sequence {} waits twice", sequence.id.0);
    }

    pub(super) fn leave(&mut self, sequence: &Sequence, geometry: &Geometry) {
        self.demand = self.demand.minus(Demand::of(sequence, geometry));
        let before = self.line.remove(&sequence.id);
        assert!(before.is_some(), "sequence {} does not wait", sequence.id.0);
    }
}
