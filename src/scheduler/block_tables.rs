//! The blocks of one sequence.

use std::collections::VecDeque;

use super::block_pool::BlockPools;
use super::geometry::{BlockCounts, Geometry};
use crate::batch::BlockId;

/// The two block tables of a sequence: empty while it waits.
///
/// **The full table holds every computed position. The sliding table holds every computed position that the next token
/// sees, and no block before those.**
#[derive(Debug, Default)]
pub(super) struct BlockTables {
    full: Vec<BlockId>,
    sliding: VecDeque<BlockId>,
    /// Logical index of the first entry of `sliding`.
    sliding_first: usize,
}

impl BlockTables {
    /// Entry `i` holds positions `i * block_tokens ..`.
    pub(super) fn full(&self) -> &[BlockId] {
        &self.full
    }

    /// Entry `i` is logical block `sliding_first + i`.
    pub(super) fn sliding(&self) -> &VecDeque<BlockId> {
        &self.sliding
    }

    pub(super) fn sliding_first(&self) -> usize {
        self.sliding_first
    }

    /// Blocks that are still to be taken so that the positions before `end` can be stored.
    pub(super) fn missing(&self, end: usize, geometry: &Geometry) -> BlockCounts {
        let sliding_end = self.sliding_first + self.sliding.len();
        // The usual decode step needs no block, and a product is cheaper than a quotient.
        if end <= self.full.len().min(sliding_end) * geometry.block_tokens {
            return BlockCounts::default();
        }
        let blocks = geometry.blocks(end);
        BlockCounts { full: blocks.saturating_sub(self.full.len()), sliding: blocks.saturating_sub(sliding_end) }
    }

    /// Takes so many blocks more.
    pub(super) fn grow(&mut self, missing: BlockCounts, pools: &mut BlockPools) {
        self.full.extend((0..missing.full).map(|_| pools.full.take()));
        self.sliding.extend((0..missing.sliding).map(|_| pools.sliding.take()));
    }

    /// Gives back the sliding blocks that neither the token at `next` nor a later one sees.
    pub(super) fn slide(&mut self, next: usize, geometry: &Geometry, pools: &mut BlockPools) {
        let first_seen = geometry.first_seen(next);
        while first_seen >= (self.sliding_first + 1) * geometry.block_tokens {
            pools.sliding.give(self.sliding.pop_front().expect("computed positions have blocks"));
            self.sliding_first += 1;
        }
    }

    /// Gives everything back.
    pub(super) fn release(&mut self, pools: &mut BlockPools) {
        // Last block first, so that the pool hands them out again in the order in which they were.
        self.full.drain(..).rev().for_each(|block| pools.full.give(block));
        self.sliding.drain(..).rev().for_each(|block| pools.sliding.give(block));
        self.sliding_first = 0;
    }

    /// Panics unless the tables hold what a sequence with `computed` computed tokens must hold.
    pub(super) fn check(&self, computed: usize, geometry: &Geometry) {
        assert!(self.full.len() * geometry.block_tokens >= computed, "a computed position has no full block");
        let sliding_end = self.sliding_first + self.sliding.len();
        assert!(sliding_end * geometry.block_tokens >= computed, "a computed position has no sliding block");
        assert_eq!(self.sliding_first, geometry.sliding_first(computed), "the sliding table begins where the window does");
    }
}
