//! The prompt room on OpenAI's own vocabulary, against OpenAI's own renderer and tokenizer.

mod harmony;
mod o200k;
mod tokens;
