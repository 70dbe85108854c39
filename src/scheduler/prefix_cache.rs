//! What every filled block holds, so that a prompt that begins the same finds it computed.
//!
//! **A filled global block is known by its tokens and by the block before it**, so by all tokens
//! before them, and the first of a chain by its salt. It is found by the hash of all that, and
//! compared: a hash that collides finds nothing wrong. A sliding block is known as the one beside
//! its global block, which says what it holds.
//!
//! **The block before a known one is known, held by every sequence that holds the known one, and
//! cached no shorter.** So what is found is always a chain from the first token on.
//!
//! Which blocks these are is decided in `reuse`; their holders are counted in `block_pool`.

use super::block_pool::BlockPools;
use super::chain_hash::{CacheSalt, ChainHash, HashKey};
use super::offload::ChainEnd;
use super::siblings::Siblings;
use crate::batch::{BlockId, TokenId};

/// Stands for no block.
const NONE: u32 = u32::MAX;

fn block(id: u32) -> Option<BlockId> {
    (id != NONE).then_some(BlockId(id))
}

/// What a filled block holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefix<'t> {
    /// Under which it is found.
    pub(super) hash: ChainHash,
    /// Of its sequence.
    pub(super) salt: CacheSalt,
    /// The global block before it; none before the first.
    pub(super) before: Option<BlockId>,
    /// As many as a block holds.
    pub(super) tokens: &'t [TokenId],
}

/// What is known of a global block, besides its tokens.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: ChainHash,
    salt: CacheSalt,
    before: u32,
    sliding: u32,
}

const UNKNOWN: Entry = Entry { hash: ChainHash([0; 2]), salt: CacheSalt([0; 2]), before: NONE, sliding: NONE };

/// What is known of all blocks.
#[derive(Debug)]
pub(super) struct PrefixCache {
    /// `None`: it is off, and knows nothing.
    key: Option<HashKey>,
    block_tokens: usize,
    /// By global block; those of blocks that are not known mean nothing.
    entries: Vec<Entry>,
    /// So many by global block.
    tokens: Vec<TokenId>,
    /// The global block, by the sliding one beside it.
    beside: Vec<u32>,
    slots: Slots,
    siblings: Siblings,
}

impl PrefixCache {
    /// Knows no block of so many; `key`: `None` if it never shall.
    pub(super) fn new(key: Option<HashKey>, block_tokens: usize, global_blocks: usize, sliding_blocks: usize) -> Self {
        let (global_blocks, sliding_blocks) = if key.is_some() { (global_blocks, sliding_blocks) } else { (0, 0) };
        Self {
            key,
            block_tokens,
            entries: vec![UNKNOWN; global_blocks],
            tokens: vec![TokenId(0); global_blocks * block_tokens],
            beside: vec![NONE; sliding_blocks],
            slots: Slots::new(global_blocks),
            siblings: Siblings::default(),
        }
    }

    /// The same; with lists of the blocks that stand behind each, if they are asked for.
    pub(super) fn with_siblings(self, asked: bool) -> Self {
        Self { siblings: Siblings::new(if asked { self.entries.len() } else { 0 }), ..self }
    }

    /// Known blocks behind `before`, or at the beginning under `salt`, the latest first.
    pub(super) fn behind(&self, before: Option<BlockId>, salt: CacheSalt) -> impl Iterator<Item = BlockId> {
        self.siblings.iter(before, salt)
    }

    pub(super) fn is_on(&self) -> bool {
        self.key.is_some()
    }

    /// The hash of `tokens` behind the prefix with this hash; `None`: behind nothing, under this
    /// salt.
    ///
    /// # Panics
    /// If the cache is off.
    pub(super) fn hash(&self, before: Option<ChainHash>, salt: CacheSalt, tokens: &[TokenId]) -> ChainHash {
        let key = self.key.expect("a cache that is off is asked for nothing");
        before.unwrap_or_else(|| ChainHash::root(key, salt)).then(key, tokens)
    }

    /// The hash under which a known block is found.
    pub(super) fn hash_of(&self, global: BlockId) -> ChainHash {
        self.entries[global.0 as usize].hash
    }

    /// The hash of no token under this salt: what stands before the first block of a chain.
    ///
    /// # Panics
    /// If the cache is off.
    pub(super) fn root(&self, salt: CacheSalt) -> ChainHash {
        ChainHash::root(self.key.expect("a cache that is off is asked for nothing"), salt)
    }

