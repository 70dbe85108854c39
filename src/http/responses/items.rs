//! `input`: what was said before, as the items of the Responses API.
//!
//! A client may send back each item of an earlier answer, with its id or without. Consecutive items
//! of the model (reasoning, a message, calls) are one message of the history, as the model wrote
//! them in one turn.

use std::collections::HashMap;

use serde_json::Value;

use crate::http::wire::error::{WireError, clip, quoted};
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::parts::text_of;
use crate::http::wire::tools::function_name;
use crate::prompt::conversation::{Message, ToolCall};

const INPUT: &str = "a string, or an array of items";
const ROLES: &str = "system, developer, user or assistant";
const CALL_ID: &str = "the id of a call in an earlier function_call";
/// What holds text in a message to the model: a type, and the field of its text.
const GIVEN: [(&str, &str); 2] = [("input_text", "text"), ("text", "text")];
/// The same in a message of the model.
const SAID: [(&str, &str); 3] = [("output_text", "text"), ("refusal", "refusal"), ("text", "text")];
/// The same in what a function gave; some clients hand its result on as they got it.
const RESULTS: [(&str, &str); 3] = [("input_text", "text"), ("output_text", "text"), ("text", "text")];
/// What holds text in a reasoning item.
const THOUGHTS: [(&str, &str); 3] = [("reasoning_text", "text"), ("summary_text", "text"), ("text", "text")];
/// Between two reasoning items of one turn, as between two analysis messages of one answer.
const BLANK_LINE: &str = "\n\n";

/// An item, read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum InputItem {
    /// A message of any role; an assistant's has neither reasoning nor calls.
    Message(Message),
    /// What the model thought.
    Reasoning(Thought),
    /// A call that the model made.
    Call {
        /// The call.
        call: ToolCall,
        /// Where the request names its id.
        param: String,
    },
    /// What a call came to.
    CallOutput {
        /// Which call.
        call_id: String,
        /// The function's answer.
        output: String,
        /// Where the request names the call.
        param: String,
    },
    /// An item of a response that is kept.
    Reference {
        /// Its id.
        id: String,
        /// Where the request names it.
        param: String,
    },
}

/// A reasoning item: its text in the forms in which it came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Thought {
    /// As it was said.
    pub(crate) content: Option<String>,
    /// Sealed, by this server or another.
    pub(crate) sealed: Option<String>,
    /// A summary, which stands for a text that is not there.
    pub(crate) summary: Option<String>,
}

/// Reads `input`, which stands at `path`.
pub(crate) fn read(input: Value, path: &str) -> Result<Vec<InputItem>, WireError> {
    match input {
        Value::String(content) => Ok(vec![InputItem::Message(Message::User { content })]),
        Value::Array(list) => {
            let mut items = Vec::with_capacity(list.len());
            for (index, value) in list.into_iter().enumerate() {
                items.push(item(RequestFields::of(value, &format!("{path}[{index}]"))?)?);
            }
            Ok(items)
        }
        other => Err(unfit(path, &other, INPUT)),
    }
}

fn item(mut fields: RequestFields) -> Result<InputItem, WireError> {
    let path = fields.path_of("type");
    let kind = fields.text("type")?;
    if kind.as_deref() != Some("item_reference") {
        fields.text("id")?;
    }
    fields.text("status")?;
    match kind.as_deref() {
        // The short form of a message has no type.
        None | Some("message") => message(fields).map(InputItem::Message),
        Some("reasoning") => reasoning(fields).map(InputItem::Reasoning),
        Some("function_call") => call(fields),
        Some("function_call_output") => call_output(fields),
        Some("item_reference") => {
            let param = fields.path_of("id");
            let id = text(fields.required("id", "the id of an item")?, &param)?;
            Ok(InputItem::Reference { id, param })
        }
        Some(other) => {
            let message = format!(
                "items of type {} are not served; message, reasoning, function_call and function_call_output are",
                quoted(other)
            );
            Err(WireError::Unsupported { param: path, message })
        }
    }
}

fn message(mut fields: RequestFields) -> Result<Message, WireError> {
    let path = fields.path_of("role");
    let role = text(fields.required("role", ROLES)?, &path)?;
    // Before calls a message is a preamble, and elsewhere an answer, whatever its phase says.
    fields.text("phase")?;
    let content_path = fields.path_of("content");
    let content = fields.required("content", "a string, or an array of text parts");
    let given = |content: Result<Value, WireError>| text_of(content?, &content_path, &GIVEN);
    match role.as_str() {
        "system" => Ok(Message::System { content: given(content)? }),
        "developer" => Ok(Message::Developer { content: given(content)? }),
        "user" => Ok(Message::User { content: given(content)? }),
        "assistant" => {
            let content = match content? {
                // An answer that ended before its first text.
                Value::Array(parts) if parts.is_empty() => String::new(),
                value => text_of(value, &content_path, &SAID)?,
            };
            Ok(Message::Assistant { content: Some(content), reasoning: None, tool_calls: Vec::new() })
        }
        _ => Err(unfit(&path, &Value::String(role), ROLES)),
    }
}

fn reasoning(mut fields: RequestFields) -> Result<Thought, WireError> {
    let sealed = fields.text("encrypted_content")?;
    let mut thoughts = |name: &str| {
        let path = fields.path_of(name);
        match fields.take(name) {
            None => Ok(None),
            Some(Value::Array(parts)) if parts.is_empty() => Ok(None),
            Some(value) => text_of(value, &path, &THOUGHTS).map(|text| Some(text).filter(|text| !text.is_empty())),
        }
    };
    Ok(Thought { content: thoughts("content")?, sealed, summary: thoughts("summary")? })
}

