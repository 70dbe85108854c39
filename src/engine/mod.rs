//! The engines: what turns a batch into tokens.
//!
//! Owns: weights, KV memory, scratch memory. Promises: a sequence's tokens do not depend on what
//! else is in the batch, on the number of threads, or on how its prompt was sliced. Absent on
//! purpose: sequences, text, time.

use crate::batch::{Batch, BlockId, EngineLimits, KvGroup, Sampled};
use std::ops::Range;

pub mod checkpoint;
mod checksum;
pub mod config;
pub mod cpu;
pub mod cuda;
pub mod fake;
mod kv_pools;
pub mod kv_store;
pub mod place;
pub mod sampling;
pub mod simulated;
mod wanted;
pub mod warm_up;

/// Something that runs a model's forward pass over a batch.
///
/// Cut at the batch, not at the operation, so that an engine may fuse what it likes.
pub trait Engine: Send {
    /// What the engine can hold and compute.
    fn limits(&self) -> EngineLimits;

    /// Begins a step: to compute every slice of `batch` and to store its keys and values in the
    /// blocks that it names.
    ///
    /// Steps are computed in the order in which they were begun, and at most
    /// [`EngineLimits::steps_max`] are under way. An engine may compute all of it here.
    ///
    /// # Errors
    /// [`EngineError`] if the device failed; the KV memory is then lost and the engine must be
    /// rebuilt. The step before can still be waited for.
    fn begin(&mut self, batch: &Batch) -> Result<(), EngineError>;

    /// Waits for the oldest step under way, and appends to `sampled` a report for each slice that
    /// draws or reports prompt log-probabilities, in batch order, and behind it one for each of its
    /// drafts.
    ///
    /// # Errors
    /// As [`Engine::begin`]; every step under way is lost.
    ///
    /// # Panics
    /// If none is under way.
    fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), EngineError>;

    /// What the bytes of its KV blocks mean, in words: the model, its weights, the arithmetic, the
    /// form of keys and values. Engines of one form can take each other's blocks, bit for bit.
    /// `None` if blocks cannot be copied.
    fn kv_form(&self) -> Option<String> {
        None
    }

    /// Appends the keys and values of a block, over all layers of its group, to `bytes`: those that
    /// the steps begun before store.
    ///
    /// # Errors
    /// As [`Engine::begin`].
    ///
    /// # Panics
    /// If [`Engine::kv_form`] is `None`, or there is no such block.
    fn read_block(&mut self, group: KvGroup, block: BlockId, _bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        panic!("{group:?} block {} is to be read of an engine that copies none", block.0)
    }

    /// Makes the keys and values of a block those that [`Engine::read_block`] of an engine of the
    /// same form gave, before the steps begun after this.
    ///
    /// # Errors
    /// As [`Engine::begin`].
    ///
    /// # Panics
    /// As [`Engine::read_block`], or if `bytes` are not as many as a block has.
    fn write_block(&mut self, group: KvGroup, block: BlockId, _bytes: &[u8]) -> Result<(), EngineError> {
        panic!("{group:?} block {} is to be written of an engine that copies none", block.0)
    }

    /// Begins a step and waits for it, when no other is under way.
    ///
    /// # Errors
    /// As [`Engine::begin`].
    fn execute(&mut self, batch: &Batch, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        self.begin(batch)?;
        self.finish(sampled)
    }
}

/// Makes an engine. Called again after an engine died, so it keeps what is costly and not harmed by
/// that (mapped weights).
pub type EngineFactory = Box<dyn Fn() -> Result<Box<dyn Engine>, EngineError> + Send>;

/// A step that the device could not compute.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The device reported an error.
    #[error("the device failed in a step of {slices} slices: {message}")]
    Device {
        /// How many slices the step had.
        slices: usize,
        /// What the device said.
        message: String,
    },
    /// An engine that was just built does not compute what its model should.
    #[error("{message}")]
    WarmUp {
        /// What it computes, and what was expected.
        message: String,
    },
}

/// A batch outside of the limits is a bug of the scheduler; nothing of it may reach a device, where
/// an index is not checked.
fn check_batch(limits: &EngineLimits, batch: &Batch) {
    let (tokens, slices) = (batch.tokens.len(), batch.slices.len());
    assert!(tokens <= limits.step_tokens_max, "a step of {tokens} tokens, at most {}", limits.step_tokens_max);
    assert!(slices <= limits.step_slices_max, "a step of {slices} slices, at most {}", limits.step_slices_max);
    let mut next = 0;
    for slice in &batch.slices {
        assert!(slice.tokens.start == next && !slice.is_empty(), "{:?}: tokens {:?} after {next}", slice.seq, slice.tokens);
        assert!(slice.end() <= limits.context_tokens_max, "{:?} ends at {}", slice.seq, slice.end());
        next = slice.tokens.end;
        let drafts_max = if slice.draw.is_some() { limits.slice_drafts_max.min(slice.len() - 1) } else { 0 };
        assert!(slice.drafts <= drafts_max, "{:?}: {} drafts, at most {drafts_max}", slice.seq, slice.drafts);
        let last = (slice.end() - 1) / limits.block_tokens;
        let first_seen = (slice.start + 1).saturating_sub(limits.sliding_window_tokens) / limits.block_tokens;
        let covers = |table: &Range<usize>, from: usize, first: usize| from <= first && from + table.len() > last;
        assert!(covers(&slice.global_blocks, 0, 0), "{:?}: the global block table ends before {}", slice.seq, slice.end());
        let sliding = covers(&slice.sliding_blocks, slice.sliding_first, first_seen);
        assert!(sliding, "{:?}: the sliding block table does not cover {first_seen}..={last}", slice.seq);
    }
    let count = |group| if group == KvGroup::Global { limits.global_blocks } else { limits.sliding_blocks };
    for copy in &batch.copies {
        let is_there = [copy.from, copy.to].iter().all(|block| (block.0 as usize) < count(copy.group));
        assert!(limits.copies_blocks && is_there && copy.tokens <= limits.block_tokens, "it cannot be copied: {copy:?}");
    }
    assert_eq!(next, tokens, "every token of a step belongs to a slice");
    assert!(limits.steps_max > 1 || batch.awaited.is_empty(), "one step at a time: nothing is awaited of the one before");
    let in_step = batch.awaited.iter().all(|awaited| awaited.token < tokens);
    assert!(in_step, "a token is awaited that is not in the step: {:?}", batch.awaited);
    let known = batch.tokens.iter().all(|token| (token.0 as usize) < limits.vocab_size);
    assert!(known, "a token beyond the vocabulary of {}", limits.vocab_size);
    let within = |blocks: &[BlockId], count: usize| blocks.iter().all(|block| (block.0 as usize) < count);
    assert!(within(&batch.global_blocks, limits.global_blocks), "a block beyond the {} global ones", limits.global_blocks);
    assert!(within(&batch.sliding_blocks, limits.sliding_blocks), "a block beyond the {} sliding ones", limits.sliding_blocks);
}
