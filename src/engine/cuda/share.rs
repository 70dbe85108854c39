//! What one rank has of a model that several devices compute together.
//!
//! Attention is split by KV heads, each with its query heads; experts are split by their numbers;
//! the rows of lm_head by the vocabulary. Everything else every rank has whole: embedding, norms,
//! routers, angles.

use super::CudaEngineError;
use crate::engine::config::ModelConfig;
use antiphon_kernels::cuda::ExpertShare;
use antiphon_kernels::cuda::tile::TILE_ROWS;
use std::ops::Range;

/// A rank among those that compute together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RankShare {
    pub(super) rank: usize,
    pub(super) ranks: usize,
}

impl RankShare {
    /// The whole model.
    pub(super) const ALONE: Self = Self { rank: 0, ranks: 1 };

    /// Refuses a number of ranks that leaves them unequal parts.
    pub(super) fn check(config: &ModelConfig, ranks: usize) -> Result<(), CudaEngineError> {
        let divided = [("key and value heads", config.kv_heads), ("experts", config.experts)];
        for (what, count) in divided {
            if ranks == 0 || !count.is_multiple_of(ranks) {
                return Err(CudaEngineError::Ranks { ranks, what, count, heads: config.kv_heads, experts: config.experts });
            }
        }
        Ok(())
    }

    /// The shape that this rank computes: its own heads and experts.
    pub(super) fn config(self, whole: &ModelConfig) -> ModelConfig {
        ModelConfig {
            heads: whole.heads / self.ranks,
            kv_heads: whole.kv_heads / self.ranks,
            experts: whole.experts / self.ranks,
            ..whole.clone()
        }
    }

    /// Its experts.
    pub(super) fn experts(self, whole: &ModelConfig) -> ExpertShare {
        let count = whole.experts / self.ranks;
        ExpertShare { first: self.rank * count, count, total: whole.experts }
    }

    /// Its part of `count` rows, or columns.
    pub(super) fn of(self, count: usize) -> Range<usize> {
        let part = count / self.ranks;
        self.rank * part..(self.rank + 1) * part
    }

    /// Rows of lm_head that a rank computes: whole tiles, so that the last rank's may go beyond the
    /// vocabulary.
    pub(super) fn vocab_rows(self, whole: &ModelConfig) -> usize {
        match self.ranks {
            1 => whole.vocab_size,
            ranks => whole.vocab_size.div_ceil(ranks).next_multiple_of(TILE_ROWS),
        }
    }

    /// The tokens whose logits it computes.
    pub(super) fn vocab(self, whole: &ModelConfig) -> Range<usize> {
        let rows = self.vocab_rows(whole);
        let begin = (self.rank * rows).min(whole.vocab_size);
        begin..(begin + rows).min(whole.vocab_size)
    }

    /// f32 values of the largest thing that the ranks gather, all parts together; none for a rank
    /// alone.
    pub(super) fn gathered_values(self, whole: &ModelConfig, tokens: usize, logit_rows: usize) -> usize {
        match self.ranks {
            1 => 0,
            ranks => ranks * (tokens * whole.hidden).max(logit_rows * self.vocab_rows(whole)),
        }
    }
}
