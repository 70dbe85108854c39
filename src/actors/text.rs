//! Tokens of a choice to parts of its answer.
//!
//! Owns: the text state of one choice: unfinished UTF-8, the parser, the search for stop strings,
//! the text and tokens gathered for the next part. Promises: the parts' text joined does not depend
//! on when they were sent; their tokens joined are those taken, in order, and so are the text's
//! log-probabilities; the last part is [`PartKind::Finished`]. Absent on purpose: channels.
//!
//! Stop strings end the final channel, preambles and plain text, and reasoning if they are to.
//! Calls may hold them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::actors::coalesce::Coalescer;
use crate::actors::ends::TextEnd;
use crate::actors::held_logprobs::HeldLogprobs;
use crate::actors::messages::{AnswerOptions, Cached, Finish, FinishKind, Part, PartKind, TokenText};
use crate::actors::repetition::RepetitionSearch;
use crate::actors::text_rules::{TextForm, TextRules};
use crate::batch::{Micros, PositionLogprobs, TokenId, TokenLogprob};
use crate::prompt::constraint::ThinkingBounds;
use crate::prompt::conversation::CallKind;
use crate::prompt::detokenizer::Detokenizer;
use crate::prompt::harmony::parser::{EventKind, ParsedEvent, Parser};
use crate::prompt::harmony::recovery::RecoveryCounts;
use crate::prompt::stop::StopStrings;
use crate::prompt::tokenizer::Tokenizer;
use crate::scheduler::FinishReason;

/// What stands between the texts of two messages that are delivered as one: two of analysis, or a
/// preamble and the answer. The model did not write it, so no stop string is searched in it.
const BLANK_LINE: &str = "\n\n";

/// What a choice needs after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterToken {
    /// More tokens.
    GoesOn,
    /// Nothing: a stop string ended it, or what the model goes on with is no part of the answer.
    /// Its sequence is to be cancelled.
    Stopped,
}

/// What reads the tokens.
#[derive(Debug)]
enum TokenReader {
    Plain(Detokenizer),
    Harmony(Box<Parser>),
    #[cfg(test)]
    Poison,
}

/// What the gathered text is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextPart {
    Reasoning,
    Content,
    Arguments,
}

/// One choice of a response.
#[derive(Debug)]
pub(super) struct ChoiceText {
    choice: u32,
    tokenizer: Arc<Tokenizer>,
    reader: TokenReader,
    stop: StopStrings,
    /// The search in the analysis, if stop strings act there.
    thought_stop: Option<StopStrings>,
    repetition: Option<RepetitionSearch>,
    coalescer: Coalescer,
    thinking: ThinkingBounds,
    options: AnswerOptions,
    channel: TextPart,
    /// The custom tools that were offered, and what the call that began last holds.
    customs: Arc<[String]>,
    call_kind: CallKind,
    /// Whether a message is open of which something came.
    in_message: bool,
    /// Whether reasoning came, and whether content was given out.
    reasoned: bool,
    answered: bool,
    /// A blank line is due before the next content.
    joins: bool,
    tool_calls_count: u32,
    /// Tokens taken that no event stands for yet.
    unplaced: VecDeque<(TokenId, Option<TokenText>)>,
    /// Tokens that the next part stands for.
    tokens: Vec<TokenId>,
    logprobs: Vec<TokenText>,
    held_logprobs: HeldLogprobs,
    completion_tokens: u32,
    cached: Cached,
    ended: bool,
}

impl ChoiceText {
    /// Choice number `choice`, before its first token.
    pub(super) fn new(choice: u32, rules: &TextRules) -> Self {
        let reader = match &rules.reading {
            TextForm::Plain => TokenReader::Plain(Detokenizer::new()),
            TextForm::Harmony(start, of_answer) => {
                let parser = Parser::new(Arc::clone(&rules.tokenizer), start.clone(), of_answer.clone());
                TokenReader::Harmony(Box::new(parser))
            }
            #[cfg(test)]
            TextForm::Poison => TokenReader::Poison,
        };
        Self {
            choice,
            tokenizer: Arc::clone(&rules.tokenizer),
            reader,
            stop: StopStrings::new(Arc::clone(&rules.stop)),
            thought_stop: rules.options.stops_in_reasoning.then(|| StopStrings::new(Arc::clone(&rules.stop))),
            repetition: rules.options.repetition.map(RepetitionSearch::new),
            coalescer: Coalescer::new(rules.coalescing),
            thinking: rules.thinking.clone(),
            options: rules.options,
            channel: TextPart::Content,
            customs: if let TextForm::Harmony(_, of_answer) = &rules.reading {
                Arc::clone(&of_answer.customs)
            } else {
                Arc::default()
            },
            call_kind: CallKind::Function,
            in_message: false,
            reasoned: false,
            answered: false,
            joins: false,
            tool_calls_count: 0,
            unplaced: VecDeque::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            held_logprobs: HeldLogprobs::default(),
            completion_tokens: 0,
            cached: Cached::default(),
            ended: false,
        }
    }

