//! Which blocks are free, which sequences hold, and which only the prefix cache holds.

use super::geometry::BlockCounts;
use super::offload::Offload;
use super::prefix_cache::{Prefix, PrefixCache};
use super::recency::Recency;
use crate::batch::{BlockId, BlockUse, KvGroup};

/// The blocks of one group.
///
/// **A block is free, held by sequences or cached.** One that the prefix cache knows is cached, not
/// free, once no sequence holds it. What is given back last is taken first: its memory is likeliest
/// in a cache.
#[derive(Debug)]
pub(super) struct BlockPool {
    group: KvGroup,
    free: Vec<BlockId>,
    /// How many sequences hold each block.
    holders: Vec<u32>,
    /// Whether the prefix cache knows each block.
    known: Flags,
    /// Those that only the prefix cache holds, but for the preferred.
    cached: Recency,
    /// Those of them that sessions have used: they go after all others, unless they are more than
    /// half of all blocks.
    preferred: Recency,
    /// Whether a session has used each block since it is known.
    prefers: Flags,
    /// Whether each cached block was not given up: what is worth storing elsewhere.
    worth: Flags,
}

impl BlockPool {
    fn new(group: KvGroup, blocks: usize, caches: bool) -> Self {
        let count = u32::try_from(blocks).expect("a group has at most 2^32 blocks");
        Self {
            group,
            free: (0..count).rev().map(BlockId).collect(),
            holders: vec![0; blocks],
            known: Flags::new(blocks),
            cached: Recency::new(if caches { blocks } else { 0 }),
            preferred: Recency::new(if caches { blocks } else { 0 }),
            prefers: Flags::new(blocks),
            worth: Flags::new(blocks),
        }
    }

    pub(super) fn usage(&self) -> BlockUse {
        BlockUse { total_count: self.total_count(), free_count: self.free.len(), cached_count: self.cached_count() }
    }

    pub(super) fn total_count(&self) -> usize {
        self.holders.len()
    }

    /// Those that hold nothing.
    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Those that no sequence holds: the free ones, and the cached ones, which make room.
    pub(super) fn available_count(&self) -> usize {
        self.free.len() + self.cached_count()
    }

    /// Those that only the prefix cache holds.
    fn cached_count(&self) -> usize {
        self.cached.count() + self.preferred.count()
    }

    /// Those that sequences hold, in the order of their ids.
    pub(super) fn in_use(&self) -> impl Iterator<Item = BlockId> {
        (0..).map(BlockId).zip(&self.holders).filter(|(_, holders)| **holders > 0).map(|(block, _)| block)
    }

    /// How many sequences hold `block`.
    pub(super) fn holders(&self, block: BlockId) -> u32 {
        self.holders[block.0 as usize]
    }

    /// Whether the prefix cache knows `block`.
    pub(super) fn is_known(&self, block: BlockId) -> bool {
        self.known.get(block)
    }

    /// How many blocks the prefix cache knows.
    pub(super) fn known_count(&self) -> usize {
        self.known.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Those that only the prefix cache holds, in the order in which they go.
    pub(super) fn cached(&self) -> impl Iterator<Item = BlockId> {
        self.cached.iter().chain(self.preferred.iter())
    }

    /// The one of them that is the first to go.
    fn first_to_go(&self) -> Option<BlockId> {
        self.cached.oldest().or(self.preferred.oldest())
    }

    /// The line that a cached block stands in.
    fn line(&mut self, block: BlockId) -> &mut Recency {
        if self.prefers.get(block) { &mut self.preferred } else { &mut self.cached }
    }

    /// A session uses a block that the prefix cache knows and sequences hold.
    pub(super) fn prefer(&mut self, block: BlockId) {
        assert!(self.holders(block) > 0, "{:?} block {} is preferred and in no use", self.group, block.0);
        self.prefers.set(block, true);
    }

    /// Takes a free block.
    ///
    /// # Panics
    /// If none is free: the caller has counted before, and had room made.
    pub(super) fn take(&mut self) -> BlockId {
        let block = self.free.pop().expect("the free blocks were counted before one is taken");
        let holders = std::mem::replace(&mut self.holders[block.0 as usize], 1);
        assert_eq!(holders, 0, "{:?} block {} was free and in use", self.group, block.0);
        block
    }

    /// One more sequence holds a block that the prefix cache knows.
    pub(super) fn share(&mut self, block: BlockId) {
        assert!(self.known.get(block), "{:?} block {} is shared and not known", self.group, block.0);
        if self.holders(block) == 0 {
            self.line(block).remove(block);
        }
        self.holders[block.0 as usize] += 1;
    }

    /// A sequence gives a block back.
    ///
    /// # Panics
    /// If no sequence holds it.
    pub(super) fn give(&mut self, block: BlockId) {
        if self.release(block) {
            self.line(block).push_newest(block);
            self.worth.set(block, true);
        }
        // The preferred must not keep all others from being found.
        if self.preferred.count() > self.total_count() / 2
            && let Some(oldest) = self.preferred.oldest()
        {
            self.preferred.remove(oldest);
            self.prefers.set(oldest, false);
            self.cached.push_newest(oldest);
        }
    }

    /// As [`BlockPool::give`], for a block that is little worth in the cache: it is the first to
    /// go.
    pub(super) fn give_up(&mut self, block: BlockId) {
        if self.release(block) {
            self.prefers.set(block, false);
            self.worth.set(block, false);
            self.cached.push_oldest(block);
        }
    }

    /// Whether `block` is to be cached now. It is free already if it is not known and not held.
    fn release(&mut self, block: BlockId) -> bool {
        let holders = &mut self.holders[block.0 as usize];
        assert!(*holders > 0, "{:?} block {} was given back twice", self.group, block.0);
        *holders -= 1;
        if *holders > 0 {
            return false;
        }
        let is_known = self.known.get(block);
        if !is_known {
            self.free.push(block);
        }
        is_known
    }

    /// The prefix cache knows a block that a sequence holds.
    fn know(&mut self, block: BlockId) {
        assert!(self.holders(block) > 0, "{:?} block {} is known and was held by no sequence", self.group, block.0);
        self.known.set(block, true);
    }

    /// The prefix cache knows a block no more.
    fn forget(&mut self, block: BlockId) {
        self.known.set(block, false);
        if self.holders(block) == 0 {
            self.line(block).remove(block);
            self.free.push(block);
        }
        self.prefers.set(block, false);
    }

    /// Panics unless each block is held as often as `held` has it, and free or cached if never.
    pub(super) fn check(&self, held: impl Iterator<Item = BlockId>) {
        let mut holders = vec![0; self.total_count()];
        held.for_each(|block| holders[block.0 as usize] += 1);
        for (block, (counted, found)) in self.holders.iter().zip(&holders).enumerate() {
            assert_eq!(counted, found, "{:?} block {block} has other holders than are counted", self.group);
        }
        let mut seen = holders.iter().map(|holders| *holders > 0).collect::<Vec<_>>();
        for (block, is_known) in self.free.iter().map(|free| (*free, false)).chain(self.cached().map(|block| (block, true))) {
            assert!(
                !std::mem::replace(&mut seen[block.0 as usize], true),
                "{:?} block {} is in two places",
                self.group,
                block.0
            );
            assert_eq!(self.known.get(block), is_known, "{:?} block {} is known or free", self.group, block.0);
        }
        assert!(seen.iter().all(|seen| *seen), "a {:?} block is nowhere", self.group);
    }
}

/// A bit a block, because blocks come and go in no order, and a million bits stay in a cache.
#[derive(Debug)]
struct Flags {
    words: Vec<u64>,
}

impl Flags {
    fn new(count: usize) -> Self {
        Self { words: vec![0; count.div_ceil(64)] }
    }

