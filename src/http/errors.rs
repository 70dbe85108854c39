//! Everything that is no success, and its one way to HTTP.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};

use crate::actors::budget::{MEMORY_FULL, NoRoom};
use crate::actors::messages::Refusal;
use crate::http::answer::whole::Broken;
use crate::http::wire::error::{ErrorObject, INVALID, SERVER, UNAVAILABLE, WireError, clip, is_passing};
use crate::store::StoreError;

const NOT_FOUND: &str = "not_found_error";
/// When to come back after a failure that passes, where nothing better is known.
const RETRY_SECONDS: u64 = 5;

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// The body or a header asks for what cannot be.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The actors did not take it.
    #[error("{}", refusal_message(.0))]
    Refused(Refusal),
    /// It was taken and then broke.
    #[error("{}", .0.message)]
    Broken(Broken),
    /// No key, or a wrong one.
    #[error("{}", key_message(*.given))]
    Unauthorized {
        /// Whether something was given for a key.
        given: bool,
    },
    /// A key that opens less.
    #[error("this needs an admin's key, and the one given is none; antiphon serve --admin-key-file FILE names them")]
    AdminOnly,
    /// A name under which a server on loopback is not to be reached.
    #[error(
        "the Host {host:?} is not served here; expected localhost, a loopback address or a name allowed by --allowed-host NAME"
    )]
    HostForbidden {
        /// The value of the header, or the host of an absolute target.
        host: String,
    },
    /// More than one key; servers on the way may have read another one than this server would.
    #[error("{count} Authorization headers; expected at most one: Authorization: Bearer KEY")]
    RepeatedKey {
        /// How many there are.
        count: usize,
    },
    /// No route.
    #[error("there is no {path}")]
    UnknownPath {
        /// The path asked for.
        path: String,
    },
    /// A route, but not for this method.
    #[error("{path} does not take {method}; it takes {allowed}")]
    WrongMethod {
        /// The method asked for.
        method: String,
        /// The path asked for.
        path: String,
        /// The methods that there are, as in `Allow`.
        allowed: &'static str,
    },
    /// The body is not of the type that the route reads, as its own header says.
    #[error("the body must be {expected}; it is {found}")]
    MediaType {
        /// The type that the route reads.
        expected: &'static str,
        /// What the header says.
        found: String,
    },
    /// The body is too large.
    #[error("the body is larger than {max_bytes} bytes")]
    BodyTooLarge {
        /// The largest one taken.
        max_bytes: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {seconds} s")]
    BodyTooSlow {
        /// How long it may take.
        seconds: u64,
    },
    /// The body broke off, or was no HTTP.
    #[error("the body could not be read: it broke off or its framing is wrong")]
    BodyBroken,
    /// No response of that id is kept for this client.
    #[error("{} with id {id:?} not found.", if param.is_some() { "Previous response" } else { "Response" })]
    UnknownResponse {
        /// The id asked for.
        id: String,
        /// The parameter that names it, if it is none of the path.
        param: Option<&'static str>,
    },
    /// No conversation, item of one, file or batch of that id is kept for this client.
    #[error("{what} with id {id:?} not found.")]
    UnknownKept {
        /// What is not there: `Conversation`, `Item`, `File` or `Batch`.
        what: &'static str,
        /// The id asked for.
        id: String,
        /// The parameter that names it, if it is none of the path.
        param: Option<&'static str>,
    },
    /// Nothing is kept here, so there are no conversations.
    #[error("this server keeps no conversations (--response-store off); send the items with each request")]
    KeepsNothing,
    /// The store of responses cannot be used.
    #[error("the responses that were kept cannot be read or written; the log tells more")]
    StoreFailed,
    /// A bug, caught at the border of this request.
    #[error("something broke inside; the log tells more under {error_id}")]
    Internal {
        /// The id in the log.
        error_id: String,
    },
}

/// What a request was refused with, for the border. Its log says which rule and which field; never
/// the message, which may hold a user's text. Routes of other APIs have it in their own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint(pub(super) ErrorObject);

/// How an error looks in HTTP.
struct Face {
    status: StatusCode,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    retry_seconds: Option<u64>,
    /// The connection is not worth keeping: its next bytes may belong to a body that is not read.
    close: bool,
}

impl Face {
    fn new(status: StatusCode, kind: &'static str, code: &'static str) -> Self {
        Self { status, kind, param: None, code: Some(code), retry_seconds: None, close: false }
    }

