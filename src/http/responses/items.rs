//! `input`: what was said before, as the items of the Responses API.
//!
//! A client may send back each item of an earlier answer, with its id or without.

use serde_json::Value;

use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::history::{CallWords, InputItem, Thought};
use crate::http::wire::parts::text_of;
use crate::http::wire::tools::function_name;
use crate::prompt::conversation::{CallKind, Message, ToolCall};

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
/// How complaints about calls are worded.
pub(crate) const CALLS: CallWords = CallWords {
    new_id: "an id that no earlier function_call has",
    known_id: CALL_ID,
    // OpenAI's words, by which clients know it.
    unanswered: ["No tool output found for function call ", "."],
    blamed: Some("input"),
};

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
        Some("custom_tool_call") => custom_call(fields),
        Some("function_call_output" | "custom_tool_call_output") => call_output(fields),
        Some("item_reference") => {
            let param = fields.path_of("id");
            let id = text(fields.required("id", "the id of an item")?, &param)?;
            Ok(InputItem::Reference { id, param })
        }
        Some(other) => {
            let message = format!(
                "items of type {} are not served; message, reasoning, function_call, custom_tool_call and the outputs of both are",
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
    Ok(InputItem::Call { call: ToolCall { id, name, arguments, kind: CallKind::Function }, param })
}

fn custom_call(mut fields: RequestFields) -> Result<InputItem, WireError> {
    let (id, param) = call_id(&mut fields, "an id of the call")?;
    let name = function_name(&mut fields)?;
    let path = fields.path_of("input");
    let arguments = text(fields.required("input", "a string")?, &path)?;
    Ok(InputItem::Call { call: ToolCall { id, name, arguments, kind: CallKind::Custom }, param })
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

#[cfg(test)]
#[path = "items_tests.rs"]
mod tests;
