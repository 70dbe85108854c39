//! What can be wrong with a tokenizer.json: for the operator.

/// A tokenizer.json that cannot serve the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is not JSON, or the `tokenizers` crate does not take it.
    #[error("{file}: not a tokenizer.json: {message}")]
    NotATokenizer {
        /// The file.
        file: String,
        /// What the reader said.
        message: String,
    },
    /// A part of it is of a kind that GPT-OSS checkpoints do not use.
    #[error("{file}: {key} is {found}, expected {expected}")]
    Unsupported {
        /// The file.
        file: String,
        /// Where in the file.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What a byte-level tokenizer of GPT-OSS has there.
        expected: &'static str,
    },
    /// A token lies beyond the model's embedding.
    #[error("{file}: token {token:?} has id {id}, but the model's vocabulary has {vocab_size} rows, ids 0 to {}", vocab_size.saturating_sub(1))]
    BeyondVocabulary {
        /// The file.
        file: String,
        /// The token.
        token: String,
        /// Its id.
        id: u64,
        /// Rows of the model's vocabulary.
        vocab_size: usize,
    },
    /// Two tokens share an id.
    #[error("{file}: tokens {first:?} and {second:?} both have id {id}, expected one token an id")]
    ClashingIds {
        /// The file.
        file: String,
        /// One token.
        first: String,
        /// The other.
        second: String,
        /// Their id.
        id: u32,
    },
    /// An id below that of the last token of the vocabulary stands for no token.
    #[error("{file}: no token has id {id}, expected one for each id up to {last}")]
    Gap {
        /// The file.
        file: String,
        /// The first id that is missing.
        id: usize,
        /// The last id of `model.vocab`.
        last: usize,
    },
    /// A control token of harmony is missing.
    #[error("{file}: the control token {name} is missing, expected it in added_tokens")]
    MissingControl {
        /// The file.
        file: String,
        /// Its spelling.
        name: &'static str,
    },
    /// Ordinary text could become a control token.
    #[error("{file}: a merge of {left:?} and {right:?} gives the control token {token:?}, expected ordinary tokens only")]
    ControlFromText {
        /// The file.
        file: String,
        /// The left part.
        left: String,
        /// The right part.
        right: String,
        /// The control token.
        token: String,
    },
    /// A byte has no token, so not every text could be encoded.
    #[error("{file}: byte {byte:#04x} has no token, expected {character:?} in model.vocab")]
    MissingByte {
        /// The file.
        file: String,
        /// The byte.
        byte: u8,
        /// How the vocabulary would write it.
        character: char,
    },
    /// The model ends its answers by a token that is no control token here: the file belongs to
    /// another model.
    #[error(
        "{file}: the model ends with token {id}, which is {found} here, expected a control token: is the file another model's?"
    )]
    WrongEnd {
        /// The file.
        file: String,
        /// The token, as config.json or generation_config.json has it.
        id: u32,
        /// What the file has under that id.
        found: String,
    },
}
