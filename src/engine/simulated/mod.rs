//! An engine that takes as long as a cost model says, and answers made-up words.
//!
//! Owns: the time at which each step is done, and what a made-up answer says. Promises: a step is
//! done when the model says, counted from the end of the step before it, however long its caller
//! took meanwhile; the same request gets the same words. Absent on purpose: weights, keys, values;
//! and a claim to be more than a model of a machine.

mod engine;
#[cfg(test)]
mod tests;
mod words;

pub use self::engine::SimulatedEngine;
pub use self::words::MadeUpWords;
pub use super::fake::mix;

use super::kv_pools::{ContextShape, KvPools};
use crate::batch::{EngineLimits, KvGroup};
use crate::cost::CostModel;

/// The limits of an engine of `cost`, its memory shared between the groups as every engine's is.
/// `kv_bytes` is the memory for keys and values; `None` takes the model's.
#[must_use]
pub fn limits(
    cost: &CostModel,
    kv_bytes: Option<u64>,
    vocab_size: usize,
    sequences_max: usize,
    step_tokens_max: usize,
) -> EngineLimits {
    let engine = &cost.engine;
    let block_tokens = engine.block_tokens.count();
    let model = ContextShape {
        context_tokens_max: engine.context_tokens_max.count(),
        sliding_window_tokens: engine.sliding_window_tokens.count(),
        vocab_size,
    };
    let block_bytes = |group| {
        let token = match group {
            KvGroup::Global => engine.global_token_bytes,
            KvGroup::Sliding => engine.sliding_token_bytes,
        };
        token.count() * block_tokens
    };
    let within = |kv_bytes| KvPools::within(model, kv_bytes, block_tokens, sequences_max, step_tokens_max, block_bytes);
    let pools = match (kv_bytes, engine.global_blocks, engine.sliding_blocks) {
        (None, Some(global), Some(sliding)) => {
            KvPools { block_tokens, global_blocks: global.count(), sliding_blocks: sliding.count() }
        }
        (kv_bytes, ..) => within(kv_bytes.unwrap_or(engine.kv_bytes.0 as u64)),
    };
    let limits = pools.limits(model, step_tokens_max, sequences_max, block_bytes);
    EngineLimits { steps_max: engine.steps_max.count(), ..limits }
}
