//! What can be wrong with a request, and the error object that says so.

use serde::Serialize;

use crate::actors::budget::MEMORY_FULL;

/// Longest echo of something that the client sent, in characters.
const ECHO_MAX_CHARS: usize = 120;

/// What is wrong with a request; the client must change it. `param` is the path of a field:
/// `messages[2].content[0].type`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// The body is not JSON.
    #[error("the body is not valid JSON: {message}")]
    Syntax {
        /// Where it stops being JSON, if that is inside a field.
        param: Option<String>,
        /// What the parser met.
        message: String,
    },
    /// A key stands twice in one object.
    #[error("{} is given twice", subject(param))]
    Twice {
        /// The field.
        param: String,
    },
    /// More values than any sensible request has.
    #[error("the body holds more than {values_max} values")]
    TooManyValues {
        /// How many it may hold.
        values_max: usize,
    },
    /// A field holds what it may not.
    #[error("{} is {found}; expected {expected}", subject(param))]
    Unfit {
        /// The field; empty for the body itself.
        param: String,
        /// What it holds.
        found: String,
        /// What it may hold.
        expected: String,
    },
    /// A field that must be there is not.
    #[error("{} is missing; expected {expected}", subject(param))]
    Missing {
        /// The field.
        param: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A field asks for something that this server does not do.
    #[error("{}: {message}", subject(param))]
    Unsupported {
        /// The field.
        param: String,
        /// What is not done, and what is.
        message: String,
    },
    /// A field contradicts another one.
    #[error("{}: {message}", subject(param))]
    Conflict {
        /// The field.
        param: String,
        /// The contradiction.
        message: String,
    },
    /// More tokens are asked for than the context holds. The words are OpenAI's: clients look for
    /// them.
    #[error("{} is {asked}, but this model's maximum context length is {context_tokens_max} tokens", subject(param))]
    ContextExceeded {
        /// The field.
        param: String,
        /// What it holds.
        asked: String,
        /// Most tokens of a sequence.
        context_tokens_max: usize,
    },
    /// No model of that name is served.
    #[error("the model {asked} does not exist here; this server has {served}")]
    UnknownModel {
        /// The name asked for.
        asked: String,
        /// The names that there are.
        served: String,
    },
}

impl WireError {
    /// The field to change, for the error object.
    pub(crate) fn param(&self) -> Option<String> {
        match self {
            Self::Syntax { param, .. } => param.as_deref().map(clip),
            Self::TooManyValues { .. } => None,
            Self::Twice { param }
            | Self::Unfit { param, .. }
            | Self::Missing { param, .. }
            | Self::Unsupported { param, .. }
            | Self::Conflict { param, .. }
            | Self::ContextExceeded { param, .. } => (!param.is_empty()).then(|| clip(param)),
            Self::UnknownModel { .. } => Some("model".to_owned()),
        }
    }

    /// The machine-readable code, for the error object.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "invalid_json",
            Self::Twice { .. } => "duplicate_field",
            Self::TooManyValues { .. } => "too_many_values",
            Self::Unfit { .. } => "invalid_value",
            Self::Missing { .. } => "missing_required_parameter",
            Self::Unsupported { .. } => "unsupported_value",
            Self::Conflict { .. } => "conflicting_parameters",
            Self::ContextExceeded { .. } => "context_length_exceeded",
            Self::UnknownModel { .. } => "model_not_found",
        }
    }
}

/// What a complaint is about, in words.
fn subject(param: &str) -> String {
    if param.is_empty() { "the body".to_owned() } else { clip(param) }
}

/// `text`, cut where it gets too long to be echoed.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(ECHO_MAX_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// `text` as an echo within a sentence: cut, in quotes, with what cannot be seen escaped.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", clip(text))
}

/// The body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorBody {
    /// What happened.
    pub(crate) error: ErrorObject,
}

/// What happened, in OpenAI's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorObject {
    /// For people.
    pub(crate) message: String,
    /// `invalid_request_error` and its like.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The parameter at fault.
    pub(crate) param: Option<String>,
    /// For programs.
    pub(crate) code: Option<&'static str>,
}

impl ErrorObject {
    /// A response that broke after it was taken.
    pub(crate) fn failed(code: &'static str, message: &str) -> Self {
        let kind = if is_passing(code) { UNAVAILABLE } else { SERVER };
        Self { message: message.to_owned(), kind, param: None, code: Some(code) }
    }

    /// The whole body.
    pub(crate) fn body(self) -> ErrorBody {
        ErrorBody { error: self }
    }
}

/// `type` of what the client must change.
pub(crate) const INVALID: &str = "invalid_request_error";
/// `type` of what passes.
pub(crate) const UNAVAILABLE: &str = "unavailable_error";
/// `type` of what broke inside.
pub(crate) const SERVER: &str = "server_error";

/// Whether a failure with this code passes if the client comes back later.
pub(crate) fn is_passing(code: &str) -> bool {
    matches!(code, "queue_timeout" | "server_shutdown" | MEMORY_FULL)
}
