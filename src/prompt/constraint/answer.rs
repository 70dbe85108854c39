//! Where in its answer a sequence is, and what may follow there.
//!
//! A chat's answer is messages, each with a header; which headers there are is known beforehand,
//! control token by control token and byte by byte between them, in whichever tokens the model
//! writes those. A message's text is free but for control tokens, or a grammar's. So the state is a
//! place in a header, or a place in a text with its matcher.

use std::sync::Arc;

use llguidance::Matcher;

use super::grammar::{Grammar, Grammars};
use super::set;
use super::thinking::ThinkingBounds;
use crate::batch::{Allowed, TokenId};
use crate::prompt::conversation::CallKind;
use crate::prompt::harmony::parser::ParserStart;
use crate::prompt::tokenizer::ControlTokens;

/// What a message's text may be, and the token that ends it.
#[derive(Debug, Clone)]
struct Text {
    /// `None` is any text.
    grammar: Option<Arc<Grammar>>,
    ends: Vec<TokenId>,
    /// Another message may follow.
    goes_on: bool,
    /// It is analysis.
    thinks: bool,
}

/// A part of a header.
#[derive(Debug, Clone, PartialEq)]
enum AnswerPart {
    Control(TokenId),
    /// Not empty.
    Written(String),
}

/// A message that may come next: its header, and its text.
#[derive(Debug, Clone)]
struct HeaderOpening {
    header: Vec<AnswerPart>,
    text: Text,
}

/// Where in the header of an opening a sequence is.
#[derive(Debug, Clone, Copy)]
struct Place {
    opening: usize,
    part: usize,
    /// Bytes of the part that are written.
    written: usize,
}

/// A function, or a custom tool, that an answer may call.
#[derive(Debug, Clone)]
pub struct OfferedCall {
    /// Its name.
    pub name: String,
    /// What a call of it holds.
    pub kind: CallKind,
    /// The grammar of that; without one it is any text.
    pub grammar: Option<Arc<Grammar>>,
}

/// What the answers to one prompt may be.
#[derive(Debug)]
pub struct AnswerRules {
    begin: Begin,
    /// The messages that may follow another one.
    later: Arc<[HeaderOpening]>,
    /// Every token that is text; bit by bit.
    text_tokens: Arc<[u32]>,
    grammars: Arc<Grammars>,
}

#[derive(Debug)]
enum Begin {
    Header(Arc<[HeaderOpening]>),
    Text(Text),
}

impl AnswerRules {
    /// Rules for a text that is no chat: all of it is the grammar's.
    #[must_use]
    pub fn of_text(grammars: &Arc<Grammars>, grammar: Arc<Grammar>) -> Self {
        let ends = grammars.tokenizer().control().response_ends();
        Self::beginning(grammars, Begin::Text(Text { grammar: Some(grammar), ends, goes_on: false, thinks: false }), Vec::new())
    }

    /// Rules for a chat whose prompt ends at `start`. The final message is `answer`'s, or any text;
    /// with `must_call` there is none, and the answer is one of `calls`.
    #[must_use]
    pub fn of_chat(
        grammars: &Arc<Grammars>,
        start: &ParserStart,
        answer: Option<Arc<Grammar>>,
        calls: &[OfferedCall],
        must_call: bool,
    ) -> Self {
        let writer = HeaderWriter { control: *grammars.tokenizer().control() };
        if let ParserStart::CallText { name } = start {
            let grammar = calls.iter().find(|call| call.name == *name).and_then(|call| call.grammar.clone());
            return Self::beginning(grammars, Begin::Text(writer.call_text(grammar)), Vec::new());
        }
        if *start == ParserStart::FinalText {
            return Self::beginning(grammars, Begin::Text(writer.last(answer).text), Vec::new());
        }
        // Besides JSON of a schema there is nothing to say to the reader: a preamble would stand in
        // front of it.
        let says_more = answer.is_none() && !must_call && !calls.is_empty();
        let mut openings: Vec<HeaderOpening> = calls.iter().flat_map(|call| writer.call(call)).collect();
        if !must_call {
            openings.push(writer.last(answer));
        }
        if says_more {
            openings.push(writer.message("commentary"));
        }
        let analysis = writer.message("analysis");
        let first = openings.iter().cloned().chain([analysis.clone()]);
        let first = match start {
            ParserStart::WholeHeader => first.map(|opening| writer.later(opening)).collect(),
            _ => first.collect(),
        };
        if says_more {
            openings.push(analysis);
        }
        let later = openings.into_iter().map(|opening| writer.later(opening)).collect();
        Self::beginning(grammars, Begin::Header(first), later)
    }

    /// Memory that a sequence holds for its answer when it begins. What it holds later depends on
    /// what is said: up to 2 KiB for each of the lexer's states, of which a few hundred are
    /// usual.
    #[must_use]
    pub fn sequence_bytes(&self) -> u64 {
        let begin = match &self.begin {
            Begin::Header(openings) => openings.iter().map(|opening| &opening.text).collect(),
            Begin::Text(text) => vec![text],
        };
        let texts = begin.into_iter().chain(self.later.iter().map(|opening| &opening.text));
        let grammar = texts.filter_map(|text| text.grammar.as_deref()).map(Grammar::bytes).max().unwrap_or(0);
        (grammar + size_of_val(&*self.text_tokens)) as u64
    }

