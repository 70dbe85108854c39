//! How a prompt that goes on inside a block finds computed what it has in common with that block.
//!
//! A block is known whole (`reuse`), and two prompts that part in the middle of one would both
//! compute all of it. So the beginning that they have in common is **copied**: the sequence gets a
//! block of its own, and the engine copies the known block into it before the step that the
//! sequence begins in. It goes on behind what is valid, and its block becomes known once it is
//! filled, as any other.
//!
//! * **Only what is known is copied**, so it was computed by a step that was planned before, and
//!   copies are made before anything of their step is written. A step that is planned ahead copies
//!   nothing: it may be withdrawn after its sequences have begun.
//! * Both groups: the sliding block beside the known one is copied too. Where that is gone, or the
//!   chain was cut for want of a window, nothing is copied.
//! * **A block that is copied is held until its step is handed out**, so that no sequence gets it
//!   in the same plan. It counts in what an admission needs.
//! * Of the blocks that stand behind the same one the latest [`COMPARED_MAX_COUNT`] are compared.
//! * Only where the engine copies (`EngineLimits::copies_blocks`).

use super::Scheduler;
use super::block_pool::BlockPools;
use super::chain_hash::CacheSalt;
use super::geometry::BlockCounts;
use super::reuse::Found;
use super::running::Runner;
use crate::batch::{BlockCopy, BlockId, KvGroup, TokenId};

/// So many blocks are compared with a prompt that goes on behind the same one.
const COMPARED_MAX_COUNT: usize = 32;

/// Known blocks of which the first tokens are those that a sequence goes on with.
#[derive(Debug, Clone, Copy)]
pub(super) struct BegunBlock {
    global: BlockId,
    sliding: BlockId,
    pub(super) tokens: usize,
    /// Blocks that are available, and are not while these are held.
    pub(super) held: BlockCounts,
}

/// The blocks behind `before`, or at the beginning under `salt`, that begin with most of `tokens`.
pub(super) fn find_begun(
    pools: &BlockPools,
    before: Option<BlockId>,
    salt: CacheSalt,
    tokens: &[TokenId],
) -> Option<BegunBlock> {
    let cache = &pools.cache;
    let mut longest: Option<BegunBlock> = None;
    for global in cache.behind(before, salt).take(COMPARED_MAX_COUNT) {
        let Some(sliding) = cache.sliding(global) else { continue };
        let common_tokens = cache.tokens_of(global).iter().zip(tokens).take_while(|(known, own)| known == own).count();
        if common_tokens > longest.map_or(0, |longest| longest.tokens) {
            let is_free = |holders: u32| usize::from(holders == 0);
            let (global_held, sliding_held) = (is_free(pools.global.holders(global)), is_free(pools.sliding.holders(sliding)));
            let held = BlockCounts { global: global_held, sliding: sliding_held };
            longest = Some(BegunBlock { global, sliding, tokens: common_tokens, held });
        }
    }
    longest
}

impl Scheduler {
    /// Holds what a sequence that begins to run has found of a block, before its tables grow.
    pub(super) fn hold_begun(&mut self, runner: &mut Runner, found: &Found) {
        let Some(BegunBlock { global, sliding, tokens, .. }) = found.begun else { return };
        self.pools.global.share(global);
        self.pools.sliding.share(sliding);
        runner.computed += tokens;
        runner.slide(&self.geometry, &mut self.tables, &mut self.pools);
    }

    /// Has it copied, once its tables have grown.
    pub(super) fn copy_begun(&mut self, runner: &Runner, found: &Found) {
        let Some(BegunBlock { global, sliding, tokens, .. }) = found.begun else { return };
        let (tables, copies) = (&self.tables, &mut self.step.batch.copies);
        let own = runner.tables.global(tables)[found.blocks];
        copies.push(BlockCopy { group: KvGroup::Global, from: global, to: own, tokens });
        let own = runner.tables.sliding(tables)[found.blocks - runner.tables.sliding_first()];
        copies.push(BlockCopy { group: KvGroup::Sliding, from: sliding, to: own, tokens });
    }

    /// The step is handed out: no block is given to any sequence before the next plan.
    pub(super) fn let_go_of_copied(&mut self) {
        for copy in &self.step.batch.copies {
            match copy.group {
                KvGroup::Global => self.pools.global.give(copy.from),
                KvGroup::Sliding => self.pools.sliding.give(copy.from),
            }
        }
    }
}
