//! What a stream tells, whichever form it has.

use serde::Deserialize;
use serde_json::Value;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerEvent {
    /// The answer has begun; under this id it can be cancelled.
    Started {
        /// The response's id.
        id: String,
    },
    /// A piece of the reasoning; never empty.
    Reasoning {
        /// Which of several answers, from zero.
        choice: u32,
        /// The text.
        text: String,
    },
    /// A piece of the answer itself; never empty.
    Content {
        /// Which of several answers, from zero.
        choice: u32,
        /// The text.
        text: String,
    },
    /// A piece of a tool call.
    ToolCall {
        /// Which of several answers, from zero.
        choice: u32,
        /// Which of the answer's calls, from zero.
        index: u32,
        /// The call's id, in its first piece.
        id: Option<String>,
        /// The function, in its first piece.
        name: Option<String>,
        /// A piece of the arguments.
        arguments: String,
    },
    /// The answer is complete.
    Finish {
        /// Which of several answers, from zero.
        choice: u32,
        /// `stop`, `length`, `tool_calls`, `cancelled`, or what else the server says.
        reason: String,
    },
    /// What the answer took.
    Usage(Usage),
    /// The server says that it failed.
    Error(ErrorText),
    /// The stream is over, as its form demands.
    Done,
}

/// Tokens of a request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub completion_tokens: u64,
    /// Tokens of the reasoning, where the server tells.
    pub reasoning_tokens: Option<u64>,
    /// Tokens of the prompt that a prefix cache had, where the server tells.
    pub cached_tokens: Option<u64>,
}

/// Usage in the names of chats and completions.
#[derive(Debug, Deserialize)]
pub(super) struct WireUsage {
    #[serde(default, alias = "input_tokens")]
    prompt_tokens: u64,
    #[serde(default, alias = "output_tokens")]
    completion_tokens: u64,
    #[serde(default, alias = "input_tokens_details")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default, alias = "output_tokens_details")]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        Self {
            prompt_tokens: wire.prompt_tokens,
            completion_tokens: wire.completion_tokens,
            reasoning_tokens: wire.completion_tokens_details.and_then(|details| details.reasoning_tokens),
            cached_tokens: wire.prompt_tokens_details.and_then(|details| details.cached_tokens),
        }
    }
}

impl Usage {
    /// Reads the `usage` of a whole answer, in the names of any route.
    #[must_use]
    pub fn read(usage: &Value) -> Option<Self> {
        WireUsage::deserialize(usage).ok().map(Self::from)
    }
}

/// What a server says of its failure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorText {
    /// What went wrong.
    pub message: String,
    /// `type`.
    pub kind: Option<String>,
    /// `code`.
    pub code: Option<String>,
}

impl ErrorText {
    /// Reads the value of `error`: an object like OpenAI's, or a text.
    #[must_use]
    pub fn read(error: &Value) -> Self {
        let field = |name: &str| match &error[name] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        match error {
            Value::String(message) => Self { message: message.clone(), ..Self::default() },
            _ => Self {
                message: field("message").unwrap_or_else(|| error.to_string()),
                kind: field("type"),
                code: field("code"),
            },
        }
    }
}
