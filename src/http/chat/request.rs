//! The body of `/v1/chat/completions`, and of `/generate`, which is the same with `prompt` allowed
//! in place of `messages`.

use serde_json::Value;

use crate::actors::messages::AskedForm;
use crate::http::chat::calls::CallStyle;
use crate::http::chat::messages;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, note_unknown};
use crate::http::wire::foreign;
use crate::http::wire::form::FormRequest;
use crate::http::wire::limits;
use crate::http::wire::lists::TokenLists;
use crate::http::wire::parts::check_modalities;
use crate::http::wire::reasoning::Reasoning;
use crate::http::wire::sampling::{Generation, TOP_LOGPROBS_MAX};
use crate::http::wire::streaming::Streaming;
use crate::http::wire::tools::Tools;
use crate::prompt::conversation::{Conversation, Message, PromptEnd};

/// Which route's body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyRoute {
    /// `/v1/chat/completions`.
    Chat,
    /// `/generate`: `prompt` in place of `messages`, streamed unless it says otherwise.
    Generate,
}

/// A chat.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatRequest {
    /// The name under which the model was asked for.
    pub(crate) model: String,
    /// What was said.
    pub(crate) conversation: Conversation,
    /// What to generate.
    pub(crate) generation: Generation,
    /// How the answer travels.
    pub(crate) streaming: Streaming,
    /// The lists beside its text.
    pub(crate) lists: TokenLists,
    /// The answer holds the analysis.
    pub(crate) include_reasoning: bool,
    /// How it tells calls.
    pub(crate) call_style: CallStyle,
}

impl ChatRequest {
    /// Reads a body.
    pub(crate) fn read(body: Value, form: BodyRoute, terms: &Terms<'_>) -> Result<Self, WireError> {
        let mut fields = RequestFields::of(body, "")?;
        let model = terms.model(&mut fields)?;
        let messages = history(&mut fields, form)?;
        let end = messages::prompt_end(&mut fields, &messages)?;
        let Reasoning { effort, include, thinking } = Reasoning::read(&mut fields)?;
        let chosen = Tools::read(&mut fields)?;
        let mut generation = Generation::read(&mut fields, terms)?;
        let logprobs = logprobs(&mut fields)?;
        let streaming = Streaming::read(&mut fields, terms, form == BodyRoute::Generate)?;
        let lists = TokenLists::read(&mut fields, logprobs, streaming.on, &mut generation)?;
        let FormRequest { form, schema } = FormRequest::read(&mut fields)?;
        check_modalities(&mut fields)?;
        check_end(end, &chosen, form.as_ref())?;
        generation.set_form(form)?;
        limits::read(&mut fields, &mut generation)?;
        foreign::refuse(&mut fields)?;
        note_unknown(fields);
        let said = Conversation { messages, effort, thinking, schema, end, ..Conversation::default() };
        let call_style = if chosen.as_functions { CallStyle::Function } else { CallStyle::Tools };
        let conversation = chosen.offered_in(said);
        Ok(Self { model, conversation, generation, streaming, lists, include_reasoning: include, call_style })
    }
}

/// A prompt that ends in another way leaves no room for what must begin anew.
fn check_end(end: PromptEnd, chosen: &Tools, form: Option<&AskedForm>) -> Result<(), WireError> {
    let (is_forced, must_call) = (chosen.forced.is_some(), chosen.must_call);
    let (param, other) = match end {
        PromptEnd::Bare if is_forced => ("add_generation_prompt", "tool_choice, for a forced call's header ends the prompt"),
        PromptEnd::FinalText if is_forced || must_call => ("continue_final_message", "tool_choice, for a call is no answer"),
        PromptEnd::FinalText if form.is_some() => ("continue_final_message", "a form, which is that of a whole message"),
        PromptEnd::Opened | PromptEnd::Bare | PromptEnd::FinalText => return Ok(()),
    };
    Err(WireError::Conflict { param: param.to_owned(), message: format!("contradicts {other}") })
}

fn history(fields: &mut RequestFields, form: BodyRoute) -> Result<Vec<Message>, WireError> {
    let prompt = match form {
        BodyRoute::Chat => None,
        BodyRoute::Generate => fields.text("prompt")?,
    };
    match (prompt, fields.list("messages")?) {
        (None, Some(list)) => messages::read(list, &fields.path_of("messages")),
        (Some(content), None) => Ok(vec![Message::User { content }]),
        (Some(_), Some(_)) => {
            let message = "stands in place of messages; give one of them".to_owned();
            Err(WireError::Conflict { param: fields.path_of("prompt"), message })
        }
        (None, None) => Err(WireError::Missing { param: fields.path_of("messages"), expected: "an array of messages" }),
    }
}

fn logprobs(fields: &mut RequestFields) -> Result<Option<u32>, WireError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    match (wanted, fields.count("top_logprobs", 0..=TOP_LOGPROBS_MAX)?) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "only allowed with logprobs: true".to_owned();
            Err(WireError::Conflict { param: fields.path_of("top_logprobs"), message })
        }
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
