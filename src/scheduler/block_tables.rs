//! The blocks of one sequence that runs.

use super::block_pool::BlockPools;
use super::geometry::{BlockCounts, Geometry};
use super::prefix_cache::Prefix;
use super::table::{Table, TableRow};
use crate::batch::BlockId;

/// Both groups' tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) global: Table,
    pub(super) sliding: Table,
}

/// The two block tables of a sequence.
///
/// **The global table holds every computed position. The sliding table holds every computed
/// position that the next token sees, and no block before those.**
#[derive(Debug, Default)]
pub(super) struct BlockTables {
    pub(super) global: TableRow,
    pub(super) sliding: TableRow,
    /// Logical index of the first entry of `sliding`.
    sliding_first: u32,
}

impl BlockTables {
    /// Entry `i` holds positions `i * block_tokens ..`.
    pub(super) fn global<'t>(&self, tables: &'t Tables) -> &'t [BlockId] {
        tables.global.blocks(&self.global)
    }

    /// Entry `i` is logical block `sliding_first + i`.
    pub(super) fn sliding<'t>(&self, tables: &'t Tables) -> &'t [BlockId] {
        tables.sliding.blocks(&self.sliding)
    }

    /// How many blocks it holds.
    pub(super) fn counts(&self) -> BlockCounts {
        BlockCounts { global: self.global.len(), sliding: self.sliding.len() }
    }

    pub(super) fn sliding_first(&self) -> usize {
        self.sliding_first as usize
    }

    /// Blocks that are still to be taken so that the positions before `end` can be stored.
    pub(super) fn missing(&self, end: usize, geometry: &Geometry) -> BlockCounts {
        let sliding_end = self.sliding_first() + self.sliding.len();
        // The usual decode step needs no block, and a product is cheaper than a quotient.
        if end <= self.global.len().min(sliding_end) * geometry.block_tokens {
            return BlockCounts::default();
        }
        let blocks = geometry.blocks(end);
        BlockCounts { global: blocks.saturating_sub(self.global.len()), sliding: blocks.saturating_sub(sliding_end) }
    }

    /// Takes so many blocks more; cached ones make room.
    pub(super) fn grow(&mut self, missing: BlockCounts, tables: &mut Tables, pools: &mut BlockPools) {
        pools.make_room(missing);
        tables.global.grow(&mut self.global, missing.global, &mut pools.global);
        tables.sliding.grow(&mut self.sliding, missing.sliding, &mut pools.sliding);
    }

    /// Takes known global blocks, from the first on, and the sliding blocks that the token behind
    /// `blocks` of them sees: the known ones beside them, and others for what is restored. The
    /// tables are empty.
    pub(super) fn adopt(
        &mut self,
        chain: &[BlockId],
        blocks: usize,
        geometry: &Geometry,
        tables: &mut Tables,
        pools: &mut BlockPools,
    ) {
        let sliding_first = geometry.sliding_first(blocks * geometry.block_tokens);
        let BlockPools { global, sliding, cache, .. } = pools;
        let mut taken = chain.iter().copied();
        tables.global.extend(&mut self.global, chain.len(), || {
            let block = taken.next().expect("as many as were counted");
            global.share(block);
            block
        });
        let known = |index: usize| chain.get(index).and_then(|block| cache.sliding(*block));
        let window: Vec<Option<BlockId>> = (sliding_first..blocks).map(known).collect();
        window.iter().flatten().for_each(|block| sliding.share(*block));
        // Not before those are held, for it must evict none of them.
        let missing = window.iter().filter(|block| block.is_none()).count();
        pools.make_room(BlockCounts { global: 0, sliding: missing });
        let mut window = window.into_iter();
        tables.sliding.extend(&mut self.sliding, window.len(), || {
            window.next().expect("as many as were counted").unwrap_or_else(|| pools.sliding.take())
        });
        self.sliding_first = u32::try_from(sliding_first).expect("a group has at most 2^32 blocks");
    }

    /// A session uses the known block at `index`, in both groups.
    pub(super) fn prefer(&self, index: usize, tables: &Tables, pools: &mut BlockPools) {
        pools.global.prefer(self.global(tables)[index]);
        if let Some(entry) = index.checked_sub(self.sliding_first()) {
            pools.sliding.prefer(self.sliding(tables)[entry]);
        }
    }

    /// Makes the filled block at `index` known, in both groups. If what it holds is known already,
    /// the known blocks take its place.
    ///
    /// Returns whether the next one may become known: not if others hold the block whose place was
    /// taken. They may hold what is behind it too, and then a known block would have holders that
    /// do not hold the one before it.
    pub(super) fn know(&mut self, index: usize, prefix: Prefix<'_>, tables: &mut Tables, pools: &mut BlockPools) -> bool {
        let own = self.global(tables)[index];
        let known = pools.cache.find(prefix).unwrap_or_else(|| {
            pools.know(own, prefix);
            own
        });
        let is_exchanged = known != own;
        if is_exchanged {
            pools.global.share(known);
            pools.global.give(own);
            tables.global.exchange(&self.global, index, known);
        }
        let goes_on = !is_exchanged || pools.global.holders(own) == 0;
        // What is behind the window is not held any more: only of blocks that are made known anew.
        let Some(entry) = index.checked_sub(self.sliding_first()) else { return goes_on };
        let own = self.sliding(tables)[entry];
        match pools.cache.sliding(known) {
            None => pools.attach(known, own),
            Some(known) if known != own => {
                pools.sliding.share(known);
                pools.sliding.give(own);
                tables.sliding.exchange(&self.sliding, entry, known);
            }
            Some(_) => {}
        }
        goes_on
    }

    /// Gives back the sliding blocks that neither the token at `next` nor a later one sees. Those
    /// in the window before one of `ends`, which are counted in tokens, are worth keeping in
    /// the cache.
    pub(super) fn slide(
        &mut self,
        next: usize,
        ends: [usize; 2],
        geometry: &Geometry,
        tables: &mut Tables,
        pools: &mut BlockPools,
    ) {
        let first_seen = geometry.first_seen(next);
        while first_seen >= (self.sliding_first() + 1) * geometry.block_tokens {
            let block = tables.sliding.pop_first(&mut self.sliding);
            if ends.into_iter().any(|end| geometry.is_in_window(self.sliding_first(), end)) {
                pools.sliding.give(block);
            } else {
                pools.sliding.give_up(block);
            }
            self.sliding_first += 1;
        }
    }

    /// Gives everything back, for good: a sequence that runs again gets new tables.
    pub(super) fn release(&mut self, tables: &mut Tables, pools: &mut BlockPools) {
        tables.global.give_all(&mut self.global, &mut pools.global);
        tables.sliding.give_all(&mut self.sliding, &mut pools.sliding);
    }

    /// Panics unless the tables hold what a sequence with `computed` computed tokens must hold.
    pub(super) fn check(&self, computed: usize, geometry: &Geometry) {
        assert!(self.global.len() * geometry.block_tokens >= computed, "a computed position has no global block");
        let sliding_end = self.sliding_first() + self.sliding.len();
        assert!(sliding_end * geometry.block_tokens >= computed, "a computed position has no sliding block");
        assert_eq!(self.sliding_first(), geometry.sliding_first(computed), "the sliding table begins where the window does");
    }
}
