//! Why there is no answer, or no more of it.

use super::dialect::DecodeError;
use super::sse::SseError;

/// Why a request was not answered, or its answer not read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No address of a server.
    #[error("`{url}` is no address of a server; expected http://HOST:PORT or https://HOST, with a path if it needs one")]
    Url {
        /// What was given.
        url: String,
    },
    /// A header, a path or a key that cannot be sent.
    #[error("{what} cannot be sent: {message}")]
    Unsendable {
        /// What of the request.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// A file of certificates that cannot be used.
    #[error("{path}: {message}; expected certificates in PEM form")]
    Certificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// No server is there.
    #[error("{url} is not reachable: {message}; expected a server there, `antiphon serve` starts one")]
    Connect {
        /// Which server.
        url: String,
        /// What the system says.
        message: String,
    },
    /// This machine has no room for one more connection.
    #[error(
        "no connection to {url}: {message}; this process has no free descriptor or port left, `ulimit -n` says how many it may have"
    )]
    Exhausted {
        /// Which server.
        url: String,
        /// What the system says.
        message: String,
    },
    /// The server closed the connection, or broke HTTP, before its answer was complete.
    #[error("{url} broke off {when}: {message}")]
    Broken {
        /// Which server.
        url: String,
        /// At which point of the answer.
        when: &'static str,
        /// What happened.
        message: String,
    },
    /// The server refuses.
    #[error("{url}{path} answers {refusal}")]
    Refused {
        /// Which server.
        url: String,
        /// Which of its paths.
        path: String,
        /// With what.
        refusal: Box<ErrorStatus>,
    },
    /// An answer that is no event stream where one was asked for.
    #[error("{url}{path} answers with {content_type} where an event stream was asked for; it begins `{beginning}`")]
    NotAStream {
        /// Which server.
        url: String,
        /// Which of its paths.
        path: String,
        /// What it calls its answer.
        content_type: String,
        /// How its answer begins.
        beginning: String,
    },
    /// The event stream is malformed.
    #[error("{url} sent a malformed event stream: {error}")]
    Sse {
        /// Which server.
        url: String,
        /// What is wrong with it.
        error: SseError,
    },
    /// An event that does not belong into a stream of this kind.
    #[error("{url} sent an unexpected event: {error}")]
    Decode {
        /// Which server.
        url: String,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The stream ended before the event that ends it.
    #[error("{url} ended its stream before {expected}")]
    EndedEarly {
        /// Which server.
        url: String,
        /// What ends a stream of this kind.
        expected: &'static str,
    },
    /// An answer that should be JSON of a known shape.
    #[error("{url}{path} answers with something else than {expected}: `{beginning}`")]
    Shape {
        /// Which server.
        url: String,
        /// Which of its paths.
        path: String,
        /// What was expected.
        expected: &'static str,
        /// How its answer begins.
        beginning: String,
    },
}

impl ClientError {
    /// A word for the kind of failure, for counts by kind: few and stable.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            Self::Url { .. } | Self::Unsendable { .. } | Self::Certificates { .. } => "request".to_owned(),
            Self::Connect { .. } => "connect".to_owned(),
            Self::Exhausted { .. } => "exhausted".to_owned(),
            Self::Broken { .. } => "broken".to_owned(),
            Self::Refused { refusal, .. } => format!("http_{}", refusal.status),
            Self::NotAStream { .. } => "not_a_stream".to_owned(),
            Self::Sse { .. } => "malformed_sse".to_owned(),
            Self::Decode { .. } | Self::Shape { .. } => "unexpected_event".to_owned(),
            Self::EndedEarly { .. } => "ended_early".to_owned(),
        }
    }
}

/// A status that is no success, with what the body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorStatus {
    /// The status.
    pub status: u16,
    /// `error.message`, or how the body begins.
    pub message: String,
    /// `error.type`.
    pub kind: Option<String>,
    /// `error.code`.
    pub code: Option<String>,
    /// `Retry-After`, as it was sent.
    pub retry_after: Option<String>,
}

impl std::fmt::Display for ErrorStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if self.status == 401 { f.write_str("; expected its key in ANTIPHON_API_KEY") } else { Ok(()) }
    }
}

/// How a text begins, for a message: one line, no control characters.
pub(super) fn beginning(bytes: &[u8]) -> String {
    const CHARS_MAX: usize = 200;
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