    fn unavailable(code: &'static str, retry_seconds: u64) -> Self {
        let retry_seconds = Some(retry_seconds.max(1));
        Self {
            retry_seconds,
            close: matches!(code, "draining" | MEMORY_FULL),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, code)
        }
    }
}

impl ApiError {
    fn face(&self) -> Face {
        match self {
            Self::Wire(error) => {
                let unknown = matches!(error, WireError::UnknownModel { .. });
                let (status, kind) =
                    if unknown { (StatusCode::NOT_FOUND, NOT_FOUND) } else { (StatusCode::BAD_REQUEST, INVALID) };
                Face { param: error.param(), ..Face::new(status, kind, error.code()) }
            }
            Self::Refused(Refusal::Invalid { param, code, .. }) => Face {
                param: param.as_deref().map(clip),
                code: *code,
                ..Face::new(StatusCode::BAD_REQUEST, INVALID, "invalid_value")
            },
            Self::Refused(Refusal::TooLarge { .. }) => {
                Face { close: true, ..Face::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, "request_too_large") }
            }
            Self::Refused(Refusal::QueueFull { retry_after_seconds, .. }) => Face {
                retry_seconds: Some((*retry_after_seconds).max(1)),
                ..Face::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full")
            },
            Self::Refused(Refusal::Unavailable { retry_after_seconds, code }) => Face::unavailable(code, *retry_after_seconds),
            Self::Broken(Broken { code, .. }) if is_passing(code) => Face::unavailable(code, RETRY_SECONDS),
            Self::Broken(Broken { code, .. }) => Face::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, code),
            Self::Refused(Refusal::Internal { .. }) | Self::Internal { .. } => {
                Face::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error")
            }
            Self::Unauthorized { .. } => Face::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key"),
            Self::AdminOnly => Face::new(StatusCode::FORBIDDEN, "permission_error", "admin_key_needed"),
            Self::HostForbidden { .. } => Face::new(StatusCode::FORBIDDEN, "permission_error", "host_forbidden"),
            Self::RepeatedKey { .. } => Face::new(StatusCode::BAD_REQUEST, INVALID, "repeated_header"),
            Self::UnknownPath { .. } => Face::new(StatusCode::NOT_FOUND, NOT_FOUND, "unknown_path"),
            Self::UnknownResponse { param, .. } => {
                let code = if param.is_some() { "previous_response_not_found" } else { "response_not_found" };
                Face { param: param.map(str::to_owned), ..Face::new(StatusCode::NOT_FOUND, NOT_FOUND, code) }
            }
            Self::UnknownKept { what, param, .. } => {
                let code = match *what {
                    "Item" => "item_not_found",
                    "File" => "file_not_found",
                    "Batch" => "batch_not_found",
                    _ => "conversation_not_found",
                };
                Face { param: param.map(str::to_owned), ..Face::new(StatusCode::NOT_FOUND, NOT_FOUND, code) }
            }
            Self::KeepsNothing => Face::new(StatusCode::BAD_REQUEST, INVALID, "unsupported_value"),
            Self::StoreFailed => Face::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "response_store_failed"),
            Self::WrongMethod { .. } => Face::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed"),
            Self::MediaType { .. } => Face::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, "unsupported_media_type"),
            Self::BodyTooLarge { .. } => {
                Face { close: true, ..Face::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, "body_too_large") }
            }
            Self::BodyTooSlow { .. } => Face { close: true, ..Face::new(StatusCode::REQUEST_TIMEOUT, INVALID, "body_timeout") },
            Self::BodyBroken => Face { close: true, ..Face::new(StatusCode::BAD_REQUEST, INVALID, "broken_body") },
        }
    }

    /// The error object, for streams and bodies alike.
    pub(super) fn object(&self) -> ErrorObject {
        let Face { kind, param, code, .. } = self.face();
        ErrorObject { message: self.to_string(), kind, param, code }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.face().status
    }

    fn error_response(&self) -> HttpResponse {
        let face = self.face();
        let object = self.object();
        let mut response = HttpResponse::build(face.status).json(object.clone().body());
        response.extensions_mut().insert(Complaint(object));
        let headers = response.headers_mut();
        if let Some(seconds) = face.retry_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Unauthorized { .. }) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Self::WrongMethod { allowed, .. } = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        if face.close {
            response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
        }
        response
    }
}

fn key_message(given: bool) -> &'static str {
    if given {
        "the API key given is none of this server's; expected Authorization: Bearer KEY, or X-Api-Key: KEY"
    } else {
        "this server needs an API key: Authorization: Bearer KEY, or X-Api-Key: KEY"
    }
}

