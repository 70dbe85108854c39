//! `messages` and `system`: what was said before, as blocks.
//!
//! A client may send back each block of an earlier answer as it got it.

use serde_json::Value;

use crate::http::messages::tools;
use crate::http::wire::error::{WireError, clip, quoted};
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::history::{CallWords, InputItem, Thought};
use crate::http::wire::parts::text_of;
use crate::http::wire::tools::name_as;
use crate::prompt::conversation::{CallKind, Message, ToolCall};

const ROLES: &str = "user, assistant or system";
const CONTENT: &str = "a string, or an array of blocks";
const CALL_ID: &str = "the id of a tool_use in the assistant's message before";
/// A block of text, which holds it in a field of that name.
const TEXT: [(&str, &str); 1] = [("text", "text")];
/// The field of a call's input in which text stands that is no object of JSON. The name is
/// Anthropic's.
pub(super) const INVALID_JSON: &str = "INVALID_JSON";
/// What stands before the answer of a function that failed.
const FAILED: &str = "Error: ";
/// How a line of `system` begins that is meant for Anthropic's accounts: it differs in each
/// request, and nothing behind it would be found computed.
const ACCOUNTING: &str = "x-anthropic-billing-header:";

/// How complaints about calls are worded; the second is Anthropic's, by which clients know it.
pub(super) const CALLS: CallWords = CallWords {
    new_id: "an id that no earlier tool_use has",
    known_id: CALL_ID,
    unanswered: [
        "`tool_use` ids were found without `tool_result` blocks immediately after: ",
        ". Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
    ],
    blamed: None,
};

/// The calls of the assistant's last turn. Their results stand in the user's turn behind it, one
/// each, before anything else that the user says.
#[derive(Debug, Default)]
struct CallsOfTurn {
    /// Ids without a result, each with its path.
    open: Vec<(String, String)>,
    answered: Vec<String>,
    /// The user has said something else.
    is_past: bool,
    /// The last message is the assistant's.
    is_said: bool,
}

impl CallsOfTurn {
    /// A message of that role comes.
    fn enter(&mut self, role: &str) -> Result<(), WireError> {
        let is_said = role == "assistant";
        if is_said && !std::mem::replace(&mut self.is_said, is_said) {
            if let Some((id, param)) = self.open.first() {
                let [before, behind] = CALLS.unanswered;
                return Err(WireError::Conflict { param: param.clone(), message: format!("{before}{}{behind}", clip(id)) });
            }
            *self = Self { is_said, ..Self::default() };
        }
        self.is_said = is_said;
        Ok(())
    }

    fn call(&mut self, id: &str, param: &str) {
        self.open.push((id.to_owned(), param.to_owned()));
    }

    /// The result of call `id`, which is named at `param`.
    fn result(&mut self, id: &str, param: &str) -> Result<(), WireError> {
        let conflict = |message: String| Err(WireError::Conflict { param: param.to_owned(), message });
        match self.open.iter().position(|(open, _)| open == id) {
            _ if self.answered.iter().any(|answered| answered == id) => {
                // Anthropic's words, as are those of the next one.
                conflict(format!(
                    "each tool_use must have a single result. Found multiple `tool_result` blocks with id: {}",
                    clip(id)
                ))
            }
            None => Err(unfit(param, &Value::String(id.to_owned()), CALL_ID)),
            Some(_) if self.is_past => {
                conflict("`tool_result` blocks stand behind their calls, before anything else that the user says".to_owned())
            }
            Some(place) => {
                self.answered.push(self.open.swap_remove(place).0);
                Ok(())
            }
        }
    }
}

/// Reads `messages`, which stand at `path`.
pub(super) fn read(list: Vec<Value>, path: &str) -> Result<Vec<InputItem>, WireError> {
    if list.is_empty() {
        return Err(unfit(path, &Value::Array(list), "at least one message"));
    }
    let (mut items, mut calls) = (Vec::with_capacity(list.len()), CallsOfTurn::default());
    for (index, value) in list.into_iter().enumerate() {
        message(RequestFields::of(value, &format!("{path}[{index}]"))?, &mut calls, &mut items)?;
    }
    Ok(items)
}

