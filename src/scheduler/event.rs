//! What the core tells of sequences.

use super::reuse::Miss;
use crate::batch::{PositionLogprobs, SeqId, TokenId};

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was drawn (which one).
    Stop(TokenId),
    /// The tokens asked for are generated.
    Length,
    /// It was cancelled. For the layer that tells a reader so: the core reports no event of a
    /// cancelled sequence.
    Cancelled,
    /// It waited longer than the queue allows.
    QueueTimeout,
    /// The engine failed whenever this sequence ran, alone in the end.
    EngineFailed,
    /// Its logits were not finite.
    NotFinite,
    /// Its masks allowed no token.
    NothingAllowed,
    /// Another sequence of its request failed, for the reason that is reported there.
    RequestFailed,
}

impl FinishReason {
    /// Whether the sequence failed, and its request with it.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::Stop(_) | Self::Length | Self::Cancelled => false,
            Self::QueueTimeout | Self::EngineFailed | Self::NotFinite | Self::NothingAllowed | Self::RequestFailed => true,
        }
    }
}

/// Something that happened to a sequence in a commit or a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum SequenceEvent {
    /// A later sequence of a request enters the queue; the first event of it.
    Entered {
        /// The request, by the id of its first sequence.
        request: SeqId,
        /// Which of the request's sequences it is, counted from zero.
        index: usize,
        /// The sequence, from now on.
        seq: SeqId,
    },
    /// The sequence runs for the first time.
    Began {
        /// The sequence.
        seq: SeqId,
        /// Tokens of its prompt.
        prompt_tokens: usize,
        /// Those of them, from the first on, that were found computed.
        cached_tokens: usize,
        /// Those of the others that a cache with everything would have had.
        missed_tokens: usize,
        /// Why none were found; also `None` if prefixes are not kept.
        miss: Option<Miss>,
        /// How long the prefill window held it, in microseconds, of the time that it waited.
        held_micros: u64,
    },
    /// It gave its blocks back and waits again: for want of blocks, or because the engine lost
    /// them.
    SentBack {
        /// The sequence.
        seq: SeqId,
    },
    /// It runs again.
    Resumed {
        /// The sequence.
        seq: SeqId,
    },
    /// The prompt is computed and the log-probabilities of its tokens (from the second on) are
    /// known; only if asked for.
    PromptLogprobs {
        /// The sequence.
        seq: SeqId,
        /// One for each prompt token but the first.
        logprobs: Vec<PositionLogprobs>,
    },
    /// Drafts of the sequence were verified; the tokens of those that were right follow, and one
    /// more.
    Drafted {
        /// The sequence.
        seq: SeqId,
        /// How many.
        draft_tokens: usize,
        /// How many of them, from the first on, were right.
        accepted_tokens: usize,
    },
    /// A token was generated.
    Token {
        /// The sequence.
        seq: SeqId,
        /// The token; never a stop token, unless the sequence has none.
        token: TokenId,
        /// Its log-probabilities, if asked for.
        logprobs: Option<Box<PositionLogprobs>>,
    },
    /// The sequence ended; the last event of it, exactly one. A stop token that ended it is inside
    /// the reason.
    Finished {
        /// The sequence.
        seq: SeqId,
        /// Why.
        reason: FinishReason,
        /// The ending stop token's log-probabilities, if asked for.
        logprobs: Option<Box<PositionLogprobs>>,
    },
}
