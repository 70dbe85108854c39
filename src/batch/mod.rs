//! The contract between scheduler and engine: what one step computes, and what comes back.
//!
//! A step is stateless from the engine's side: the batch says which tokens of which sequences to
//! compute, where their keys and values lie, and how to draw the next token. The engine keeps
//! weights and KV memory, and what the step before drew while that may be awaited, never a
//! sequence. So a rebuilt engine can go on with any sequence once its tokens have been prefilled
//! again.
//!
//! Absent on purpose: text, wire shapes, time.

mod copies;
mod work;

use std::ops::Range;
use std::sync::Arc;

pub use copies::{Fetch, KvCopies, Restore, Spill, StoredBlock};
pub use work::StepWork;

/// A point in time, in microseconds since the server's clock was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// The time `micros` later.
    #[must_use]
    pub const fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A row of the model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

/// A sequence: one prompt and the tokens generated after it. Never used twice in a server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// A block of KV memory within its [`KvGroup`]; the two groups count from zero each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// The two groups of layers, each with blocks of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KvGroup {
    /// Layers that see every earlier token.
    Global,
    /// Layers that see the last `sliding_window` tokens, the token itself included.
    Sliding,
}

/// How the KV blocks of a group are used, or of both groups together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockUse {
    /// All there are.
    pub total_count: usize,
    /// Those that hold nothing.
    pub free_count: usize,
    /// Those that only the prefix cache holds.
    pub cached_count: usize,
}

impl BlockUse {
    /// Those that sequences hold.
    #[must_use]
    pub fn in_use_count(&self) -> usize {
        self.total_count - self.free_count - self.cached_count
    }

    /// The share of all that sequences hold, 0 to 1; 0 of none.
    #[must_use]
    pub fn in_use_share(&self) -> f64 {
        self.in_use_count() as f64 / self.total_count.max(1) as f64
    }

    /// The blocks of two groups together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            total_count: self.total_count + other.total_count,
            free_count: self.free_count + other.free_count,
            cached_count: self.cached_count + other.cached_count,
        }
    }
}

/// How the next token of a sequence is drawn from its logits.
///
/// The order is fixed, for every engine. First logits change: logit bias, repetition penalty,
/// presence and frequency penalty. Then tokens are masked that `masks` does not allow, and stop
/// tokens while `min_tokens` is not reached (unless `masks` allows nothing else). Temperature,
/// top-k, top-p, min-p and the draw follow. The draw uses a counter-based generator keyed by `seed`
/// and the index of the generated token, so that neither batching nor preemption changes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Zero is greedy: the largest logit, the lowest id among equals.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this, in (0, 1]; one keeps all.
    pub top_p: f32,
    /// Keep this many tokens; zero keeps all.
    pub top_k: u32,
    /// Keep tokens at least this share of the likeliest one's probability; zero keeps all.
    pub min_p: f32,
    /// Key of the draw.
    pub seed: u64,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; one is
    /// none.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token generated so far.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token for each time it was generated so far.
    pub frequency_penalty: f32,
    /// Added to logits.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Tokens that end the sequence; masked until `min_tokens` are generated.
    pub stop_tokens: Vec<TokenId>,
    /// The sequence may not end by a stop token before this many generated tokens.
    pub min_tokens: u32,
    /// How many of the likeliest tokens to report with their log-probability; `None` reports
    /// nothing, `Some(0)` the drawn token alone. Log-probabilities are those of the model,
    /// before penalties, temperature and masks.
    pub logprobs: Option<u32>,
    /// Also report log-probabilities of the prompt's tokens (for `echo`).
    pub prompt_logprobs: bool,
    /// Which tokens may be drawn, token by token; `None` allows all.
    pub masks: Option<Masks>,
}

impl Default for Sampling {
    /// Greedy, with nothing masked and nothing reported.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: 0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            stop_tokens: Vec::new(),
            min_tokens: 0,
            logprobs: None,
            prompt_logprobs: false,
            masks: None,
        }
    }
}

