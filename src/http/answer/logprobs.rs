//! Log-probabilities in OpenAI's two shapes.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::actors::messages::TokenText;
use crate::prompt::detokenizer::TokenPositions;

/// JSON has no infinity; this is how vLLM writes a probability of zero.
const LOGPROB_MIN: f32 = -9999.0;

/// `logprobs` of a chat's choice.
#[derive(Debug, serde::Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
    /// This model's refusals are answers.
    refusal: Option<()>,
}

/// A token of an answer, and those that were likely at its place.
#[derive(Debug, serde::Serialize)]
pub(crate) struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<TopToken>,
}

#[derive(Debug, serde::Serialize)]
struct TopToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatToken {
    /// Those of `tokens`.
    pub(crate) fn list(tokens: &[TokenText]) -> Vec<Self> {
        let content = tokens.iter().map(|token| Self {
            token: lossy(&token.bytes),
            logprob: finite(token.token.logprob),
            bytes: token.bytes.clone(),
            top_logprobs: token.top.iter().map(|(top, bytes)| top_token(top.logprob, bytes)).collect(),
        });
        content.collect()
    }
}

impl ChatLogprobs {
    /// Those of `tokens`.
    pub(crate) fn of(tokens: &[TokenText]) -> Self {
        Self { content: ChatToken::list(tokens), refusal: None }
    }
}

fn top_token(logprob: f32, bytes: &[u8]) -> TopToken {
    TopToken { token: lossy(bytes), logprob: finite(logprob), bytes: bytes.to_vec() }
}

/// `logprobs` of a text completion's choice: lists side by side.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct CompletionLogprobs {
    /// Where each token begins, in characters of the choice's text. A token inside a character has
    /// the character's; a generated control token, which has no text, that of the text after
    /// it.
    text_offset: Vec<usize>,
    /// `null` for the prompt's first token, which follows nothing.
    token_logprobs: Vec<Option<f32>>,
    tokens: Vec<String>,
    top_logprobs: Vec<Option<Tops>>,
}

impl CompletionLogprobs {
    /// Adds an echoed prompt. Its text spells control tokens out. `first` are the bytes of its
    /// first token, which follows nothing and so has no log-probability.
    pub(crate) fn push_prompt(&mut self, first: &[u8], rest: &[TokenText], places: &mut TokenPositions) {
        self.push_text(first, places.push(first).chars);
        self.token_logprobs.push(None);
        self.top_logprobs.push(None);
        self.extend(rest, |token| places.push(&token.bytes).chars);
        // What is generated is a text of its own.
        places.flush();
    }

    /// Adds generated tokens.
    pub(crate) fn push_generated(&mut self, tokens: &[TokenText], places: &mut TokenPositions) {
        self.extend(tokens, |token| if token.is_control { places.next() } else { places.push(&token.bytes) }.chars);
    }

    fn extend(&mut self, tokens: &[TokenText], mut offset: impl FnMut(&TokenText) -> usize) {
        for token in tokens {
            self.push_text(&token.bytes, offset(token));
            self.token_logprobs.push(Some(finite(token.token.logprob)));
            self.top_logprobs.push(Some(Tops::of(token)));
        }
    }

    fn push_text(&mut self, bytes: &[u8], offset: usize) {
        self.text_offset.push(offset);
        self.tokens.push(lossy(bytes));
    }
}

/// The likeliest tokens of a place, and the one that stands there, by text; of two with one text
/// the likelier stays.
#[derive(Debug)]
struct Tops(Vec<(String, f32)>);

impl Tops {
    fn of(token: &TokenText) -> Self {
        let all = token.top.iter().map(|(top, bytes)| (top.logprob, bytes)).chain([(token.token.logprob, &token.bytes)]);
        let mut pairs: Vec<(String, f32)> = Vec::with_capacity(token.top.len() + 1);
        for (logprob, bytes) in all {
            let text = lossy(bytes);
            if !pairs.iter().any(|(earlier, _)| *earlier == text) {
                pairs.push((text, finite(logprob)));
            }
        }
        Self(pairs)
    }
}

impl Serialize for Tops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (text, logprob) in &self.0 {
            map.serialize_entry(text, logprob)?;
        }
        map.end()
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LOGPROB_MIN } else { logprob.max(LOGPROB_MIN) }
}
