//! Where in its answer a sequence is, and what may follow there.
//!
//! A chat's answer is messages, each with a header; which headers there are is known beforehand, token by token. A message's text is
//! free but for control tokens, or a grammar's. So the state is a place in a header, or a place in a text with its matcher.

use std::sync::Arc;

use llguidance::Matcher;

use super::grammar::{Grammar, Grammars};
use crate::batch::{Allowed, TokenId};
use crate::prompt::harmony::parser::ParserStart;
use crate::prompt::tokenizer::{ControlTokens, Tokenizer};

/// What a message's text may be, and the token that ends it.
#[derive(Debug, Clone)]
struct Text {
    /// `None` is any text.
    grammar: Option<Arc<Grammar>>,
    ends: Vec<TokenId>,
    /// Another message may follow.
    goes_on: bool,
}

/// A message that may come next: its header's tokens, and its text.
#[derive(Debug, Clone)]
struct Opening {
    header: Vec<TokenId>,
    text: Text,
}

/// The functions that an answer may call, each with the grammar of its arguments; without one they are any text.
pub type Calls = Vec<(String, Option<Arc<Grammar>>)>;

/// What the answers to one prompt may be.
#[derive(Debug)]
pub struct AnswerRules {
    begin: Begin,
    /// The messages that may follow another one.
    later: Arc<[Opening]>,
    /// Every token that is text; bit by bit.
    text_tokens: Arc<[u32]>,
    return_token: TokenId,
}

#[derive(Debug)]
enum Begin {
    Header(Arc<[Opening]>),
    Text(Text),
}

impl AnswerRules {
    /// Rules for a text that is no chat: all of it is the grammar's.
    #[must_use]
    pub fn of_text(grammars: &Grammars, grammar: Arc<Grammar>) -> Self {
        let ends = grammars.tokenizer().control().response_ends();
        Self::beginning(grammars, Begin::Text(Text { grammar: Some(grammar), ends, goes_on: false }), Vec::new())
    }

    /// Rules for a chat whose prompt ends at `start`. The final message is `answer`'s, or any text; with `must_call` there is none,
    /// and the answer is one of `calls`.
    #[must_use]
    pub fn of_chat(
        grammars: &Grammars,
        start: &ParserStart,
        answer: Option<Arc<Grammar>>,
        calls: &Calls,
        must_call: bool,
    ) -> Self {
        let writer = Writer { tokenizer: grammars.tokenizer(), control: *grammars.tokenizer().control() };
        if let ParserStart::CallText { name } = start {
            let grammar = calls.iter().find(|(called, _)| called == name).and_then(|(_, grammar)| grammar.clone());
            return Self::beginning(grammars, Begin::Text(writer.call_text(grammar)), Vec::new());
        }
        // Besides JSON of a schema there is nothing to say to the reader: a preamble would stand in front of it.
        let says_more = answer.is_none() && !must_call && !calls.is_empty();
        let mut openings: Vec<Opening> = calls.iter().map(|(name, grammar)| writer.call(name, grammar.clone())).collect();
        if !must_call {
            openings.push(writer.last(answer));
        }
        if says_more {
            openings.push(writer.message("commentary"));
        }
        let analysis = writer.message("analysis");
        let first = openings.iter().cloned().chain([analysis.clone()]).collect();
        if says_more {
            openings.push(analysis);
        }
        let later = openings.into_iter().map(|opening| writer.later(opening)).collect();
        Self::beginning(grammars, Begin::Header(first), later)
    }

    fn beginning(grammars: &Grammars, begin: Begin, later: Vec<Opening>) -> Self {
        let tokenizer = grammars.tokenizer();
        let mut words = vec![0; tokenizer.vocab_size().div_ceil(u32::BITS as usize)];
        let is_text = |token: &TokenId| !tokenizer.is_control(*token) && !tokenizer.bytes_of(*token).is_empty();
        set(&mut words, (0..).take(tokenizer.vocab_size()).map(TokenId).filter(is_text));
        Self { begin, later: later.into(), text_tokens: words.into(), return_token: tokenizer.control().return_ }
    }

    /// The answer of one sequence, before its first token.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Answer {
        let state = match &self.begin {
            Begin::Header(openings) => State::Header { openings: Arc::clone(openings), written: Vec::new() },
            Begin::Text(text) => State::of_text(text.clone()),
        };
        Answer { rules: Arc::clone(self), state }
    }
}

