//! Log-probabilities in OpenAI's two shapes.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::actors::messages::TokenText;
use crate::batch::{TokenId, TokenLogprob};
use crate::prompt::detokenizer::TokenPositions;

/// JSON has no infinity; this is how vLLM writes a probability of zero.
const LOGPROB_MIN: f32 = -9999.0;

/// How the tokens of a list are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenListing {
    /// By their ids, as vLLM writes them (`token_id:7`): two tokens of one text stay two.
    pub(crate) as_ids: bool,
    /// So many of the likeliest at a place, at most.
    pub(crate) top_max_count: usize,
}

impl Default for TokenListing {
    /// By their texts, and all that are there.
    fn default() -> Self {
        Self { as_ids: false, top_max_count: usize::MAX }
    }
}

impl TokenListing {
    fn name(self, token: TokenId, bytes: &[u8]) -> String {
        if self.as_ids { format!("token_id:{}", token.0) } else { lossy(bytes) }
    }

    /// The likeliest tokens that are told beside `token`.
    fn top(self, token: &TokenText) -> impl Iterator<Item = (&TokenLogprob, &[u8])> {
        token.top.iter().take(self.top_max_count).map(|(top, bytes)| (top, bytes.as_slice()))
    }
}

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
    pub(crate) fn list(tokens: &[TokenText], listing: TokenListing) -> Vec<Self> {
        let top = |(top, bytes): (&TokenLogprob, &[u8])| TopToken {
            token: listing.name(top.token, bytes),
            logprob: finite(top.logprob),
            bytes: bytes.to_vec(),
        };
        let content = tokens.iter().map(|token| Self {
            token: listing.name(token.token.token, &token.bytes),
            logprob: finite(token.token.logprob),
            bytes: token.bytes.clone(),
            top_logprobs: listing.top(token).map(top).collect(),
        });
        content.collect()
    }
}

impl ChatLogprobs {
    /// Those of `tokens`.
    pub(crate) fn of(tokens: &[TokenText], listing: TokenListing) -> Self {
        Self { content: ChatToken::list(tokens, listing), refusal: None }
    }
}

/// `prompt_logprobs`, as vLLM has them: an entry a token, null for the first, which follows
/// nothing.
#[derive(Debug, serde::Serialize)]
#[serde(transparent)]
pub(crate) struct RankedPrompt(Vec<Option<RankedTokens>>);

impl RankedPrompt {
    /// Those of a prompt whose tokens but the first are `rest`, with `top_max_count` of the
    /// likeliest at each place.
    pub(crate) fn of(rest: &[TokenText], top_max_count: u32) -> Self {
        let listing = TokenListing { as_ids: false, top_max_count: top_max_count as usize };
        let ranked = |token: &TokenText| {
            let chosen = [(&token.token, token.bytes.as_slice())].into_iter();
            let others = listing.top(token).filter(|(top, _)| top.token != token.token.token);
            let told = |(token, bytes): (&TokenLogprob, &[u8])| {
                let ranked = RankedToken { logprob: finite(token.logprob), rank: token.rank, decoded_token: lossy(bytes) };
                (token.token.0, ranked)
            };
            RankedTokens(chosen.chain(others).map(told).collect())
        };
        Self([None].into_iter().chain(rest.iter().map(|token| Some(ranked(token)))).collect())
    }
}

/// The tokens of a place by their ids, the one that stands there first.
#[derive(Debug)]
struct RankedTokens(Vec<(u32, RankedToken)>);

#[derive(Debug, serde::Serialize)]
struct RankedToken {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

impl Serialize for RankedTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, token)| (id, token)))
    }
}

/// `logprobs` of a text completion's choice: lists side by side.
#[derive(Debug, serde::Serialize)]
pub(crate) struct CompletionLogprobs {
    #[serde(skip)]
    listing: TokenListing,
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
    /// Empty lists.
    pub(crate) fn new(listing: TokenListing) -> Self {
        let (text_offset, tokens) = (Vec::new(), Vec::new());
        Self { listing, text_offset, token_logprobs: Vec::new(), tokens, top_logprobs: Vec::new() }
    }

    /// Adds an echoed prompt. Its text spells control tokens out. `first` is its first token with
    /// its bytes, which follows nothing and so has no log-probability.
    pub(crate) fn push_prompt(&mut self, first: (TokenId, &[u8]), rest: &[TokenText], places: &mut TokenPositions) {
        self.push_text(first, places.push(first.1).chars);
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
            self.push_text((token.token.token, &token.bytes), offset(token));
            self.token_logprobs.push(Some(finite(token.token.logprob)));
            self.top_logprobs.push(Some(Tops::of(token, self.listing)));
        }
    }

    fn push_text(&mut self, (token, bytes): (TokenId, &[u8]), offset: usize) {
        self.text_offset.push(offset);
        self.tokens.push(self.listing.name(token, bytes));
    }
}

/// The likeliest tokens of a place, and the one that stands there, by name; of two with one name
/// the likelier stays.
#[derive(Debug)]
struct Tops(Vec<(String, f32)>);

impl Tops {
    fn of(token: &TokenText, listing: TokenListing) -> Self {
        let mut pairs: Vec<(String, f32)> = Vec::with_capacity(token.top.len() + 1);
        for (scored, bytes) in listing.top(token).chain([(&token.token, token.bytes.as_slice())]) {
            let name = listing.name(scored.token, bytes);
            if !pairs.iter().any(|(earlier, _)| *earlier == name) {
                pairs.push((name, finite(scored.logprob)));
            }
        }
        Self(pairs)
    }
}

impl Serialize for Tops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, logprob) in &self.0 {
            map.serialize_entry(name, logprob)?;
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
