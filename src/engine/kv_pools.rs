//! How many blocks of KV memory each group of layers has: the same for every engine, whatever a
//! block takes there.

use super::config::ModelConfig;
use crate::batch::{EngineLimits, KvGroup};

/// For so many tokens that global layers can keep, sliding layers can keep a window: a conversation
/// of that length can go on where it ended. Without it a prefix that only the global layers have
/// kept would be computed again.
const PREFIX_TOKENS: usize = 1_024;

/// What of a model decides how many blocks it needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContextShape {
    /// Most tokens of a sequence.
    pub(super) context_tokens_max: usize,
    /// How many tokens a sliding layer sees.
    pub(super) sliding_window_tokens: usize,
    /// Rows of the vocabulary.
    pub(super) vocab_size: usize,
}

impl From<&ModelConfig> for ContextShape {
    fn from(config: &ModelConfig) -> Self {
        let &ModelConfig { context_tokens_max, sliding_window_tokens, vocab_size, .. } = config;
        Self { context_tokens_max, sliding_window_tokens, vocab_size }
    }
}

/// The blocks of both groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct KvPools {
    /// Tokens in a block.
    pub(super) block_tokens: usize,
    /// Blocks for full-attention layers.
    pub(super) global_blocks: usize,
    /// Blocks for sliding-window layers.
    pub(super) sliding_blocks: usize,
}

impl KvPools {
    /// Shares `kv_bytes` between the groups; `block_bytes` of a group are those of one block over
    /// all its layers.
    ///
    /// Sliding layers get what `sequences_max` windows and one step need, but at most half. Of the
    /// rest global layers get what so many longest contexts need at most, and sliding layers a
    /// window for every [`PREFIX_TOKENS`] of it. Either gets at least what one window and one
    /// step need, whatever `kv_bytes` says. A pool may hold less than the longest context.
    pub(super) fn within(
        model: impl Into<ContextShape>,
        kv_bytes: u64,
        block_tokens: usize,
        sequences_max: usize,
        step_tokens_max: usize,
        block_bytes: impl Fn(KvGroup) -> usize,
    ) -> Self {
        let model = model.into();
        let context_blocks = model.context_tokens_max.div_ceil(block_tokens);
        // A window that begins within a block and the block that is being filled touch one block
        // more each.
        let window_blocks = model.sliding_window_tokens.div_ceil(block_tokens).saturating_add(2).min(context_blocks);
        let step_blocks = step_tokens_max.div_ceil(block_tokens);
        let least = window_blocks + step_blocks;
        let blocks_in = |bytes: u64, group| {
            // A model without layers of a group takes no memory for it, however many blocks there
            // are.
            usize::try_from(bytes / block_bytes(group).max(1) as u64).unwrap_or(usize::MAX)
        };
        let sliding_blocks = window_blocks.saturating_mul(sequences_max).saturating_add(step_blocks);
        let sliding_blocks = sliding_blocks.min(blocks_in(kv_bytes / 2, KvGroup::Sliding)).max(least);
        let sliding_bytes = (sliding_blocks as u64).saturating_mul(block_bytes(KvGroup::Sliding) as u64);
        let left_bytes = kv_bytes.saturating_sub(sliding_bytes);
        let prefix_blocks = PREFIX_TOKENS.div_ceil(block_tokens);
        let prefix_bytes = (prefix_blocks as u64).saturating_mul(block_bytes(KvGroup::Global) as u64);
        let window_bytes = (window_blocks as u64).saturating_mul(block_bytes(KvGroup::Sliding) as u64);
        let global_bytes = u128::from(left_bytes) * u128::from(prefix_bytes) / u128::from((prefix_bytes + window_bytes).max(1));
        let global_blocks = blocks_in(u64::try_from(global_bytes).unwrap_or(left_bytes), KvGroup::Global);
        let global_blocks = global_blocks.min(context_blocks.saturating_mul(sequences_max)).max(least);
        let prefixes_windows = (global_blocks / prefix_blocks).saturating_mul(window_blocks);
        let global_bytes = (global_blocks as u64).saturating_mul(block_bytes(KvGroup::Global) as u64);
        let prefixes_windows = prefixes_windows.min(blocks_in(left_bytes.saturating_sub(global_bytes), KvGroup::Sliding));
        Self { block_tokens, global_blocks, sliding_blocks: sliding_blocks + prefixes_windows }
    }

    /// The blocks of one group.
    pub(super) fn blocks(&self, group: KvGroup) -> usize {
        match group {
            KvGroup::Global => self.global_blocks,
            KvGroup::Sliding => self.sliding_blocks,
        }
    }

    /// What an engine with these blocks can hold and compute, if it verifies no drafts and takes
    /// one step at a time; `block_bytes` as for [`Self::within`].
    pub(super) fn limits(
        &self,
        model: impl Into<ContextShape>,
        step_tokens_max: usize,
        step_slices_max: usize,
        block_bytes: impl Fn(KvGroup) -> usize,
    ) -> EngineLimits {
        let model = model.into();
        EngineLimits {
            block_tokens: self.block_tokens,
            global_blocks: self.global_blocks,
            sliding_blocks: self.sliding_blocks,
            sliding_window_tokens: model.sliding_window_tokens,
            step_tokens_max,
            step_slices_max,
            context_tokens_max: model.context_tokens_max,
            vocab_size: model.vocab_size,
            slice_drafts_max: 0,
            copies_blocks: false,
            steps_max: 1,
            global_block_bytes: block_bytes(KvGroup::Global),
            sliding_block_bytes: block_bytes(KvGroup::Sliding),
        }
    }
}
