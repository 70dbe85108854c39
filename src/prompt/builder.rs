//! Conversations to prompts, with a memory of those built before.
//!
//! Owns: the prompt cache and its counts. Promises: the same conversation, date and settings give
//! the same tokens and the same key. Absent on purpose: clocks (the date is an input), truncation
//! (a prompt that is too long is refused where the context is known).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::cache::{CachedPrompt, PromptCache};
use super::cache_key::cache_key;
use super::conversation::Conversation;
use super::harmony::parser::ParserStart;
use super::harmony::render::{Rendered, render};
use super::tokenizer::Tokenizer;
use crate::batch::TokenId;

pub use super::cache_key::{KeyParameters, Salt};
pub use super::error::PromptError;

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

    /// The instructions of a conversation that brings none.
    #[must_use]
    pub const fn instructions(self) -> Option<&'static str> {
        match self {
            Self::V0 => None,
            Self::V1 => Some("You are a helpful AI assistant."),
            Self::V2 => Some("You are GPT-OSS, a helpful and knowledgeable AI assistant created by OpenAI."),
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
}

/// Counts for metrics and /stats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BuilderCounts {
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
    kept: Mutex<KeptPrompt>,
}

/// What the threads that build prompts share.
#[derive(Debug)]
struct KeptPrompt {
    cache: PromptCache,
    hits: u64,
    misses: u64,
}

impl PromptBuilder {
    /// A builder with an empty cache.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, settings: PromptSettings) -> Self {
        let kept = KeptPrompt { cache: PromptCache::new(settings.cache_max_bytes), hits: 0, misses: 0 };
        Self { tokenizer, settings, kept: Mutex::new(kept) }
    }

    /// The prompt for `conversation`; `date` (`2025-11-22`) is the current date that the model is
    /// told. May be called from several threads.
    ///
    /// # Errors
    /// [`PromptError`] if the conversation contradicts itself.
    pub fn build(
        &self,
        conversation: &Conversation,
        parameters: &KeyParameters,
        date: &str,
    ) -> Result<BuiltPrompt, PromptError> {
        self.build_within(conversation, parameters, date, usize::MAX)
    }

    /// As [`PromptBuilder::build`], of `tokens_max` tokens at most.
    ///
    /// # Errors
    /// [`PromptError::TooLong`] too, once there are more; the rest is not built then, and nothing
    /// is kept.
    pub fn build_within(
        &self,
        conversation: &Conversation,
        parameters: &KeyParameters,
        date: &str,
        tokens_max: usize,
    ) -> Result<BuiltPrompt, PromptError> {
        let version = self.settings.version;
        let key = cache_key(conversation, parameters, &self.settings.model_id, version);
        let (place, input) = (parameters.salt.place(&key), input_bytes(conversation, date));
        if let Some(CachedPrompt { tokens, start }) = self.look_up(&place, &input) {
            return Ok(self.built(tokens, start, key, true));
        }
        let Rendered { tokens, start } = render(&self.tokenizer, conversation, version.instructions(), date, tokens_max)?;
        let tokens: Arc<[TokenId]> = tokens.into();
        let prompt = CachedPrompt { tokens: Arc::clone(&tokens), start: start.clone() };
        self.kept().cache.insert(&place, input, prompt);
        Ok(self.built(tokens, start, key, false))
    }

    /// Counts so far.
    #[must_use]
    pub fn counts(&self) -> BuilderCounts {
        let kept = self.kept();
        BuilderCounts {
            cache_hits: kept.hits,
            cache_misses: kept.misses,
            cache_size: kept.cache.len(),
            cache_bytes: kept.cache.bytes(),
        }
    }

    fn look_up(&self, place: &str, input: &[u8]) -> Option<CachedPrompt> {
        let mut kept = self.kept();
        let found = kept.cache.get(place, input);
        match found {
            Some(_) => kept.hits += 1,
            None => kept.misses += 1,
        }
        found
    }

    /// The cache holds whole prompts whenever its lock is free, so a panic elsewhere does not spoil
    /// it.
    fn kept(&self) -> MutexGuard<'_, KeptPrompt> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn built(&self, tokens: Arc<[TokenId]>, parser_start: ParserStart, cache_key: String, cache_hit: bool) -> BuiltPrompt {
        BuiltPrompt { tokens, cache_key, cache_hit, version: self.settings.version, parser_start }
    }
}

/// All that a prompt is built from, unambiguously: what a hit is compared by. The tools are written
/// as text, for the order of a schema's keys reaches the prompt, but is not part of its equality.
fn input_bytes(conversation: &Conversation, date: &str) -> Vec<u8> {
    // Which calls the answer may hold, how many, and how long it may think, is no part of the
    // prompt, but for a call that is forced.
    let Conversation {
        messages,
        tools,
        effort,
        forced_tool,
        schema,
        end,
        thinking: _,
        must_call: _,
        callable: _,
        single_call: _,
    } = conversation;
    let tools: Vec<_> = tools
        .iter()
        .map(|tool| (&tool.name, &tool.description, tool.parameters.as_ref().map(Value::to_string), &tool.custom))
        .collect();
    let schema = schema.as_ref().map(|named| (&named.name, &named.description, named.schema.to_string()));
    format!("{date:?}{effort:?}{forced_tool:?}{end:?}{schema:?}{tools:?}{messages:?}").into_bytes()
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
