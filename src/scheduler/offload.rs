//! What is kept of evicted blocks outside of KV memory, so that it can be restored instead of being
//! computed again.
//!
//! Owns: which block lies at which place of the store, and which copies a step brings. The store
//! itself is the engine room's. It may drop what it is given, and what it reads it compares with
//! what was asked for: so an entry here is a hope, and what comes of it is told by
//! [`Scheduler::fetched`].
//!
//! * **A block that is evicted from KV memory is spilled**, unless it is stored already: a global
//!   block with the sliding block beside it, and a sliding block by itself if it was worth keeping.
//!   The longest unused goes first, of the store as of KV memory.
//! * **A stored block is found by the hash of its chain; its tokens, its salt and the hash before
//!   it are compared.** What a collision of two chains would take is two inputs of one hash of 128
//!   bits whose key is secret.
//!
//! What is restored, and when, is in `restoring`.

use std::collections::BTreeMap;

use super::Scheduler;
use super::chain_hash::{CacheSalt, ChainHash};
use super::recency::Recency;
use crate::batch::{BlockId, KvCopies, KvGroup, Spill, StoredBlock, TokenId};

/// What came of offloading, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OffloadCounts {
    /// Places of the store; zero if there is none.
    pub places_count: usize,
    /// Those that hold a block.
    pub stored_count: usize,
    /// Blocks that were spilled.
    pub spilled_total: u64,
    /// Prompts of which blocks were restored.
    pub hits_total: u64,
    /// Blocks that were restored.
    pub restored_total: u64,
    /// Tokens that were not computed for it.
    pub restored_tokens_total: u64,
    /// Blocks that were stored and could not be read: damaged, or dropped before they were written.
    pub failed_total: u64,
    /// Prompts that were computed although blocks were stored, because that is faster.
    pub declined_total: u64,
    /// Blocks that the store did not take; it tells this, and the bytes. Zero in the core.
    pub dropped_total: u64,
    /// Bytes that the store wrote.
    pub written_bytes_total: u64,
    /// Bytes that it read.
    pub read_bytes_total: u64,
}

/// The chain that a filled block ends, and its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChainEnd<'t> {
    pub(super) hash: ChainHash,
    /// Of the chain without it.
    pub(super) before: ChainHash,
    pub(super) salt: CacheSalt,
    pub(super) tokens: &'t [TokenId],
}

impl ChainEnd<'_> {
    fn stored(&self, group: KvGroup, place: u32) -> StoredBlock {
        let (hash, before, salt) = (self.hash.0, self.before.0, self.salt.0);
        StoredBlock { place, group, hash, before, salt, tokens: self.tokens.into() }
    }

    fn is(&self, stored: &StoredBlock) -> bool {
        (stored.hash, stored.before, stored.salt) == (self.hash.0, self.before.0, self.salt.0) && *stored.tokens == *self.tokens
    }
}

/// Under what a stored block is looked up.
type StoredKey = (bool, [u64; 2]);

fn key(group: KvGroup, hash: [u64; 2]) -> StoredKey {
    (group == KvGroup::Sliding, hash)
}

/// The index of the store.
#[derive(Debug)]
pub(super) struct Offload {
    /// By place.
    places: Vec<Option<StoredBlock>>,
    /// Where a block lies. Of two with one hash the later one is kept.
    by_hash: BTreeMap<StoredKey, u32>,
    /// Places without a block; the first goes first, so that a file grows only as it is filled.
    free: Vec<u32>,
    /// Places with one, longest unused first.
    order: Recency,
    pub(super) copies: KvCopies,
    pub(super) counts: OffloadCounts,
}

impl Default for Offload {
    fn default() -> Self {
        Self::new(0, Vec::new())
    }
}

impl Offload {
    /// A store of so many places, with these blocks in it, longest unused first; those at a place
    /// that there is not, or that another one has, are left out.
    fn new(places: usize, stored: Vec<StoredBlock>) -> Self {
        let mut index = Self {
            places: vec![None; places],
            by_hash: BTreeMap::new(),
            free: Vec::new(),
            order: Recency::new(places),
            copies: KvCopies::default(),
            counts: OffloadCounts::default(),
        };
        for block in stored {
            if index.places.get(block.place as usize).is_some_and(Option::is_none) {
                index.insert(block);
            }
        }
        let count = u32::try_from(places).expect("a store has at most 2^32 places");
        index.free = (0..count).rev().filter(|place| index.places[*place as usize].is_none()).collect();
        index
    }

    pub(super) fn is_on(&self) -> bool {
        !self.places.is_empty()
    }