    /// The chain that a known global block ends.
    pub(super) fn chain_end(&self, global: BlockId) -> ChainEnd<'_> {
        let Entry { hash, salt, before, .. } = self.entries[global.0 as usize];
        let before = block(before).map_or_else(|| self.root(salt), |before| self.hash_of(before));
        ChainEnd { hash, before, salt, tokens: self.tokens_of(global) }
    }

    /// The known global block that a known sliding block is beside.
    pub(super) fn beside(&self, sliding: BlockId) -> BlockId {
        BlockId(self.beside[sliding.0 as usize])
    }

    /// The sliding block beside a known global block, if that is known too.
    pub(super) fn sliding(&self, global: BlockId) -> Option<BlockId> {
        block(self.entries[global.0 as usize].sliding)
    }

    /// The global block that holds this.
    pub(super) fn find(&self, prefix: Prefix<'_>) -> Option<BlockId> {
        self.slots.find(prefix.hash, |found| self.holds(found, prefix))
    }

    fn holds(&self, global: BlockId, prefix: Prefix<'_>) -> bool {
        let entry = &self.entries[global.0 as usize];
        entry.hash == prefix.hash
            && block(entry.before) == prefix.before
            && entry.salt == prefix.salt
            && self.tokens_of(global) == prefix.tokens
    }

    pub(super) fn tokens_of(&self, global: BlockId) -> &[TokenId] {
        &self.tokens[global.0 as usize * self.block_tokens..][..self.block_tokens]
    }

    /// Knows a block from now on. It must not be known, nor another that holds the same.
    pub(super) fn insert(&mut self, global: BlockId, prefix: Prefix<'_>) {
        let Prefix { hash, salt, before, tokens } = prefix;
        self.siblings.enter(global, before, salt);
        let before = before.map_or(NONE, |before| before.0);
        self.entries[global.0 as usize] = Entry { hash, salt, before, sliding: NONE };
        self.tokens[global.0 as usize * self.block_tokens..][..self.block_tokens].copy_from_slice(tokens);
        self.slots.insert(hash, global);
    }

    /// Knows a block no more; the sliding block that was beside it.
    pub(super) fn remove(&mut self, global: BlockId) -> Option<BlockId> {
        self.slots.remove(self.hash_of(global), global);
        let Entry { before, salt, .. } = self.entries[global.0 as usize];
        self.siblings.leave(global, block(before), salt);
        self.sliding(global)
    }

    /// `sliding` is beside `global` from now on; neither has another.
    pub(super) fn attach(&mut self, global: BlockId, sliding: BlockId) {
        self.entries[global.0 as usize].sliding = sliding.0;
        self.beside[sliding.0 as usize] = global.0;
    }

    /// `sliding` is beside no block any more.
    pub(super) fn detach(&mut self, sliding: BlockId) {
        self.entries[self.beside[sliding.0 as usize] as usize].sliding = NONE;
    }

    /// All known global blocks.
    pub(super) fn blocks(&self) -> Vec<BlockId> {
        self.slots.blocks().collect()
    }

    /// Panics unless every known block is found, and its chain is whole.
    pub(super) fn check(&self, pools: &BlockPools) {
        let mut age = vec![0_usize; self.entries.len()];
        pools.global.cached().zip(1..).for_each(|(block, at)| age[block.0 as usize] = at);
        for global in self.blocks() {
            let entry = &self.entries[global.0 as usize];
            let (before, tokens) = (block(entry.before), self.tokens_of(global));
            let found = self.find(Prefix { hash: entry.hash, salt: entry.salt, before, tokens });
            assert_eq!(found, Some(global), "a known block is found");
            assert!(pools.global.is_known(global), "global block {} is known here and nowhere else", global.0);
            if let Some(before) = before {
                assert!(pools.global.is_known(before), "global block {} is known, and not the one before it", global.0);
                let is_held = pools.global.holders(before) >= pools.global.holders(global);
                assert!(is_held, "global block {} has holders that do not hold the one before it", global.0);
                let is_younger = pools.global.holders(before) > 0 || age[before.0 as usize] > age[global.0 as usize];
                assert!(is_younger, "global block {} goes after the one before it", global.0);
            }
            if let Some(sliding) = block(entry.sliding) {
                assert_eq!(self.beside[sliding.0 as usize], global.0, "a sliding block is beside one other");
                assert!(pools.sliding.is_known(sliding), "sliding block {} is known here and nowhere else", sliding.0);
                let is_held = pools.global.holders(global) >= pools.sliding.holders(sliding);
                assert!(is_held, "sliding block {} has holders that do not hold the one beside it", sliding.0);
            }
        }
        let known = (self.blocks().len(), self.blocks().iter().filter(|global| self.sliding(**global).is_some()).count());
        assert_eq!(known, (pools.global.known_count(), pools.sliding.known_count()), "as many blocks are known as are flagged");
    }
}

/// A place in [`Slots`]: a block, and what its hash says of where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    tag: u32,
    block: u32,
}

const VACANT: Slot = Slot { tag: 0, block: NONE };

