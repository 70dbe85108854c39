//! How much of the device's memory an engine takes, said before any of it is taken.

use super::CudaEngineError;
use super::layout::step_words_max;
use super::rounds::mask_words;
use super::share::RankShare;
use super::weights::weight_bytes;
use crate::batch::KvGroup;
use crate::engine::config::ModelConfig;
use crate::engine::kv_pools::KvPools;
use antiphon_kernels::cuda::CudaDevice;
use antiphon_kernels::cuda::tile::row_stride;
use antiphon_kernels::cuda::{
    Activations, Arranged, CHUNK_TOKENS, EXPERTS_MAX, HEAD_DIM_MAX, HIDDEN_MAX, HeadShape, KvRegion, MatrixInstruction,
    REPORT_WORDS, RouteRegions, partial_values, region_bytes,
};
use antiphon_kernels::weights::MXFP4_BLOCK;
use half::f16;
use std::fmt;

/// Tokens in a KV block unless said otherwise.
const BLOCK_TOKENS: usize = 16;
/// Rows whose logits are computed at once; more go in several rounds.
const LOGIT_ROWS_MAX: usize = 256;
/// Changes to logits that one round of draws can hold, at least; a row may change its whole
/// vocabulary.
const EDITS_MIN: usize = 1 << 16;
/// Slots of partial sums at most: 8192 chunks of 128 positions are a million tokens in decode. What
/// goes beyond is not split.
const PARTIALS_MAX: usize = 8192;

/// How a [`super::CudaEngine`] is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaOptions {
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
    /// Slots for partial sums of attention; none leaves every token's context in one piece.
    pub partial_slots: usize,
    /// Whether decode steps are captured once and replayed.
    pub graphs: bool,
    /// Devices that compute the model together; each takes what the plan says.
    pub ranks: usize,
    /// How steps of many tokens are multiplied.
    pub prefill: MatrixInstruction,
}

/// The device's memory as it was found, and how much of it may be used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceMemory {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes that the device has.
    pub total_bytes: u64,
    /// The share of all that may be used, what others use included.
    pub utilization: f64,
}

impl DeviceMemory {
    /// What this engine may take.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        let usable = (self.total_bytes as f64 * self.utilization) as u64;
        usable.saturating_sub(self.total_bytes.saturating_sub(self.free_bytes))
    }
}

impl CudaOptions {
    /// Options for `sequences_max` sequences at once: what is left beside weights and activations
    /// becomes KV memory, or `kv_bytes` of it over all `ranks`. `memory`: of the device that
    /// has the least.
    ///
    /// # Errors
    /// [`CudaEngineError::Shape`] for a model that no kernel serves, [`CudaEngineError::Ranks`] for
    /// one that cannot be shared by so many, [`CudaEngineError::Memory`] if the least does not
    /// fit.
    pub fn within(
        config: &ModelConfig,
        memory: DeviceMemory,
        kv_bytes: Option<u64>,
        sequences_max: usize,
        step_tokens_max: usize,
        ranks: usize,
        prefill: MatrixInstruction,
    ) -> Result<Self, CudaEngineError> {
        check_shape(config)?;
        RankShare::check(config, ranks)?;
        let mut options = Self {
            block_tokens: BLOCK_TOKENS,
            global_blocks: 0,
            sliding_blocks: 0,
            step_tokens_max,
            step_slices_max: sequences_max,
            partial_slots: PARTIALS_MAX.min(sequences_max * config.context_tokens_max.div_ceil(CHUNK_TOKENS)),
            graphs: true,
            ranks,
            prefill,
        };
        let fixed = CudaPlan::of(config, &options).total_bytes();
        let left = memory.budget_bytes().saturating_sub(fixed);
        options.share(config, kv_bytes.map_or(left, |asked| (asked / ranks as u64).min(left)));
        let plan = CudaPlan::of(config, &options);
        if plan.total_bytes() > memory.budget_bytes() {
            return Err(CudaEngineError::Memory {
                needed_bytes: plan.total_bytes(),
                parts: plan.to_string(),
                budget_bytes: memory.budget_bytes(),
                free_bytes: memory.free_bytes,
                total_bytes: memory.total_bytes,
                utilization: memory.utilization,
            });
        }
        Ok(options)
    }

    /// Refuses a device that has not the instructions that are asked for.
    ///
    /// # Errors
    /// [`CudaEngineError::Wgmma`].
    pub fn check_device(&self, device: &CudaDevice) -> Result<(), CudaEngineError> {
        if self.prefill.is_served_by(device) {
            return Ok(());
        }
        Err(CudaEngineError::Wgmma { device: device.name.clone(), capability: device.compute_capability })
    }

    /// Values of the rows that wgmma reads: those of the largest product; none with mma.
    pub(super) fn arranged_values(&self, config: &ModelConfig) -> usize {
        match self.prefill {
            MatrixInstruction::Mma => 0,
            MatrixInstruction::Wgmma => {
                let token = row_stride(config.query_width()).max(config.experts_per_token * row_stride(config.hidden));
                self.step_tokens_max * token
            }
        }
    }

    /// Takes as many blocks as `kv_bytes` of one rank hold.
    fn share(&mut self, config: &ModelConfig, kv_bytes: u64) {
        let (own, tokens) = (self.first_rank().config(config), self.block_tokens);
        let block_bytes = |group| block_bytes(&own, tokens, group);
        let pools = KvPools::within(config, kv_bytes, tokens, self.step_slices_max, self.step_tokens_max, block_bytes);
        (self.global_blocks, self.sliding_blocks) = (pools.global_blocks, pools.sliding_blocks);
    }