/// Reads `system`, without what is no instruction.
pub(super) fn system(fields: &mut RequestFields) -> Result<Option<String>, WireError> {
    let path = fields.path_of("system");
    let text = match fields.take("system") {
        None => return Ok(None),
        Some(Value::String(text)) if text.starts_with(ACCOUNTING) => {
            text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
        }
        Some(Value::Array(blocks)) if blocks.is_empty() => return Ok(None),
        Some(mut value) => {
            // Emptied rather than left out: the others keep their places.
            for block in value.as_array_mut().into_iter().flatten() {
                if let Some(text) = block.get_mut("text").filter(|text| is_accounting(text)) {
                    *text = Value::String(String::new());
                }
            }
            text_of(value, &path, &TEXT)?
        }
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn is_accounting(text: &Value) -> bool {
    text.as_str().is_some_and(|text| text.starts_with(ACCOUNTING))
}

fn message(mut fields: RequestFields, calls: &mut CallsOfTurn, items: &mut Vec<InputItem>) -> Result<(), WireError> {
    let path = fields.path_of("role");
    let role = text(fields.required("role", ROLES)?, &path)?;
    calls.enter(&role)?;
    let said: fn(String) -> Message = match role.as_str() {
        "user" => |content| Message::User { content },
        "system" => |content| Message::System { content },
        "assistant" => |content| Message::Assistant { content: Some(content), reasoning: None, tool_calls: Vec::new() },
        _ => return Err(unfit(&path, &Value::String(role), ROLES)),
    };
    let path = fields.path_of("content");
    let blocks = match fields.required("content", CONTENT)? {
        Value::String(text) => {
            calls.is_past |= role == "user";
            items.push(InputItem::Message(said(text)));
            return Ok(());
        }
        // An answer that ended before its first block.
        Value::Array(blocks) if blocks.is_empty() && role == "assistant" => {
            items.push(InputItem::Message(said(String::new())));
            return Ok(());
        }
        Value::Array(blocks) if !blocks.is_empty() => blocks,
        other => return Err(unfit(&path, &other, CONTENT)),
    };
    // Blocks of text side by side are one text.
    let mut open: Option<String> = None;
    for (index, value) in blocks.into_iter().enumerate() {
        let mut block = RequestFields::of(value, &format!("{path}[{index}]"))?;
        let path = block.path_of("type");
        let kind = block.text("type")?;
        let item = match (role.as_str(), kind.as_deref()) {
            (_, None | Some("text")) => {
                calls.is_past |= role == "user";
                let path = block.path_of("text");
                open.get_or_insert_default().push_str(&text(block.required("text", "a string")?, &path)?);
                continue;
            }
            ("user", Some("tool_result")) => result(block, calls)?,
            ("assistant", Some("tool_use")) => call(block, calls)?,
            ("assistant", Some("thinking")) => {
                let path = block.path_of("thinking");
                let thought = text(block.required("thinking", "a string")?, &path)?;
                let content = Some(thought).filter(|thought| !thought.is_empty());
                InputItem::Reasoning(Thought { content, sealed: block.text("signature")?, summary: None })
            }
            ("assistant", Some("redacted_thinking")) => {
                InputItem::Reasoning(Thought { sealed: block.text("data")?, ..Thought::default() })
            }
            (_, Some(kind)) => {
                let message = format!("{} is not served in a message of role {role}: {}", quoted(kind), served(&role));
                return Err(WireError::Unsupported { param: path, message });
            }
        };
        items.extend(open.take().map(|text| InputItem::Message(said(text))));
        items.push(item);
    }
    items.extend(open.map(|text| InputItem::Message(said(text))));
    Ok(())
}

/// The blocks that a message of that role may hold.
fn served(role: &str) -> &'static str {
    match role {
        "user" => "text and tool_result are",
        "assistant" => "text, thinking, redacted_thinking and tool_use are",
        _ => "text is",
    }
}

fn call(mut block: RequestFields, calls: &mut CallsOfTurn) -> Result<InputItem, WireError> {
    let param = block.path_of("id");
    let id = match text(block.required("id", "the id of the call")?, &param)? {
        empty if empty.is_empty() => return Err(unfit(&param, &Value::String(empty), "the id of the call")),
        id => id,
    };
    calls.call(&id, &param);
    let name = name_as(&tools::FORM, &mut block)?;
    let path = block.path_of("input");
    let arguments = match block.required("input", "an object")? {
        Value::Object(input) => match input.get(INVALID_JSON) {
            // What the model said in place of an object, as it said it.
            Some(Value::String(said)) if input.len() == 1 => said.clone(),
            _ => Value::Object(input).to_string(),
        },
        other => return Err(unfit(&path, &other, "an object")),
    };
    Ok(InputItem::Call { call: ToolCall { id, name, arguments, kind: CallKind::Function }, param })
}

fn result(mut block: RequestFields, calls: &mut CallsOfTurn) -> Result<InputItem, WireError> {
    let param = block.path_of("tool_use_id");
    let call_id = text(block.required("tool_use_id", CALL_ID)?, &param)?;
    calls.result(&call_id, &param)?;
    let path = block.path_of("content");
    let output = match block.take("content") {
        // A function that returns nothing.
        None => String::new(),
        Some(Value::Array(parts)) if parts.is_empty() => String::new(),
        Some(value) => text_of(value, &path, &TEXT)?,
    };
    // The model has no other way to learn of it.
    let failed = block.flag("is_error")?.unwrap_or(false);
    let output = if failed { format!("{FAILED}{output}") } else { output };
    Ok(InputItem::CallOutput { call_id, output, param })
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
