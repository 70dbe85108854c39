//! Harmony, the form in which GPT-OSS reads and writes conversations: messages of a header and a
//! text, between control tokens.
//!
//! Source: OpenAI's harmony format guide, and the behaviour of `openai-harmony` 0.0.8.

pub mod parser;
pub mod recovery;
pub mod render;

mod header;
mod schema;
mod words;