    /// A rank that stands for all of them: they take the same memory.
    fn first_rank(&self) -> RankShare {
        RankShare { rank: 0, ranks: self.ranks }
    }

    /// Rows whose logits are computed at once.
    pub(super) fn logit_rows(&self) -> usize {
        self.step_slices_max.clamp(1, LOGIT_ROWS_MAX)
    }

    /// Changes to logits that one round holds.
    pub(super) fn edits(&self, config: &ModelConfig) -> usize {
        config.vocab_size.max(EDITS_MIN)
    }
}

/// Refuses what no kernel is made for; everything else goes.
fn check_shape(config: &ModelConfig) -> Result<(), CudaEngineError> {
    let bounds = [
        ("head_dim", config.head_dim, HEAD_DIM_MAX),
        ("hidden_size", config.hidden, HIDDEN_MAX),
        ("num_local_experts", config.experts, EXPERTS_MAX),
    ];
    for (what, got, most) in bounds {
        if got > most {
            return Err(CudaEngineError::Shape { what, got, most });
        }
    }
    Ok(())
}

/// The heads of a layer.
pub(super) fn head_shape(config: &ModelConfig, block_tokens: usize) -> HeadShape {
    HeadShape { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim, block_tokens }
}

/// Bytes of one block over all layers of its group.
pub(super) fn block_bytes(config: &ModelConfig, block_tokens: usize, group: KvGroup) -> usize {
    2 * size_of::<f16>() * config.layers_of(group) * head_shape(config, block_tokens).block_values()
}

/// Bytes of the device that an engine takes, by what for; of each of the devices, where there are
/// several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaPlan {
    /// Weights.
    pub weight_bytes: u64,
    /// KV memory of full-attention layers.
    pub global_kv_bytes: u64,
    /// KV memory of sliding-window layers.
    pub sliding_kv_bytes: u64,
    /// What a step computes with.
    pub scratch_bytes: u64,
}

impl CudaPlan {
    /// What an engine for a model of this shape will take, to the byte.
    #[must_use]
    pub fn of(config: &ModelConfig, options: &CudaOptions) -> Self {
        let share = options.first_rank();
        let shape = head_shape(&share.config(config), options.block_tokens);
        let kv = |group, blocks| (config.layers_of(group) * KvRegion::bytes(shape, blocks)) as u64;
        Self {
            weight_bytes: weight_bytes(config, share) as u64,
            global_kv_bytes: kv(KvGroup::Global, options.global_blocks),
            sliding_kv_bytes: kv(KvGroup::Sliding, options.sliding_blocks),
            scratch_bytes: scratch_bytes(config, options, share) as u64,
        }
    }

    /// All bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.global_kv_bytes + self.sliding_kv_bytes + self.scratch_bytes
    }
}

impl fmt::Display for CudaPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (weights, scratch) = (mib(self.weight_bytes), mib(self.scratch_bytes));
        let (full, sliding) = (mib(self.global_kv_bytes), mib(self.sliding_kv_bytes));
        write!(formatter, "weights {weights} MiB, KV {full} MiB full and {sliding} MiB sliding, scratch {scratch} MiB")
    }
}

/// The regions of [`super::scratch::Scratch`], in its order.
pub(super) fn scratch_bytes(whole: &ModelConfig, options: &CudaOptions, share: RankShare) -> usize {
    let config = &share.config(whole);
    let shape = head_shape(config, options.block_tokens);
    let (tokens, rows, edits) = (options.step_tokens_max, options.logit_rows(), options.edits(config));
    let pairs = tokens * config.experts_per_token;
    debug_assert!(config.hidden.is_multiple_of(MXFP4_BLOCK));
    [
        region_bytes::<f32>(tokens * config.hidden),
        Activations::bytes(tokens, config.hidden),
        region_bytes::<f32>(tokens * shape.qkv_width()),
        region_bytes::<f16>(tokens * config.heads * shape.row()),
        Activations::bytes(tokens, config.query_width()),
        region_bytes::<f32>(options.partial_slots.max(1) * partial_values(config.heads, config.head_dim)),
        RouteRegions::bytes(tokens, config.experts_per_token, share.experts(whole)),
        Activations::bytes(pairs, config.intermediate),
        region_bytes::<f32>(pairs * config.hidden),
        Activations::bytes(rows, config.hidden),
        region_bytes::<f32>(rows * config.vocab_size),
        region_bytes::<f32>(share.gathered_values(whole, tokens, rows)),
        region_bytes::<f32>(edits),
        region_bytes::<u32>(rows * REPORT_WORDS),
        region_bytes::<u32>(step_words_max(config, options)),
        region_bytes::<u32>(round_words_max(config, options)),
        region_bytes::<u32>(mask_words_max(config, options)),
        Arranged::bytes(options.arranged_values(config)),
    ]
    .iter()
    .sum()
}

/// Words of the masks of a round's rows.
pub(super) fn mask_words_max(config: &ModelConfig, options: &CudaOptions) -> usize {
    options.logit_rows() * mask_words(config.vocab_size)
}

/// Words of a round of draws: rows, draws, edits.
pub(super) fn round_words_max(config: &ModelConfig, options: &CudaOptions) -> usize {
    options.logit_rows() * (4 + 20) + options.edits(config) * 4 + 16
}
