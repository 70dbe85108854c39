//! How much memory an engine takes, said before any of it is taken.

use super::cores::physical_cores;
use crate::batch::KvGroup;
use crate::engine::checkpoint::{CheckpointError, EMBEDDING, ExpertForm, Outline};
use crate::engine::config::ModelConfig;
use crate::engine::kv_pools::KvPools;
use antiphon_kernels::cpu::{Format, Isa, Math};
use antiphon_kernels::kv::{KvFormat, KvLayout};
use std::fmt;

/// Rows whose logits are computed at once; more rows go in several rounds, so that a prompt's
/// log-probabilities do not take a vocabulary of memory for each of its tokens.
pub(super) const LOGIT_ROWS_MAX: usize = 32;

/// How a [`super::CpuEngine`] is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute, the caller's among them.
    pub threads: usize,
    /// Tokens in a KV block.
    pub block_tokens: usize,
    /// Blocks for full-attention layers.
    pub global_blocks: usize,
    /// Blocks for sliding-window layers.
    pub sliding_blocks: usize,
    /// Most tokens of a step.
    pub step_tokens_max: usize,
    /// Most slices of a step.
    pub step_slices_max: usize,
    /// How MXFP4 weights are multiplied, and what keys and values are kept in.
    pub math: Math,
    /// How the dense weights are kept: attention's projections and the lm_head.
    pub dense: Format,
    /// The instructions; `None` takes the fastest.
    pub isa: Option<Isa>,
    /// Whether packed weights are kept in a file beside the checkpoint, for the next start to map.
    pub keep_packed: bool,
}

impl CpuOptions {
    /// Tokens in a KV block unless said otherwise.
    pub const BLOCK_TOKENS: usize = 16;
    /// The arithmetic unless said otherwise: the fastest whose answers stay close enough, as
    /// `docs/performance.md` shows.
    pub const MATH: Math = Math::Int16;
    /// The dense weights unless said otherwise.
    pub const DENSE: Format = Format::Bf16;

    /// Options for `sequences_max` sequences at once in at most `kv_bytes` of KV memory, whose form
    /// follows from `math`.
    ///
    /// Sliding layers get what so many windows and one step need, but at most half; of the rest
    /// global layers get what so many longest contexts need at most, and sliding layers a
    /// window for every 1,024 tokens of it. Either gets at least what one window and one
    /// step need, whatever `kv_bytes` says: [`MemoryPlan::check`] tells whether that fits. A pool
    /// may hold less than the longest context.
    #[must_use]
    pub fn within(config: &ModelConfig, math: Math, kv_bytes: u64, sequences_max: usize, step_tokens_max: usize) -> Self {
        let block_tokens = Self::BLOCK_TOKENS;
        let block_bytes = |group| block_bytes(config, kv_format(math), block_tokens, group);
        let pools = KvPools::within(config, kv_bytes, block_tokens, sequences_max, step_tokens_max, block_bytes);
        Self {
            threads: physical_cores(),
            block_tokens,
            global_blocks: pools.global_blocks,
            sliding_blocks: pools.sliding_blocks,
            step_tokens_max,
            step_slices_max: sequences_max,
            math,
            dense: Self::DENSE,
            isa: None,
            keep_packed: false,
        }
    }
}

/// Bytes that an engine takes, by what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The embedding, which stays where it lies, in a mapped file or in the binary. The system may
    /// drop and read it again.
    pub mapped_weight_bytes: u64,
    /// All other weights, packed.
    pub packed_weight_bytes: u64,
    /// KV memory of full-attention layers.
    pub global_kv_bytes: u64,
    /// KV memory of sliding-window layers.
    pub sliding_kv_bytes: u64,
    /// What a step computes with: activations, logits, the sampler.
    pub scratch_bytes: u64,
}

impl MemoryPlan {
    /// What an engine for `checkpoint` with these options will take.
    #[must_use]
    pub fn of(checkpoint: &Outline, options: &CpuOptions) -> Self {
        let config = checkpoint.config();
        let pool = |group, blocks: usize| {
            (blocks as u64).saturating_mul(block_bytes(config, kv_format(options.math), options.block_tokens, group) as u64)
        };
        let experts = expert_format(checkpoint);
        let (embedding, is_mapped) = (2 * (config.vocab_size * config.hidden) as u64, checkpoint.is_in_place(EMBEDDING));
        Self {
            mapped_weight_bytes: if is_mapped { embedding } else { 0 },
            packed_weight_bytes: packed_bytes(config, options.dense, experts) + if is_mapped { 0 } else { embedding },
            global_kv_bytes: pool(KvGroup::Global, options.global_blocks),
            sliding_kv_bytes: pool(KvGroup::Sliding, options.sliding_blocks),
            scratch_bytes: scratch_bytes(config, options),
        }
    }

