//! What the server is doing now, as http and metrics read it: copied from atomics and the registry,
//! never asked of an actor.

use crate::actors::messages::KeyId;
use crate::batch::{BlockUse, Micros, StepWork};
use crate::metrics::RequestOutcome;
pub use crate::prompt::builder::BuilderCounts;
pub use crate::scheduler::{
    BlockMap, DraftCounts, OffloadCounts, PrefixCounts, SchedulerCounts, SchedulerView, SequenceView, ViewSize,
};

/// What the engine is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// It is being built for the first time.
    Loading,
    /// It computes.
    Ready,
    /// It failed and is being rebuilt; sequences wait.
    Restarting,
    /// It failed for good; the process ends with code 70.
    Dead,
}

impl EngineState {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Restarting => "restarting",
            Self::Dead => "dead",
        }
    }
}

/// How far a live request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its prompt is being rendered and tokenized, or waits for that.
    Building,
    /// The scheduler took it; none of its tokens were computed yet.
    Queued,
    /// Its prompt is being computed.
    Prefill,
    /// It generates.
    Decode,
    /// All its tokens are generated; its reader has not taken everything yet.
    Sending,
}

impl Phase {
    /// Every phase, in the order in which a request goes through them.
    pub const ALL: [Self; 5] = [Self::Building, Self::Queued, Self::Prefill, Self::Decode, Self::Sending];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Queued => "queued",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Sending => "sending",
        }
    }
}

/// When what happened to a request, in microseconds since it was received; `None` for what has not
/// happened, or did not need to. Of several choices the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeline {
    /// When it was received, by the server's clock.
    pub received: Micros,
    /// The scheduler took it.
    pub queued_micros: Option<u64>,
    /// The engine was given a step with the first of its prompt.
    pub prefill_micros: Option<u64>,
    /// Its first token was generated.
    pub decode_micros: Option<u64>,
    /// Its first text was handed to its reader.
    pub first_text_micros: Option<u64>,
    /// Its last token was generated.
    pub sending_micros: Option<u64>,
}

/// Where the time to a request's first text went, in microseconds. The parts add up to that time,
/// or to the request's age while there is no text. Of several choices the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FirstTextParts {
    /// Its prompt was rendered and tokenized, or waited for that.
    pub building_micros: u64,
    /// It waited in the scheduler's queue for a place, tokens or blocks.
    pub queued_micros: u64,
    /// The prefill window held it for others.
    pub window_micros: u64,
    /// Its prompt was computed, or waited between its slices.
    pub prefill_micros: u64,
    /// The share of that which a prefix cache with everything would have saved.
    pub cache_miss_micros: u64,
    /// It had been sent back to the queue: for want of blocks, or because the engine was rebuilt.
    pub preempted_micros: u64,
    /// It had tokens that were no text yet, or were held for others.
    pub decode_micros: u64,
    /// Slices in which its prompt was computed.
    pub slices_count: u32,
    /// Tokens of its prompt that were found computed.
    pub cached_tokens: u64,
}

impl FirstTextParts {
    /// All of it.
    #[must_use]
    pub fn sum_micros(&self) -> u64 {
        let waited = self.building_micros + self.queued_micros + self.window_micros + self.preempted_micros;
        waited + self.prefill_micros + self.cache_miss_micros + self.decode_micros
    }
}

/// What a step held, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepTrace {
    /// Which step of those recorded it is, counted from one.
    pub number: u64,
    /// When it was planned.
    pub planned: Micros,
    /// Whether that was while the step before was computed.
    pub is_ahead: bool,
    /// When the engine began it: given it, or done with the step before.
    pub began: Micros,
    /// When its result was taken.
    pub ended: Micros,
    /// It failed.
    pub is_lost: bool,
    /// What it computed.
    pub work: StepWork,
    /// Tokens that it drew for sequences that still wanted them.
    pub drawn_count: usize,
    /// Tokens that were guessed for it.
    pub draft_tokens: u32,
    /// Those of them that were right.
    pub accepted_draft_tokens: u32,
    /// Sequences that were being prefilled once it was planned.
    pub prefilling_count: usize,
    /// Sequences that decoded.
    pub decoding_count: usize,
    /// Sequences that waited.
    pub waiting_count: usize,
    /// The blocks of both groups.
    pub blocks: BlockUse,
    /// Sequences that gave their blocks back for it.
    pub preemptions_count: u64,
    /// Tokens of prompts that were found computed when it was planned.
    pub cached_tokens: u64,
    /// The first of its slices of prompts.
    pub slices: Vec<PromptSlice>,
}

