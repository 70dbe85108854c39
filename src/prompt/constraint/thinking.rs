//! How far the analysis of an answer may go.
//!
//! Two bounds end it: the tokens that the request gives it, and those of the answer that are kept
//! for what the reader gets. Either one closes the analysis, and the next message is the final one
//! or a call. Absent on purpose: which tokens close it (`held`, `answer`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::prompt::conversation::{ThinkingLimits, ThinkingStop};
use crate::prompt::tokenizer::Tokenizer;

/// Of the tokens of an answer so many are kept, if the request does not say: one in four.
const KEPT_SHARE: u32 = 4;
/// And no more than these: an answer of 400 words.
const KEPT_MAX_TOKENS: u32 = 512;

/// The bounds of one sequence, and what became of them.
#[derive(Debug, Clone)]
pub struct ThinkingBounds {
    /// Most tokens of analysis.
    max_tokens: u32,
    /// The draw from which on no analysis is said.
    until_draw: u32,
    /// Tokens of a header between two messages.
    header_tokens: u32,
    stop: Arc<AtomicU8>,
}

impl ThinkingBounds {
    /// No bounds.
    #[must_use]
    pub fn free() -> Self {
        Self { max_tokens: u32::MAX, until_draw: u32::MAX, header_tokens: 0, stop: Arc::default() }
    }

    /// Those of an answer of `answer_max_tokens`. `keeps` says whether some of them are kept though
    /// the request does not say how many.
    #[must_use]
    pub fn new(limits: ThinkingLimits, answer_max_tokens: u32, keeps: bool, tokenizer: &Tokenizer) -> Self {
        let tokens_of = |text: &str| u32::try_from(tokenizer.encode_text(text).len()).unwrap_or(u32::MAX);
        // `<|end|><|start|>assistant<|channel|>final<|message|>`.
        let header_tokens = 5 + tokens_of("assistant") + tokens_of("final");
        let unasked = if keeps { (answer_max_tokens / KEPT_SHARE).min(KEPT_MAX_TOKENS) } else { 0 };
        let until_draw = match limits.answer_tokens.unwrap_or(unasked) {
            0 => u32::MAX,
            kept => answer_max_tokens.saturating_sub(kept).saturating_sub(header_tokens),
        };
        Self { max_tokens: limits.budget_tokens.unwrap_or(u32::MAX), until_draw, header_tokens, stop: Arc::default() }
    }

    /// Whether they bound anything.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.max_tokens == u32::MAX && self.until_draw == u32::MAX
    }

    /// Why the analysis was ended, if it was.
    #[must_use]
    pub fn stopped_by(&self) -> Option<ThinkingStop> {
        match self.stop.load(Ordering::Acquire) {
            0 => None,
            1 => Some(ThinkingStop::Budget),
            _ => Some(ThinkingStop::Answer),
        }
    }

    /// Whether an analysis may be opened by a header that begins with draw `draw`, after `thought`
    /// tokens of others. One of which nothing could be said is not.
    pub(super) fn may_begin(&self, draw: u32, thought: u32) -> bool {
        thought < self.max_tokens && draw.saturating_add(self.header_tokens) < self.until_draw
    }

    /// The draw at which an analysis ends whose text began with draw `began`, after `thought`
    /// tokens of others.
    pub(super) fn until(&self, began: u32, thought: u32) -> u32 {
        self.budget_until(began, thought).min(self.until_draw)
    }

    /// Notes that such an analysis ended with draw `draw`.
    pub(super) fn note_end(&self, draw: u32, began: u32, thought: u32) {
        if draw >= self.until(began, thought) {
            let is_budget = self.budget_until(began, thought) <= self.until_draw;
            self.stop.store(if is_budget { 1 } else { 2 }, Ordering::Release);
        }
    }

    fn budget_until(&self, began: u32, thought: u32) -> u32 {
        began.saturating_add(self.max_tokens.saturating_sub(thought))
    }
}
