//! The model's output, token by token, to reasoning, content and tool calls.

use std::sync::Arc;

use crate::batch::TokenId;
use crate::prompt::tokenizer::Tokenizer;

/// Where in a message the prompt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParserStart {
    /// After `<|start|>assistant`: the model chooses channel and recipient.
    AssistantHeader,
    /// Inside the header of a call of this function, after the channel: only the rest of the header is to come.
    ToolHeader {
        /// The function.
        name: String,
    },
}

/// What a run of generated tokens turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// Text of the analysis channel; not empty.
    Reasoning(String),
    /// Text of the answer: the final channel, a preamble, or what could not be parsed; not empty.
    Content(String),
    /// A function call begins; its index among the calls of this response is the number of starts before.
    ToolCallStart {
        /// The function, without `functions.`.
        name: String,
    },
    /// More of the arguments of the call that began last; not empty.
    ToolCallArguments(String),
    /// A message is at its end.
    MessageEnd,
    /// The model ended the response. A server that goes on (`ignore_eos`) may push more tokens.
    ResponseEnd,
}

/// An event and the tokens that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// How many tokens it stands for, counted on from those of the event before; zero if it has no token of its own. A
    /// header's tokens count to the first event after it, as do tokens whose characters were not complete.
    pub tokens: usize,
}

/// A streaming parser. Total: every sequence of tokens parses.
#[derive(Debug)]
pub struct Parser {
    tokenizer: Arc<Tokenizer>,
    #[expect(dead_code, reason = "the first version knows no headers")]
    start: ParserStart,
}

impl Parser {
    /// A parser for an answer to a prompt that ends at `start`.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, start: ParserStart) -> Self {
        Self { tokenizer, start }
    }

    /// Takes the next token and appends what it completes to `events`.
    pub fn push(&mut self, token: TokenId, events: &mut Vec<Event>) {
        let text = self.tokenizer.decode(&[token]);
        events.push(Event { kind: EventKind::Content(text), tokens: 1 });
    }

    /// No more tokens come: gives out what was held back, and ends an open message. All tokens are then accounted for.
    pub fn finish(&mut self, events: &mut Vec<Event>) {
        events.push(Event { kind: EventKind::MessageEnd, tokens: 0 });
    }

    /// Tokens of the analysis channel so far.
    #[must_use]
    pub fn reasoning_tokens(&self) -> u32 {
        0
    }

    /// Function calls begun so far.
    #[must_use]
    pub fn tool_calls_count(&self) -> u32 {
        0
    }
}
