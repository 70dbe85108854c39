//! Parts to SSE frames, in whichever dialect the client reads.

use serde::Serialize;

use crate::actors::messages::{FinishKind, Part, PartKind};
use crate::http::chat::answer::ChatEncoder;
use crate::http::completions::answer::CompletionEncoder;
use crate::http::legacy::event_answer::EventEncoder;
use crate::http::legacy::text_answer::TextEncoder;
use crate::http::messages::answer::MessagesEncoder;
use crate::http::responses::answer::ResponsesEncoder;
use crate::http::wire::error::ErrorObject;

/// What ends a stream in OpenAI's dialects.
const DONE: &str = "[DONE]";

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its name, in dialects that name events.
    pub(crate) event: Option<&'static str>,
    /// Its data: JSON without line breaks, or `[DONE]`.
    pub(crate) data: String,
}

impl Frame {
    /// A frame without a name.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self { event: None, data: to_json(value) }
    }

    /// The frame after the last chunk.
    pub(crate) fn done() -> Self {
        Self { event: None, data: DONE.to_owned() }
    }
}

/// Writes a shape of this room as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("the shapes of the wire have string keys and no failing parts")
}

/// Turns the parts of one answer into frames.
#[derive(Debug)]
pub(crate) enum Encoder {
    /// Chat chunks, OpenAI's or both dialects at once.
    Chat(Box<ChatEncoder>),
    /// Text completion chunks.
    Completion(Box<CompletionEncoder>),
    /// Typed events.
    Events(Box<EventEncoder>),
    /// Events of a message and its blocks.
    Messages(Box<MessagesEncoder>),
    /// Events of a response and its items.
    Responses(Box<ResponsesEncoder>),
    /// `{"text": …}`.
    Text(TextEncoder),
}

impl Encoder {
    /// The frames before the first part.
    pub(crate) fn begin(&mut self, out: &mut impl Extend<Frame>) {
        match self {
            Self::Chat(encoder) => encoder.begin(out),
            Self::Completion(encoder) => encoder.begin(out),
            Self::Events(encoder) => encoder.begin(out),
            Self::Messages(encoder) => encoder.begin(out),
            Self::Responses(encoder) => encoder.begin(out),
            Self::Text(_) => {}
        }
    }

    /// The frames of a part; after the last one of the last choice, those that end the stream. True
    /// once the stream is over.
    pub(crate) fn part(&mut self, part: &Part, out: &mut impl Extend<Frame>) -> bool {
        if let PartKind::Finished(finish) = &part.kind
            && let FinishKind::Failed { code, message } = &finish.kind
        {
            self.fail(ErrorObject::failed(code, message), out);
            return true;
        }
        match self {
            Self::Chat(encoder) => encoder.part(part, out),
            Self::Completion(encoder) => encoder.part(part, out),
            Self::Events(encoder) => encoder.part(part, out),
            Self::Messages(encoder) => encoder.part(part, out),
            Self::Responses(encoder) => encoder.part(part, out),
            Self::Text(encoder) => encoder.part(part, out),
        }
    }

    /// What must be done, where it may wait for a disk, before the frames that end the stream are
    /// sent; false if they are not true then.
    pub(crate) fn last_work(&mut self) -> Option<impl FnOnce() -> bool + Send + use<>> {
        match self {
            Self::Responses(encoder) => encoder.last_work(),
            Self::Chat(_) | Self::Completion(_) | Self::Events(_) | Self::Messages(_) | Self::Text(_) => None,
        }
    }

    /// The last frame of an answer whose last work failed, in place of the one that there is.
    pub(crate) fn end_unkept(&mut self) -> Option<Frame> {
        match self {
            Self::Responses(encoder) => encoder.end_unkept(),
            Self::Chat(_) | Self::Completion(_) | Self::Events(_) | Self::Messages(_) | Self::Text(_) => None,
        }
    }

    /// What shows in silence that the stream is alive, in dialects that have an event for it.
    pub(crate) fn ping(&self) -> Option<Frame> {
        match self {
            Self::Messages(_) => Some(MessagesEncoder::ping()),
            Self::Chat(_) | Self::Completion(_) | Self::Events(_) | Self::Responses(_) | Self::Text(_) => None,
        }
    }

    /// The frames of an error, which end the stream.
    pub(crate) fn fail(&mut self, error: ErrorObject, out: &mut impl Extend<Frame>) {
        match self {
            Self::Chat(encoder) => encoder.fail(error, out),
            Self::Completion(_) => out.extend([Frame::json(&error.body()), Frame::done()]),
            Self::Events(encoder) => encoder.fail(&error, out),
            Self::Messages(encoder) => encoder.fail(&error, out),
            Self::Responses(encoder) => encoder.fail(error, out),
            Self::Text(encoder) => encoder.fail(&error, out),
        }
    }
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
