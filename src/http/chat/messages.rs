//! `messages`: the history of a chat.

use std::collections::HashSet;

use serde_json::Value;

use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::parts::text_of;
use crate::http::wire::tools::{call_kind, function_name};
use crate::prompt::conversation::{CallKind, Message, PromptEnd, ToolCall};

const ROLES: &str = "system, developer, user, assistant, tool or function";
/// A part of type `text`, which holds it in a field of that name.
const TEXT: (&str, &str) = ("text", "text");

/// Reads the messages at `path`.
pub(crate) fn read(list: Vec<Value>, path: &str) -> Result<Vec<Message>, WireError> {
    if list.is_empty() {
        return Err(unfit(path, &Value::Array(list), "at least one message"));
    }
    let mut calls = HashSet::new();
    let mut messages = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let message = message(RequestFields::of(value, &format!("{path}[{index}]"))?, &calls)?;
        if let Message::Assistant { tool_calls, .. } = &message {
            calls.extend(tool_calls.iter().map(|call| call.id.clone()));
        }
        messages.push(message);
    }
    Ok(messages)
}

/// vLLM's `continue_final_message` and `add_generation_prompt`: where the prompt of `messages`
/// ends.
pub(crate) fn prompt_end(fields: &mut RequestFields, messages: &[Message]) -> Result<PromptEnd, WireError> {
    let param = fields.path_of("continue_final_message");
    let continues = fields.flag("continue_final_message")?.unwrap_or(false);
    let conflict = |message: &str| Err(WireError::Conflict { param, message: message.to_owned() });
    match (continues, fields.flag("add_generation_prompt")?) {
        (false, None | Some(true)) => Ok(PromptEnd::Opened),
        (false, Some(false)) => Ok(PromptEnd::Bare),
        (true, Some(true)) => {
            conflict("goes on with the last message, and add_generation_prompt: true begins another; give one of them")
        }
        (true, None | Some(false)) => match messages.last() {
            Some(Message::Assistant { content: Some(text), tool_calls, .. }) if !text.is_empty() && tool_calls.is_empty() => {
                Ok(PromptEnd::FinalText)
            }
            _ => conflict("needs a last message of the assistant's, with a text and without calls"),
        },
    }
}

/// One message; `calls` are the ids of the calls before it.
fn message(mut fields: RequestFields, calls: &HashSet<String>) -> Result<Message, WireError> {
    let role_path = fields.path_of("role");
    let role = text(fields.required("role", ROLES)?, &role_path)?;
    // Harmony has no place for a name; it is accepted because OpenAI accepts it.
    let name = fields.text("name")?;
    match role.as_str() {
        "system" => Ok(Message::System { content: content(&mut fields)? }),
        "developer" => Ok(Message::Developer { content: content(&mut fields)? }),
        "user" => Ok(Message::User { content: content(&mut fields)? }),
        "assistant" => assistant(fields),
        "tool" => {
            let path = fields.path_of("tool_call_id");
            let call_id = text(fields.required("tool_call_id", "the id of the call that this answers")?, &path)?;
            if !calls.contains(&call_id) {
                return Err(unfit(&path, &Value::String(call_id), "the id of a call in an earlier assistant message"));
            }
            Ok(Message::Tool { call_id, content: result(&mut fields)? })
        }
        "function" => {
            let path = fields.path_of("name");
            let expected = "the name of a function that an earlier assistant message called by function_call";
            let name = name.ok_or(WireError::Missing { param: path.clone(), expected })?;
            let call_id = older_id(&name);
            if !calls.contains(&call_id) {
                return Err(unfit(&path, &Value::String(name), expected));
            }
            Ok(Message::Tool { call_id, content: result(&mut fields)? })
        }
        _ => Err(unfit(&role_path, &Value::String(role), ROLES)),
    }
}

/// What a function gave. One that returns nothing has null for its result.
fn result(fields: &mut RequestFields) -> Result<String, WireError> {
    let content = fields.take("content").map(|value| text_or_parts(value, &fields.path_of("content"))).transpose()?;
    Ok(content.unwrap_or_default())
}

/// Calls of OpenAI's older form have no ids: a result names its function.
fn older_id(function: &str) -> String {
    format!("function_call {function}")
}

fn assistant(mut fields: RequestFields) -> Result<Message, WireError> {
    let content = fields
        .take("content")
        .map(|value| text_of(value, &fields.path_of("content"), &[TEXT, ("refusal", "refusal")]))
        .transpose()?;
    // A refusal is what the assistant said, so it stands where the text would, or behind it.
    let refusal = fields.text("refusal")?.filter(|text| !text.is_empty());
    let content = match (content, refusal) {
        (Some(content), Some(refusal)) if !content.is_empty() => Some(format!("{content}\n\n{refusal}")),
        (content, refusal) => refusal.or(content),
    };
    // Clients send both names, one of them empty.
    let newer = fields.text("reasoning")?;
    let older = fields.text("reasoning_content")?;
    let reasoning = newer.filter(|text| older.is_none() || !text.is_empty()).or(older);
    let path = fields.path_of("tool_calls");
    let older = fields.object("function_call")?;
    let mut tool_calls: Vec<ToolCall> = fields
        .list("tool_calls")?
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(index, value)| tool_call(RequestFields::of(value, &format!("{path}[{index}]"))?))
        .collect::<Result<_, _>>()?;
    if let Some(mut function) = older {
        if !tool_calls.is_empty() {
            let message = "is the older name of tool_calls, which are given too; give one of them".to_owned();
            return Err(WireError::Conflict { param: fields.path_of("function_call"), message });
        }
        let (name, arguments) = called(&mut function)?;
        tool_calls.push(ToolCall { id: older_id(&name), name, arguments, kind: CallKind::Function });
    }
    Ok(Message::Assistant { content, reasoning, tool_calls })
}

fn tool_call(mut fields: RequestFields) -> Result<ToolCall, WireError> {
    let kind = call_kind(&mut fields)?;
    let id_path = fields.path_of("id");
    let id = text(fields.required("id", "a string")?, &id_path)?;
    if kind == CallKind::Custom {
        let expected = "an object with name and input";
        let mut custom = RequestFields::of(fields.required("custom", expected)?, &fields.path_of("custom"))?;
        let (name, path) = (function_name(&mut custom)?, custom.path_of("input"));
        return Ok(ToolCall { id, name, arguments: text(custom.required("input", "a string")?, &path)?, kind });
    }
    let mut function =
        RequestFields::of(fields.required("function", "an object with name and arguments")?, &fields.path_of("function"))?;
    let (name, arguments) = called(&mut function)?;
    Ok(ToolCall { id, name, arguments, kind })
}

/// The name and the arguments of a call.
fn called(function: &mut RequestFields) -> Result<(String, String), WireError> {
    let name = function_name(function)?;
    let arguments_path = function.path_of("arguments");
    let arguments = match function.required("arguments", "a string of JSON")? {
        object @ Value::Object(_) => object.to_string(),
        other => text(other, &arguments_path)?,
    };
    Ok((name, arguments))
}

fn content(fields: &mut RequestFields) -> Result<String, WireError> {
    let value = fields.required("content", "a string, or an array of text parts")?;
    text_or_parts(value, &fields.path_of("content"))
}

/// A text, or parts of type text: they are joined as they are.
fn text_or_parts(value: Value, path: &str) -> Result<String, WireError> {
    text_of(value, path, &[TEXT])
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
