//! `/tokenize` and `/detokenize`, in vLLM's shapes.

use serde::Serialize;
use serde_json::Value;

use crate::actors::messages::ResponseInput;
use crate::batch::TokenId;
use crate::http::chat::messages;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, note_unknown};
use crate::http::wire::foreign;
use crate::http::wire::form::FormRequest;
use crate::http::wire::reasoning::Reasoning;
use crate::http::wire::sampling::token_ids;
use crate::http::wire::tools::Tools;
use crate::prompt::conversation::Conversation;

/// A text or a chat to be turned into tokens.
#[derive(Debug, Clone)]
pub(crate) struct TokenizeRequest {
    /// What to turn.
    pub(crate) input: ResponseInput,
    /// The answer also holds each token's text.
    pub(crate) return_token_strs: bool,
}

impl TokenizeRequest {
    /// Reads a body with `prompt` or `messages`.
    pub(crate) fn read(body: Value, terms: &Terms<'_>) -> Result<Self, WireError> {
        let mut fields = RequestFields::of(body, "")?;
        terms.model(&mut fields)?;
        // A text has no special tokens of its own here, and a chat always has harmony's.
        fields.flag("add_special_tokens")?;
        let input = match (fields.text("prompt")?, fields.list("messages")?) {
            (Some(text), None) => ResponseInput::Text(text),
            (None, Some(list)) => {
                let messages = messages::read(list, &fields.path_of("messages"))?;
                let end = messages::prompt_end(&mut fields, &messages)?;
                let Reasoning { effort, .. } = Reasoning::read(&mut fields)?;
                let Tools { tools, forced, .. } = Tools::read(&mut fields)?;
                // The model is told of a schema that has a name; other forms change no prompt.
                let FormRequest { schema, .. } = FormRequest::read(&mut fields)?;
                let forced_tool = forced;
                ResponseInput::Chat(Conversation {
                    messages,
                    tools,
                    effort,
                    forced_tool,
                    schema,
                    end,
                    ..Conversation::default()
                })
            }
            (Some(_), Some(_)) => {
                let message = "stands in place of messages; give one of them".to_owned();
                return Err(WireError::Conflict { param: fields.path_of("prompt"), message });
            }
            (None, None) => {
                return Err(WireError::Missing { param: fields.path_of("prompt"), expected: "a string, or messages" });
            }
        };
        foreign::refuse(&mut fields)?;
        let return_token_strs = fields.flag("return_token_strs")?.unwrap_or(false);
        note_unknown(fields);
        Ok(Self { input, return_token_strs })
    }
}

/// The tokens of a text.
#[derive(Debug, Serialize)]
pub(crate) struct TokenizeAnswer {
    /// How many.
    pub(crate) count: usize,
    /// Most tokens of a sequence.
    pub(crate) max_model_len: usize,
    /// The tokens.
    pub(crate) tokens: Vec<u32>,
    /// Their texts, if asked for.
    pub(crate) token_strs: Option<Vec<String>>,
}

/// The tokens in a body of `/detokenize`.
pub(crate) fn read_detokenize(body: Value, terms: &Terms<'_>) -> Result<Vec<TokenId>, WireError> {
    let mut fields = RequestFields::of(body, "")?;
    terms.model(&mut fields)?;
    let path = fields.path_of("tokens");
    let list = fields.list("tokens")?.ok_or(WireError::Missing { param: path.clone(), expected: "an array of token ids" })?;
    let tokens = token_ids(&list, &path, terms)?;
    note_unknown(fields);
    Ok(tokens)
}

/// The text of tokens.
#[derive(Debug, Serialize)]
pub(crate) struct DetokenizeAnswer {
    /// The text.
    pub(crate) prompt: String,
}
