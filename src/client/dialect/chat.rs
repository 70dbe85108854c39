//! Chunks of OpenAI's chats and text completions.

use serde::Deserialize;
use serde_json::Value;

use super::super::event::{AnswerEvent, WireUsage};
use super::super::sse::SseEvent;
use super::{Decoded, Out, error, json, text, typed};

#[derive(Deserialize)]
struct Chunk {
    id: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    delta: Option<Delta>,
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCallDelta>>,
}

#[derive(Deserialize)]
struct ToolCallDelta {
    #[serde(default)]
    index: u32,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

pub(super) fn decode(event: &SseEvent, out: Out<'_>) -> Decoded {
    let chunk: Chunk = json(event)?;
    if let Some(said) = chunk.error.filter(|error| !error.is_null()) {
        error(&said, out);
        return Ok(());
    }
    let Some(choices) = chunk.choices else {
        // A server can be told to send typed events here.
        return match chunk.kind {
            Some(_) => typed::decode(event, out),
            None => Err("neither `choices` nor `error`".to_owned()),
        };
    };
    if let Some(id) = chunk.id {
        out(AnswerEvent::Started { id });
    }
    for choice in choices {
        let index = choice.index;
        if let Some(delta) = choice.delta {
            // The same text under two names.
            text(index, delta.reasoning.or(delta.reasoning_content), true, out);
            text(index, delta.content, false, out);
            for call in delta.tool_calls.unwrap_or_default() {
                let function = call.function.unwrap_or(Function { name: None, arguments: None });
                out(AnswerEvent::ToolCall {
                    choice: index,
                    index: call.index,
                    id: call.id,
                    name: function.name,
                    arguments: function.arguments.unwrap_or_default(),
                });
            }
        }
        text(index, choice.text, false, out);
        if let Some(reason) = choice.finish_reason {
            out(AnswerEvent::Finish { choice: index, reason });
        }
    }
    if let Some(usage) = chunk.usage {
        out(AnswerEvent::Usage(usage.into()));
    }
    Ok(())
}