impl Sampling {
    /// Whether drawing needs the tokens that came before: only then does a slice carry its history.
    #[must_use]
    pub fn needs_history(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Which tokens draw `index` may give; waits until that is known.
    #[must_use]
    pub fn allowed(&self, index: u32) -> Allowed {
        self.masks.as_ref().map_or(Allowed::All, |masks| masks.0.allowed(index))
    }

    /// Whether draw `index` may not give a stop token, because `min_tokens` is not reached. Where
    /// `allowed` has no other token it may: a text that is complete can only end.
    #[must_use]
    pub fn masks_stops(&self, index: u32, allowed: &Allowed) -> bool {
        let goes_on = |token: u32| !self.stop_tokens.contains(&TokenId(token));
        let has = |(word, bits): (u32, &u32)| (0..u32::BITS).any(|bit| bits >> bit & 1 == 1 && goes_on(u32::BITS * word + bit));
        index < self.min_tokens
            && match allowed {
                Allowed::All | Allowed::Except(_) | Allowed::Nothing => true,
                Allowed::Only(words) => (0..).zip(words.iter()).any(has),
            }
    }
}

/// Which tokens a draw may give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Every token.
    All,
    /// Token `i` if bit `i % 32` of word `i / 32` is set; no token beyond the last word.
    Only(Arc<[u32]>),
    /// Every token but these few.
    Except(Arc<[TokenId]>),
    /// None: the draw fails with [`DrawError::NothingAllowed`].
    Nothing,
}

impl Allowed {
    /// Whether it has `token`.
    #[must_use]
    pub fn has(&self, token: TokenId) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Except(tokens) => !tokens.contains(&token),
            Self::Only(words) => {
                words.get((token.0 / u32::BITS) as usize).is_some_and(|word| word >> (token.0 % u32::BITS) & 1 == 1)
            }
        }
    }
}

/// Until which draw the mask stays the same, unless one of some tokens is drawn. Draws before it
/// are not told to the masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskOutlook {
    /// The first draw that may not be so.
    pub until: u32,
    /// Tokens that change it at once: those whose id modulo 64 is a bit that is set here.
    pub changed_by: u64,
}

impl MaskOutlook {
    /// Of a sequence without masks: nothing ever changes.
    pub const FREE: Self = Self { until: u32::MAX, changed_by: 0 };
    /// Each mask follows from the token before.
    pub const NEXT: Self = Self { until: 0, changed_by: 0 };

    /// The bit of `token` in [`MaskOutlook::changed_by`].
    #[must_use]
    pub const fn bit(token: TokenId) -> u64 {
        1 << (token.0 % u64::BITS)
    }

    /// Whether draw `index` may give what the one before may, unless a token changes it.
    #[must_use]
    pub const fn covers(&self, index: u32) -> bool {
        index < self.until
    }

    /// Whether draw `index`, which gave `token`, has to be told.
    #[must_use]
    pub const fn heeds(&self, index: u32, token: TokenId) -> bool {
        index.saturating_add(1) >= self.until && self.until < u32::MAX || self.changed_by & Self::bit(token) != 0
    }
}

/// Says which tokens a sequence may draw. A mask follows from the tokens drawn before it, so that
/// it may be computed beside the engine, as soon as a step is committed. It belongs to the draw's
/// index, so that a step that is computed again gets it again.
pub trait TokenMasks: std::fmt::Debug + Send + Sync {
    /// Draw `index` gave `token`: told by the scheduler, in order, once for each draw that the
    /// outlook heeds. Returns at once.
    fn drawn(&self, index: u32, token: TokenId);

    /// How far what was told last reaches. Where draws go on as they were after one that was told,
    /// they have the mask from before it.
    fn outlook(&self) -> MaskOutlook {
        MaskOutlook::NEXT
    }

