//! The model's output, token by token, to reasoning, content and function calls.
//!
//! Owns: the header or the unfinished character that is being read. Promises: every sequence of tokens parses; the text of
//! every message arrives, once and in order, as soon as its characters are complete; what is not harmony is delivered as
//! content and counted. Absent on purpose: stop strings, wire forms, JSON (arguments are the model's text).

use std::sync::Arc;

use super::header::{Destination, Header, Section};
use super::recovery::{Recovery, RecoveryCounts};
use crate::batch::TokenId;
use crate::prompt::detokenizer::Detokenizer;
use crate::prompt::tokenizer::{ControlTokens, Tokenizer};

/// Where in a message the prompt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParserStart {
    /// After `<|start|>assistant`: the model chooses channel and recipient.
    AssistantHeader,
    /// Inside the header of a call of this function, after the channel: only the type of the arguments may follow.
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
    /// Text of the answer: the final channel, a preamble, or what is not harmony; not empty.
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
    /// The model ended the response. A server that goes on all the same (`ignore_eos`) may push more tokens.
    ResponseEnd,
}

/// An event and the tokens that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// How many tokens it stands for: the next ones after those of the event before. Tokens of a header count to the first
    /// event after it, and a token to the event that brings its first complete character. Tokens that no event counted
    /// belong to the end.
    pub tokens: usize,
}

/// What is being read.
#[derive(Debug)]
enum State {
    /// A message's header.
    Header(Header),
    /// A message's text.
    Text(Destination),
    /// Nothing: a message ended.
    Between,
}

/// A streaming parser for one response.
#[derive(Debug)]
pub struct Parser {
    tokenizer: Arc<Tokenizer>,
    state: State,
    /// A call whose start is to be told before anything else: the prompt began it.
    given_call: Option<String>,
    detokenizer: Detokenizer,
    /// Tokens that no event counted yet.
    uncounted: usize,
    reasoning_tokens: u32,
    tool_calls_count: u32,
    recoveries: RecoveryCounts,
}

