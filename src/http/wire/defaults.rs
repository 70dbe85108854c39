//! What this server serves and assumes: everything that a request is read against.

use std::collections::BTreeMap;

use crate::actors::messages::Coalescing;
use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::fields::RequestFields;

/// What is assumed where a request says nothing (`generation_config.json`, or OpenAI's defaults).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestDefaults {
    /// Zero is greedy.
    pub temperature: f64,
    /// In (0, 1]; one keeps all.
    pub top_p: f64,
    /// Zero keeps all.
    pub top_k: u32,
}

impl Default for RequestDefaults {
    /// OpenAI's: temperature 1, everything kept.
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0 }
    }
}

/// What a request is read against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// The names of the model, its id first.
    pub(crate) names: &'a [String],
    /// More names under which it may be asked for; not listed.
    pub(crate) unlisted_names: &'a [String],
    /// Most tokens of a sequence, prompt and output together.
    pub(crate) context_tokens_max: usize,
    /// Rows of the vocabulary.
    pub(crate) vocab_size: usize,
    /// What is assumed where the request says nothing.
    pub(crate) defaults: RequestDefaults,
    /// How text is gathered in a stream, unless the request or its profile says otherwise.
    pub(crate) coalescing: Coalescing,
    /// How text is gathered under each profile that a request may name.
    pub(crate) profiles: &'a BTreeMap<String, Coalescing>,
    /// The seed of a request that brings none.
    pub(crate) drawn_seed: u64,
}

impl Terms<'_> {
    /// Reads `model`: the name under which the model is asked for, the model's id if none is given.
    pub(crate) fn model(&self, fields: &mut RequestFields) -> Result<String, WireError> {
        match fields.text("model")? {
            None => Ok(self.names.first().cloned().unwrap_or_default()),
            Some(name) if self.names.contains(&name) || self.unlisted_names.contains(&name) => Ok(name),
            Some(name) => Err(WireError::UnknownModel { asked: quoted(&name), served: self.names.join(", ") }),
        }
    }

    /// The largest token id.
    pub(crate) fn token_max(&self) -> u32 {
        u32::try_from(self.vocab_size.saturating_sub(1)).unwrap_or(u32::MAX)
    }
}