    /// What draw `index` may give, all draws before it being told, or being covered by the outlook:
    /// asked by the engine when it has the logits, or before them. Waits until it is known, at most
    /// for a time that the implementation bounds. The mask of a void draw is not used: it is drawn
    /// again.
    fn allowed(&self, index: u32) -> Allowed;
}

/// The masks of one sequence.
#[derive(Debug, Clone)]
pub struct Masks(pub Arc<dyn TokenMasks>);

impl PartialEq for Masks {
    /// Whether both are the same sequence's.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a slice asks for once its last token is computed.
#[derive(Debug, Clone)]
pub struct Draw {
    /// How to draw.
    pub sampling: Arc<Sampling>,
    /// How many tokens the sequence has generated before this one: the counter of the draw.
    pub generated_count: u32,
    /// All tokens of the sequence so far, prompt first; empty unless [`Sampling::needs_history`].
    pub history: Vec<TokenId>,
    /// Where the generated tokens begin in `history`.
    pub history_prompt_len: usize,
}

impl Draw {
    /// The same for the token that is drawn so many draws later.
    ///
    /// # Panics
    /// If it needs a history: what is drawn in between is not in it.
    #[must_use]
    pub fn later(&self, draws_count: usize) -> Self {
        assert!(!self.sampling.needs_history() || draws_count == 0, "a draw with a history follows from the draw before it");
        let later = u32::try_from(draws_count).expect("a slice has a few drafts");
        Self { generated_count: self.generated_count + later, ..self.clone() }
    }
}

/// A sequence's share of a step: consecutive tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Whose tokens these are.
    pub seq: SeqId,
    /// Where they stand in [`Batch::tokens`].
    pub tokens: Range<usize>,
    /// Position in the sequence of the first of them; everything before is computed.
    pub start: usize,
    /// The sequence's block table for full-attention layers, in [`Batch::global_blocks`]: entry `i`
    /// holds positions `i * block_tokens ..`. Covers every position up to the slice's end.
    pub global_blocks: Range<usize>,
    /// The same for sliding-window layers, in [`Batch::sliding_blocks`]; entry 0 is logical block
    /// `sliding_first`. Blocks that no token of the slice can see are not in the table.
    pub sliding_blocks: Range<usize>,
    /// Logical index of the first entry of the sliding block table.
    pub sliding_first: usize,
    /// Draw a token after the slice's last position; `None` for a slice that does not reach the
    /// sequence's end.
    pub draw: Option<Draw>,
    /// How many of its last tokens are drafts: guesses at what is drawn. A token is drawn after
    /// each of the tokens from the one before them on, as if the guesses before it were right; zero
    /// unless it draws. A draw with a history has none, and one with masks no more than have the
    /// mask from before them.
    pub drafts: usize,
    /// Report log-probabilities of prompt tokens that this slice predicts; `None` unless they are
    /// wanted.
    pub prompt_targets: Option<Box<PromptTargets>>,
}

/// Which prompt tokens' log-probabilities a slice reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTargets {
    /// Entry `i` is the token at `start + i + 1` of the sequence, predicted by the slice's token
    /// `i`: there is one for every token of the slice but the prompt's last.
    pub tokens: Vec<TokenId>,
    /// How many of the likeliest tokens to report at each position: [`Sampling::logprobs`], which a
    /// slice that does not draw does not carry.
    pub top_count: u32,
}

impl Slice {
    /// How many tokens the slice computes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the slice computes nothing; the scheduler never plans such a slice.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// One past the last position that the slice computes.
    #[must_use]
    pub fn end(&self) -> usize {
        self.start + self.tokens.len()
    }
}

/// The beginning of a block that is copied into another before anything of the step is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// Whose layers' keys and values.
    pub group: KvGroup,
    /// The block that holds them.
    pub from: BlockId,
    /// The block that gets them.
    pub to: BlockId,
    /// How many of its first tokens are to be copied at least; what stands behind them in `to`
    /// means nothing.
    pub tokens: usize,
}

