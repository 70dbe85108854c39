//! What is known of the answers to a request before their first token.

use std::sync::Arc;

use crate::actors::messages::{AnswerOptions, Coalescing};
use crate::prompt::constraint::ThinkingBounds;
use crate::prompt::harmony::parser::{ParserRules, ParserStart};
use crate::prompt::stop::StopSet;
use crate::prompt::tokenizer::Tokenizer;

/// What all choices of a response have in common.
#[derive(Debug, Clone)]
pub(super) struct TextRules {
    /// Whose tokens these are.
    pub(super) tokenizer: Arc<Tokenizer>,
    /// What they are.
    pub(super) reading: TextForm,
    /// What ends the answer.
    pub(super) stop: Arc<StopSet>,
    /// How text is gathered.
    pub(super) coalescing: Coalescing,
    /// How far the analysis may go.
    pub(super) thinking: ThinkingBounds,
    /// How lists stand beside it.
    pub(super) options: AnswerOptions,
}

impl TextForm {
    /// Whether the first token of an answer is text, and no header's.
    pub(super) fn begins_in_text(&self) -> bool {
        !matches!(self, Self::Harmony(ParserStart::AssistantHeader | ParserStart::WholeHeader, _))
    }
}

/// What the tokens of an answer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TextForm {
    /// Text.
    Plain,
    /// Harmony, of which the prompt holds the beginning, and what of it may be part of the answer.
    Harmony(ParserStart, ParserRules),
    /// Something at which the reader panics, to see what becomes of the others.
    #[cfg(test)]
    Poison,
}
