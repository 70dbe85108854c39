//! Which blocks are free.

use super::geometry::BlockCounts;
use crate::batch::{BlockId, BlockUse, KvGroup};

/// The blocks of one group.
///
/// **A block is free or in use, never both.** What is given back last is taken first: its memory is likeliest in a cache.
#[derive(Debug)]
pub(super) struct BlockPool {
    group: KvGroup,
    free: Vec<BlockId>,
    in_use: InUse,
}

impl BlockPool {
    fn new(group: KvGroup, blocks: usize) -> Self {
        let blocks = u32::try_from(blocks).expect("a group has at most 2^32 blocks");
        Self { group, free: (0..blocks).rev().map(BlockId).collect(), in_use: InUse::new(blocks as usize) }
    }

    pub(super) fn usage(&self) -> BlockUse {
        BlockUse { total_count: self.total_count(), free_count: self.free_count(), cached_count: 0 }
    }

    pub(super) fn total_count(&self) -> usize {
        self.in_use.count
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Those that sequences hold, in the order of their ids.
    pub(super) fn in_use(&self) -> impl Iterator<Item = BlockId> {
        (0..).map(BlockId).take(self.in_use.count).filter(|block| self.in_use.get(*block))
    }

    /// Takes a free block.
    ///
    /// # Panics
    /// If none is free: who takes has counted before.
    pub(super) fn take(&mut self) -> BlockId {
        let block = self.free.pop().expect("who takes a block has counted the free ones");
        let was_in_use = self.in_use.set(block, true);
        assert!(!was_in_use, "{:?} block {} was free and in use", self.group, block.0);
        block
    }

    /// Gives a block back.
    ///
    /// # Panics
    /// If it is free already.
    pub(super) fn give(&mut self, block: BlockId) {
        let was_in_use = self.in_use.set(block, false);
        assert!(was_in_use, "{:?} block {} was given back twice", self.group, block.0);
        self.free.push(block);
    }

    /// Panics unless exactly `held` are in use, each once, and all others are free.
    pub(super) fn check(&self, held: impl Iterator<Item = BlockId>) {
        let mut seen = vec![false; self.in_use.count];
        for block in self.free.iter().copied().chain(held) {
            let seen = &mut seen[block.0 as usize];
            assert!(!*seen, "{:?} block {} is in two places", self.group, block.0);
            *seen = true;
        }
        assert!(seen.iter().all(|seen| *seen), "a {:?} block is nowhere", self.group);
        assert!(self.free.iter().all(|block| !self.in_use.get(*block)), "a free {:?} block is in use", self.group);
    }
}

/// Whether each block is in use: a bit a block, because blocks come and go in no order, and a million bits stay in a cache.
#[derive(Debug)]
struct InUse {
    words: Vec<u64>,
    count: usize,
}

impl InUse {
    fn new(count: usize) -> Self {
        Self { words: vec![0; count.div_ceil(64)], count }
    }

    fn get(&self, block: BlockId) -> bool {
        self.words[block.0 as usize / 64] >> (block.0 % 64) & 1 == 1
    }

    /// Answers what it was before.
    fn set(&mut self, block: BlockId, in_use: bool) -> bool {
        let before = self.get(block);
        self.words[block.0 as usize / 64] ^= u64::from(before != in_use) << (block.0 % 64);
        before
    }
}

/// The blocks of both groups.
#[derive(Debug)]
pub(super) struct BlockPools {
    pub(super) global: BlockPool,
    pub(super) sliding: BlockPool,
}

impl BlockPools {
    pub(super) fn new(totals: BlockCounts) -> Self {
        Self {
            global: BlockPool::new(KvGroup::Global, totals.global),
            sliding: BlockPool::new(KvGroup::Sliding, totals.sliding),
        }
    }

    /// Blocks that nobody holds.
    pub(super) fn free(&self) -> BlockCounts {
        BlockCounts { global: self.global.free_count(), sliding: self.sliding.free_count() }
    }
}
