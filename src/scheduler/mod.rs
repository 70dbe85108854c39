//! Which sequences run in the next step, and which blocks hold their keys and values.
//!
//! Owns: every sequence, every block. Promises: a block is free or in use, never both; the same calls give the same plans.
//! Absent on purpose: clocks, randomness, threads, device errors. Time comes in as `now`.

use std::sync::Arc;

use crate::batch::{Batch, Micros, PositionLogprobs, Sampling, SeqId, StepResult, TokenId};

/// What the scheduler may use: the engine's limits and the profile's choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Tokens in a KV block.
    pub block_tokens: usize,
    /// Blocks for full-attention layers.
    pub full_blocks: usize,
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
    /// Most sequences that run at once, and so most slices of a step.
    pub running_max_count: usize,
    /// Most sequences that wait; the next one is rejected.
    pub waiting_max_count: usize,
    /// Most prompt tokens that wait together; the next sequence is rejected, unless none waits.
    pub waiting_max_tokens: usize,
    /// How long the first waiting prompt may be held so that others join its step; zero never holds.
    pub prefill_window_micros: u64,
    /// How long a decode step may be held for sequences about to join; zero never holds.
    pub decode_window_micros: u64,
    /// How long a sequence may wait before it is given up; zero waits for ever.
    pub waiting_max_micros: u64,
}

/// A sequence as it is handed in.
#[derive(Debug, Clone)]
pub struct NewSequence {
    /// The prompt; not empty.
    pub prompt: Vec<TokenId>,
    /// Most tokens to generate; at least one.
    pub max_tokens: u32,
    /// How to draw them. Its stop tokens end the sequence, and are not reported as tokens.
    pub sampling: Arc<Sampling>,
}

/// Why a sequence was not taken. The client must act: shorten, or come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// A prompt must hold at least one token.
    EmptyPrompt,
    /// At least one token must be asked for.
    NoTokensAsked,
    /// Prompt and output together exceed the context.
    ContextExceeded {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// Most tokens of a sequence.
        context_tokens_max: usize,
    },
    /// It would never fit, even alone.
    NeverFits {
        /// Blocks that it would need.
        needed_blocks: usize,
        /// Blocks that there are.
        total_blocks: usize,
    },
    /// Too many sequences wait.
    QueueFull {
        /// How many wait.
        waiting_count: usize,
        /// Prompt tokens that wait.
        waiting_tokens: usize,
    },
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was drawn (which one).
    Stop(TokenId),
    /// The tokens asked for are generated.
    Length,
    /// It was cancelled.
    Cancelled,
    /// It waited longer than the queue allows.
    QueueTimeout,
    /// The engine failed whenever this sequence ran, alone in the end.
    EngineFailed,
    /// Its logits were not finite.
    NotFinite,
}

/// Something that happened to a sequence in a commit or a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is computed and the log-probabilities of its tokens (from the second on) are known; only if asked for.
    PromptLogprobs {
        /// The sequence.
        seq: SeqId,
        /// One for each prompt token but the first.
        logprobs: Vec<PositionLogprobs>,
    },
    /// A token was generated.
    Token {
        /// The sequence.
        seq: SeqId,
        /// The token; never a stop token, unless the sequence has none.
        token: TokenId,
        /// Its log-probabilities, if asked for.
        logprobs: Option<PositionLogprobs>,
    },
    /// The sequence ended; the last event of it, exactly one. A stop token that ended it is inside the reason.
    Finished {
        /// The sequence.
        seq: SeqId,
        /// Why.
        reason: FinishReason,
        /// The ending stop token's log-probabilities, if asked for.
        logprobs: Option<PositionLogprobs>,
    },
}

/// What to do next.
#[derive(Debug)]
pub enum Plan<'a> {
    /// Compute this, then commit its result.
    Step(&'a Batch),
    /// Nothing to compute until `until`, or until something is submitted if it is `None`.
    Idle {
        /// When to plan again at the latest.
        until: Option<Micros>,
    },
}

/// Counts for metrics and /stats; all derived from the sequences and blocks themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerCounts {
    /// Sequences that wait.
    pub waiting_count: usize,
    /// Prompt tokens that wait.
    pub waiting_tokens: usize,
    /// Sequences that run and are still being prefilled.
    pub prefill_count: usize,
    /// Sequences that run and decode.
    pub decode_count: usize,
    /// Blocks of both groups.
    pub blocks_total: usize,
    /// Blocks of both groups that nobody holds.
    pub blocks_free: usize,
    /// Blocks of both groups that only the prefix cache holds.
    pub blocks_cached: usize,
    /// Blocks of both groups that sequences hold.
    pub blocks_in_use: usize,
    /// How often a running sequence gave its blocks back, since the start.
    pub preemptions_total: u64,
    /// Steps committed since the start.
    pub steps_total: u64,
    /// Prompt tokens computed since the start (recomputed ones included).
    pub prefill_tokens_total: u64,
    /// Tokens generated since the start.
    pub decode_tokens_total: u64,
}

/// The scheduler core.
#[derive(Debug)]
pub struct Scheduler {}

impl Scheduler {
    /// A scheduler with no sequence and every block free.
    #[must_use]
    pub fn new(_limits: SchedulerLimits) -> Self {
        Self {}
    }

    /// Takes a sequence, or says at once why not.
    ///
    /// # Errors
    /// [`Reject`] if it can never run or the queue is full.
    pub fn submit(&mut self, _sequence: NewSequence, _now: Micros) -> Result<SeqId, Reject> {
        todo!()
    }

    /// Takes all sequences of a request, or none.
    ///
    /// # Errors
    /// As [`Scheduler::submit`]; then nothing was taken.
    pub fn submit_all(&mut self, _sequences: Vec<NewSequence>, _now: Micros) -> Result<Vec<SeqId>, Reject> {
        todo!()
    }

    /// Ends a sequence; its blocks are free when this returns. Unknown and finished ones are ignored; no event follows.
    /// May be called while a step computes: the step's report of it is then dropped.
    pub fn cancel(&mut self, _seq: SeqId) {
        todo!()
    }

    /// What to compute next; `events` receives what ended without a step (queue timeouts).
    pub fn plan(&mut self, _now: Micros, _events: &mut Vec<Event>) -> Plan<'_> {
        todo!()
    }

    /// Takes the result of the step planned last.
    pub fn commit(&mut self, _result: StepResult, _now: Micros, _events: &mut Vec<Event>) {
        todo!()
    }

    /// Counts for metrics.
    #[must_use]
    pub fn counts(&self) -> SchedulerCounts {
        todo!()
    }
}