/// `call_id`, which is no empty text, with its path.
fn call_id(fields: &mut RequestFields, expected: &'static str) -> Result<(String, String), WireError> {
    let param = fields.path_of("call_id");
    match text(fields.required("call_id", expected)?, &param)? {
        empty if empty.is_empty() => Err(unfit(&param, &Value::String(empty), expected)),
        id => Ok((id, param)),
    }
}

fn call(mut fields: RequestFields) -> Result<InputItem, WireError> {
    let (id, param) = call_id(&mut fields, "an id of the call")?;
    let name = function_name(&mut fields)?;
    let path = fields.path_of("arguments");
    let arguments = match fields.required("arguments", "a string of JSON")? {
        object @ Value::Object(_) => object.to_string(),
        other => text(other, &path)?,
    };
    Ok(InputItem::Call { call: ToolCall { id, name, arguments }, param })
}

fn call_output(mut fields: RequestFields) -> Result<InputItem, WireError> {
    let (call_id, param) = call_id(&mut fields, CALL_ID)?;
    let path = fields.path_of("output");
    let output = match fields.required("output", "a string, or an array of text parts")? {
        // A function that returns nothing.
        Value::Array(parts) if parts.is_empty() => String::new(),
        value => text_of(value, &path, &RESULTS)?,
    };
    Ok(InputItem::CallOutput { call_id, output, param })
}

/// The history that `items` are, behind `instructions`; `open` opens reasoning that this server
/// sealed. What another one sealed is left out, for a session may come from elsewhere.
///
/// # Errors
/// [`WireError::Unfit`] for the output of a call that is not before it, and for a second call of
/// one id; [`WireError::Conflict`] for a call whose output does not come.
pub(crate) fn history(
    instructions: Option<String>,
    items: Vec<InputItem>,
    open: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Message>, WireError> {
    let (mut calls, mut answered) = (Vec::new(), HashMap::new());
    let mut messages: Vec<Message> = instructions.map(|content| Message::Developer { content }).into_iter().collect();
    for item in items {
        match item {
            InputItem::Message(Message::Assistant { content, .. }) => add_answer(&mut messages, content),
            InputItem::Message(message) => messages.push(message),
            InputItem::Reasoning(Thought { content, sealed, summary }) => {
                let opened = || sealed.as_deref().and_then(&open);
                if let Some(text) = content.or_else(opened).or(summary).filter(|text| !text.is_empty()) {
                    add_reasoning(&mut messages, &text);
                }
            }
            InputItem::Call { call, param } => {
                if answered.insert(call.id.clone(), false).is_some() {
                    return Err(unfit(&param, &Value::String(call.id), "an id that no earlier function_call has"));
                }
                calls.push(call.id.clone());
                add_call(&mut messages, call);
            }
            InputItem::CallOutput { call_id, output, .. } if answered.contains_key(&call_id) => {
                answered.insert(call_id.clone(), true);
                messages.push(Message::Tool { call_id, content: output });
            }
            InputItem::CallOutput { call_id, param, .. } => return Err(unfit(&param, &Value::String(call_id), CALL_ID)),
            InputItem::Reference { id, param } => {
                return Err(unfit(&param, &Value::String(id), "the id of an item of a response that is kept"));
            }
        }
    }
    match calls.into_iter().find(|id| !answered[id]) {
        None => Ok(messages),
        Some(id) => {
            // OpenAI's words, by which clients know it.
            let message = format!("No tool output found for function call {}.", clip(&id));
            Err(WireError::Conflict { param: "input".to_owned(), message })
        }
    }
}

fn assistant(content: Option<String>, reasoning: Option<String>, tool_calls: Vec<ToolCall>) -> Message {
    Message::Assistant { content, reasoning, tool_calls }
}

/// An answer belongs to the reasoning before it.
fn add_answer(messages: &mut Vec<Message>, answer: Option<String>) {
    match messages.last_mut() {
        Some(Message::Assistant { content: content @ None, tool_calls, .. }) if tool_calls.is_empty() => *content = answer,
        _ => messages.push(assistant(answer, None, Vec::new())),
    }
}

fn add_reasoning(messages: &mut Vec<Message>, text: &str) {
    match messages.last_mut() {
        Some(Message::Assistant { content: None, reasoning: Some(before), tool_calls }) if tool_calls.is_empty() => {
            before.push_str(BLANK_LINE);
            before.push_str(text);
        }
        _ => messages.push(assistant(None, Some(text.to_owned()), Vec::new())),
    }
}

/// A call belongs to what the model said before it. A message of the model directly before the
/// reasoning of a call did not end the turn: it is a preamble of the same turn.
fn add_call(messages: &mut Vec<Message>, call: ToolCall) {
    if let [.., Message::Assistant { content: Some(_), reasoning: before, tool_calls }, last] = messages.as_mut_slice()
        && tool_calls.is_empty()
        && let Message::Assistant { content: None, reasoning: Some(thought), tool_calls: none_yet } = last
        && none_yet.is_empty()
    {
        let thought = std::mem::take(thought);
        *before = Some(before.take().map_or(thought.clone(), |before| before + BLANK_LINE + &thought));
        messages.pop();
    }
    match messages.last_mut() {
        Some(Message::Assistant { tool_calls, .. }) => tool_calls.push(call),
        _ => messages.push(assistant(None, None, vec![call])),
    }
}

#[cfg(test)]
#[path = "items_tests.rs"]
mod tests;
