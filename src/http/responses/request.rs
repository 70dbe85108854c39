//! The body of `/v1/responses`.

use std::collections::HashSet;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::http::responses::echoed::{AskedFields, EchoedFields, EffectiveValues, told_format, told_tools};
use crate::http::responses::items;
use crate::http::responses::labels;
use crate::http::responses::stored::listed_input;
use crate::http::wire::custom::custom_tool;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::fields::{RequestFields, note_unknown, text, unfit};
use crate::http::wire::foreign;
use crate::http::wire::form::FormRequest;
use crate::http::wire::functions;
use crate::http::wire::history::InputItem;
use crate::http::wire::parts::check_modalities;
use crate::http::wire::reasoning::Reasoning;
use crate::http::wire::sampling::{Generation, TOP_LOGPROBS_MAX, check_least, token_count};
use crate::http::wire::streaming::Streaming;
use crate::http::wire::tools::{Tools, listed, note_tool, tool};
use crate::prompt::conversation::{Conversation, Tool};

/// Tools that OpenAI runs itself, or that are neither functions nor custom. Its clients offer them
/// unasked, so they are left out rather than refused: the model is not told of them, and calls
/// none.
const TOOLS_NOT_SERVED: [&str; 16] = [
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use_preview",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "namespace",
    "programmatic_tool_calling",
    "shell",
    "tool_search",
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
];
/// What an answer may hold besides, as `include` names it; those of tools that are not served are
/// taken, for there is nothing of them to include.
const INCLUDABLE: [&str; 8] = [
    LOGPROBS,
    SEALED,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
];
const LOGPROBS: &str = "message.output_text.logprobs";
const SEALED: &str = "reasoning.encrypted_content";
/// Fields that change what the prompt or the answer is, and are not served.
const REFUSED: [&str; 3] = ["context_management", "moderation", "prompt"];
/// Fields of chats, and what asks for the same here.
const MOVED: [(&str, &str); 4] = [
    ("messages", "input"),
    ("response_format", "text.format, where a schema stands beside its name"),
    ("format", "text.format"),
    ("logprobs", "top_logprobs, or include: [\"message.output_text.logprobs\"]"),
];

/// A response that is asked for.
#[derive(Debug)]
pub(crate) struct ResponsesRequest {
    /// The name under which the model was asked for.
    pub(crate) model: String,
    /// What is asked for, and with which tools; its history is still to be made of the items.
    pub(crate) conversation: Conversation,
    /// What comes before all items.
    pub(crate) instructions: Option<String>,
    /// What was said since the response that this continues.
    pub(crate) items: Vec<InputItem>,
    /// The same as it is kept, if it is.
    pub(crate) input: Option<Box<RawValue>>,
    /// What is kept, and of what.
    pub(crate) keeping: Keeping,
    /// Where in the request's `tools` each of the conversation's stands.
    pub(crate) tool_places: Vec<usize>,
    /// What to generate: one choice.
    pub(crate) generation: Generation,
    /// How the answer travels.
    pub(crate) streaming: Streaming,
    /// The answer holds the analysis.
    pub(crate) include_reasoning: bool,
    /// What the answer repeats.
    pub(crate) echoed: EchoedFields,
}

/// What a request says of keeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keeping {
    /// The response is to be found later; unasked it is.
    pub(crate) store: bool,
    /// It is generated with no client waiting.
    pub(crate) background: bool,
    /// The response that it continues.
    pub(crate) previous: Option<String>,
    /// The conversation that it is asked in, and added to.
    pub(crate) conversation: Option<String>,
    /// Reasoning is told sealed too, so that a client may keep it in the server's place.
    pub(crate) seals: bool,
}

impl Keeping {
    fn read(fields: &mut RequestFields) -> Result<Self, WireError> {
        let asked = fields.flag("store")?;
        let background = fields.flag("background")?.unwrap_or(false);
        if background && asked == Some(false) {
            let message = "is found later by its id alone, which needs store: true".to_owned();
            return Err(WireError::Conflict { param: fields.path_of("background"), message });
        }
        let previous = fields.text("previous_response_id")?;
        let conversation = Self::conversation(fields)?;
        if previous.is_some() && conversation.is_some() {
            let message = "says what comes before, and previous_response_id does too; give one of them".to_owned();
            return Err(WireError::Conflict { param: fields.path_of("conversation"), message });
        }
        Ok(Self { store: asked.unwrap_or(true), background, previous, conversation, seals: false })
    }

    /// `conversation`: an id, or an object that holds it.
    fn conversation(fields: &mut RequestFields) -> Result<Option<String>, WireError> {
        if !fields.peek("conversation").is_some_and(Value::is_object) {
            return fields.text("conversation");
        }
        let Some(mut inner) = fields.object("conversation")? else { return Ok(None) };
        let path = inner.path_of("id");
        text(inner.required("id", "the id of a conversation")?, &path).map(Some)
    }

    /// Whether what comes before is said by an id.
    fn goes_on(&self) -> bool {
        self.previous.is_some() || self.conversation.is_some()
    }
}