    /// Tokens taken so far.
    pub(super) fn completion_tokens(&self) -> u32 {
        self.completion_tokens
    }

    /// What the harmony parser overlooked so far.
    pub(super) fn recoveries(&self) -> RecoveryCounts {
        if let TokenReader::Harmony(parser) = &self.reader { *parser.recoveries() } else { RecoveryCounts::default() }
    }

    /// When [`ChoiceText::tick`] is to be called although no token came.
    pub(super) fn deadline(&self) -> Option<Micros> {
        self.coalescer.deadline()
    }

    /// What of the prompt was found computed.
    pub(super) fn cached(&self) -> Cached {
        self.cached
    }

    /// Takes note of what of the prompt was found computed.
    pub(super) fn begin(&mut self, cached: Cached) {
        self.cached = cached;
    }

    /// Takes the log-probabilities of the prompt.
    pub(super) fn take_prompt(&mut self, logprobs: &[PositionLogprobs], out: &mut Vec<Part>) {
        let logprobs = logprobs.iter().map(|position| self.token_text(position)).collect();
        out.push(Part { logprobs, ..self.part(PartKind::Prompt) });
    }

    /// Takes the next token and appends to `out` what is to be sent now. Ignored after the end: a
    /// step may still be computing while a stop string ends the choice.
    pub(super) fn take(
        &mut self,
        token: TokenId,
        logprobs: Option<&PositionLogprobs>,
        now: Micros,
        out: &mut Vec<Part>,
    ) -> AfterToken {
        if self.ended {
            return AfterToken::GoesOn;
        }
        self.completion_tokens += 1;
        let logprobs = logprobs.map(|position| self.token_text(position));
        self.unplaced.push_back((token, logprobs));
        let events = self.read(token);
        if let Some(matched) = self.apply_all(events, now, out) {
            self.end(FinishKind::Stop { matched: Some(matched) }, Vec::new(), out);
            return AfterToken::Stopped;
        }
        if matches!(&self.reader, TokenReader::Harmony(parser) if parser.is_over()) {
            self.release_stop(now);
            let kind = self.complete();
            self.end(kind, Vec::new(), out);
            return AfterToken::Stopped;
        }
        if self.repetition.as_mut().is_some_and(|search| search.ends_with(token)) {
            self.release_stop(now);
            self.end(FinishKind::Repetition, Vec::new(), out);
            return AfterToken::Stopped;
        }
        if let Some(text) = self.coalescer.take_due(now) {
            self.emit_text(text, out);
        }
        AfterToken::GoesOn
    }

    /// No token comes any more: gives out everything that was held back, and the finish.
    pub(super) fn finish(&mut self, end: TextEnd, logprobs: Option<&PositionLogprobs>, now: Micros, out: &mut Vec<Part>) {
        if self.ended {
            return;
        }
        let mut stop_logprobs = Vec::new();
        if let TextEnd::Finished(FinishReason::Stop(token)) = end {
            self.completion_tokens += 1;
            let text = logprobs.map(|position| self.token_text(position));
            let (at_its_place, at_the_end) = if self.options.logprobs_by_token { (text, None) } else { (None, text) };
            self.unplaced.push_back((token, at_its_place));
            stop_logprobs.extend(at_the_end);
            if self.tokenizer.is_control(token) {
                // It closes harmony's message. A stop token of the client's is no part of the
                // answer, so it is not read.
                let events = self.read(token);
                if let Some(matched) = self.apply_all(events, now, out) {
                    return self.end(FinishKind::Stop { matched: Some(matched) }, Vec::new(), out);
                }
            }
        }
        let events = self.read_end();
        if let Some(matched) = self.apply_all(events, now, out) {
            return self.end(FinishKind::Stop { matched: Some(matched) }, Vec::new(), out);
        }
        self.release_stop(now);
        let kind = end.kind(self.complete());
        self.end(kind, stop_logprobs, out);
    }

    /// Appends what has been held back for long enough.
    pub(super) fn flush_due(&mut self, now: Micros, out: &mut Vec<Part>) {
        if let Some(text) = self.coalescer.take_due(now) {
            self.emit_text(text, out);
        }
    }

