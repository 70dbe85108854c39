//! The body of `/v1/messages`, and of its `/count_tokens`.

use serde_json::Value;

use crate::http::messages::{blocks, tools};
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, note_unknown, text, unfit};
use crate::http::wire::foreign;
use crate::http::wire::form::FormRequest;
use crate::http::wire::history::history;
use crate::http::wire::parts::check_modalities;
use crate::http::wire::reasoning::{Reasoning, effort};
use crate::http::wire::sampling::{Generation, check_least, stop_strings};
use crate::http::wire::streaming::Streaming;
use crate::prompt::conversation::{Conversation, Message, ReasoningEffort, ThinkingLimits};

/// Fields of OpenAI's APIs, and what asks for the same here.
const MOVED: [(&str, &str); 14] = [
    ("stop", "stop_sequences"),
    ("max_completion_tokens", "max_tokens"),
    ("max_output_tokens", "max_tokens"),
    ("response_format", "output_config.format"),
    ("reasoning_effort", "output_config.effort, or thinking"),
    ("reasoning", "output_config.effort, or thinking"),
    ("chat_template_kwargs", "output_config.effort, or thinking"),
    ("input", "messages"),
    ("instructions", "system"),
    ("prompt", "messages"),
    ("format", "output_config.format"),
    ("text", "output_config.format"),
    ("previous_response_id", "messages, which hold what was said before"),
    ("conversation", "messages, which hold what was said before"),
];
/// The same for flags, which ask for something by being false too.
const MOVED_FLAGS: [(&str, &str); 2] =
    [("include_reasoning", "thinking"), ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use")];
const OTHERS: &str = "other APIs";
/// Fields that change what the prompt or the answer is, and are not served.
const REFUSED: [&str; 6] = ["background", "container", "mcp_servers", "thread", "logprobs", "top_logprobs"];
/// Fields that Anthropic's clients send unasked, or that say where and how fast an answer is made.
const TOLERATED: [&str; 13] = [
    "anthropic_version",
    "betas",
    "billing_policy",
    "cache_control",
    "compaction",
    "context_management",
    "diagnostics",
    "fallbacks",
    "inference_geo",
    "service_tier",
    "speed",
    "user_profile_id",
    "workspace_id",
];
const THINKING: &str = "enabled, adaptive, between_tools or disabled";
/// Least budget for thinking that Anthropic takes.
const BUDGET_MIN_TOKENS: u32 = 1_024;
/// From so many tokens of a budget on the effort is medium, and high. litellm's numbers, so that a
/// request through it and one past it mean the same.
const MEDIUM_BUDGET_TOKENS: u32 = 5_000;
const HIGH_BUDGET_TOKENS: u32 = 10_000;

/// Which route's body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessagesRoute {
    /// `/v1/messages`.
    Create,
    /// `/v1/messages/count_tokens`: nothing is generated.
    Count,
}

/// What of the analysis an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum ThinkingShown {
    /// Nothing: thinking was not asked for.
    Nothing,
    /// Its text.
    Text,
    /// It is sealed.
    Sealed,
}

/// A message that is asked for.
#[derive(Debug)]
pub(super) struct MessagesRequest {
    /// The name under which the model was asked for.
    pub(super) model: String,
    /// What was said.
    pub(super) conversation: Conversation,
    /// Where in the request's `tools` each of the conversation's stands.
    pub(super) tool_places: Vec<usize>,
    /// What to generate: one choice.
    pub(super) generation: Generation,
    /// How the answer travels.
    pub(super) streaming: Streaming,
    /// What of the analysis the answer holds.
    pub(super) thinking: ThinkingShown,
}

