//! The model's output, token by token, to reasoning, content and function calls.
//!
//! Owns: the header or the unfinished character that is being read. Promises: every sequence of
//! tokens parses. The text of every message in the model's own name arrives, once and in order, as
//! soon as its characters are complete and it is certain where they belong. Only a function that
//! was offered is called. What was meant for analysis is never content. What is not harmony is
//! counted. Absent on purpose: stop strings, wire forms, JSON (arguments are the model's text).

use std::sync::Arc;

use super::header::{Destination, HeaderReading, MessageHeader, ParsedHeader};
use super::recovery::{Recovery, RecoveryCounts};
use super::words::{Opening, Section};
use crate::batch::TokenId;
use crate::prompt::detokenizer::Detokenizer;
use crate::prompt::tokenizer::{ControlTokens, Tokenizer};

/// Where in a message the prompt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParserStart {
    /// After `<|start|>assistant`: the model chooses channel and recipient.
    AssistantHeader,
    /// Behind a message that ended: the model writes a whole header.
    WholeHeader,
    /// Within a final message.
    FinalText,
    /// Behind the header of a call of this function, `<|message|>` included: its arguments follow.
    CallText {
        /// The function.
        name: String,
    },
}

/// What a request lets its answer be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParserRules {
    /// The functions that were offered, without `functions.`: only they are called.
    pub functions: Arc<[String]>,
    /// Those of them that are custom tools, whose calls hold a text.
    pub customs: Arc<[String]>,
    /// Ends the response at the header of a second call.
    pub single_call: bool,
    /// Lets no header end the response: the client wants all its tokens (`ignore_eos`).
    pub goes_on: bool,
}

/// What a run of generated tokens turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// Text of the analysis channel, or for a recipient that was not offered; not empty.
    Reasoning(String),
    /// Text of the answer: the final channel, a preamble, or what is not harmony; not empty.
    Content(String),
    /// A function call begins; its index among the calls of this response is the number of starts
    /// before.
    ToolCallStart {
        /// The function, without `functions.`.
        name: String,
    },
    /// More of the arguments of the call that began last; not empty.
    ToolCallArguments(String),
    /// A message is at its end.
    MessageEnd,
    /// The model ended the response. A server that goes on all the same (`ignore_eos`) may push
    /// more tokens.
    ResponseEnd,
}

/// An event and the tokens that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedEvent {
    /// What.
    pub kind: EventKind,
    /// How many tokens it stands for: the next ones after those of the event before. Tokens of a
    /// header count to the first event after it, and a token to the event that brings its first
    /// complete character. Tokens that no event counted belong to the end.
    pub tokens: usize,
    /// How many of them, the last ones, are the event's text; those before are of a header, or
    /// between messages.
    pub text_tokens: usize,
}

/// What is being read.
#[derive(Debug)]
enum ParserState {
    /// A message's header, or what may become one.
    Header(MessageHeader),
    /// A message's text.
    Text(Destination),
    /// Nothing more: what the model wrote last is no part of the response.
    Over,
}

/// A streaming parser for one response.
#[derive(Debug)]
pub struct Parser {
    tokenizer: Arc<Tokenizer>,
    rules: ParserRules,
    state: ParserState,
    /// A call whose start is to be told before anything else: the prompt began it.
    given_call: Option<String>,
    detokenizer: Detokenizer,
    /// Tokens that no event counted yet.
    uncounted: usize,
    /// Those of them that are text.
    uncounted_text: usize,
    /// Whether the message that is being read has text, other than white space.
    has_text: bool,
    /// Whether a final message with text has ended.
    answered: bool,
    reasoning_tokens: u32,
    tool_calls_count: u32,
    recoveries: RecoveryCounts,
}