    /// The events that `token` completes.
    fn read(&mut self, token: TokenId) -> Vec<ParsedEvent> {
        let mut events = Vec::new();
        match &mut self.reader {
            TokenReader::Harmony(parser) => parser.push(token, &mut events),
            TokenReader::Plain(detokenizer) => {
                let mut text = String::new();
                // A control token is not text; without a parser it stands for nothing.
                if !self.tokenizer.is_control(token) {
                    detokenizer.push(self.tokenizer.bytes_of(token), &mut text);
                }
                if !text.is_empty() {
                    events.push(self.plain_text(text));
                }
            }
            #[cfg(test)]
            TokenReader::Poison => panic!("as told"),
        }
        events
    }

    /// The events that the end completes.
    fn read_end(&mut self) -> Vec<ParsedEvent> {
        let mut events = Vec::new();
        match &mut self.reader {
            TokenReader::Harmony(parser) => parser.finish(&mut events),
            TokenReader::Plain(detokenizer) => {
                let mut text = String::new();
                detokenizer.flush(&mut text);
                if !text.is_empty() {
                    events.push(self.plain_text(text));
                }
            }
            #[cfg(test)]
            TokenReader::Poison => panic!("as told"),
        }
        events
    }

    /// Text that all tokens without an event stand for.
    fn plain_text(&self, text: String) -> ParsedEvent {
        let tokens = self.unplaced.len();
        ParsedEvent { kind: EventKind::Content(text), tokens, text_tokens: tokens }
    }

    /// The stop string, if one is complete.
    fn apply_all(&mut self, events: Vec<ParsedEvent>, now: Micros, out: &mut Vec<Part>) -> Option<String> {
        events.into_iter().find_map(|event| self.apply(event, now, out))
    }

    fn apply(&mut self, event: ParsedEvent, now: Micros, out: &mut Vec<Part>) -> Option<String> {
        let ParsedEvent { kind, tokens, text_tokens } = event;
        let is_end = matches!(kind, EventKind::MessageEnd | EventKind::ResponseEnd);
        let begins = !std::mem::replace(&mut self.in_message, !is_end) && !is_end;
        match kind {
            EventKind::Reasoning(text) => {
                self.enter(TextPart::Reasoning, out);
                let logprobs = self.place(tokens, text_tokens);
                self.logprobs.extend(logprobs);
                if std::mem::replace(&mut self.reasoned, true) && begins {
                    self.coalescer.push(BLANK_LINE, now);
                }
                let Some(search) = &mut self.thought_stop else {
                    self.coalescer.push(&text, now);
                    return None;
                };
                let mut kept = String::new();
                let matched = search.push(&text, &mut kept);
                self.coalescer.push(&kept, now);
                return matched;
            }
            EventKind::Content(text) => {
                self.enter(TextPart::Content, out);
                let logprobs = self.place(tokens, text_tokens);
                self.held_logprobs.hold(logprobs, self.stop.held().len());
                self.joins |= begins && self.answered;
                let mut kept = String::new();
                let matched = self.stop.push(&text, &mut kept);
                self.keep(&kept, now);
                if matched.is_some() {
                    self.held_logprobs.cut(&mut self.logprobs);
                }
                return matched;
            }
            EventKind::ToolCallStart { name } => {
                self.enter(TextPart::Arguments, out);
                self.flush(out);
                self.place(tokens, text_tokens);
                let id = format!("call_{}", &uuid::Uuid::new_v4().simple().to_string()[..24]);
                self.call_kind = if self.customs.contains(&name) { CallKind::Custom } else { CallKind::Function };
                let part = self.part(PartKind::ToolCallStart { index: self.tool_calls_count, id, name, kind: self.call_kind });
                out.push(part);
                self.tool_calls_count += 1;
            }
            EventKind::ToolCallArguments(text) => {
                self.enter(TextPart::Arguments, out);
                let logprobs = self.place(tokens, text_tokens);
                self.logprobs.extend(logprobs);
                self.coalescer.push(&text, now);
            }
            EventKind::MessageEnd => {
                self.place(tokens, text_tokens);
                self.release_stop(now);
                self.flush(out);
            }
            EventKind::ResponseEnd => {
                self.place(tokens, text_tokens);
            }
        }
        None
    }

    /// What is gathered from here on is part of `channel`.
    fn enter(&mut self, channel: TextPart, out: &mut Vec<Part>) {
        if self.channel != channel {
            self.flush(out);
            self.channel = channel;
        }
    }

