//! The forms in which servers stream: which route has which, and from their events to ours.

mod chat;
mod responses;
mod typed;

use serde_json::Value;

use super::error::beginning;
use super::event::{AnswerEvent, ErrorText};
use super::sse::SseEvent;

/// A route that streams, with its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// `/v1/chat/completions`; chunks of OpenAI's, typed events, or both at once.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/responses`.
    Responses,
    /// `/generate`: named events `start`, `token`, `done`.
    Generate,
    /// `/generate/stream`: pieces of text.
    GenerateStream,
}

impl Api {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Chat, Self::Completions, Self::Responses, Self::Generate, Self::GenerateStream];

    /// Where it is.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Generate => "/generate",
            Self::GenerateStream => "/generate/stream",
        }
    }

    /// Its name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Generate => "generate",
            Self::GenerateStream => "generate-stream",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.name() == name)
    }

    /// What ends its stream.
    fn end(self) -> &'static str {
        match self {
            Self::Chat | Self::Completions | Self::GenerateStream => "data: [DONE]",
            Self::Responses => "response.completed, response.incomplete, response.failed or error",
            Self::Generate => "done, cancelled or error",
        }
    }
}

/// An event that does not belong into the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("before line {line}: {message}; it was `{text}`")]
pub struct DecodeError {
    /// The line that ended the event.
    pub line: u64,
    /// What is wrong.
    pub message: String,
    /// How its data begins.
    pub text: String,
}

/// What a form's reader says of an event: pieces go to `out`, or it is wrong.
type Decoded = Result<(), String>;
type Out<'a> = &'a mut dyn FnMut(AnswerEvent);

/// Reads the events of one stream.
#[derive(Debug)]
pub struct Decoder {
    api: Api,
    started: bool,
    done: bool,
}

impl Decoder {
    /// A reader of one stream of a route.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self { api, started: false, done: false }
    }

    /// Hands over what an event says, in its order.
    ///
    /// # Errors
    /// [`DecodeError`] if it is no JSON, has none of the shapes of this route, or comes after the
    /// end.
    pub fn decode(&mut self, event: &SseEvent, out: Out<'_>) -> Result<(), DecodeError> {
        let wrong = |message: String| DecodeError { line: event.line, message, text: beginning(event.data.as_bytes()) };
        if event.data == "[DONE]" {
            // Some servers end streams with it whose form has an end of its own.
            if !std::mem::replace(&mut self.done, true) {
                if self.api == Api::Responses {
                    return Err(wrong(format!("expected {}", self.api.end())));
                }
                out(AnswerEvent::Done);
            }
            return Ok(());
        }
        if self.done {
            return Err(wrong("the stream was over".to_owned()));
        }
        let (started, done) = (&mut self.started, &mut self.done);
        let mut note = |event: AnswerEvent| {
            match event {
                // Chunks repeat the id; once is enough.
                AnswerEvent::Started { .. } if std::mem::replace(started, true) => return,
                AnswerEvent::Done => *done = true,
                _ => {}
            }
            out(event);
        };
        let read = match self.api {
            Api::Chat | Api::Completions => chat::decode(event, &mut note),
            Api::Responses => responses::decode(event, &mut note),
            Api::Generate => typed::decode(event, &mut note),
            Api::GenerateStream => typed::decode_text(event, &mut note),
        };
        read.map_err(wrong)
    }

    /// Whether the stream may end here; if not, what was expected.
    ///
    /// # Errors
    /// What ends a stream of this route.
    pub fn finish(&self) -> Result<(), &'static str> {
        if self.done { Ok(()) } else { Err(self.api.end()) }
    }
}

/// Pieces that hold no text are not worth an event.
fn text(choice: u32, text: Option<String>, reasoning: bool, out: Out<'_>) {
    match text {
        Some(text) if !text.is_empty() && reasoning => out(AnswerEvent::Reasoning { choice, text }),
        Some(text) if !text.is_empty() => out(AnswerEvent::Content { choice, text }),
        _ => {}
    }
}

fn json<'a, T: serde::Deserialize<'a>>(event: &'a SseEvent) -> Result<T, String> {
    serde_json::from_str(&event.data).map_err(|error| format!("not JSON of this stream's shape ({error})"))
}

fn error(error: &Value, out: Out<'_>) {
    out(AnswerEvent::Error(ErrorText::read(error)));
}

#[cfg(test)]
mod tests;
