//! What can be wrong with a tokenizer file: for the operator.

/// A tokenizer.json that cannot serve the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is not JSON, or not a tokenizer.
    #[error("{file}: not a tokenizer.json: {message}")]
    NotATokenizer {
        /// The file.
        file: String,
        /// What the reader said.
        message: String,
    },
    /// A control token of harmony is missing.
    #[error("{file}: the control token {name} is missing; a GPT-OSS tokenizer has it among its added_tokens")]
    MissingControl {
        /// The file.
        file: String,
        /// Its spelling.
        name: &'static str,
    },
}