/// What one step computes. Flat, so that it is filled again and again without allocating.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Tokens of all slices, one slice after another.
    pub tokens: Vec<TokenId>,
    /// The slices, decode slices first.
    pub slices: Vec<Slice>,
    /// Block tables of all slices for full-attention layers.
    pub global_blocks: Vec<BlockId>,
    /// Block tables of all slices for sliding-window layers.
    pub sliding_blocks: Vec<BlockId>,
    /// Tokens that the step before still draws; none unless this one was planned while that one was
    /// computed.
    pub awaited: Vec<Awaited>,
    /// Blocks that are copied first, in this order; none unless [`EngineLimits::copies_blocks`].
    pub copies: Vec<BlockCopy>,
}

/// A token that the step before draws: the engine puts it in its place. A draw that fails gives
/// some token of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// Where it belongs in [`Batch::tokens`]; what stands there means nothing.
    pub token: usize,
    /// Which slice of the step before draws it.
    pub slice: usize,
}

/// The log-probability of a token, with its rank among all (1 is the likeliest).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm of its probability under the model.
    pub logprob: f32,
    /// Its rank.
    pub rank: u32,
}

/// Log-probabilities at one position: the token that stands there, and the likeliest ones.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionLogprobs {
    /// The token drawn, or the prompt's token.
    pub chosen: TokenLogprob,
    /// The likeliest tokens, likeliest first; as many as [`Sampling::logprobs`] says.
    pub top: Vec<TokenLogprob>,
}

/// Why a sequence got no token although the step succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrawError {
    /// Its logits hold NaN, or no finite value.
    NotFinite,
    /// Its [`Sampling::masks`] allow no token.
    NothingAllowed,
}

/// What a step reports of one slice: one for each slice that draws or reports prompt
/// log-probabilities, in batch order, and one more for each of its drafts.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The sequence.
    pub seq: SeqId,
    /// The drawn token; `None` for a slice that does not draw.
    pub token: Option<Result<TokenId, DrawError>>,
    /// Log-probabilities at the drawn token, if asked for; in a box, because few ask and all are
    /// moved.
    pub logprobs: Option<Box<PositionLogprobs>>,
    /// Log-probabilities of the prompt tokens `start + 1 ..`, if asked for.
    pub prompt_logprobs: Vec<PositionLogprobs>,
}

/// How a step ended.
#[derive(Debug, Clone)]
pub enum StepResult {
    /// Every slice was computed; the reports of those that draw.
    Done(Vec<Sampled>),
    /// The step failed and the engine lost its KV memory: nothing of any sequence is computed any
    /// more.
    Lost,
}

/// What an engine can hold and compute; fixed once it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// Tokens in a KV block, in both groups.
    pub block_tokens: usize,
    /// Blocks for full-attention layers.
    pub global_blocks: usize,
    /// Blocks for sliding-window layers.
    pub sliding_blocks: usize,
    /// How many tokens a sliding-window layer sees, the token itself included.
    pub sliding_window_tokens: usize,
    /// Most tokens of a step.
    pub step_tokens_max: usize,
    /// Most slices of a step.
    pub step_slices_max: usize,
    /// Most tokens of a sequence, prompt and output together.
    pub context_tokens_max: usize,
    /// Rows of the vocabulary.
    pub vocab_size: usize,
    /// Most drafts of a slice; zero if it verifies none.
    pub slice_drafts_max: usize,
    /// Whether it copies blocks.
    pub copies_blocks: bool,
    /// Most steps that may be under way: 2 if it takes the next one while it computes one, else 1.
    pub steps_max: usize,
    /// Bytes of one global block over all its layers, keys and values.
    pub global_block_bytes: usize,
    /// Bytes of one sliding block over all its layers, keys and values.
    pub sliding_block_bytes: usize,
}
