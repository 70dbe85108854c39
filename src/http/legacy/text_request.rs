//! The body of `/generate/stream`: a prompt for code, with the options that a user picked.

use serde_json::Value;

use crate::actors::messages::Coalescing;
use crate::http::wire::defaults::{RequestDefaults, Terms};
use crate::http::wire::document::join;
use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, note_unknown, text, unfit};
use crate::http::wire::foreign;
use crate::http::wire::reasoning::Reasoning;
use crate::http::wire::sampling::Generation;
use crate::http::wire::streaming::Streaming;
use crate::prompt::conversation::{Conversation, Message};

const TEMPERATURE: f64 = 0.3;
const TOP_P: f64 = 0.95;
const MAX_TOKENS: u32 = 1024;
const OPTIONS_MAX: usize = 64;
const KINDS: &str = "autocomplete, prompt, comment, error_fix or code_generation";

/// A prompt for code.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TextRequest {
    /// The prompt as a chat.
    pub(crate) conversation: Conversation,
    /// What to generate.
    pub(crate) generation: Generation,
    /// How text is gathered.
    pub(crate) coalescing: Coalescing,
}

impl TextRequest {
    /// Reads a body.
    pub(crate) fn read(body: Value, terms: &Terms<'_>) -> Result<Self, WireError> {
        let mut fields = RequestFields::of(body, "")?;
        terms.model(&mut fields)?;
        user_id(&mut fields)?;
        let prompt_path = fields.path_of("prompt");
        let prompt = text(fields.required("prompt", "a string")?, &prompt_path)?;
        let instructions = [kind(&mut fields)?.map(str::to_owned), options(&mut fields)?];
        let defaults = RequestDefaults { temperature: TEMPERATURE, top_p: TOP_P, ..terms.defaults };
        let mut generation = Generation::read(&mut fields, &Terms { defaults, ..*terms })?;
        // The default must not refuse a model with a small context.
        let room = u32::try_from(terms.context_tokens_max / 2).unwrap_or(u32::MAX);
        generation.max_tokens = generation.max_tokens.or(Some(MAX_TOKENS.min(room)));
        if generation.choices_count != 1 {
            let message = "this stream has one choice".to_owned();
            return Err(WireError::Unsupported { param: fields.path_of("n"), message });
        }
        let streaming = Streaming::read(&mut fields, terms, true)?;
        if !streaming.on {
            let message = "this route always streams; /generate can answer in one piece".to_owned();
            return Err(WireError::Unsupported { param: fields.path_of("stream"), message });
        }
        // Every text of this stream is the answer's: the analysis is never shown.
        let Reasoning { effort, thinking, .. } = Reasoning::read(&mut fields)?;
        foreign::refuse(&mut fields)?;
        note_unknown(fields);
        let developer = instructions.into_iter().flatten().collect::<Vec<_>>().join("\n\n");
        let developer = (!developer.is_empty()).then_some(Message::Developer { content: developer });
        let messages = developer.into_iter().chain([Message::User { content: prompt }]).collect();
        let conversation = Conversation { messages, effort, thinking, ..Conversation::default() };
        Ok(Self { conversation, generation, coalescing: streaming.coalescing })
    }
}

/// The client of this protocol sends a number, others a string; neither changes the answer.
fn user_id(fields: &mut RequestFields) -> Result<(), WireError> {
    let path = fields.path_of("user_id");
    match fields.take("user_id") {
        None | Some(Value::Number(_) | Value::String(_)) => Ok(()),
        Some(other) => Err(unfit(&path, &other, "a number or a string")),
    }
}

/// What `model_type` tells the model. A prompt and code generation speak for themselves.
fn kind(fields: &mut RequestFields) -> Result<Option<&'static str>, WireError> {
    let path = fields.path_of("model_type");
    match fields.text("model_type")?.as_deref() {
        None | Some("prompt" | "code_generation") => Ok(None),
        Some("autocomplete") => Ok(Some("Continue the code that the user gives. Answer with the continuation only.")),
        Some("comment") => Ok(Some("Write the comment that the user's code or wish asks for.")),
        Some("error_fix") => Ok(Some("Find the error in what the user gives, and answer with the corrected code.")),
        Some(other) => Err(unfit(&path, &Value::String(other.to_owned()), KINDS)),
    }
}

/// `user_select_options`, one line each, in the order in which the client wrote them.
fn options(fields: &mut RequestFields) -> Result<Option<String>, WireError> {
    let path = fields.path_of("user_select_options");
    let Some(options) = fields.object("user_select_options")? else { return Ok(None) };
    let options = options.into_rest();
    if options.len() > OPTIONS_MAX {
        let found = format!("an object of {}", options.len());
        return Err(WireError::Unfit { param: path, found, expected: format!("at most {OPTIONS_MAX} options") });
    }
    let mut lines = Vec::with_capacity(options.len());
    for (name, value) in options.iter().filter(|(_, value)| !value.is_null()) {
        lines.push(match value {
            Value::String(text) => format!("- {name}: {text}"),
            Value::Bool(_) | Value::Number(_) => format!("- {name}: {value}"),
            other => return Err(unfit(&join(&path, name), other, "a string, a number, true or false")),
        });
    }
    Ok((!lines.is_empty()).then(|| format!("The user's options:\n{}", lines.join("\n"))))
}

#[cfg(test)]
#[path = "text_request_tests.rs"]
mod tests;