    fn get(&self, block: BlockId) -> bool {
        self.words[block.0 as usize / 64] >> (block.0 % 64) & 1 == 1
    }

    fn set(&mut self, block: BlockId, flag: bool) {
        let differs = self.get(block) != flag;
        self.words[block.0 as usize / 64] ^= u64::from(differs) << (block.0 % 64);
    }
}

/// The blocks of both groups, and what the prefix cache knows of them.
#[derive(Debug)]
pub(super) struct BlockPools {
    pub(super) global: BlockPool,
    pub(super) sliding: BlockPool,
    pub(super) cache: PrefixCache,
    pub(super) offload: Offload,
}

impl BlockPools {
    pub(super) fn new(totals: BlockCounts, cache: PrefixCache) -> Self {
        let pool = |group, blocks| BlockPool::new(group, blocks, cache.is_on());
        let (global, sliding) = (pool(KvGroup::Global, totals.global), pool(KvGroup::Sliding, totals.sliding));
        Self { global, sliding, cache, offload: Offload::default() }
    }

    /// Blocks that no sequence holds.
    pub(super) fn available(&self) -> BlockCounts {
        BlockCounts { global: self.global.available_count(), sliding: self.sliding.available_count() }
    }

    /// Evicts cached blocks, those first that were unused longest, until so many are free.
    pub(super) fn make_room(&mut self, wanted: BlockCounts) {
        let counted = "what is available was counted before room is made";
        while self.global.free_count() < wanted.global {
            let global = self.global.first_to_go().expect(counted);
            self.spill(global);
            self.forget(global);
        }
        while self.sliding.free_count() < wanted.sliding {
            let sliding = self.sliding.first_to_go().expect(counted);
            if self.sliding.worth.get(sliding) {
                self.offload.spill(KvGroup::Sliding, sliding, self.cache.chain_end(self.cache.beside(sliding)));
            }
            self.cache.detach(sliding);
            self.sliding.forget(sliding);
        }
    }

    /// A cached global block goes to the store, and the sliding block beside it if that is worth
    /// it.
    pub(super) fn spill(&mut self, global: BlockId) {
        if !self.offload.is_on() {
            return;
        }
        let chain = self.cache.chain_end(global);
        self.offload.spill(KvGroup::Global, global, chain);
        if let Some(sliding) = self.cache.sliding(global).filter(|sliding| self.sliding.worth.get(*sliding)) {
            self.offload.spill(KvGroup::Sliding, sliding, chain);
        }
    }

    /// The cache knows a global block no more, nor its sliding block.
    fn forget(&mut self, global: BlockId) {
        if let Some(sliding) = self.cache.remove(global) {
            self.sliding.forget(sliding);
        }
        self.global.forget(global);
    }

    /// The cache knows nothing any more.
    pub(super) fn forget_all(&mut self) {
        for global in self.cache.blocks() {
            self.forget(global);
        }
    }

    /// The cache knows a filled block that a sequence holds.
    pub(super) fn know(&mut self, global: BlockId, prefix: Prefix<'_>) {
        self.cache.insert(global, prefix);
        self.global.know(global);
    }

    /// The cache knows the sliding block that a sequence holds beside `global`.
    pub(super) fn attach(&mut self, global: BlockId, sliding: BlockId) {
        self.cache.attach(global, sliding);
        self.sliding.know(sliding);
    }

    /// Panics unless the pools agree with each other, with the cache, and with what sequences hold.
    pub(super) fn check(&self, global: impl Iterator<Item = BlockId>, sliding: impl Iterator<Item = BlockId>) {
        self.global.check(global);
        self.sliding.check(sliding);
        self.cache.check(self);
        self.offload.check();
    }
}
