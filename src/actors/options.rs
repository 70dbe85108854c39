//! What the actors are started with.

use std::sync::Arc;
use std::time::Duration;

use crate::actors::snapshot::ModelLimits;
use crate::batch::EngineLimits;
use crate::clock::Clock;
use crate::engine::EngineFactory;
use crate::engine::kv_store::KvStoreOptions;
use crate::metrics::Metrics;
use crate::prompt::builder::PromptBuilder;
use crate::prompt::tokenizer::Tokenizer;
use crate::scheduler::{HashKey, SchedulerLimits};

/// Everything that the actors need. `app` fills it from the command line and the profile.
pub struct StartOptions {
    /// Makes the engine, and makes it again after it died.
    pub engine: EngineFactory,
    /// Builds prompts of conversations.
    pub builder: Arc<PromptBuilder>,
    /// Tokenizes everything else, and turns tokens back into text.
    pub tokenizer: Arc<Tokenizer>,
    /// Counts what happens.
    pub metrics: Metrics,
    /// The server's clock.
    pub clock: Clock,
    /// How steps are filled, and what may wait.
    pub scheduling: SchedulingOptions,
    /// Where blocks go that KV memory has no room for; `None`: nowhere. Only with a prefix cache.
    pub kv_store: Option<KvStoreOptions>,
    /// The date that the model is told (`2025-11-22`); `None`: today's, where the machine is.
    pub date: Option<String>,
    /// Whether the headers of every chat's answer are held to what harmony allows.
    pub header_grammar: bool,
    /// Threads of text work; at least one.
    pub text_threads: usize,
    /// Most requests whose text work waits or runs; the next one is refused.
    pub preparing_max_count: usize,
    /// Threads of streams; at least one.
    pub stream_threads: usize,
    /// A reader that takes nothing for so long is cut off.
    pub slow_reader: Duration,
    /// What bodies, prompts and answers may hold in memory, all together.
    pub memory_budget_bytes: u64,
    /// The engine counts as stuck if it does not answer for so long, or for ten times its longest
    /// step if that is more.
    pub watchdog: Duration,
}

impl std::fmt::Debug for StartOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartOptions").field("scheduling", &self.scheduling).finish_non_exhaustive()
    }
}

/// How steps are filled, and what may wait: the profile's share of [`SchedulerLimits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulingOptions {
    /// Most tokens of a step.
    pub token_budget_tokens: usize,
    /// Most tokens of a prefill slice.
    pub prefill_slice_tokens: usize,
    /// Most sequences that run at once.
    pub running_max_count: usize,
    /// Most sequences that wait.
    pub waiting_max_count: usize,
    /// Most prompt tokens that wait together.
    pub waiting_max_tokens: usize,
    /// How long the first waiting prompt may be held so that others join its step; zero never
    /// holds.
    pub prefill_window: Duration,
    /// How long a decode step may be held for sequences about to join; zero never holds.
    pub decode_window: Duration,
    /// How long a sequence may wait before it is given up; zero waits for ever.
    pub waiting_max: Duration,
    /// How much earlier an arrival a level of priority is worth; zero: priorities do not count.
    pub priority_level: Duration,
    /// Percent of what running answers are expected to grow by that an admission leaves free.
    pub growth_reserve_percent: usize,
    /// Most tokens of a step that are guessed; zero: none.
    pub draft_budget_tokens: usize,
    /// How long a step should take in which answers go on beside prompts; zero: however long.
    pub itl_target: Duration,
    /// Whether what prompts have in common with earlier ones is kept and found computed.
    pub prefix_cache: bool,
}

impl Default for SchedulingOptions {
    /// As much as the engine can; nothing is held, given up or kept.
    fn default() -> Self {
        Self {
            token_budget_tokens: usize::MAX,
            prefill_slice_tokens: usize::MAX,
            running_max_count: usize::MAX,
            waiting_max_count: usize::MAX,
            waiting_max_tokens: usize::MAX,
            prefill_window: Duration::ZERO,
            decode_window: Duration::ZERO,
            waiting_max: Duration::ZERO,
            priority_level: Duration::ZERO,
            growth_reserve_percent: 0,
            draft_budget_tokens: 0,
            itl_target: Duration::ZERO,
            prefix_cache: false,
        }
    }
}

impl SchedulingOptions {
    /// What the core may use: these options, as far as the engine can.
    #[must_use]
    pub(super) fn core_limits(&self, engine: &EngineLimits) -> SchedulerLimits {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let limits = SchedulerLimits {
            token_budget_tokens: self.token_budget_tokens,
            prefill_slice_tokens: self.prefill_slice_tokens,
            running_max_count: self.running_max_count,
            waiting_max_count: self.waiting_max_count,
            waiting_max_tokens: self.waiting_max_tokens,
            prefill_window_micros: micros(self.prefill_window),
            decode_window_micros: micros(self.decode_window),
            waiting_max_micros: micros(self.waiting_max),
            priority_micros: micros(self.priority_level),
            growth_reserve_percent: self.growth_reserve_percent,
            draft_budget_tokens: self.draft_budget_tokens,
            slice_drafts_max: engine.slice_drafts_max,
            itl_target_micros: micros(self.itl_target),
            prefix_cache: self.prefix_cache.then(hash_key),
            ..SchedulerLimits::default()
        };
        limits.within(engine)
    }

    /// What clients may ask for.
    #[must_use]
    pub(super) fn model_limits(&self, engine: &EngineLimits) -> ModelLimits {
        let core = self.core_limits(engine);
        ModelLimits {
            context_tokens_max: core.context_tokens_max,
            vocab_size: engine.vocab_size,
            block_tokens: core.block_tokens,
            step_tokens_max: core.token_budget_tokens,
            running_max_count: core.running_max_count,
            kv_bytes: engine.global_blocks * engine.global_block_bytes + engine.sliding_blocks * engine.sliding_block_bytes,
        }
    }
}

/// A key that is not known outside.
pub(super) fn hash_key() -> HashKey {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    HashKey([high, low])
}
