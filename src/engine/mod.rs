//! The engines: what turns a batch into tokens.
//!
//! Owns: weights, KV memory, scratch memory. Promises: a sequence's tokens do not depend on what else is in the batch, on the
//! number of threads, or on how its prompt was sliced. Absent on purpose: sequences, text, time.

use crate::batch::{Batch, EngineLimits, Sampled};

pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod fake;
pub mod sampling;

/// Something that runs a model's forward pass over a batch.
///
/// Cut at the batch, not at the operation, so that an engine may fuse what it likes.
pub trait Engine: Send {
    /// What the engine can hold and compute.
    fn limits(&self) -> EngineLimits;

    /// Computes every slice of `batch`, stores its keys and values in the blocks that it names, and appends to `sampled` a
    /// report for each slice that draws or reports prompt log-probabilities, in batch order.
    ///
    /// # Errors
    /// [`EngineError`] if the device failed; the KV memory is then lost and the engine must be rebuilt.
    fn execute(&mut self, batch: &Batch, sampled: &mut Vec<Sampled>) -> Result<(), EngineError>;
}

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
}