    fn beginning(grammars: &Arc<Grammars>, begin: Begin, later: Vec<HeaderOpening>) -> Self {
        let tokenizer = grammars.tokenizer();
        let mut words = vec![0; tokenizer.vocab_size().div_ceil(u32::BITS as usize)];
        set(&mut words, (0..).take(tokenizer.vocab_size()).map(TokenId).filter(|token| grammars.is_text(*token)));
        Self { begin, later: later.into(), text_tokens: words.into(), grammars: Arc::clone(grammars) }
    }

    /// The answer of one sequence, before its first token.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> ConstrainedAnswer {
        self.begin_within(ThinkingBounds::free())
    }

    /// As [`AnswerRules::begin`], for an answer that thinks within `thinking`.
    #[must_use]
    pub fn begin_within(self: &Arc<Self>, thinking: ThinkingBounds) -> ConstrainedAnswer {
        let state = match &self.begin {
            Begin::Header(openings) => AnswerState::of_header(openings, thinking.may_begin(0, 0)),
            Begin::Text(text) => AnswerState::of_text(text.clone()),
        };
        ConstrainedAnswer { rules: Arc::clone(self), state, thinking, drawn: 0, began: 0, thought: 0 }
    }
}

/// Writes headers as the model does.
struct HeaderWriter {
    control: ControlTokens,
}

impl HeaderWriter {
    /// `<|channel|>name<|message|>`.
    fn header(&self, name: &str) -> Vec<AnswerPart> {
        vec![
            AnswerPart::Control(self.control.channel),
            AnswerPart::Written(name.to_owned()),
            AnswerPart::Control(self.control.message),
        ]
    }

    /// A message of any text after which another one comes.
    fn message(&self, channel: &str) -> HeaderOpening {
        let text = Text { grammar: None, ends: vec![self.control.end], goes_on: true, thinks: channel == "analysis" };
        HeaderOpening { header: self.header(channel), text }
    }

    fn last(&self, grammar: Option<Arc<Grammar>>) -> HeaderOpening {
        let text = Text { grammar, ends: vec![self.control.return_], goes_on: false, thinks: false };
        HeaderOpening { header: self.header("final"), text }
    }

    /// A call, in the forms in which the model writes its header: the recipient behind the channel
    /// or behind the role, the type of the text with a blank before it, without one, or left
    /// out. A custom tool's text has no type.
    fn call(&self, call: &OfferedCall) -> Vec<HeaderOpening> {
        let OfferedCall { name, kind, grammar } = call;
        let json = [AnswerPart::Control(self.control.constrain), AnswerPart::Written("json".to_owned())];
        let kinds = match kind {
            CallKind::Function => vec![(" ", &json[..]), ("", &json[..]), ("", &[])],
            CallKind::Custom => vec![("", &[][..])],
        };
        let recipient = format!(" to=functions.{name}");
        let forms = [(None, format!("commentary{recipient}")), (Some(recipient), "commentary".to_owned())];
        let header = |role: Option<&String>, channel: &str, (blank, kind): (&str, &[AnswerPart])| {
            let role = role.cloned().map(AnswerPart::Written);
            let channel = [AnswerPart::Control(self.control.channel), AnswerPart::Written(format!("{channel}{blank}"))];
            let end = [AnswerPart::Control(self.control.message)];
            role.into_iter().chain(channel).chain(kind.iter().cloned()).chain(end).collect()
        };
        let headers = forms.iter().flat_map(|(role, channel)| kinds.iter().map(|kind| header(role.as_ref(), channel, *kind)));
        headers.map(|header| HeaderOpening { header, text: self.call_text(grammar.clone()) }).collect()
    }

    fn call_text(&self, grammar: Option<Arc<Grammar>>) -> Text {
        Text { grammar, ends: vec![self.control.call], goes_on: false, thinks: false }
    }

    /// `opening` behind a message that ended.
    fn later(&self, opening: HeaderOpening) -> HeaderOpening {
        let mut header = vec![AnswerPart::Control(self.control.start)];
        let mut rest = opening.header.into_iter();
        match rest.next() {
            Some(AnswerPart::Written(role)) => header.push(AnswerPart::Written(format!("assistant{role}"))),
            Some(control) => header.extend([AnswerPart::Written("assistant".to_owned()), control]),
            None => {}
        }
        header.extend(rest);
        HeaderOpening { header, text: opening.text }
    }
}

enum AnswerState {
    /// In a header of one of these, at one of the places.
    Header { openings: Arc<[HeaderOpening]>, places: Vec<Place> },
    /// In a text.
    Text { text: Text, matcher: Option<Box<Matcher>> },
    /// At the end.
    Over,
}