/// A slice of a request's prompt, or of what a request that was sent back has to compute again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSlice {
    /// The request.
    pub request_id: String,
    /// The position of its first token.
    pub start: usize,
    /// Its tokens.
    pub tokens: usize,
}

/// A request that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRequest {
    /// Its id.
    pub request_id: String,
    /// The key that it came with.
    pub owner: KeyId,
    /// How far it is; the furthest of its choices counts.
    pub phase: Phase,
    /// Since it was received, in microseconds.
    pub age_micros: u64,
    /// Tokens of its prompt; zero while it is being built.
    pub prompt_tokens: usize,
    /// Tokens generated so far, all choices together.
    pub completion_tokens: u64,
    /// Tokens that were guessed for it before they were drawn.
    pub draft_tokens: u64,
    /// Those of them that were right.
    pub accepted_draft_tokens: u64,
    /// The conversation that it belongs to.
    pub session: Option<String>,
    /// What happened to it so far.
    pub timeline: Timeline,
    /// Where the time to its first text went, or goes.
    pub first_text: FirstTextParts,
}

/// A request that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedRequest {
    /// What it was when it ended; its age is what it took.
    pub request: LiveRequest,
    /// How it ended; `None` if it was refused, or its client left before it was decided.
    pub outcome: Option<RequestOutcome>,
}

/// What the scheduler looks like at one moment, by requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchedulerLook {
    /// The core's view.
    pub view: SchedulerView,
    /// Whose each entry of the view's `running` is.
    pub running: Vec<Owner>,
    /// Whose each entry of the view's `waiting` is.
    pub waiting: Vec<Owner>,
}

/// Whose a sequence is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// The request's id; empty for a sequence whose request was just given up.
    pub request_id: String,
    /// The key that the request came with.
    pub key: KeyId,
    /// Which of its choices.
    pub choice: u32,
}

/// What the model and its engine can take; fixed once the engine is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelLimits {
    /// Most tokens of a sequence, prompt and output together.
    pub context_tokens_max: usize,
    /// Rows of the vocabulary.
    pub vocab_size: usize,
    /// Tokens in a KV block.
    pub block_tokens: usize,
    /// Most tokens of a step.
    pub step_tokens_max: usize,
    /// Most sequences that run at once.
    pub running_max_count: usize,
    /// Bytes of all KV blocks of both groups.
    pub kv_bytes: usize,
}

/// The server at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// What the engine is good for.
    pub engine: EngineState,
    /// Requests belong elsewhere: no new one is taken any more, or soon.
    pub draining: bool,
    /// Since the scheduler last showed that it makes progress, in milliseconds: while a step
    /// computes this grows, while nothing is to be done it stays below two seconds.
    pub heartbeat_age_ms: u64,
    /// The heartbeat is younger than the watchdog's limit and the engine is not dead:
    /// `/health/live`.
    pub alive: bool,
    /// The engine is ready, the server alive and not draining: `/health/ready`.
    pub ready: bool,
    /// The scheduler's counts after its last step, submit or cancel.
    pub scheduler: SchedulerCounts,
    /// KV memory that sequences hold, in bytes: their share of all blocks, as if a block of either
    /// group weighed the same.
    pub kv_in_use_bytes: u64,
    /// Requests that have not ended, in any phase.
    pub requests_active: usize,
    /// Of these, responses that the scheduler took: their stream is open.
    pub streams_active: usize,
    /// Requests whose text work waits or runs.
    pub building_count: usize,
    /// Distinct sessions with a live request, or with one that ended in the last five minutes.
    pub sessions_active: usize,
    /// What bodies, prompts and answers may hold in memory.
    pub memory_budget_bytes: u64,
    /// What of it is reserved.
    pub memory_reserved_bytes: u64,
    /// Engines rebuilt since the start.
    pub engine_restarts_total: u64,
    /// Tokens generated and computed a second, observed over the last seconds; zero before the
    /// first step.
    pub step_tokens_per_second: f64,
    /// The prompt builder and its cache.
    pub prompts: BuilderCounts,
}
