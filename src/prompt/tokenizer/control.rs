//! Harmony's control tokens, by their place in a conversation's form.

use crate::batch::TokenId;

use super::TokenizerError;
use super::file::Rows;

/// How harmony spells its control tokens.
const SPELLINGS: [&str; 9] = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|call|>",
    "<|return|>",
];

/// Whether harmony has a control token that is spelt so.
pub(super) fn is_harmony(spelling: &str) -> bool {
    SPELLINGS.contains(&spelling)
}

/// The control tokens that harmony is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlTokens {
    /// `<|start|>`: a message's header begins.
    pub start: TokenId,
    /// `<|end|>`: a message ends.
    pub end: TokenId,
    /// `<|message|>`: the header ends, the message's text begins.
    pub message: TokenId,
    /// `<|channel|>`: the channel's name follows.
    pub channel: TokenId,
    /// `<|constrain|>`: the type of the message's text follows.
    pub constrain: TokenId,
    /// `<|call|>`: the message ends, and with it the response, for a tool must answer.
    pub call: TokenId,
    /// `<|return|>`: the message ends, and with it the response.
    pub return_: TokenId,
    /// `<|endoftext|>`: a document ends; a response too, if the model says so. Not in every
    /// vocabulary.
    pub end_of_text: Option<TokenId>,
}

impl ControlTokens {
    /// Looks each of them up among the control tokens of the vocabulary.
    pub(super) fn find(file: &str, rows: &Rows) -> Result<Self, TokenizerError> {
        let id_of = |name: &str| {
            let named = |(row, bytes): (&bool, &Option<Box<[u8]>>)| *row && bytes.as_deref() == Some(name.as_bytes());
            let id = rows.is_control.iter().zip(&rows.bytes).position(named)?;
            u32::try_from(id).ok().map(TokenId)
        };
        let find = |name: &'static str| id_of(name).ok_or(TokenizerError::MissingControl { file: file.to_owned(), name });
        Ok(Self {
            start: find("<|start|>")?,
            end: find("<|end|>")?,
            message: find("<|message|>")?,
            channel: find("<|channel|>")?,
            constrain: find("<|constrain|>")?,
            call: find("<|call|>")?,
            return_: find("<|return|>")?,
            end_of_text: id_of("<|endoftext|>"),
        })
    }

    /// Whether the model ends a response by `token`.
    #[must_use]
    pub fn ends_response(&self, token: TokenId) -> bool {
        token == self.return_ || token == self.call || self.end_of_text == Some(token)
    }

    /// The tokens by which the model ends a response.
    #[must_use]
    pub fn response_ends(&self) -> Vec<TokenId> {
        [Some(self.return_), Some(self.call), self.end_of_text].into_iter().flatten().collect()
    }
}