    /// The next part stands for `count` more tokens. Returns the log-probabilities of the last
    /// `text_count` of them, its text; harmony's control tokens among them have none. Where they
    /// are listed by token, the next part has those of all.
    fn place(&mut self, count: usize, text_count: usize) -> Vec<TokenText> {
        let mut of_text = Vec::new();
        let count = count.min(self.unplaced.len());
        let text_at = count.saturating_sub(text_count);
        for (index, (token, logprobs)) in self.unplaced.drain(..count).enumerate() {
            self.tokens.push(token);
            if self.options.logprobs_by_token {
                self.logprobs.extend(logprobs);
                continue;
            }
            let is_text = matches!(self.reader, TokenReader::Plain(_)) || !self.tokenizer.is_control(token);
            if index >= text_at && is_text {
                of_text.extend(logprobs);
            }
        }
        of_text
    }

    /// `text` is no part of a stop string: it is sent, and so are the log-probabilities of the
    /// tokens that end in it.
    fn keep(&mut self, text: &str, now: Micros) {
        if text.is_empty() {
            return;
        }
        if std::mem::take(&mut self.joins) {
            self.coalescer.push(BLANK_LINE, now);
        }
        self.answered = true;
        self.held_logprobs.keep(text.len(), &mut self.logprobs);
        self.coalescer.push(text, now);
    }

    /// What was held back for a stop string is text after all.
    fn release_stop(&mut self, now: Micros) {
        if let Some(search) = &mut self.thought_stop {
            let mut thought = String::new();
            search.flush(&mut thought);
            self.coalescer.push(&thought, now);
        }
        let mut text = String::new();
        self.stop.flush(&mut text);
        self.keep(&text, now);
        self.held_logprobs.release(&mut self.logprobs);
    }

    fn flush(&mut self, out: &mut Vec<Part>) {
        if let Some(text) = self.coalescer.take_all() {
            self.emit_text(text, out);
        }
    }

    fn emit_text(&mut self, text: String, out: &mut Vec<Part>) {
        let kind = match self.channel {
            TextPart::Reasoning => PartKind::Reasoning(text),
            TextPart::Content => PartKind::Content(text),
            TextPart::Arguments => {
                let index = self.tool_calls_count.saturating_sub(1);
                PartKind::ToolCallArguments { index, kind: self.call_kind, text }
            }
        };
        let part = self.part(kind);
        out.push(part);
    }

    /// A part that stands for all placed tokens.
    fn part(&mut self, kind: PartKind) -> Part {
        Part {
            choice: self.choice,
            kind,
            tokens: std::mem::take(&mut self.tokens),
            logprobs: std::mem::take(&mut self.logprobs),
            completion_tokens: self.completion_tokens,
            reasoning_tokens: self.reasoning_tokens(),
            cached: self.cached,
        }
    }

    fn reasoning_tokens(&self) -> u32 {
        if let TokenReader::Harmony(parser) = &self.reader { parser.reasoning_tokens() } else { 0 }
    }

    fn end(&mut self, kind: FinishKind, stop_logprobs: Vec<TokenText>, out: &mut Vec<Part>) {
        self.flush(out);
        if !self.logprobs.is_empty() && self.channel == TextPart::Content && !self.options.logprobs_by_token {
            // Their text was sent before it was known where a stop string cuts them.
            self.emit_text(String::new(), out);
        }
        let rest = self.place(self.unplaced.len(), self.unplaced.len());
        // A stop string cuts what comes with it and after it; without one the tokens of plain text
        // are all accounted for.
        if matches!(self.reader, TokenReader::Plain(_)) && !matches!(kind, FinishKind::Stop { matched: Some(_) }) {
            self.logprobs.extend(rest);
        }
        self.logprobs.extend(stop_logprobs);
        let (completion_tokens, reasoning_tokens) = (self.completion_tokens, self.reasoning_tokens());
        let thinking_stop = self.thinking.stopped_by();
        let part = self.part(PartKind::Finished(Finish { kind, reasoning_tokens, completion_tokens, thinking_stop }));
        out.push(part);
        self.ended = true;
    }

    /// How the choice ends if the model ends it.
    fn complete(&self) -> FinishKind {
        if self.tool_calls_count > 0 { FinishKind::ToolCalls } else { FinishKind::Stop { matched: None } }
    }

    fn token_text(&self, position: &PositionLogprobs) -> TokenText {
        let bytes = |token: &TokenLogprob| self.tokenizer.bytes_of(token.token).to_vec();
        TokenText {
            token: position.chosen,
            bytes: bytes(&position.chosen),
            is_control: self.tokenizer.is_control(position.chosen.token),
            top: position.top.iter().map(|token| (*token, bytes(token))).collect(),
        }
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
