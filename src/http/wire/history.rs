//! What was said before, item by item, and the messages of a history that it is: what the APIs have
//! in common in which an answer is a list.
//!
//! Consecutive items of the model (reasoning, a message, calls) are one message of the history, as
//! the model wrote them in one turn.

use std::collections::HashMap;

use serde_json::Value;

use crate::http::wire::error::{WireError, clip};
use crate::http::wire::fields::unfit;
use crate::prompt::conversation::{Message, ToolCall};

/// Between two reasoning items of one turn, as between two analysis messages of one answer.
const BLANK_LINE: &str = "\n\n";

/// How an API words its complaints about calls and results that do not belong together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallWords {
    /// What is expected of the id of a call.
    pub(crate) new_id: &'static str,
    /// What is expected of the id in a result.
    pub(crate) known_id: &'static str,
    /// What is said of a call without a result, before its id and behind it.
    pub(crate) unanswered: [&'static str; 2],
    /// The parameter blamed for that, if it is not the call's own.
    pub(crate) blamed: Option<&'static str>,
}

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

/// The history that `items` are, behind `instructions`; `open` opens reasoning that this server
/// sealed. What another one sealed is left out, for a session may come from elsewhere. `words` are
/// those of complaints.
///
/// # Errors
/// [`WireError::Unfit`] for the output of a call that is not before it, and for a second call of
/// one id; [`WireError::Conflict`] for a call whose output does not come.
pub(crate) fn history(
    instructions: Option<String>,
    items: Vec<InputItem>,
    words: &CallWords,
    open: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Message>, WireError> {
    let (mut calls, mut answered): (Vec<(String, String)>, _) = (Vec::new(), HashMap::new());
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
                    return Err(unfit(&param, &Value::String(call.id), words.new_id));
                }
                calls.push((call.id.clone(), param));
                add_call(&mut messages, call);
            }
            InputItem::CallOutput { call_id, output, .. } if answered.contains_key(&call_id) => {
                answered.insert(call_id.clone(), true);
                messages.push(Message::Tool { call_id, content: output });
            }
            InputItem::CallOutput { call_id, param, .. } => {
                return Err(unfit(&param, &Value::String(call_id), words.known_id));
            }
            InputItem::Reference { id, param } => {
                return Err(unfit(&param, &Value::String(id), "the id of an item of a response that is kept"));
            }
        }
    }
    match calls.into_iter().find(|(id, _)| !answered[id]) {
        None => Ok(messages),
        Some((id, param)) => {
            let [before, behind] = words.unanswered;
            let param = words.blamed.map_or(param, str::to_owned);
            Err(WireError::Conflict { param, message: format!("{before}{}{behind}", clip(&id)) })
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
