//! What the scheduler may use.

use super::chain_hash::HashKey;
use crate::batch::EngineLimits;

/// What the scheduler may use: the engine's limits and the profile's choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Tokens in a KV block.
    pub block_tokens: usize,
    /// Blocks for full-attention layers.
    pub global_blocks: usize,
    /// Blocks for sliding-window layers.
    pub sliding_blocks: usize,
    /// How many tokens a sliding-window layer sees, the token itself included.
    pub sliding_window_tokens: usize,
    /// Most tokens of a sequence, prompt and output together.
    pub context_tokens_max: usize,
    /// Most tokens of a step.
    pub token_budget_tokens: usize,
    /// Most tokens of a prefill slice.
    pub prefill_slice_tokens: usize,
    /// Most sequences that run at once, and so most slices of a step. Never more run than the token
    /// budget has tokens, so that every sequence that decodes has its token in every step.
    pub running_max_count: usize,
    /// Most sequences that wait; the next one is rejected.
    pub waiting_max_count: usize,
    /// Most prompt tokens that wait together; the next sequence is rejected, unless none waits.
    pub waiting_max_tokens: usize,
    /// How long the first waiting prompt may be held so that others join its step; zero never
    /// holds. Sequences that run go on meanwhile. Counted from its arrival; over at once when
    /// no other could join.
    pub prefill_window_micros: u64,
    /// How long a decode step may be held for sequences about to join; zero never holds. Counted
    /// from the commit before it. A sequence is about to join when the prefill window holds it,
    /// and lets it go before the decode window is over: without a prefill window nothing is
    /// ever about to join.
    pub decode_window_micros: u64,
    /// How long a sequence may wait for its first step before it is given up; zero waits for ever.
    /// One that has run and waits again is never given up: its reader has tokens already, and
    /// it is first in the queue.
    pub waiting_max_micros: u64,
    /// What a level of priority is worth: a sequence is served as if it had arrived so much later
    /// for each level; zero: priorities do not count.
    pub priority_micros: u64,
    /// Percent of what running answers are expected to grow by that an admission leaves free.
    pub growth_reserve_percent: usize,
    /// Most tokens of a step that are drafts, over all that decode; none if that is less than one
    /// for each of them.
    pub draft_budget_tokens: usize,
    /// Most drafts of a slice, by the engine; zero: it verifies none.
    pub slice_drafts_max: usize,
    /// Whether the engine copies blocks.
    pub copies_blocks: bool,
    /// How long a step should take at most in which sequences decode, as far as that is a matter of
    /// what is prefilled beside them; zero: however long it takes.
    pub itl_target_micros: u64,
    /// The key under which filled blocks are kept for prompts that begin the same; `None` keeps
    /// none.
    pub prefix_cache: Option<HashKey>,
}

impl Default for SchedulerLimits {
    /// Nothing is held, given up or kept, and no count is bounded. What an engine has is zero, and
    /// is to be named: the scheduler refuses to begin without.
    fn default() -> Self {
        Self {
            block_tokens: 0,
            global_blocks: 0,
            sliding_blocks: 0,
            sliding_window_tokens: 0,
            context_tokens_max: 0,
            token_budget_tokens: usize::MAX,
            prefill_slice_tokens: usize::MAX,
            running_max_count: usize::MAX,
            waiting_max_count: usize::MAX,
            waiting_max_tokens: usize::MAX,
            prefill_window_micros: 0,
            decode_window_micros: 0,
            waiting_max_micros: 0,
            priority_micros: 0,
            growth_reserve_percent: 0,
            draft_budget_tokens: 0,
            slice_drafts_max: 0,
            copies_blocks: false,
            itl_target_micros: 0,
            prefix_cache: None,
        }
    }
}

impl SchedulerLimits {
    /// These limits, as far as an engine can: what it has is named, what it cannot is cut.
    ///
    /// The context is the model's, or what the KV memory has room for if that is less: then a
    /// request that leaves `max_tokens` open gets as many as fit.
    #[must_use]
    pub fn within(self, engine: &EngineLimits) -> Self {
        let token_budget_tokens = self.token_budget_tokens.min(engine.step_tokens_max);
        Self {
            block_tokens: engine.block_tokens,
            global_blocks: engine.global_blocks,
            sliding_blocks: engine.sliding_blocks,
            sliding_window_tokens: engine.sliding_window_tokens,
            context_tokens_max: engine.context_tokens_max.min(engine.global_blocks * engine.block_tokens),
            token_budget_tokens,
            prefill_slice_tokens: self.prefill_slice_tokens.min(token_budget_tokens),
            running_max_count: self.running_max_count.min(engine.step_slices_max),
            copies_blocks: engine.copies_blocks,
            ..self
        }
    }

    /// Most sequences that run at once, within both limits.
    pub(super) fn running_max(&self) -> usize {
        self.running_max_count.min(self.token_budget_tokens)
    }

    /// Panics if nothing could ever run, or nothing could ever be taken.
    pub(super) fn check(&self) {
        assert!(self.block_tokens > 0, "a block that holds no token");
        assert!(self.global_blocks > 0 && self.sliding_blocks > 0, "a group without a block");
        assert!(self.sliding_window_tokens > 0, "a sliding window that does not hold the token itself");
        assert!(self.token_budget_tokens > 0 && self.prefill_slice_tokens > 0, "a step without a token");
        assert!(self.running_max_count > 0, "no sequence may run");
        assert!(self.waiting_max_count > 0, "no sequence may wait, and every sequence waits before it runs");
    }
}