fn refusal_message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Invalid { message, .. } | Refusal::QueueFull { message, .. } => message.clone(),
        Refusal::Unavailable { code, .. } => match *code {
            "draining" => "the server is shutting down and takes no new requests".to_owned(),
            MEMORY_FULL => "the memory for requests is taken; --memory-budget says how much there is".to_owned(),
            "loading" => "the model is being loaded".to_owned(),
            "compiler_busy" => "another request's form of answers takes long to compile".to_owned(),
            "engine_restarting" => "the engine is being restarted".to_owned(),
            "engine_dead" => "the engine is dead; this server must be restarted".to_owned(),
            "queue_timeout" => "the request waited too long".to_owned(),
            other => format!("the server is not available: {other}"),
        },
        Refusal::TooLarge { bytes, most_bytes } => format!(
            "the request needs {bytes} bytes of memory, and never has more than {most_bytes} here; make it smaller (--memory-budget \
             says how much there is for all)"
        ),
        Refusal::Internal { error_id } => format!("something broke inside; the log tells more under {error_id}"),
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<NoRoom> for ApiError {
    fn from(none: NoRoom) -> Self {
        Self::Refused(none.into())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            // The store has told it once.
            StoreError::Failed(_) => tracing::debug!(%error, "the response store failed a request"),
            _ => tracing::error!(%error, "the response store failed a request"),
        }
        Self::StoreFailed
    }
}

impl From<Broken> for ApiError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, type, code, `Retry-After` and whether the connection is kept, as a client sees them.
    fn seen(error: &ApiError) -> (u16, String, String, Option<u64>, bool) {
        let object = serde_json::to_value(error.object().body()).unwrap();
        let text = |key: &str| object["error"][key].as_str().unwrap_or_default().to_owned();
        let response = error.error_response();
        let retry = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().parse().unwrap());
        let kept = response.head().connection_type() != actix_web::http::ConnectionType::Close;
        (response.status().as_u16(), text("type"), text("code"), retry, kept)
    }

    fn queue_full(retry_after_seconds: u64) -> ApiError {
        Refusal::QueueFull { retry_after_seconds, message: String::new() }.into()
    }

    fn unavailable(code: &'static str, retry_after_seconds: u64) -> ApiError {
        Refusal::Unavailable { retry_after_seconds, code }.into()
    }

    fn broken(code: &'static str) -> ApiError {
        Broken { code, message: String::new() }.into()
    }

    #[test]
    fn what_is_refused_says_when_to_come_back() {
        for (told, said) in [(0, 1), (1, 1), (7, 7), (60, 60)] {
            let expected = (429, "rate_limit_error".to_owned(), "queue_full".to_owned(), Some(said), true);
            assert_eq!(seen(&queue_full(told)), expected);
            let expected = (503, UNAVAILABLE.to_owned(), "loading".to_owned(), Some(said), true);
            assert_eq!(seen(&unavailable("loading", told)), expected);
        }
        let kept = |code| seen(&unavailable(code, 3)).4;
        assert_eq!(["draining", MEMORY_FULL, "engine_restarting", "engine_dead"].map(kept), [false, false, true, true]);
    }

    #[test]
    fn what_passes_is_unavailable_and_what_broke_is_an_error() {
        for code in ["queue_timeout", "server_shutdown", MEMORY_FULL] {
            let (status, kind, said, retry, _) = seen(&broken(code));
            assert_eq!((status, kind.as_str(), said.as_str(), retry), (503, UNAVAILABLE, code, Some(RETRY_SECONDS)));
        }
        for code in ["engine_failed", "model_numeric_error", "request_failed", "internal_error"] {
            let (status, kind, said, retry, _) = seen(&broken(code));
            assert_eq!((status, kind.as_str(), said.as_str(), retry), (500, SERVER, code, None));
        }
        let too_large = Refusal::TooLarge { bytes: 9, most_bytes: 8 };
        let expected = (413, INVALID.to_owned(), "request_too_large".to_owned(), None, false);
        assert_eq!(seen(&too_large.into()), expected, "coming back is of no use");
        let internal = Refusal::Internal { error_id: "e".to_owned() };
        assert_eq!(seen(&internal.into()).0, 500);
        let invalid = Refusal::Invalid { param: Some("prompt".into()), code: None, message: String::new() };
        assert_eq!(seen(&invalid.into()), (400, INVALID.to_owned(), String::new(), None, true));
    }
}