/// Writes headers as the renderer does.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    control: ControlTokens,
}

impl Writer<'_> {
    /// `<|channel|>name`, and what else stands there, up to `<|message|>`.
    fn header(&self, name: &str, kind: Option<&str>) -> Vec<TokenId> {
        let mut header = vec![self.control.channel];
        self.tokenizer.encode_text_into(name, &mut header);
        if let Some(kind) = kind {
            header.push(self.control.constrain);
            self.tokenizer.encode_text_into(kind, &mut header);
        }
        header.push(self.control.message);
        header
    }

    /// A message of any text after which another one comes.
    fn message(&self, channel: &str) -> Opening {
        let text = Text { grammar: None, ends: vec![self.control.end], goes_on: true };
        Opening { header: self.header(channel, None), text }
    }

    fn last(&self, grammar: Option<Arc<Grammar>>) -> Opening {
        let text = Text { grammar, ends: vec![self.control.return_], goes_on: false };
        Opening { header: self.header("final", None), text }
    }

    fn call(&self, name: &str, grammar: Option<Arc<Grammar>>) -> Opening {
        let header = self.header(&format!("commentary to=functions.{name} "), Some("json"));
        Opening { header, text: self.call_text(grammar) }
    }

    fn call_text(&self, grammar: Option<Arc<Grammar>>) -> Text {
        Text { grammar, ends: vec![self.control.call], goes_on: false }
    }

    /// `opening` behind a message that ended.
    fn later(&self, opening: Opening) -> Opening {
        let mut header = vec![self.control.start];
        self.tokenizer.encode_text_into("assistant", &mut header);
        header.extend(opening.header);
        Opening { header, ..opening }
    }
}

enum State {
    /// In a header, of which so much is written: one of these.
    Header { openings: Arc<[Opening]>, written: Vec<TokenId> },
    /// In a text.
    Text { text: Text, matcher: Option<Box<Matcher>> },
    /// At the end.
    Over,
}

impl State {
    fn of_text(text: Text) -> Self {
        let matcher = text.grammar.as_ref().map(|grammar| Box::new(grammar.matcher()));
        Self::Text { text, matcher }
    }
}

/// The answer of one sequence: which tokens may come next follows from those that came.
pub struct Answer {
    rules: Arc<AnswerRules>,
    state: State,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

impl Answer {
    /// Takes the next token, which [`Answer::allowed`] had.
    ///
    /// # Errors
    /// What the grammar said, if it cannot follow; nothing is allowed then.
    pub fn take(&mut self, token: TokenId) -> Result<(), String> {
        match &mut self.state {
            State::Over => {}
            State::Header { openings, written } => {
                written.push(token);
                let found = openings.iter().find(|opening| opening.header == *written);
                if let Some(opening) = found {
                    self.state = State::of_text(opening.text.clone());
                }
            }
            State::Text { text, matcher } => {
                if text.ends.contains(&token) {
                    self.state = match text.goes_on {
                        true => State::Header { openings: Arc::clone(&self.rules.later), written: Vec::new() },
                        false => State::Over,
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
            State::Over => return Ok(Allowed::All),
            State::Header { openings, written } => {
                let next =
                    openings.iter().filter_map(|opening| opening.header.strip_prefix(written.as_slice())?.first().copied());
                set(&mut words, next);
            }
            State::Text { text, matcher: None } => {
                words.copy_from_slice(&self.rules.text_tokens);
                set(&mut words, text.ends.iter().copied());
            }
            State::Text { text, matcher: Some(matcher) } => {
                let mask = matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
                for ((word, allowed), is_text) in words.iter_mut().zip(mask.as_slice()).zip(&*self.rules.text_tokens) {
                    *word = allowed & is_text;
                }
                // The crate says by its one end token that the text may end.
                if mask.is_allowed(self.rules.return_token.0) {
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

/// Sets the bits of `tokens`.
fn set(words: &mut [u32], tokens: impl Iterator<Item = TokenId>) {
    for TokenId(token) in tokens {
        words[(token / u32::BITS) as usize] |= 1 << (token % u32::BITS);
    }
}