impl Parser {
    /// A parser for an answer to a prompt that ends at `start`.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, start: ParserStart) -> Self {
        let (header, given_call) = match start {
            ParserStart::AssistantHeader => (Header::of_assistant(), None),
            ParserStart::ToolHeader { name } => (Header::of_call(&name), Some(name)),
        };
        Self {
            tokenizer,
            state: State::Header(header),
            given_call,
            detokenizer: Detokenizer::new(),
            uncounted: 0,
            reasoning_tokens: 0,
            tool_calls_count: 0,
            recoveries: RecoveryCounts::default(),
        }
    }

    /// Takes the next token and appends what it completes to `events`. A stop token that ended the sequence belongs here
    /// too: it says whether the message is complete.
    pub fn push(&mut self, token: TokenId, events: &mut Vec<Event>) {
        if let Some(name) = self.given_call.take() {
            self.start_call(name, events);
        }
        if self.tokenizer.is_control(token) {
            self.push_control(token, events);
        } else {
            self.uncounted += 1;
            let tokenizer = Arc::clone(&self.tokenizer);
            self.push_text(tokenizer.bytes_of(token), events);
        }
    }

    /// No more tokens come: gives out what was held back, and ends the message that is open.
    pub fn finish(&mut self, events: &mut Vec<Event>) {
        // A header that was cut off is the end of the tokens, not the model's fault; and a call of which nothing came has not
        // begun.
        let began = self.given_call.take().is_none();
        let cut = matches!(&self.state, State::Header(header) if header.says_nothing() && !(header.is_given_call() && began));
        if !cut {
            self.end_message(events);
        }
        self.state = State::Between;
    }

    /// Tokens of text in the analysis channel so far.
    #[must_use]
    pub fn reasoning_tokens(&self) -> u32 {
        self.reasoning_tokens
    }

    /// Function calls begun so far.
    #[must_use]
    pub fn tool_calls_count(&self) -> u32 {
        self.tool_calls_count
    }

    /// What was overlooked so far.
    #[must_use]
    pub fn recoveries(&self) -> &RecoveryCounts {
        &self.recoveries
    }

    fn push_text(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        match &mut self.state {
            State::Header(header) => {
                header.push(bytes);
                if header.overflows() {
                    self.recoveries.add(Recovery::UnfinishedHeader);
                    let written = header.written();
                    self.state = State::Text(header.destination_of_text());
                    self.push_body(&written, events);
                }
            }
            State::Text(destination) => {
                if *destination == Destination::Reasoning {
                    self.reasoning_tokens += 1;
                }
                self.push_body(bytes, events);
            }
            State::Between => {
                self.recoveries.add(Recovery::MissingStart);
                self.state = State::Text(Destination::Content);
                self.push_body(bytes, events);
            }
        }
    }

    fn push_control(&mut self, token: TokenId, events: &mut Vec<Event>) {
        let ControlTokens { start, end, message, channel, constrain, .. } = *self.tokenizer.control();
        if token == start {
            if matches!(self.state, State::Text(_)) {
                self.recoveries.add(Recovery::MissingEnd);
            }
            self.end_message(events);
            self.state = State::Header(Header::after(Section::Role));
        } else if token == channel {
            self.begin_channel(events);
        } else if token == constrain {
            match &mut self.state {
                State::Header(header) if header.section() != Section::Type => header.begin(Section::Type),
                _ => self.recoveries.add(Recovery::StrayControl),
            }
        } else if token == message {
            return self.begin_text(events);
        } else if token == end {
            if matches!(self.state, State::Between) {
                self.recoveries.add(Recovery::StrayControl);
            }
            return self.end_by_token(events);
        } else if self.tokenizer.control().ends_response(token) {
            self.end_by_token(events);
            return self.emit(EventKind::ResponseEnd, events);
        } else {
            self.recoveries.add(Recovery::StrayControl);
        }
        self.uncounted += 1;
    }

    /// `<|channel|>`.
    fn begin_channel(&mut self, events: &mut Vec<Event>) {
        match &mut self.state {
            State::Header(header) => {
                if header.section() != Section::Role {
                    self.recoveries.add(Recovery::StrayControl);
                }
                header.begin(Section::Channel);
                return;
            }
            State::Text(_) => self.recoveries.add(Recovery::MissingEnd),
            State::Between => self.recoveries.add(Recovery::MissingStart),
        }
        self.end_message(events);
        self.state = State::Header(Header::after(Section::Channel));
    }

    /// `<|message|>`.
    fn begin_text(&mut self, events: &mut Vec<Event>) {
        self.uncounted += 1;
        let destination = match &self.state {
            State::Header(header) => {
                let (destination, recovery) = header.destination();
                if let Some(recovery) = recovery {
                    self.recoveries.add(recovery);
                }
                if let Destination::Call(name) = &destination
                    && !header.is_given_call()
                {
                    self.start_call(name.clone(), events);
                }
                destination
            }
            State::Text(_) => return self.recoveries.add(Recovery::StrayControl),
            State::Between => {
                self.recoveries.add(Recovery::MissingStart);
                Destination::Content
            }
        };
        self.state = State::Text(destination);
    }

    /// `<|end|>`, `<|call|>` or `<|return|>`: counts to the event that ends the message, if there is one.
    fn end_by_token(&mut self, events: &mut Vec<Event>) {
        self.flush(events);
        self.uncounted += 1;
        self.end_message(events);
        self.state = State::Between;
    }

    /// Ends what is being read; the caller sets the state.
    fn end_message(&mut self, events: &mut Vec<Event>) {
        if let State::Header(header) = &self.state {
            self.recoveries.add(Recovery::UnfinishedHeader);
            let written = if header.says_nothing() { Vec::new() } else { header.written() };
            if written.is_empty() && !header.is_given_call() {
                return;
            }
            self.state = State::Text(header.destination_of_text());
            self.push_body(&written, events);
        }
        if matches!(self.state, State::Text(_)) {
            self.flush(events);
            self.emit(EventKind::MessageEnd, events);
        }
    }

    fn start_call(&mut self, name: String, events: &mut Vec<Event>) {
        self.tool_calls_count += 1;
        self.emit(EventKind::ToolCallStart { name }, events);
    }

    /// Text of the message that is open.
    fn push_body(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        let mut text = String::new();
        self.detokenizer.push(bytes, &mut text);
        self.emit_text(text, events);
    }

    /// The unfinished character of the message that is open: nothing will complete it.
    fn flush(&mut self, events: &mut Vec<Event>) {
        let mut text = String::new();
        self.detokenizer.flush(&mut text);
        self.emit_text(text, events);
    }

    fn emit_text(&mut self, text: String, events: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        let kind = match &self.state {
            State::Text(Destination::Reasoning) => EventKind::Reasoning(text),
            State::Text(Destination::Call(_)) => EventKind::ToolCallArguments(text),
            State::Text(Destination::Content) | State::Header(_) | State::Between => EventKind::Content(text),
        };
        self.emit(kind, events);
    }

    fn emit(&mut self, kind: EventKind, events: &mut Vec<Event>) {
        events.push(Event { kind, tokens: std::mem::take(&mut self.uncounted) });
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
