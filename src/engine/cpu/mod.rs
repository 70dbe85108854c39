//! The engine that computes on the CPU.
//!
//! Owns: KV memory in two groups of layers, scratch memory, the kernels' thread pool. Promises: for
//! one size of block and one instruction set, the same bits for a token whatever else is in its
//! batch, however its prompt was sliced, wherever its blocks lie, and however many threads compute.
//! Memory is taken when the engine is made, not when it steps. Absent on purpose: kernels,
//! sequences, time.

mod available;
mod copies;
mod cores;
mod forward;
mod memory;
mod packed_file;
mod scratch;
mod weights;

pub use antiphon_kernels::cpu::{Ahead, Format, Isa, Math, OperationTime};
pub use available::available_bytes;
pub use memory::{CpuOptions, MemoryPlan};

use super::checkpoint::{Checkpoint, LoadProgress};
use super::config::ModelConfig;
use super::kv_pools::KvPools;
use super::sampling::Sampler;
use super::wanted::{Wanted, list_wanted};
use super::{Engine, EngineError, check_batch};
use crate::batch::{Batch, BlockId, EngineLimits, KvGroup, Sampled, Slice};
use antiphon_kernels::cpu::Cpu;
use antiphon_kernels::kv::{KvLayout, KvMemory, KvSlice};
use antiphon_kernels::rope::Rope;
use memory::{LOGIT_ROWS_MAX, block_bytes, kv_format, kv_layout};
use scratch::Scratch;
use std::sync::Arc;
use weights::Weights;

/// Most drafts of a slice: with the token before them half of the rows whose logits are computed at
/// once.
const SLICE_DRAFTS_MAX: usize = LOGIT_ROWS_MAX / 2 - 1;

/// A GPT-OSS model on the CPU.
#[derive(Debug)]
pub struct CpuEngine {
    checkpoint: Arc<Checkpoint>,
    limits: EngineLimits,
    weights: Arc<Weights>,
    rope: Rope,
    /// One for each layer, as many blocks as its group has.
    kv: Vec<KvMemory>,
    cpu: Cpu,
    scratch: Scratch,
    sampler: Sampler,
    wanted: Vec<Wanted>,
    /// What the step reports that was begun.
    sampled: Option<Vec<Sampled>>,
    math: Math,
    dense: Format,
}

/// Packed weights, which engines after each other share; cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedWeights(Arc<Weights>);

/// The device that computes.
fn cpu(options: &CpuOptions) -> Cpu {
    assert!(options.threads > 0, "someone must compute: {options:?}");
    Cpu::with_isa(options.threads, options.isa.unwrap_or(Isa::best())).with_math(options.math)
}

impl CpuEngine {
    /// Makes an engine for a checkpoint, with empty KV memory; `progress` is told how many bytes of
    /// weights have been packed.
    ///
    /// An engine that was lost is replaced by [`CpuEngine::with_weights`] from the weights of the
    /// first.
    ///
    /// # Panics
    /// If an option is zero. What may be too large for the machine is told by [`MemoryPlan`]
    /// beforehand.
    #[must_use]
    pub fn load(checkpoint: Arc<Checkpoint>, options: &CpuOptions, progress: &mut dyn FnMut(LoadProgress)) -> Self {
        let weights = Weights::pack(&checkpoint, options, &mut cpu(options), progress);
        Self::with_weights(checkpoint, SharedWeights(Arc::new(weights)), options)
    }

    /// Makes an engine from weights that were packed before, from the same checkpoint with the same
    /// `dense`.
    ///
    /// # Panics
    /// As [`CpuEngine::load`].
    #[must_use]
    pub fn with_weights(checkpoint: Arc<Checkpoint>, weights: SharedWeights, options: &CpuOptions) -> Self {
        let CpuOptions { block_tokens, global_blocks, sliding_blocks, .. } = *options;
        let CpuOptions { step_tokens_max, step_slices_max, .. } = *options;
        let sizes = [block_tokens, global_blocks, sliding_blocks, step_tokens_max, step_slices_max, options.threads];
        assert!(sizes.iter().all(|size| *size > 0), "no option of an engine may be zero: {options:?}");
        let config = checkpoint.config();
        let pools = KvPools { block_tokens, global_blocks, sliding_blocks };
        let format = kv_format(options.math);
        let memory = |group: &KvGroup| KvMemory::with_format(kv_layout(config, block_tokens, pools.blocks(*group)), format);
        let block_bytes = |group| block_bytes(config, format, block_tokens, group);
        Self {
            limits: EngineLimits {
                slice_drafts_max: SLICE_DRAFTS_MAX,
                copies_blocks: true,
                ..pools.limits(config, step_tokens_max, step_slices_max, block_bytes)
            },
            weights: weights.0,
            rope: Rope::new(config.rope.theta, config.head_dim, &config.rope.scaling),
            kv: config.layers.iter().map(memory).collect(),
            cpu: cpu(options),
            scratch: Scratch::new(config, step_tokens_max),
            sampler: Sampler::new(config.vocab_size),
            wanted: Vec::new(),
            sampled: None,
            math: options.math,
            dense: options.dense,
            checkpoint,
        }
    }

    /// Its weights, for an engine after this one.
    #[must_use]
    pub fn weights(&self) -> SharedWeights {
        SharedWeights(Arc::clone(&self.weights))
    }

