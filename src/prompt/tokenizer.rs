//! Text to tokens, and tokens to bytes.
//!
//! Owns: the vocabulary of the loaded checkpoint. Promises: [`Tokenizer::encode_text`] never yields a control token,
//! whatever the text; tokens to bytes to tokens is exact; no text makes it panic. Absent on purpose: UTF-8 over token borders (the
//! detokenizer's), files (the caller reads them).

use tokenizers::{PreTokenizedString, PreTokenizer as _};

use crate::batch::TokenId;

pub use control::ControlTokens;
pub use error::TokenizerError;

mod control;
mod error;

/// The tokenizer of a checkpoint.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bytes: Vec<Box<[u8]>>,
    control: ControlTokens,
}

impl Tokenizer {
    /// Reads `json`, the contents of a tokenizer.json; `file` names it in errors. `vocab_size` is the number of rows in the
    /// model's embedding: no id may lie beyond them.
    ///
    /// # Errors
    /// [`TokenizerError`] if the file is no byte-level BPE tokenizer with harmony's control tokens, or does not fit the model.
    pub fn from_json(file: &str, json: &[u8], vocab_size: usize) -> Result<Self, TokenizerError> {
        let inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|error| TokenizerError::NotATokenizer { file: file.to_owned(), message: error.to_string() })?;
        let mut bytes = vec![Box::<[u8]>::default(); vocab_size];
        for (token, id) in inner.get_vocab(true) {
            let added = inner.get_added_vocabulary().is_special_token(&token);
            bytes[id as usize] = if added { token.into_bytes().into() } else { byte_level(&token) };
        }
        let control = ControlTokens::find(file, |name| inner.token_to_id(name).map(TokenId))?;
        Ok(Self { inner, bytes, control })
    }

    /// The tokens of `text`, none of them a control token: `<|start|>` in it becomes ordinary tokens.
    #[must_use]
    pub fn encode_text(&self, text: &str) -> Vec<TokenId> {
        let mut pretokenized = PreTokenizedString::from(text);
        self.inner.get_pre_tokenizer().expect("has one").pre_tokenize(&mut pretokenized).expect("splits");
        pretokenized.tokenize(|word| tokenizers::Model::tokenize(self.inner.get_model(), word.get())).expect("tokenizes");
        let encoding = pretokenized.into_encoding(None, 0, tokenizers::OffsetType::None).expect("is tokenized");
        encoding.get_ids().iter().copied().map(TokenId).collect()
    }

    /// The tokens of `text`, in which the spellings of control tokens become control tokens: for `/tokenize` and for raw
    /// prompts of trusted callers, never for what a user wrote in a conversation.
    #[must_use]
    pub fn encode_with_control(&self, text: &str) -> Vec<TokenId> {
        let encoding = self.inner.encode_fast(text, false).expect("tokenizes");
        encoding.get_ids().iter().copied().map(TokenId).collect()
    }

    /// The bytes that `token` stands for; a control token's are its spelling. Empty for ids that stand for nothing.
    #[must_use]
    pub fn bytes_of(&self, token: TokenId) -> &[u8] {
        self.bytes.get(token.0 as usize).map_or(&[], |bytes| bytes)
    }

    /// Harmony's control tokens.
    #[must_use]
    pub fn control(&self) -> &ControlTokens {
        &self.control
    }

    /// Whether `token` is a control token: harmony's, or another special one of the file.
    #[must_use]
    pub fn is_control(&self, token: TokenId) -> bool {
        let spelling = String::from_utf8_lossy(self.bytes_of(token));
        self.inner.get_added_vocabulary().is_special_token(&spelling)
    }

    /// How many rows the model's vocabulary has; ids lie below.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// The text of `tokens`, spellings of control tokens included; bytes that are no UTF-8 become U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.bytes_of(*token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn byte_level(token: &str) -> Box<[u8]> {
    token
        .chars()
        .map(|character| match u32::from(character) {
            code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code as u8,
            code @ 0x100..=0x120 => (code - 0x100) as u8,
            code @ 0x121..=0x142 => (code - 0x121 + 0x7f) as u8,
            _ => 0xad,
        })
        .collect()
}