impl AnswerState {
    /// At the beginning of a header, which opens the answer unless the model may think.
    fn of_header(openings: &Arc<[HeaderOpening]>, thinks: bool) -> Self {
        let may_open = |opening: &usize| thinks || !openings[*opening].text.goes_on;
        let places = (0..openings.len()).filter(may_open).map(|opening| Place { opening, part: 0, written: 0 }).collect();
        Self::Header { openings: Arc::clone(openings), places }
    }

    fn of_text(text: Text) -> Self {
        let matcher = text.grammar.as_ref().map(|grammar| Box::new(grammar.matcher()));
        Self::Text { text, matcher }
    }
}

/// The answer of one sequence: which tokens may come next follows from those that came.
pub struct ConstrainedAnswer {
    rules: Arc<AnswerRules>,
    state: AnswerState,
    thinking: ThinkingBounds,
    /// Tokens taken, those before the text at hand, and those of analysis that ended.
    drawn: u32,
    began: u32,
    thought: u32,
}

impl std::fmt::Debug for ConstrainedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConstrainedAnswer")
    }
}

impl ConstrainedAnswer {
    /// Takes the next token, which [`ConstrainedAnswer::allowed`] had.
    ///
    /// # Errors
    /// What the grammar said, if it cannot follow; nothing is allowed then.
    pub fn take(&mut self, token: TokenId) -> Result<(), String> {
        let index = self.drawn;
        self.drawn += 1;
        match &mut self.state {
            AnswerState::Over => {}
            AnswerState::Header { openings, places } => {
                let bytes = self.rules.grammars.tokenizer().bytes_of(token);
                let step = |place: &Place| match &openings[place.opening].header[place.part] {
                    AnswerPart::Control(control) => {
                        (*control == token).then_some(Place { part: place.part + 1, written: 0, ..*place })
                    }
                    AnswerPart::Written(text) => {
                        let rest = text.as_bytes()[place.written..].strip_prefix(bytes)?;
                        Some(match rest.is_empty() {
                            true => Place { part: place.part + 1, written: 0, ..*place },
                            false => Place { written: place.written + bytes.len(), ..*place },
                        })
                    }
                };
                let next: Vec<Place> = places.iter().filter_map(step).collect();
                let whole = next.iter().map(|place| (&openings[place.opening], place.part));
                let found = whole.filter(|(opening, part)| *part == opening.header.len()).map(|(opening, _)| opening).next();
                match found {
                    Some(opening) => {
                        self.began = self.drawn;
                        self.state = AnswerState::of_text(opening.text.clone());
                    }
                    None => *places = next,
                }
            }
            AnswerState::Text { text, matcher } => {
                if text.ends.contains(&token) {
                    if text.thinks {
                        self.thinking.note_end(index, self.began, self.thought);
                        self.thought += index - self.began;
                    }
                    self.state = match text.goes_on {
                        true => {
                            let thinks = self.thinking.may_begin(self.drawn, self.thought);
                            AnswerState::of_header(&self.rules.later, thinks)
                        }
                        false => AnswerState::Over,
                    };
                } else if let Some(matcher) = matcher {
                    matcher.consume_token(token.0).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Which tokens may come next.
    ///
    /// # Errors
    /// What the grammar said, if none can, or if finding them took more than its budget.
    pub fn allowed(&mut self) -> Result<Allowed, String> {
        let mut words = vec![0; self.rules.text_tokens.len()];
        match &mut self.state {
            AnswerState::Over => return Ok(Allowed::All),
            AnswerState::Header { openings, places } => {
                let mut texts = Vec::new();
                for place in places {
                    match &openings[place.opening].header[place.part] {
                        AnswerPart::Control(control) => set(&mut words, [*control].into_iter()),
                        AnswerPart::Written(text) => texts.push(&text.as_bytes()[place.written..]),
                    }
                }
                texts.sort_unstable();
                texts.dedup();
                for text in texts {
                    set(&mut words, self.rules.grammars.beginnings(text));
                }
            }
            AnswerState::Text { text, .. } if text.thinks && self.drawn >= self.thinking.until(self.began, self.thought) => {
                set(&mut words, text.ends.iter().copied());
            }
            AnswerState::Text { text, matcher: None } => {
                words.copy_from_slice(&self.rules.text_tokens);
                set(&mut words, text.ends.iter().copied());
            }
            AnswerState::Text { text, matcher: Some(matcher) } => {
                let mask = matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
                for ((word, allowed), is_text) in words.iter_mut().zip(mask.as_slice()).zip(&*self.rules.text_tokens) {
                    *word = allowed & is_text;
                }
                // The crate says by its one end token that the text may end.
                if mask.is_allowed(self.rules.grammars.tokenizer().control().return_.0) {
                    set(&mut words, text.ends.iter().copied());
                }
            }
        }
        match words.iter().all(|word| *word == 0) {
            true => Err("no token goes on".to_owned()),
            false => Ok(Allowed::Only(words.into())),
        }
    }
}