    pub(super) fn counts(&self) -> OffloadCounts {
        OffloadCounts { places_count: self.places.len(), stored_count: self.order.count(), ..self.counts }
    }

    /// Where the last block of this chain is stored.
    pub(super) fn find(&self, group: KvGroup, chain: ChainEnd<'_>) -> Option<&StoredBlock> {
        let place = *self.by_hash.get(&key(group, chain.hash.0))?;
        self.places[place as usize].as_ref().filter(|stored| chain.is(stored))
    }

    /// A stored block is used.
    pub(super) fn touch(&mut self, place: u32) {
        self.order.remove(BlockId(place));
        self.order.push_newest(BlockId(place));
    }

    /// `block` is about to be used for something else: it is to be stored, unless it is already.
    pub(super) fn spill(&mut self, group: KvGroup, block: BlockId, chain: ChainEnd<'_>) {
        if !self.is_on() {
            return;
        }
        if let Some(place) = self.find(group, chain).map(|stored| stored.place) {
            return self.touch(place);
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let oldest = self.order.oldest().expect("a place is free or in the order");
                self.remove(oldest.0);
                oldest.0
            }
        };
        let stored = chain.stored(group, place);
        self.insert(stored.clone());
        self.copies.spills.push(Spill { block, stored });
        self.counts.spilled_total += 1;
    }

    /// `block` could not be read: it is not stored any more, if it still was.
    pub(super) fn lose(&mut self, block: &StoredBlock) {
        if self.places[block.place as usize].as_ref() == Some(block) {
            self.remove(block.place);
            self.free.push(block.place);
        }
    }

    /// Nothing is stored any more, and nothing is to be copied.
    pub(super) fn forget_all(&mut self) {
        if self.is_on() {
            let counts = self.counts;
            *self = Self::new(self.places.len(), Vec::new());
            self.counts = counts;
            self.copies.forget_stored = true;
        }
    }

    fn insert(&mut self, block: StoredBlock) {
        let place = block.place;
        // One of the same hash that holds something else is found no more, and goes in its turn.
        self.by_hash.insert(key(block.group, block.hash), place);
        self.order.push_newest(BlockId(place));
        self.places[place as usize] = Some(block);
    }

    fn remove(&mut self, place: u32) {
        let block = self.places[place as usize].take().expect("a place in the order holds a block");
        self.order.remove(BlockId(place));
        let key = key(block.group, block.hash);
        if self.by_hash.get(&key) == Some(&place) {
            self.by_hash.remove(&key);
        }
    }

    /// Panics unless every block is found, and every place is free or in the order.
    pub(super) fn check(&self) {
        let held = self.places.iter().flatten().count();
        assert_eq!(held, self.order.count(), "a place that holds a block is in the order of use");
        assert_eq!(held + self.free.len(), self.places.len(), "a place of the store is free or holds a block");
        for (key, place) in &self.by_hash {
            let block = self.places[*place as usize].as_ref().expect("a place that is found holds a block");
            assert_eq!(
                (self::key(block.group, block.hash), block.place),
                (*key, *place),
                "a stored block is found where it is"
            );
        }
    }
}

impl Scheduler {
    /// From now on evicted blocks go to a store of so many places, which holds `stored`, longest
    /// unused first. [`Scheduler::take_copies`] is to be called after each plan, and before the
    /// engine begins it.
    ///
    /// # Panics
    /// If prefixes are not kept, or a sequence has been submitted.
    pub fn offload_to(&mut self, places: usize, stored: Vec<StoredBlock>) {
        assert!(self.pools.cache.is_on(), "blocks are stored under the hashes of the prefix cache");
        assert_eq!(self.sequences.count(), 0, "a store is there from the start");
        self.pools.offload = Offload::new(places, stored);
    }

    /// What is to be copied beside the step that was planned last, and what is to be read for the
    /// next ones.
    pub fn take_copies(&mut self) -> KvCopies {
        std::mem::take(&mut self.pools.offload.copies)
    }

    /// Spills for the cached blocks that are not stored, as many as there are places for, at the
    /// end of the process: those used last come first.
    pub fn spill_cached(&mut self) -> Vec<Spill> {
        let places = self.pools.offload.places.len();
        let cached: Vec<BlockId> = self.pools.global.cached().collect();
        for global in cached.into_iter().rev() {
            // Two may come of each, and must not push out those that came before.
            if self.pools.offload.copies.spills.len() + 2 > places {
                break;
            }
            self.pools.spill(global);
        }
        std::mem::take(&mut self.pools.offload.copies.spills)
    }
}