    /// The shape of the model.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    /// Computes a step and shows what it computes on the way. `hidden` gets the residual stream
    /// `[T, hidden]` before the first layer (with 0) and after each layer (with its number from 1).
    /// `logits` gets every row of the step and its `[V]`.
    ///
    /// Stores keys and values as [`Engine::execute`] does; draws nothing.
    ///
    /// # Panics
    /// If the batch is not one that the engine's limits allow.
    pub fn inspect(&mut self, batch: &Batch, hidden: &mut dyn FnMut(usize, &[f32]), logits: &mut dyn FnMut(usize, &[f32])) {
        check_batch(&self.limits, batch);
        self.copy_blocks(batch);
        self.forward(batch, hidden);
        let all: Vec<usize> = (0..batch.tokens.len()).collect();
        for rows in all.chunks(LOGIT_ROWS_MAX) {
            self.compute_logits(rows.iter().copied());
            for (row, row_logits) in rows.iter().zip(self.scratch.logits.chunks_exact(self.limits.vocab_size)) {
                logits(*row, row_logits);
            }
        }
    }

    /// Times the operations of steps from now on, by a clock of nanoseconds.
    pub fn start_timing(&mut self, clock: fn() -> u64) {
        self.cpu.start_timing(clock);
    }

    /// What was timed, in order, and ends it; [`Cpu::take_timing`] says what an entry is.
    pub fn take_timing(&mut self) -> Vec<OperationTime> {
        self.cpu.take_timing()
    }

    /// Fills all KV memory with `number` after `number`, as if every block were computed: what is
    /// read of memory that was never written comes from a cache, and a bench would measure that.
    pub fn fill_kv_memory(&mut self, mut number: impl FnMut() -> f32) {
        for memory in &mut self.kv {
            let KvLayout { blocks, block_tokens, kv_heads, head_dim } = *memory.layout();
            for block in 0..u32::try_from(blocks).expect("a block's number has 32 bits") {
                let slice = KvSlice { rows: 0..block_tokens, start: 0, blocks: &[block], first_block: 0 };
                let [keys, values] =
                    [(); 2].map(|()| (0..block_tokens * kv_heads * head_dim).map(|_| number()).collect::<Vec<_>>());
                memory.store(&[slice], &keys, &values);
            }
        }
    }

    /// Checks that what weights are mapped from was not written to.
    fn check_files(&self, batch: &Batch) -> Result<(), EngineError> {
        let changed = |message| EngineError::Device { slices: batch.slices.len(), message };
        self.checkpoint.check_unchanged().map_err(|error| changed(error.to_string()))?;
        let file = self.weights.file.as_ref();
        file.map_or(Ok(()), |file| file.check_unchanged()).map_err(|error| changed(error.to_string()))
    }

    /// Copies the blocks that the batch's sequences begin with.
    fn copy_blocks(&mut self, batch: &Batch) {
        for copy in &batch.copies {
            let layers = self.kv.iter_mut().zip(&self.weights.layers).filter(|(_, layer)| layer.group == copy.group);
            layers.for_each(|(memory, _)| memory.copy_block(copy.from.0, copy.to.0));
        }
    }

    /// Reports what the batch asks for of the rows that [`Self::forward`] has left in the residual
    /// stream.
    fn report(&mut self, batch: &Batch, sampled: &mut Vec<Sampled>) {
        let mut wanted = std::mem::take(&mut self.wanted);
        list_wanted(batch, sampled, &mut wanted);
        for rows in wanted.chunks(LOGIT_ROWS_MAX) {
            self.compute_logits(rows.iter().map(|wanted| wanted.row));
            self.cpu.begin_operation("sampling", 0);
            for (wanted, logits) in rows.iter().zip(self.scratch.logits.chunks_exact(self.limits.vocab_size)) {
                report_row(&mut self.sampler, &batch.slices[wanted.slice], *wanted, logits, &mut sampled[wanted.report]);
            }
        }
        self.wanted = wanted;
    }
}

impl Engine for CpuEngine {
    fn limits(&self) -> EngineLimits {
        self.limits
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), EngineError> {
        check_batch(&self.limits, batch);
        self.check_files(batch)?;
        self.copy_blocks(batch);
        self.forward(batch, &mut |_, _| {});
        let mut sampled = Vec::with_capacity(batch.slices.len());
        self.report(batch, &mut sampled);
        self.cpu.begin_operation("checks", 0);
        // Of a file that is cut meanwhile zeros are read: nothing of such a step may get out.
        self.check_files(batch)?;
        self.sampled = Some(sampled);
        Ok(())
    }

    fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        sampled.append(&mut self.sampled.take().expect("a step is waited for that was begun"));
        Ok(())
    }

    fn kv_form(&self) -> Option<String> {
        Some(self.copied_form())
    }

    fn read_block(&mut self, group: KvGroup, block: BlockId, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        self.append_block(group, block, bytes);
        Ok(())
    }

    fn write_block(&mut self, group: KvGroup, block: BlockId, bytes: &[u8]) -> Result<(), EngineError> {
        self.take_block(group, block, bytes);
        Ok(())
    }
}

/// Reports one row: the log-probability of a prompt token, or a draw.
fn report_row(sampler: &mut Sampler, slice: &Slice, wanted: Wanted, logits: &[f32], report: &mut Sampled) {
    if let (Some(target), Some(targets)) = (wanted.target, &slice.prompt_targets) {
        report.prompt_logprobs.push(sampler.logprobs(logits, target, targets.top_count));
        return;
    }
    let Some(draw) = &slice.draw else { return };
    let token = match wanted.draw {
        0 => sampler.draw(logits, draw),
        later => sampler.draw(logits, &draw.later(later)),
    };
    if let (Ok(token), Some(top_count)) = (token, draw.sampling.logprobs) {
        report.logprobs = Some(Box::new(sampler.logprobs(logits, token, top_count)));
    }
    report.token = Some(token);
}

#[cfg(test)]
mod tests;
