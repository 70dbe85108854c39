//! The typed events of `/generate`, and of chats in that dialect: `start`, `token`, `done`,
//! `cancelled`, `error`.
//!
//! It knows one choice and no calls, so requests for more are refused before. The analysis is not
//! sent: its readers show every token as the answer.

use serde::Serialize;

use crate::actors::messages::{FinishKind, Part, PartKind};
use crate::http::answer::encoder::{Frame, to_json};
use crate::http::answer::heading::{Heading, Metadata};
use crate::http::answer::progress::{AnswerProgress, Usage};
use crate::http::wire::error::ErrorObject;

/// Makes the events of a stream.
#[derive(Debug)]
pub(crate) struct EventEncoder {
    /// The answer's head.
    pub(crate) heading: Heading,
    /// Its end.
    pub(crate) metadata: Metadata,
    /// How far it is.
    pub(crate) progress: AnswerProgress,
    /// The last event tells the usage.
    pub(crate) include_usage: bool,
    /// Events have names (`event:`) that repeat their type.
    pub(crate) named: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TypedEvent<'a> {
    Start { request_id: &'a str, model: &'a str },
    Token { content: &'a str },
    Done(EndEvent<'a>),
    Cancelled(EndEvent<'a>),
    Error { error: &'a str },
}

#[derive(Serialize)]
struct EndEvent<'a> {
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    metadata: &'a Metadata,
}

impl TypedEvent<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Token { .. } => "token",
            Self::Done(_) => "done",
            Self::Cancelled(_) => "cancelled",
            Self::Error { .. } => "error",
        }
    }
}

impl EventEncoder {
    /// The first event.
    pub(crate) fn begin(&self, out: &mut impl Extend<Frame>) {
        out.extend([self.frame(&TypedEvent::Start { request_id: &self.heading.id, model: &self.heading.model })]);
    }

    /// The event of a part, if it has one. True once the stream is over.
    pub(crate) fn part(&mut self, part: &Part, out: &mut impl Extend<Frame>) -> bool {
        self.progress.take(part);
        match &part.kind {
            PartKind::Content(content) if !content.is_empty() => out.extend([self.frame(&TypedEvent::Token { content })]),
            PartKind::Finished(finish) => {
                let end = EndEvent {
                    request_id: &self.heading.id,
                    usage: self.include_usage.then(|| self.progress.usage()),
                    metadata: &self.metadata,
                };
                let cancelled = finish.kind == FinishKind::Cancelled;
                out.extend([self.frame(&if cancelled { TypedEvent::Cancelled(end) } else { TypedEvent::Done(end) })]);
            }
            PartKind::Content(_)
            | PartKind::Prompt
            | PartKind::Reasoning(_)
            | PartKind::ToolCallStart { .. }
            | PartKind::ToolCallArguments { .. } => {}
        }
        self.progress.is_done()
    }

    /// An error, which ends the stream.
    pub(crate) fn fail(&self, error: &ErrorObject, out: &mut impl Extend<Frame>) {
        out.extend([self.frame(&TypedEvent::Error { error: &error.message })]);
    }

    fn frame(&self, event: &TypedEvent<'_>) -> Frame {
        Frame { event: self.named.then(|| event.name()), data: to_json(event) }
    }
}
