//! The lists of tokens that an answer has beside its text.

use crate::http::answer::logprobs::TokenListing;
use crate::http::wire::error::WireError;
use crate::http::wire::fields::RequestFields;
use crate::http::wire::sampling::{Generation, TOP_LOGPROBS_MAX};

/// Which lists an answer has. The default has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TokenLists {
    /// Log-probabilities of generated tokens, with so many of the likeliest at each place.
    pub(crate) logprobs: Option<u32>,
    /// The same of the prompt's tokens.
    pub(crate) prompt_logprobs: Option<u32>,
    /// Ids of the prompt's tokens and of those generated. Log-probabilities are one a token then.
    pub(crate) ids: bool,
    /// Log-probabilities name tokens by their ids.
    pub(crate) as_ids: bool,
}

impl TokenLists {
    /// Reads vLLM's fields beside `logprobs`, which every route writes in its own way, and has
    /// `generation` report what is to be listed. In a stream the prompt has no list, as in vLLM's.
    pub(crate) fn read(
        fields: &mut RequestFields,
        logprobs: Option<u32>,
        is_stream: bool,
        generation: &mut Generation,
    ) -> Result<Self, WireError> {
        let prompt_logprobs = fields.count("prompt_logprobs", 0..=TOP_LOGPROBS_MAX)?;
        if prompt_logprobs.is_some() && is_stream {
            let message = "a stream has none; ask for the answer in one piece".to_owned();
            return Err(WireError::Conflict { param: fields.path_of("prompt_logprobs"), message });
        }
        let ids = fields.flag("return_token_ids")?.unwrap_or(false);
        let as_ids = fields.flag("return_tokens_as_token_ids")?.unwrap_or(false);
        generation.answer.logprobs_by_token = ids;
        // The engine reports as many everywhere; each list shows its own.
        generation.sampling.logprobs = logprobs.max(prompt_logprobs);
        generation.sampling.prompt_logprobs = prompt_logprobs.is_some();
        Ok(Self { logprobs, prompt_logprobs, ids, as_ids })
    }

    /// How generated tokens are told, and those of an echoed prompt.
    pub(crate) fn listing(&self) -> TokenListing {
        TokenListing { as_ids: self.as_ids, top_max_count: self.logprobs.unwrap_or(0) as usize }
    }
}
