//! One request, as its client saw it.

use serde::{Deserialize, Serialize};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Answered to the end.
    Completed,
    /// The client left on purpose.
    Left,
    /// Cancelled on purpose.
    Cancelled,
    /// Refused with 429: the server has too much to do.
    Refused,
    /// Anything else.
    Failed,
}

impl AttemptOutcome {
    /// As it stands in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Left => "left",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One request. Times are milliseconds from the moment from which the request counts: in an open
/// loop when it was meant to be sent, in a closed loop when it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Which conversation.
    pub index: usize,
    /// Which request of the conversation, from zero.
    pub turn: usize,
    /// From the start of the run to the moment from which the request counts, in seconds.
    pub begun_s: f64,
    /// How much later it was sent.
    pub late_ms: f64,
    /// First byte of the body.
    pub first_byte_ms: Option<f64>,
    /// First piece of reasoning.
    pub first_reasoning_ms: Option<f64>,
    /// First piece of content.
    pub first_content_ms: Option<f64>,
    /// First piece of either, or of a tool call.
    pub ttft_ms: Option<f64>,
    /// Mean time of a token after the first.
    pub tpot_ms: Option<f64>,
    /// The end of the answer.
    pub e2e_ms: Option<f64>,
    /// From `POST /cancel` to the end of the stream.
    pub cancel_ms: Option<f64>,
    /// Tokens of the prompt, where the server tells.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the prompt that a prefix cache had, where the server tells.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer: the server's count, or the pieces of text.
    pub output_tokens: u64,
    /// Whether the server told the tokens.
    pub counted_by_server: bool,
    /// Events of the stream.
    pub events: u64,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// A word for the kind of failure.
    pub error: Option<String>,
    /// The failure in words.
    pub message: Option<String>,
}
