//! The stream of `/generate/stream`: `{"text": …}` until `[DONE]`.

use serde::Serialize;

use crate::actors::messages::{Part, PartKind};
use crate::http::answer::encoder::Frame;
use crate::http::wire::error::ErrorObject;

/// Makes the events of a stream. One choice, no calls; the analysis is not sent, since every text
/// is the answer's.
#[derive(Debug)]
pub(crate) struct TextEncoder;

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum TextEvent<'a> {
    Text(&'a str),
    Error(&'a str),
}

impl TextEncoder {
    /// The event of a part, if it has one. True once the stream is over.
    pub(crate) fn part(&self, part: &Part, out: &mut impl Extend<Frame>) -> bool {
        match &part.kind {
            PartKind::Content(text) if !text.is_empty() => out.extend([Frame::json(&TextEvent::Text(text))]),
            PartKind::Finished(_) => {
                out.extend([Frame::done()]);
                return true;
            }
            PartKind::Content(_)
            | PartKind::Prompt
            | PartKind::Reasoning(_)
            | PartKind::ToolCallStart { .. }
            | PartKind::ToolCallArguments { .. } => {}
        }
        false
    }

    /// An error, which ends the stream.
    pub(crate) fn fail(&self, error: &ErrorObject, out: &mut impl Extend<Frame>) {
        out.extend([Frame::json(&TextEvent::Error(&error.message)), Frame::done()]);
    }
}
