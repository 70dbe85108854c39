//! Text to tokens, and tokens to bytes.
//!
//! Owns: the vocabulary of the loaded checkpoint. Promises: [`Tokenizer::encode_text`] never yields
//! a control token, whatever the text. The bytes of a text's tokens are the text's bytes (but for
//! spaces that an added token takes). Time is linear in the text, even for a megabyte of one
//! character. No text makes it panic. The tokens are those that the `tokenizers` crate gives.
//! Absent on purpose: UTF-8 over the borders of tokens (the detokenizer's), opening files (the
//! caller's).

use crate::batch::TokenId;

pub use control::ControlTokens;
pub use error::TokenizerError;
pub use filled::fill_vocabulary;

use added::{Added, TextSegment};
use merges::{MergeScratch, Merges};
use token_bytes::TokenBytes;
use whole_words::WholeWords;
use words::Words;

mod added;
mod control;
mod error;
mod file;
mod filled;
mod merges;
mod token_bytes;
mod whole_words;
mod words;

/// The tokenizer of a checkpoint.
#[derive(Debug)]
pub struct Tokenizer {
    words: Words,
    merges: Merges,
    whole_words: WholeWords,
    added: Added,
    bytes: TokenBytes,
    /// Bytes of the longest token: a text of more bytes than so many tokens have is not so few
    /// tokens.
    longest_bytes: usize,
    is_control: Vec<bool>,
    control: ControlTokens,
}

impl Tokenizer {
    /// Reads `json`, the contents of a tokenizer.json; `file` names it in errors. `vocab_size` is
    /// the number of rows in the model's embedding: no id may lie beyond them, but rows may be
    /// left over.
    ///
    /// # Errors
    /// [`TokenizerError`] if the file is no byte-level BPE tokenizer with harmony's control tokens,
    /// contradicts itself, or does not fit the model.
    pub fn from_json(file: &str, json: &[u8], vocab_size: usize) -> Result<Self, TokenizerError> {
        let file::TokenizerFile { words, merges, added, rows, whole_words } = file::read(file, json, vocab_size)?;
        let control = ControlTokens::find(file, &rows)?;
        let bytes = TokenBytes::new(&rows.bytes);
        let longest_bytes = bytes.longest_bytes();
        Ok(Self { words, merges, whole_words, added, bytes, longest_bytes, is_control: rows.is_control, control })
    }

    /// Checks that the tokens by which the model ends (`eos_token_id` of its config.json or
    /// generation_config.json) are control tokens; `file` names the tokenizer's file in the
    /// error.
    ///
    /// # Errors
    /// [`TokenizerError::WrongEnd`]: the tokenizer is likely another model's, though its ids fit.
    pub fn check_ends(&self, file: &str, ends: &[TokenId]) -> Result<(), TokenizerError> {
        match ends.iter().find(|end| !self.is_control(**end)) {
            None => Ok(()),
            Some(end) => {
                let found = match self.bytes_of(*end) {
                    [] => "no token".to_owned(),
                    bytes => format!("the text {:?}", String::from_utf8_lossy(bytes)),
                };
                Err(TokenizerError::WrongEnd { file: file.to_owned(), id: end.0, found })
            }
        }
    }

    /// The tokens of `text`, none of them a control token: `<|start|>` in it becomes ordinary
    /// tokens.
    #[must_use]
    pub fn encode_text(&self, text: &str) -> Vec<TokenId> {
        let mut tokens = Vec::with_capacity(text.len() / 4);
        self.encode_text_into(text, &mut tokens);
        tokens
    }

    /// As [`Tokenizer::encode_text`], appended to `tokens`.
    pub fn encode_text_into(&self, text: &str, tokens: &mut Vec<TokenId>) {
        let _ = self.encode_into(text, false, usize::MAX, tokens);
    }

    /// As [`Tokenizer::encode_text_into`], while `tokens` holds no more than `tokens_max` in all.
    /// False if it would hold more; it then holds some of the text's, and the rest of the text
    /// was not looked at: the work is that of `tokens_max` tokens, however long the text is.
    #[must_use]
    pub fn encode_text_within(&self, text: &str, tokens_max: usize, tokens: &mut Vec<TokenId>) -> bool {
        self.encode_into(text, false, tokens_max, tokens)
    }

    /// The tokens of `text`, in which spellings of control tokens become control tokens: for
    /// `/tokenize` and prompts that are plain text, never for the messages of a conversation.
    #[must_use]
    pub fn encode_with_control(&self, text: &str) -> Vec<TokenId> {
        let mut tokens = Vec::with_capacity(text.len() / 4);
        let _ = self.encode_into(text, true, usize::MAX, &mut tokens);
        tokens
    }

    fn encode_into(&self, text: &str, control: bool, tokens_max: usize, tokens: &mut Vec<TokenId>) -> bool {
        let mut scratch = MergeScratch::default();
        // A word of a megabyte is known to be too long before it is merged.
        let fits = |word: &str, count: usize| word.len().div_ceil(self.longest_bytes) <= tokens_max.saturating_sub(count);
        let mut is_whole = true;
        self.added.split(text, control, |piece| match piece {
            TextSegment::Token(id) if tokens.len() < tokens_max => tokens.push(id),
            TextSegment::Text(text) if is_whole => self.words.split(text, |word| {
                is_whole = fits(word, tokens.len());
                match self.whole_words.get(word.as_bytes()) {
                    _ if !is_whole => {}
                    Some(id) => tokens.push(TokenId(id)),
                    None => self.merges.encode(word.as_bytes(), &mut scratch, tokens),
                }
                is_whole
            }),
            TextSegment::Token(_) | TextSegment::Text(_) => is_whole = false,
        });
        is_whole && tokens.len() <= tokens_max
    }

    /// The bytes that `token` stands for; an added token's are its spelling. Empty for ids that
    /// stand for nothing.
    #[must_use]
    pub fn bytes_of(&self, token: TokenId) -> &[u8] {
        self.bytes.get(token.0)
    }

    /// Harmony's control tokens.
    #[must_use]
    pub fn control(&self) -> &ControlTokens {
        &self.control
    }

    /// Whether `token` is a control token: harmony's, or another added token that the file calls
    /// special.
    #[must_use]
    pub fn is_control(&self, token: TokenId) -> bool {
        self.is_control.get(token.0 as usize).copied().unwrap_or(false)
    }

    /// How many rows the model's vocabulary has; ids lie below.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// The text of `tokens`, spellings of control tokens included; bytes that are no UTF-8 become
    /// U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.bytes_of(*token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests;