/// Blocks by their hashes: a table with open addressing, at most half full, so that a search looks
/// at one or two places side by side.
#[derive(Debug)]
struct Slots {
    /// A power of two.
    slots: Vec<Slot>,
}

impl Slots {
    fn new(blocks: usize) -> Self {
        Self { slots: vec![VACANT; (2 * blocks).next_power_of_two()] }
    }

    fn tag(ChainHash([low, _]): ChainHash) -> u32 {
        // The low half; the whole hash is compared where the tags agree.
        low as u32
    }

    fn home(&self, tag: u32) -> usize {
        tag as usize & (self.slots.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    /// The block with this hash that `is_it`.
    fn find(&self, hash: ChainHash, is_it: impl Fn(BlockId) -> bool) -> Option<BlockId> {
        let tag = Self::tag(hash);
        let mut at = self.home(tag);
        loop {
            let slot = self.slots[at];
            let found = block(slot.block)?;
            if slot.tag == tag && is_it(found) {
                return Some(found);
            }
            at = self.next(at);
        }
    }

    fn insert(&mut self, hash: ChainHash, block: BlockId) {
        let tag = Self::tag(hash);
        let mut at = self.home(tag);
        while self.slots[at] != VACANT {
            at = self.next(at);
        }
        self.slots[at] = Slot { tag, block: block.0 };
    }

    /// Takes a block out, and moves those behind it that are not where they belong one after
    /// another into the gap, so that no search ends too early.
    fn remove(&mut self, hash: ChainHash, block: BlockId) {
        let mut gap = self.home(Self::tag(hash));
        while self.slots[gap].block != block.0 {
            assert_ne!(self.slots[gap], VACANT, "global block {} is not known", block.0);
            gap = self.next(gap);
        }
        let mut at = self.next(gap);
        while self.slots[at] != VACANT {
            let home = self.home(self.slots[at].tag);
            let last = self.slots.len() - 1;
            // Whether the gap lies on the way from its home to where it is.
            if (at.wrapping_sub(home) & last) >= (at.wrapping_sub(gap) & last) {
                self.slots[gap] = self.slots[at];
                gap = at;
            }
            at = self.next(at);
        }
        self.slots[gap] = VACANT;
    }

    fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.slots.iter().filter_map(|slot| block(slot.block))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A client that could make hashes collide would find nothing by it: of the same hash are other
    /// tokens, another salt, another beginning.
    #[test]
    fn blocks_of_one_hash_are_told_apart() {
        let mut cache = PrefixCache::new(Some(HashKey([1, 2])), 2, 8, 0);
        let (hash, one, other) = (ChainHash([7, 7]), CacheSalt([1, 1]), CacheSalt([1, 2]));
        let tokens = [[TokenId(5), TokenId(6)], [TokenId(5), TokenId(7)]];
        let held = [
            Prefix { hash, salt: one, before: None, tokens: &tokens[0] },
            Prefix { hash, salt: one, before: None, tokens: &tokens[1] },
            Prefix { hash, salt: other, before: None, tokens: &tokens[0] },
            Prefix { hash, salt: one, before: Some(BlockId(0)), tokens: &tokens[0] },
            Prefix { hash, salt: one, before: Some(BlockId(1)), tokens: &tokens[0] },
        ];
        for (block, prefix) in (0..).map(BlockId).zip(held) {
            assert_eq!(cache.find(prefix), None, "{prefix:?}");
            cache.insert(block, prefix);
        }
        assert_eq!(held.map(|prefix| cache.find(prefix)), [0, 1, 2, 3, 4].map(|block| Some(BlockId(block))));
        cache.remove(BlockId(1));
        assert_eq!(cache.find(held[1]), None);
        assert_eq!(cache.find(held[4]), Some(BlockId(4)));
    }

    #[test]
    fn a_table_finds_what_it_holds_and_nothing_else_whatever_collides() {
        let mut slots = Slots::new(40);
        let mut held: BTreeMap<u32, ChainHash> = BTreeMap::new();
        let mut random: u64 = 7;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = (random >> 33) as u32 % 40;
            match held.remove(&id) {
                Some(hash) => slots.remove(hash, BlockId(id)),
                None => {
                    // Five hashes for forty blocks, at the table's end and its beginning.
                    let hash = ChainHash([125 + (random >> 50) % 5, 0]);
                    slots.insert(hash, BlockId(id));
                    held.insert(id, hash);
                }
            }
            for id in 0..40 {
                let hash = held.get(&id).copied();
                let found = hash.and_then(|hash| slots.find(hash, |found| found == BlockId(id)));
                assert_eq!(found.is_some(), hash.is_some());
            }
            assert_eq!(slots.find(ChainHash([130, 0]), |_| true), None);
            assert_eq!(slots.blocks().count(), held.len());
        }
    }
}