    /// Bytes that must be there and stay: everything but the embedding.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        let kv_bytes = self.global_kv_bytes.saturating_add(self.sliding_kv_bytes);
        kv_bytes.saturating_add(self.scratch_bytes).saturating_add(self.packed_weight_bytes)
    }

    /// All bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.allocated_bytes().saturating_add(self.mapped_weight_bytes)
    }

    /// Refuses a plan that does not fit.
    ///
    /// # Errors
    /// [`CheckpointError::MemoryTooSmall`] if what must stay in memory is more than
    /// `available_bytes`.
    pub fn check(&self, available_bytes: u64) -> Result<(), CheckpointError> {
        let needed_bytes = self.allocated_bytes();
        if needed_bytes <= available_bytes {
            return Ok(());
        }
        Err(CheckpointError::MemoryTooSmall { needed_bytes, parts: self.to_string(), available_bytes })
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(
            formatter,
            "weights {} MiB packed and {} MiB mapped, KV {} MiB full and {} MiB sliding, scratch {} MiB",
            mib(self.packed_weight_bytes),
            mib(self.mapped_weight_bytes),
            mib(self.global_kv_bytes),
            mib(self.sliding_kv_bytes),
            mib(self.scratch_bytes)
        )
    }
}

/// The KV memory of one layer of a pool.
pub(super) fn kv_layout(config: &ModelConfig, block_tokens: usize, blocks: usize) -> KvLayout {
    KvLayout { blocks, block_tokens, kv_heads: config.kv_heads, head_dim: config.head_dim }
}

/// What keys and values are kept in: f16 takes half the memory, and half the time to read;
/// `docs/performance.md` has what it costs.
pub(super) fn kv_format(math: Math) -> KvFormat {
    match math {
        Math::Exact => KvFormat::F32,
        Math::Int16 | Math::Fast => KvFormat::F16,
    }
}

/// Bytes of one block over all layers of its group.
pub(super) fn block_bytes(config: &ModelConfig, format: KvFormat, block_tokens: usize, group: KvGroup) -> usize {
    config.layers_of(group) * kv_layout(config, block_tokens, 1).block_bytes(format)
}

/// Values of scratch memory for each token of a step: see [`super::scratch::Scratch`].
pub(super) fn values_per_token(config: &ModelConfig) -> usize {
    2 * config.hidden + 3 * config.query_width() + 4 * config.kv_width()
}

/// How the experts of a checkpoint are packed.
fn expert_format(checkpoint: &Outline) -> Format {
    match checkpoint.expert_form() {
        ExpertForm::Mxfp4 => Format::Mxfp4,
        ExpertForm::Dense => Format::Bf16,
    }
}

/// Bytes of each packed matrix of a layer: attention's two, the router, the experts' two.
fn layer_bytes(config: &ModelConfig, dense: Format, expert: Format) -> [usize; 5] {
    let (hidden, inner, experts) = (config.hidden, config.intermediate, config.experts);
    let (query, kv) = (config.query_width(), config.kv_width());
    [
        dense.bytes(query + 2 * kv, hidden),
        dense.bytes(hidden, query),
        Format::Bf16.bytes(experts, hidden),
        expert.bytes(experts * 2 * inner, hidden),
        expert.bytes(experts * hidden, inner),
    ]
}

/// Bytes of every packed matrix, in the order in which they are packed.
pub(super) fn matrix_bytes(checkpoint: &Outline, dense: Format) -> impl Iterator<Item = usize> {
    let config = checkpoint.config();
    let layer = layer_bytes(config, dense, expert_format(checkpoint));
    std::iter::once(dense.bytes(config.vocab_size, config.hidden)).chain(config.layers.iter().flat_map(move |_| layer))
}

/// Bytes of the packed weights and the vectors beside them.
fn packed_bytes(config: &ModelConfig, dense: Format, expert: Format) -> u64 {
    let (hidden, experts) = (config.hidden, config.experts);
    let matrices: usize = layer_bytes(config, dense, expert).into_iter().sum();
    let vectors = 3 * hidden
        + config.query_width()
        + 2 * config.kv_width()
        + config.heads
        + experts * (2 * config.intermediate + hidden + 1);
    let layer = matrices + size_of::<f32>() * vectors;
    (config.layers.len() * layer + dense.bytes(config.vocab_size, hidden) + size_of::<f32>() * hidden) as u64
}

fn scratch_bytes(config: &ModelConfig, options: &CpuOptions) -> u64 {
    let tokens = options.step_tokens_max as u64;
    let activations = tokens * values_per_token(config) as u64;
    let angles = tokens * config.head_dim as u64;
    let rows = LOGIT_ROWS_MAX as u64 * (2 * config.hidden + config.vocab_size) as u64;
    // The sampler: adjusted logits, marks, and candidates of two words, twice.
    let sampler = 6 * config.vocab_size as u64;
    size_of::<f32>() as u64 * (activations + angles + rows + sampler)
}