impl MessagesRequest {
    /// Reads a body; `open` opens thinking that this server sealed.
    pub(super) fn read(
        body: Value,
        route: MessagesRoute,
        terms: &Terms<'_>,
        open: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, WireError> {
        let mut fields = RequestFields::of(body, "")?;
        let model = terms.model(&mut fields)?;
        foreign::refuse_moved(&fields, &MOVED, OTHERS, |value| !foreign::is_void(value))?;
        foreign::refuse_moved(&fields, &MOVED_FLAGS, OTHERS, |value| !value.is_null())?;
        let is_marked = is_marked(&fields);
        let messages = said(&mut fields, route, open)?;
        let mut config = fields.object("output_config")?;
        let asked = config.as_mut().map(|config| effort(config, "effort")).transpose()?.flatten();
        let AskedThinking { effort: by_budget, budget_tokens, shown } = thinking(&mut fields)?;
        // Its efforts have moved; other servers' names for a budget are taken.
        let Reasoning { effort, include, thinking } = Reasoning::read(&mut fields)?;
        let effort = asked.map(|asked| asked.effort).or(by_budget).unwrap_or(effort);
        let limits = ThinkingLimits { budget_tokens: budget_tokens.or(thinking.budget_tokens), ..thinking };
        let thinking = if include { shown } else { ThinkingShown::Nothing };
        let (offered, tool_places) = tools::served(&mut fields)?;
        let chosen = tools::chosen(offered, &mut fields)?;
        let mut generation = generation(&mut fields, route, terms)?;
        generation.has_cache_key |= is_marked;
        let streaming = Streaming::read(&mut fields, terms, false)?;
        let FormRequest { form, schema } = FormRequest::read_unnamed(config, &mut fields)?;
        generation.set_form(form)?;
        check_modalities(&mut fields)?;
        foreign::refuse_these(&mut fields, &REFUSED)?;
        foreign::refuse(&mut fields)?;
        TOLERATED.iter().for_each(|name| drop(fields.take(name)));
        note_unknown(fields);
        let said = Conversation { messages, effort, thinking: limits, schema, ..Conversation::default() };
        let conversation = chosen.offered_in(said);
        Ok(Self { model, conversation, tool_places, generation, streaming, thinking })
    }
}

/// The history.
fn said(
    fields: &mut RequestFields,
    route: MessagesRoute,
    open: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Message>, WireError> {
    let system = blocks::system(fields)?;
    let path = fields.path_of("messages");
    let list = fields.list("messages")?.ok_or(WireError::Missing { param: path.clone(), expected: "an array of messages" })?;
    let last = list.len().saturating_sub(1);
    let ends_open = list.last().is_some_and(|message| message.get("role").is_some_and(|role| role == "assistant"));
    let items = blocks::read(list, &path)?;
    if ends_open && route == MessagesRoute::Create {
        // Anthropic's words for models that cannot do it either.
        let message = "This model does not support assistant message prefill. The conversation must end with a user message.";
        return Err(WireError::Unsupported { param: format!("{path}[{last}].role"), message: message.to_owned() });
    }
    history(system, items, &blocks::CALLS, open)
}

/// Whether something is marked to be cached: what a prompt computes is kept longer then, as with a
/// `prompt_cache_key`.
fn is_marked(fields: &RequestFields) -> bool {
    let of = |value: &Value| value.get("cache_control").is_some_and(|mark| !mark.is_null());
    let in_list = |value: Option<&Value>| value.and_then(Value::as_array).is_some_and(|list| list.iter().any(of));
    let messages = fields.peek("messages").and_then(Value::as_array);
    fields.peek("cache_control").is_some_and(|mark| !mark.is_null())
        || in_list(fields.peek("system"))
        || in_list(fields.peek("tools"))
        || messages.is_some_and(|list| list.iter().any(|message| in_list(message.get("content"))))
}

/// What `thinking` asks for.
#[derive(Debug)]
struct AskedThinking {
    effort: Option<ReasoningEffort>,
    /// Most tokens of analysis.
    budget_tokens: Option<u32>,
    shown: ThinkingShown,
}

fn thinking(fields: &mut RequestFields) -> Result<AskedThinking, WireError> {
    let mut asked = AskedThinking { effort: None, budget_tokens: None, shown: ThinkingShown::Nothing };
    let Some(mut thinking) = fields.object("thinking")? else { return Ok(asked) };
    let path = thinking.path_of("type");
    let kind = text(thinking.required("type", THINKING)?, &path)?;
    match kind.as_str() {
        "enabled" => {
            let param = thinking.path_of("budget_tokens");
            let missing = WireError::Missing { param, expected: "a number of tokens" };
            let budget_tokens = thinking.count("budget_tokens", BUDGET_MIN_TOKENS..=u32::MAX)?.ok_or(missing)?;
            (asked.effort, asked.budget_tokens) = (Some(by_budget(budget_tokens)), Some(budget_tokens));
        }
        "adaptive" | "between_tools" => {}
        "disabled" => {
            (asked.effort, asked.budget_tokens) = (Some(ReasoningEffort::Low), Some(0));
            return Ok(asked);
        }
        _ => return Err(unfit(&path, &Value::String(kind), THINKING)),
    }
    let path = thinking.path_of("display");
    asked.shown = match thinking.text("display")?.as_deref() {
        None | Some("summarized") => ThinkingShown::Text,
        Some("omitted") => ThinkingShown::Sealed,
        Some(other) => return Err(unfit(&path, &Value::String(other.to_owned()), "summarized or omitted")),
    };
    Ok(asked)
}

fn by_budget(budget_tokens: u32) -> ReasoningEffort {
    match budget_tokens {
        HIGH_BUDGET_TOKENS.. => ReasoningEffort::High,
        MEDIUM_BUDGET_TOKENS.. => ReasoningEffort::Medium,
        _ => ReasoningEffort::Low,
    }
}

/// What to generate. Clients of this API must say how many tokens at most, and say many: more than
/// there is room for ends with the context.
fn generation(fields: &mut RequestFields, route: MessagesRoute, terms: &Terms<'_>) -> Result<Generation, WireError> {
    let path = fields.path_of("max_tokens");
    let max_tokens = fields.count("max_tokens", 1..=u32::MAX)?;
    if max_tokens.is_none() && route == MessagesRoute::Create {
        return Err(WireError::Missing { param: path, expected: "a number of tokens" });
    }
    check_user(fields)?;
    let stop_strings = stop_strings(fields, "stop_sequences")?;
    let generation = Generation::read(fields, terms)?;
    // It saw no `max_tokens`: these may be more than the context holds.
    check_least(fields, generation.sampling.min_tokens, max_tokens)?;
    if generation.choices_count != 1 {
        let message = "an answer is one message; ask again for another".to_owned();
        return Err(WireError::Unsupported { param: fields.path_of("n"), message });
    }
    Ok(Generation { max_tokens, cuts_at_context: true, stop_strings, ..generation })
}

/// `metadata.user_id`, which has no effect.
fn check_user(fields: &RequestFields) -> Result<(), WireError> {
    let user = fields.peek("metadata").and_then(|metadata| metadata.get("user_id"));
    match user.filter(|user| !user.is_null() && !user.is_string()) {
        None => Ok(()),
        Some(other) => Err(unfit(&format!("{}.user_id", fields.path_of("metadata")), other, "a string")),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
