//! An answer whose headers are held to what harmony allows, and whose texts are the model's own.
//!
//! Nearly all of an answer is text, of which this asks nothing. Its mask is the same few tokens
//! from its first to its last, so the scheduler tells no token of it but its end, and plans each
//! step ahead. Promises: every message has a whole header in the model's own name; a call is one of
//! a function that may be called; thinking ends after as many tokens as it may take, and then the
//! answer is opened. Absent on purpose: grammars (`answer`).

use std::sync::{Arc, Mutex, PoisonError};

use super::headers::{HeaderStarts, HeaderStep, HeaderTable, MessageKind};
use super::thinking::ThinkingBounds;
use crate::batch::{Allowed, MaskOutlook, Masks, TokenId, TokenMasks};
use crate::prompt::harmony::parser::ParserStart;

/// Where in its answer a sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldPlace {
    /// At this node of a header.
    Header(usize),
    /// In a text, whose first token is draw number `began`.
    Text { kind: MessageKind, began: u32 },
    /// Behind a final message that ended as if another one followed.
    AwaitsReturn,
    /// Behind the answer.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeldState {
    place: HeldPlace,
    /// Tokens of analysis in messages that ended.
    thought: u32,
}

/// The masks of one sequence.
#[derive(Debug)]
struct HeldHeaders {
    table: Arc<HeaderTable>,
    thinking: ThinkingBounds,
    state: Mutex<HeldState>,
}

impl HeaderTable {
    /// The masks of one sequence, before its first token, which thinks within `thinking`. Its
    /// prompt ends at `start`.
    #[must_use]
    pub fn masks(self: &Arc<Self>, start: &ParserStart, thinking: ThinkingBounds) -> Masks {
        let place = match start {
            ParserStart::AssistantHeader => HeldPlace::Header(self.starts(&thinking, 0, 0).given),
            ParserStart::WholeHeader => HeldPlace::Header(self.starts(&thinking, 0, 0).later),
            ParserStart::FinalText => HeldPlace::Text { kind: MessageKind::Final, began: 0 },
            ParserStart::CallText { .. } => HeldPlace::Text { kind: MessageKind::Call, began: 0 },
        };
        let state = Mutex::new(HeldState { place, thought: 0 });
        Masks(Arc::new(HeldHeaders { table: Arc::clone(self), thinking, state }))
    }

    /// Where headers begin whose first token is draw `draw`, after `thought` tokens of analysis.
    fn starts(&self, thinking: &ThinkingBounds, draw: u32, thought: u32) -> HeaderStarts {
        if thinking.may_begin(draw, thought) { self.open } else { self.closing }
    }
}

impl HeldHeaders {
    fn state(&self) -> HeldState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a sequence is that was in `state` and drew `token` as draw `index`.
    fn next(&self, state: HeldState, index: u32, token: TokenId) -> HeldState {
        let control = self.table.grammars.tokenizer().control();
        let mut thought = state.thought;
        let place = match state.place {
            HeldPlace::Header(node) => match self.table.follow(node, token) {
                Some(HeaderStep::Node(node)) => HeldPlace::Header(node),
                Some(HeaderStep::Text(kind)) => HeldPlace::Text { kind, began: index.saturating_add(1) },
                None => HeldPlace::Over,
            },
            HeldPlace::Text { kind: MessageKind::Final, .. } if token == control.end => HeldPlace::AwaitsReturn,
            HeldPlace::Text { kind, began } if token == control.end => {
                if kind == MessageKind::Analysis {
                    self.thinking.note_end(index, began, thought);
                    thought = thought.saturating_add(index - began);
                }
                HeldPlace::Header(self.table.starts(&self.thinking, index.saturating_add(1), thought).later)
            }
            HeldPlace::Text { .. } if !control.ends_response(token) => state.place,
            HeldPlace::Text { .. } | HeldPlace::AwaitsReturn | HeldPlace::Over => HeldPlace::Over,
        };
        HeldState { place, thought }
    }
}

impl TokenMasks for HeldHeaders {
    fn drawn(&self, index: u32, token: TokenId) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = self.next(*state, index, token);
    }

    fn outlook(&self) -> MaskOutlook {
        let control = self.table.grammars.tokenizer().control();
        let HeldState { place, thought } = self.state();
        match place {
            HeldPlace::Header(_) | HeldPlace::AwaitsReturn => MaskOutlook::NEXT,
            HeldPlace::Text { kind, began } => {
                let until = if kind == MessageKind::Analysis { self.thinking.until(began, thought) } else { u32::MAX };
                let ends = control.response_ends().into_iter().chain([control.end]);
                MaskOutlook { until, changed_by: ends.map(MaskOutlook::bit).fold(0, |bits, bit| bits | bit) }
            }
            HeldPlace::Over => MaskOutlook::FREE,
        }
    }

    fn allowed(&self, index: u32) -> Allowed {
        let HeldState { place, thought } = self.state();
        match place {
            HeldPlace::Header(node) => self.table.mask(node),
            HeldPlace::Text { kind: MessageKind::Analysis, began } if index >= self.thinking.until(began, thought) => {
                self.table.only_end.clone()
            }
            HeldPlace::Text { kind, .. } => self.table.text_mask(kind),
            HeldPlace::AwaitsReturn => self.table.only_return.clone(),
            HeldPlace::Over => Allowed::All,
        }
    }
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
