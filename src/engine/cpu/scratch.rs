//! What a step computes with: taken once, for the largest step.

use super::memory::LOGIT_ROWS_MAX;
use crate::batch::{Batch, KvGroup, Slice};
use crate::engine::config::ModelConfig;
use antiphon_kernels::kv::KvSlice;
use antiphon_kernels::rope::{Angles, Rope};
use antiphon_kernels::weights::Routes;

/// Activations of a step, one row a token, and the batch in the kernels' words.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The residual stream, `[T, hidden]`.
    pub(super) stream: Vec<f32>,
    /// A norm of it, `[T, hidden]`.
    pub(super) normed: Vec<f32>,
    /// Queries, keys and values side by side, `[T, (heads + 2 kv_heads) * head_dim]`.
    pub(super) projected: Vec<f32>,
    /// `[T, heads * head_dim]`.
    pub(super) queries: Vec<f32>,
    /// `[T, kv_heads * head_dim]`.
    pub(super) keys: Vec<f32>,
    /// `[T, kv_heads * head_dim]`.
    pub(super) values: Vec<f32>,
    /// `[T, heads * head_dim]`.
    pub(super) attended: Vec<f32>,
    /// Where each token's pairs turn to.
    pub(super) angles: Angles,
    /// Which experts each token goes to.
    pub(super) routes: Routes,
    /// The step's tokens.
    pub(super) tokens: Vec<u32>,
    positions: Vec<usize>,
    /// The batch's block tables for full-attention layers.
    pub(super) global_blocks: Vec<u32>,
    /// The batch's block tables for sliding-window layers.
    pub(super) sliding_blocks: Vec<u32>,
    /// Rows whose logits are computed now: from the stream, then normed, `[LOGIT_ROWS_MAX, hidden]`
    /// each.
    pub(super) picked: Vec<f32>,
    pub(super) picked_normed: Vec<f32>,
    /// `[LOGIT_ROWS_MAX, vocab]`.
    pub(super) logits: Vec<f32>,
}

impl Scratch {
    /// Memory for steps of up to `step_tokens_max` tokens.
    pub(super) fn new(config: &ModelConfig, step_tokens_max: usize) -> Self {
        let rows = |width: usize| vec![0.0; step_tokens_max * width];
        let picked = || vec![0.0; LOGIT_ROWS_MAX * config.hidden];
        Self {
            stream: rows(config.hidden),
            normed: rows(config.hidden),
            projected: rows(config.query_width() + 2 * config.kv_width()),
            queries: rows(config.query_width()),
            keys: rows(config.kv_width()),
            values: rows(config.kv_width()),
            attended: rows(config.query_width()),
            angles: Angles::default(),
            routes: Routes::new(config.experts_per_token),
            tokens: Vec::with_capacity(step_tokens_max),
            positions: Vec::with_capacity(step_tokens_max),
            global_blocks: Vec::new(),
            sliding_blocks: Vec::new(),
            picked: picked(),
            picked_normed: picked(),
            logits: vec![0.0; LOGIT_ROWS_MAX * config.vocab_size],
        }
    }

    /// Takes over the batch's tokens, positions and block tables.
    pub(super) fn begin(&mut self, batch: &Batch, rope: &Rope) {
        self.tokens.clear();
        self.tokens.extend(batch.tokens.iter().map(|token| token.0));
        self.positions.clear();
        self.positions.extend(batch.slices.iter().flat_map(|slice| slice.start..slice.end()));
        self.global_blocks.clear();
        self.global_blocks.extend(batch.global_blocks.iter().map(|block| block.0));
        self.sliding_blocks.clear();
        self.sliding_blocks.extend(batch.sliding_blocks.iter().map(|block| block.0));
        self.angles.fill(rope, &self.positions);
    }
}

/// The batch's slices as attention over the layers of `group` takes them.
pub(super) fn kv_slices<'a>(batch: &Batch, group: KvGroup, blocks: &'a [u32]) -> Vec<KvSlice<'a>> {
    let kv_slice = |slice: &Slice| {
        let (table, first_block) = match group {
            KvGroup::Global => (slice.global_blocks.clone(), 0),
            KvGroup::Sliding => (slice.sliding_blocks.clone(), slice.sliding_first),
        };
        KvSlice { rows: slice.tokens.clone(), start: slice.start, blocks: &blocks[table], first_block }
    };
    batch.slices.iter().map(kv_slice).collect()
}