impl ResponsesRequest {
    /// Reads a body; `id` is that of the response.
    pub(crate) fn read(body: Value, terms: &Terms<'_>, id: &str) -> Result<Self, WireError> {
        let mut fields = RequestFields::of(body, "")?;
        let model = terms.model(&mut fields)?;
        foreign::refuse_moved(&fields, &MOVED, "chats", |value| !foreign::is_void(value))?;
        labels::check(&fields)?;
        let asked = AskedFields::of(&fields);
        let mut keeping = Keeping::read(&mut fields)?;
        let path = fields.path_of("input");
        let input = match fields.take("input") {
            Some(input) => input,
            None if keeping.goes_on() => Value::Array(Vec::new()),
            None => return Err(WireError::Missing { param: path, expected: "a string, or an array of items" }),
        };
        let kept_input = (keeping.store || keeping.conversation.is_some()).then(|| listed_input(input.clone(), id));
        let items = items::read(input, &path)?;
        let instructions = fields.text("instructions")?;
        if items.is_empty() && instructions.is_none() && !keeping.goes_on() {
            return Err(unfit(&path, &Value::Array(Vec::new()), "at least one item, or instructions"));
        }
        let Reasoning { effort, include, thinking } = Reasoning::read(&mut fields)?;
        let (offered, tool_places) = served_tools(&mut fields)?;
        let told_tools = told_tools(&offered);
        let chosen = Tools::chosen(offered, &mut fields)?;
        let mut generation = generation(&mut fields, terms)?;
        (generation.sampling.logprobs, keeping.seals) = included(&mut fields)?;
        let streaming = Streaming::read(&mut fields, terms, false)?;
        if streaming.on && keeping.background {
            let message = "is not streamed; ask for the response by its id until it is done".to_owned();
            return Err(WireError::Conflict { param: fields.path_of("background"), message });
        }
        let FormRequest { form, schema } = FormRequest::read_text(&mut fields)?;
        generation.set_form(form)?;
        check_modalities(&mut fields)?;
        labels::read(&mut fields)?;
        foreign::refuse_these(&mut fields, &REFUSED)?;
        foreign::refuse(&mut fields)?;
        note_unknown(fields);
        let echoed = EchoedFields::new(
            &asked,
            &EffectiveValues {
                max_output_tokens: generation.max_tokens,
                temperature: generation.sampling.temperature,
                top_p: generation.sampling.top_p,
                top_logprobs: generation.sampling.logprobs.unwrap_or(0),
                single_call: chosen.single_call,
                effort,
                tools: told_tools,
                format: told_format(generation.form.as_ref(), schema.as_ref()),
            },
        );
        let conversation = chosen.offered_in(Conversation { effort, thinking, schema, ..Conversation::default() });
        Ok(Self {
            model,
            conversation,
            instructions,
            items,
            input: kept_input,
            keeping,
            tool_places,
            generation,
            streaming,
            include_reasoning: include,
            echoed,
        })
    }
}

/// The functions and custom tools in `tools`, each with its place there.
fn served_tools(fields: &mut RequestFields) -> Result<(Vec<Tool>, Vec<usize>), WireError> {
    functions::refuse(fields)?;
    let (mut tools, mut places, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    for (index, mut fields) in listed(fields)?.into_iter().enumerate() {
        let path = fields.path_of("type");
        let kind = text(fields.required("type", "\"function\" or \"custom\"")?, &path)?;
        if kind == "function" || kind == "custom" {
            let read = if kind == "function" { tool } else { custom_tool };
            tools.push(read(&mut fields, &mut names)?);
            places.push(index);
        } else if let Some(known) = TOOLS_NOT_SERVED.iter().find(|known| **known == kind) {
            note_tool(known);
        } else {
            let message = format!("{} is not supported; only \"function\" and \"custom\" are", quoted(&kind));
            return Err(WireError::Unsupported { param: path, message });
        }
    }
    Ok((tools, places))
}

/// How many likely tokens are shown at each place of the answer, if any are asked for; and whether
/// reasoning is sealed.
fn included(fields: &mut RequestFields) -> Result<(Option<u32>, bool), WireError> {
    let path = fields.path_of("include");
    let (mut wanted, mut seals) = (false, false);
    for (index, value) in fields.list("include")?.unwrap_or_default().into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = text(value, &path)?;
        if !INCLUDABLE.contains(&name.as_str()) {
            return Err(unfit(&path, &Value::String(name), &format!("one of: {}", INCLUDABLE.join(", "))));
        }
        wanted |= name == LOGPROBS;
        seals |= name == SEALED;
    }
    let top = fields.count("top_logprobs", 0..=TOP_LOGPROBS_MAX)?.unwrap_or(0);
    Ok(((wanted || top > 0).then_some(top), seals))
}

/// What to generate, with one meaning of the limit under each of its names.
fn generation(fields: &mut RequestFields, terms: &Terms<'_>) -> Result<Generation, WireError> {
    let own = token_count(fields, "max_output_tokens", terms)?;
    let names = ["max_completion_tokens", "max_tokens"];
    let other = names.into_iter().find(|name| fields.peek(name).is_some_and(|value| !value.is_null()));
    let mut generation = Generation::read(fields, terms)?;
    if let (Some(own), Some(said), Some(name)) = (own, generation.max_tokens, other)
        && own != said
    {
        let message = format!("is {said}, and max_output_tokens is {own}; give one of them");
        return Err(WireError::Conflict { param: fields.path_of(name), message });
    }
    generation.max_tokens = own.or(generation.max_tokens);
    check_least(fields, generation.sampling.min_tokens, generation.max_tokens)?;
    if generation.choices_count != 1 {
        let message = "a response has one choice; ask again for another".to_owned();
        return Err(WireError::Unsupported { param: fields.path_of("n"), message });
    }
    Ok(generation)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