impl Parser {
    /// A parser for an answer to a prompt that ends at `start`, under `rules`.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, start: ParserStart, rules: ParserRules) -> Self {
        let (state, given_call) = match start {
            ParserStart::AssistantHeader => (ParserState::Header(MessageHeader::new(Opening::Given, None)), None),
            ParserStart::WholeHeader => (ParserState::Header(MessageHeader::new(Opening::Bare, None)), None),
            ParserStart::FinalText => (ParserState::Text(Destination::Final), None),
            ParserStart::CallText { name } => (ParserState::Text(Destination::Call(name.clone())), Some(name)),
        };
        Self {
            tokenizer,
            rules,
            state,
            given_call,
            detokenizer: Detokenizer::new(),
            uncounted: 0,
            uncounted_text: 0,
            has_text: false,
            answered: false,
            reasoning_tokens: 0,
            tool_calls_count: 0,
            recoveries: RecoveryCounts::default(),
        }
    }

    /// Takes the next token and appends what it completes to `events`. A stop token that ended the
    /// sequence belongs here too: it says whether the message is complete.
    pub fn push(&mut self, token: TokenId, events: &mut Vec<ParsedEvent>) {
        if let Some(name) = self.given_call.take() {
            self.start_call(name, events);
        }
        if self.is_over() {
            self.uncounted += 1;
        } else if self.tokenizer.is_control(token) {
            self.push_control(token, events);
        } else {
            self.uncounted += 1;
            let tokenizer = Arc::clone(&self.tokenizer);
            self.push_text(tokenizer.bytes_of(token), events);
        }
    }

    /// No more tokens come: gives out what was held back, and ends the message that is open.
    pub fn finish(&mut self, events: &mut Vec<ParsedEvent>) {
        // A call of which nothing came has not begun. A header that was cut off is the end of the
        // tokens, not the model's fault, and so is a call without arguments.
        let began = self.given_call.take().is_none();
        match std::mem::replace(&mut self.state, ParserState::Over) {
            ParserState::Header(header) if header.holds_text() => self.settle(&header, events),
            ParserState::Header(MessageHeader { within: Some(message), .. }) => self.state = ParserState::Text(message),
            ParserState::Text(destination) if began => self.state = ParserState::Text(destination),
            ParserState::Header(_) | ParserState::Text(_) | ParserState::Over => {}
        }
        if matches!(self.state, ParserState::Text(_)) {
            self.flush(events);
            self.emit(EventKind::MessageEnd, events);
        }
        self.state = ParserState::Over;
    }

    /// Whether the response has ended although the model writes on: nothing that is pushed now is
    /// part of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, ParserState::Over)
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

    fn push_text(&mut self, bytes: &[u8], events: &mut Vec<ParsedEvent>) {
        match &mut self.state {
            ParserState::Text(_) => self.push_body(bytes, 1, events),
            ParserState::Header(header) => {
                header.push(bytes);
                self.bound_header(events);
            }
            ParserState::Over => {}
        }
    }

    fn push_control(&mut self, token: TokenId, events: &mut Vec<ParsedEvent>) {
        let ControlTokens { start, end, message, channel, constrain, .. } = *self.tokenizer.control();
        if token == start {
            self.begin_header(Opening::Start, events);
        } else if token == channel {
            self.begin_channel(events);
        } else if token == constrain {
            self.begin_type(events);
        } else if token == message {
            return self.begin_text(events);
        } else if token == end {
            if matches!(&self.state, ParserState::Header(header) if header.is_bare()) {
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

    /// `<|start|>`, or what stands for it.
    fn begin_header(&mut self, opening: Opening, events: &mut Vec<ParsedEvent>) {
        if matches!(self.state, ParserState::Header(_)) {
            self.settle_header(events);
        }
        match std::mem::replace(&mut self.state, ParserState::Over) {
            ParserState::Text(message) => self.state = ParserState::Header(MessageHeader::new(opening, Some(message))),
            ParserState::Header(_) => self.state = ParserState::Header(MessageHeader::new(opening, None)),
            ParserState::Over => {}
        }
    }

    /// `<|channel|>`.
    fn begin_channel(&mut self, events: &mut Vec<ParsedEvent>) {
        if matches!(&self.state, ParserState::Header(header) if header.holds_text() || header.is_stray_word()) {
            self.settle_header(events);
        }
        if matches!(self.state, ParserState::Text(_)) {
            self.begin_header(Opening::Bare, events);
        }
        if let ParserState::Header(header) = &mut self.state {
            if header.section() != Section::Role {
                self.recoveries.add(Recovery::StrayControl);
            }
            header.begin(Section::Channel);
        }
        self.bound_header(events);
    }

    /// `<|constrain|>`.
    fn begin_type(&mut self, events: &mut Vec<ParsedEvent>) {
        match &mut self.state {
            ParserState::Header(header) if header.section() != Section::Type => header.begin(Section::Type),
            _ => self.recoveries.add(Recovery::StrayControl),
        }
        self.bound_header(events);
    }

    /// Waits no longer for the end of a header that is none.
    fn bound_header(&mut self, events: &mut Vec<ParsedEvent>) {
        if matches!(&self.state, ParserState::Header(header) if header.is_text()) {
            self.settle_header(events);
        }
    }

    /// `<|message|>`.
    fn begin_text(&mut self, events: &mut Vec<ParsedEvent>) {
        self.uncounted += 1;
        match std::mem::replace(&mut self.state, ParserState::Over) {
            ParserState::Header(header) => {
                let reading = header.with_message(&self.rules.functions);
                self.deliver(&header, reading, events);
            }
            ParserState::Text(destination) => {
                self.recoveries.add(Recovery::StrayControl);
                self.state = ParserState::Text(destination);
            }
            ParserState::Over => {}
        }
    }

    /// `<|end|>`, `<|call|>` or `<|return|>`: counts to the event that ends the message, if there
    /// is one.
    fn end_by_token(&mut self, events: &mut Vec<ParsedEvent>) {
        if matches!(self.state, ParserState::Header(_)) {
            self.settle_header(events);
        }
        self.flush(events);
        self.uncounted += 1;
        self.end_message(events);
    }

    /// The header has no `<|message|>`: what was written in it is text, or nothing.
    fn settle_header(&mut self, events: &mut Vec<ParsedEvent>) {
        match std::mem::replace(&mut self.state, ParserState::Over) {
            ParserState::Header(header) => self.settle(&header, events),
            other => self.state = other,
        }
    }

    /// What was written in `header` is text, or nothing.
    fn settle(&mut self, header: &MessageHeader, events: &mut Vec<ParsedEvent>) {
        let reading = header.without_message(&self.rules.functions);
        let is_blank = header.body(reading.body_at).0.iter().all(u8::is_ascii_whitespace);
        if is_blank && !matches!(reading.destination, Destination::Call(_)) {
            if !header.is_bare() {
                self.recoveries.add(Recovery::UnfinishedHeader);
            }
            self.state = match &header.within {
                Some(message) => ParserState::Text(message.clone()),
                None => ParserState::Header(MessageHeader::new(Opening::Bare, None)),
            };
            return;
        }
        self.deliver(header, reading, events);
    }

    /// The message of `header` begins, with the text that was taken for a part of it.
    fn deliver(&mut self, header: &MessageHeader, reading: HeaderReading, events: &mut Vec<ParsedEvent>) {
        let (body, tokens) = header.body(reading.body_at);
        // Events before the text do not count its tokens.
        let tokens = tokens.min(self.uncounted);
        self.uncounted -= tokens;
        self.open(header, reading, events);
        self.uncounted += tokens;
        self.push_body(body, tokens, events);
    }

    /// The message of `header` begins, or the response ends in front of it.
    fn open(&mut self, header: &MessageHeader, reading: HeaderReading, events: &mut Vec<ParsedEvent>) {
        if let Some(message) = &header.within {
            let is_stray = reading.found == ParsedHeader::Stray;
            self.recoveries.add(if is_stray { Recovery::StrayControl } else { Recovery::MissingEnd });
            self.state = ParserState::Text(message.clone());
            if is_stray && matches!(message, Destination::Call(_)) {
                // Arguments are one text.
                return;
            }
            self.end_message(events);
        } else if header.lacks_start() {
            self.recoveries.add(Recovery::MissingStart);
        }
        if let Some(recovery) = reading.recovery {
            self.recoveries.add(recovery);
        }
        if self.ends_response(&reading) {
            self.state = ParserState::Over;
            return;
        }
        self.has_text = false;
        let destination = match reading.destination {
            Destination::Call(_) if self.is_second_call() => Destination::Reasoning,
            Destination::Nowhere if self.rules.goes_on => Destination::Content,
            destination => destination,
        };
        if let Destination::Call(name) = &destination {
            self.start_call(name.clone(), events);
        }
        self.state = ParserState::Text(destination);
    }

    /// Whether the response ends in front of a message.
    fn ends_response(&mut self, reading: &HeaderReading) -> bool {
        if self.rules.goes_on {
            return false;
        }
        match reading.destination {
            Destination::Call(_) => self.is_second_call(),
            Destination::Nowhere => self.answered || self.tool_calls_count > 0,
            Destination::Reasoning | Destination::Content | Destination::Final => {
                // After the answer the model goes on with its history: what comes is said already,
                // or in another's name.
                let is_past = self.answered && reading.found == ParsedHeader::Header;
                if is_past {
                    self.recoveries.add(Recovery::PastAnswer);
                }
                is_past
            }
        }
    }

    /// Whether a call that begins now is one too many.
    fn is_second_call(&self) -> bool {
        self.rules.single_call && self.tool_calls_count > 0
    }

    /// Ends the message that is open, if one is.
    fn end_message(&mut self, events: &mut Vec<ParsedEvent>) {
        let ParserState::Text(destination) = &self.state else { return };
        match destination {
            Destination::Call(name) if !self.has_text && !self.rules.customs.contains(name) => {
                self.flush(events);
                // A function without parameters is called without a text by some; clients parse the
                // arguments as JSON.
                self.emit(EventKind::ToolCallArguments("{}".to_owned()), events);
            }
            Destination::Final if self.has_text => {
                self.answered = true;
                self.flush(events);
            }
            _ => self.flush(events),
        }
        self.emit(EventKind::MessageEnd, events);
        self.state = ParserState::Header(MessageHeader::new(Opening::Bare, None));
    }

    fn start_call(&mut self, name: String, events: &mut Vec<ParsedEvent>) {
        self.tool_calls_count += 1;
        self.emit(EventKind::ToolCallStart { name }, events);
    }

    /// Text of `tokens` tokens of the message that is open.
    fn push_body(&mut self, bytes: &[u8], tokens: usize, events: &mut Vec<ParsedEvent>) {
        match &self.state {
            ParserState::Text(Destination::Reasoning) => {
                self.reasoning_tokens = self.reasoning_tokens.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
            }
            ParserState::Text(Destination::Content | Destination::Final | Destination::Call(_)) => {}
            ParserState::Text(Destination::Nowhere) | ParserState::Header(_) | ParserState::Over => return,
        }
        self.uncounted_text += tokens;
        let mut text = String::new();
        self.detokenizer.push(bytes, &mut text);
        self.emit_text(text, events);
    }

    /// The unfinished character of the message that is open: nothing will complete it.
    fn flush(&mut self, events: &mut Vec<ParsedEvent>) {
        let mut text = String::new();
        self.detokenizer.flush(&mut text);
        self.emit_text(text, events);
    }

    fn emit_text(&mut self, text: String, events: &mut Vec<ParsedEvent>) {
        if text.is_empty() {
            return;
        }
        self.has_text = self.has_text || !text.trim_ascii().is_empty();
        let kind = match &self.state {
            ParserState::Text(Destination::Reasoning) => EventKind::Reasoning(text),
            ParserState::Text(Destination::Call(_)) => EventKind::ToolCallArguments(text),
            ParserState::Text(_) | ParserState::Header(_) | ParserState::Over => EventKind::Content(text),
        };
        self.emit(kind, events);
    }

    fn emit(&mut self, kind: EventKind, events: &mut Vec<ParsedEvent>) {
        let tokens = std::mem::take(&mut self.uncounted);
        let text_tokens = std::mem::take(&mut self.uncounted_text);
        events.push(ParsedEvent { kind, tokens, text_tokens });
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
