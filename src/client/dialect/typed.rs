//! Typed events (`start`, `token`, `done`, `cancelled`, `error`), and the stream of plain texts.

use serde::Deserialize;
use serde_json::Value;

use super::super::event::{AnswerEvent, WireUsage};
use super::super::sse::SseEvent;
use super::{Decoded, Out, error, json, text};

#[derive(Deserialize)]
struct TypedMessage {
    #[serde(rename = "type")]
    kind: String,
    request_id: Option<String>,
    content: Option<String>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

pub(super) fn decode(event: &SseEvent, out: Out<'_>) -> Decoded {
    let message: TypedMessage = json(event)?;
    if let Some(name) = event.name.as_ref().filter(|name| **name != message.kind) {
        return Err(format!("`event: {name}` with type `{}`", message.kind));
    }
    let finish = match message.kind.as_str() {
        "start" => {
            out(AnswerEvent::Started { id: message.request_id.ok_or("`start` without `request_id`")? });
            return Ok(());
        }
        "token" => {
            text(0, message.content, false, out);
            return Ok(());
        }
        "done" => Some("stop"),
        "cancelled" => Some("cancelled"),
        "error" => None,
        kind => return Err(format!("`{kind}` is none of start, token, done, cancelled, error")),
    };
    match finish {
        Some(reason) => out(AnswerEvent::Finish { choice: 0, reason: reason.to_owned() }),
        None => error(&message.error.unwrap_or_default(), out),
    }
    if let Some(usage) = message.usage {
        out(AnswerEvent::Usage(usage.into()));
    }
    out(AnswerEvent::Done);
    Ok(())
}

#[derive(Deserialize)]
struct TextPiece {
    text: Option<String>,
    error: Option<Value>,
}

pub(super) fn decode_text(event: &SseEvent, out: Out<'_>) -> Decoded {
    let piece: TextPiece = json(event)?;
    match (piece.text, piece.error) {
        (_, Some(said)) if !said.is_null() => error(&said, out),
        (None, _) => return Err("neither `text` nor `error`".to_owned()),
        (said, _) => text(0, said, false, out),
    }
    Ok(())
}
