//! Conversations to prompts.

use std::sync::Arc;

use super::conversation::Conversation;
use super::harmony::parser::ParserStart;
use super::tokenizer::Tokenizer;
use crate::batch::TokenId;

/// Which default instructions a conversation gets that brings none of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PromptVersion {
    /// `SYS/v0`: none.
    V0,
    /// `SYS/v1`: "You are a helpful AI assistant."
    #[default]
    V1,
    /// `SYS/v2`: "You are GPT-OSS, a helpful and knowledgeable AI assistant created by OpenAI."
    V2,
}

impl PromptVersion {
    /// Its name: `SYS/v1`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0 => "SYS/v0",
            Self::V1 => "SYS/v1",
            Self::V2 => "SYS/v2",
        }
    }

    /// The version of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::V0, Self::V1, Self::V2].into_iter().find(|version| version.name() == name)
    }
}

/// What a server's prompts have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSettings {
    /// The model, as clients name it; part of the cache key.
    pub model_id: String,
    /// Which default instructions; part of the cache key.
    pub version: PromptVersion,
    /// Most bytes that the cache of built prompts may hold; zero caches nothing.
    pub cache_max_bytes: usize,
}

/// The parameters that are part of the cache key, as the client gave them or as they were filled in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KeyParameters {
    /// Temperature.
    pub temperature: Option<f64>,
    /// Nucleus.
    pub top_p: Option<f64>,
    /// Most tokens to generate.
    pub max_tokens: Option<u64>,
    /// Seed.
    pub seed: Option<i64>,
    /// Stop strings, in any order.
    pub stop_strings: Vec<String>,
}

/// A prompt ready for the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltPrompt {
    /// The tokens.
    pub tokens: Arc<[TokenId]>,
    /// SHA-256 in hex of the normalised conversation and its parameters.
    pub cache_key: String,
    /// Whether the tokens were built before.
    pub cache_hit: bool,
    /// Which default instructions apply.
    pub version: PromptVersion,
    /// Where in a message the prompt ends: what the parser of the answer starts with.
    pub parser_start: ParserStart,
    /// Tokens before truncation.
    pub tokens_before: usize,
    /// Tokens after truncation; equal, for nothing is ever truncated.
    pub tokens_after: usize,
}

/// A conversation that cannot be rendered: for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// A tool's answer refers to a call that nobody made.
    #[error("messages[{index}] answers the tool call {call_id:?}, which no earlier message made")]
    UnknownCall {
        /// Which message.
        index: usize,
        /// The id that it names.
        call_id: String,
    },
}

/// Counts for metrics and /stats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PromptCounts {
    /// Prompts that were built before.
    pub cache_hits: u64,
    /// Prompts that were not.
    pub cache_misses: u64,
    /// Prompts in the cache.
    pub cache_size: usize,
    /// Bytes that they take.
    pub cache_bytes: usize,
}

/// Builds prompts, and keeps those built last.
#[derive(Debug)]
pub struct PromptBuilder {
    tokenizer: Arc<Tokenizer>,
    settings: PromptSettings,
}

impl PromptBuilder {
    /// A builder with an empty cache.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, settings: PromptSettings) -> Self {
        Self { tokenizer, settings }
    }

    /// The prompt for `conversation`; `date` (`2025-11-22`) is the current date that the model is told. May be called from
    /// several threads.
    ///
    /// # Errors
    /// [`PromptError`] if the conversation contradicts itself.
    pub fn build(
        &self,
        conversation: &Conversation,
        parameters: &KeyParameters,
        date: &str,
    ) -> Result<BuiltPrompt, PromptError> {
        let _ = (conversation, parameters);
        let tokens: Arc<[TokenId]> = self.tokenizer.encode_with_control(date).into();
        let count = tokens.len();
        Ok(BuiltPrompt {
            tokens,
            cache_key: String::new(),
            cache_hit: false,
            version: self.settings.version,
            parser_start: ParserStart::AssistantHeader,
            tokens_before: count,
            tokens_after: count,
        })
    }

    /// Counts so far.
    #[must_use]
    pub fn counts(&self) -> PromptCounts {
        PromptCounts::default()
    }
}
