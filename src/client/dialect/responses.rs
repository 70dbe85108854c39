//! Events of OpenAI's responses.

use serde::Deserialize;
use serde_json::Value;

use super::super::event::{AnswerEvent, ErrorText, WireUsage};
use super::super::sse::SseEvent;
use super::{Decoded, Out, error, json, text};

#[derive(Deserialize)]
struct ResponsesMessage {
    #[serde(rename = "type")]
    kind: String,
    delta: Option<String>,
    #[serde(default)]
    output_index: u32,
    item: Option<ResponsesItem>,
    response: Option<Response>,
    message: Option<String>,
    code: Option<Value>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ResponsesItem {
    #[serde(rename = "type")]
    kind: String,
    call_id: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    id: Option<String>,
    usage: Option<WireUsage>,
    error: Option<Value>,
    incomplete_details: Option<Incomplete>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

pub(super) fn decode(event: &SseEvent, out: Out<'_>) -> Decoded {
    let message: ResponsesMessage = json(event)?;
    if let Some(name) = event.name.as_ref().filter(|name| **name != message.kind) {
        return Err(format!("`event: {name}` with type `{}`", message.kind));
    }
    let index = message.output_index;
    match message.kind.as_str() {
        "response.created" => {
            if let Some(id) = message.response.and_then(|response| response.id) {
                out(AnswerEvent::Started { id });
            }
        }
        "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => text(0, message.delta, true, out),
        "response.output_text.delta" | "response.refusal.delta" => text(0, message.delta, false, out),
        "response.output_item.added" => {
            if let Some(item) = message.item.filter(|item| item.kind == "function_call") {
                let arguments = String::new();
                out(AnswerEvent::ToolCall { choice: 0, index, id: item.call_id, name: item.name, arguments });
            }
        }
        "response.function_call_arguments.delta" => {
            let arguments = message.delta.unwrap_or_default();
            out(AnswerEvent::ToolCall { choice: 0, index, id: None, name: None, arguments });
        }
        "response.completed" | "response.incomplete" | "response.failed" => end(&message.kind, message.response, out),
        "error" => {
            match message.error {
                Some(said) => error(&said, out),
                None => out(AnswerEvent::Error(ErrorText {
                    message: message.message.unwrap_or_default(),
                    kind: None,
                    code: message.code.and_then(|code| code.as_str().map(str::to_owned)),
                })),
            }
            out(AnswerEvent::Done);
        }
        kind if kind.starts_with("response.") => {}
        kind => return Err(format!("`{kind}` is no event of a response")),
    }
    Ok(())
}

fn end(kind: &str, response: Option<Response>, out: Out<'_>) {
    let (usage, failed, incomplete) = match response {
        Some(response) => (response.usage, response.error, response.incomplete_details),
        None => (None, None, None),
    };
    if kind == "response.failed" {
        error(&failed.unwrap_or_default(), out);
    } else {
        let reason = match incomplete.and_then(|incomplete| incomplete.reason) {
            Some(reason) if reason == "max_output_tokens" => "length".to_owned(),
            Some(reason) => reason,
            None => "stop".to_owned(),
        };
        out(AnswerEvent::Finish { choice: 0, reason });
    }
    if let Some(usage) = usage {
        out(AnswerEvent::Usage(usage.into()));
    }
    out(AnswerEvent::Done);
}
