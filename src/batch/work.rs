//! What a step computes, in counts that its time follows from.

use crate::batch::{Batch, Slice};

/// What a step computes, counted: what its time depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepWork {
    /// Tokens of slices that prefill, and of those with drafts, which are computed alike.
    pub prefill_tokens: u64,
    /// Slices that decode, of one token each.
    pub decode_sequences: u64,
    /// Positions whose keys and values a layer that sees everything reads: each slice's up to its
    /// end.
    pub context_tokens: u64,
    /// Pairs of a prefilled token and a position that it sees in such a layer.
    pub prefill_pairs: u64,
}

impl StepWork {
    /// What `batch` computes.
    #[must_use]
    pub fn of(batch: &Batch) -> Self {
        let mut work = Self::default();
        batch.slices.iter().for_each(|slice| work.add(slice));
        work
    }

    /// Counts a slice.
    pub fn add(&mut self, slice: &Slice) {
        let (start, end) = (slice.start as u64, slice.end() as u64);
        self.context_tokens += end;
        if slice.draw.as_ref().is_some_and(|draw| draw.generated_count > 0) && slice.len() == 1 {
            self.decode_sequences += 1;
        } else {
            self.prefill_tokens += end - start;
            self.prefill_pairs += (end * (end + 1) - start * (start + 1)) / 2;
        }
    }

    /// All tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.prefill_tokens + self.decode_sequences
    }
}
