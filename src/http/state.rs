//! What every handler works with: the door to the actors, the options, and the id of the request at
//! hand.

use std::sync::{Arc, OnceLock};

use actix_web::http::StatusCode;
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, ResponseError};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::actors::budget::MEMORY_FULL;
use crate::actors::messages::{KeyId, Refusal};
use crate::http::batches::runner::Batches;
use crate::http::errors::ApiError;
use crate::http::middleware::key::Access;
use crate::http::options::{Backend, HttpOptions};
use crate::http::responses::kept::BackgroundRuns;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;
use crate::http::wire::streaming::Dialect;
use crate::metrics::RejectKind;

/// How the ids of what is generated begin; the request's own follows.
pub(in crate::http) const ID_PREFIXES: [&str; 5] = ["chatcmpl-", "cmpl-", "gen-", "msg_", "resp_"];
const SESSION_MAX_BYTES: usize = 128;
/// How long loading may still take, where that is not known.
const LOADING_RETRY_SECONDS: u64 = 5;

/// What every handler works with.
#[derive(Debug)]
pub(in crate::http) struct AppState {
    pub(in crate::http) backend: Backend,
    pub(in crate::http) options: Arc<HttpOptions>,
    /// All names of the model, its id first.
    pub(in crate::http) names: Vec<String>,
    /// When the server started, in seconds since 1970.
    pub(in crate::http) started: u64,
    /// What parses large bodies, away from the workers.
    pub(in crate::http) parsers: Arc<Semaphore>,
    /// Responses that are generated with no client waiting.
    pub(in crate::http) background: BackgroundRuns,
    /// Batches that run.
    pub(in crate::http) batches: Batches,
    /// `/openapi.json`, once it was asked for.
    pub(in crate::http) document: OnceLock<Bytes>,
}

/// The id that the border gave to a request: 32 hexadecimal digits.
#[derive(Debug, Clone)]
pub(in crate::http) struct RequestId(pub(in crate::http) String);

impl RequestId {
    /// A new one; never given twice.
    pub(in crate::http) fn new() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }
}

impl AppState {
    /// What requests are read against. A seed is drawn each time, for a request that brings none.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] while the model is being loaded: its vocabulary is not known yet.
    pub(in crate::http) fn terms(&self) -> Result<Terms<'_>, ApiError> {
        let loading = Refusal::Unavailable { retry_after_seconds: LOADING_RETRY_SECONDS, code: "loading" };
        let limits = self.backend.service.limits().ok_or(loading)?;
        Ok(Terms {
            names: &self.names,
            unlisted_names: &self.options.unlisted_names,
            context_tokens_max: limits.context_tokens_max,
            vocab_size: limits.vocab_size,
            defaults: self.options.sampling,
            coalescing: self.options.coalescing,
            profiles: &self.options.profiles,
            drawn_seed: draw_seed(),
        })
    }

    /// Counts a request for a response that the actors never hear of.
    pub(in crate::http) fn refused(&self, error: ApiError) -> ApiError {
        let kind = match &error {
            ApiError::Refused(Refusal::Unavailable { code: MEMORY_FULL, .. }) => RejectKind::Memory,
            error if error.status_code() == StatusCode::SERVICE_UNAVAILABLE => RejectKind::Unavailable,
            _ => RejectKind::Invalid,
        };
        self.backend.metrics.received(self.backend.clock.now()).rejected(kind);
        error
    }
}

/// 64 random bits. A v4 uuid has 6 fixed bits; the two halves have them at different places.
fn draw_seed() -> u64 {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    high ^ low
}

/// The id of a request, behind `prefix`: `chatcmpl-…`.
pub(in crate::http) fn response_id(request: &HttpRequest, prefix: &str) -> String {
    let extensions = request.extensions();
    let id = extensions.get::<RequestId>().expect("the border gives every request an id");
    format!("{prefix}{}", id.0)
}

/// Where a request comes from, besides what its body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct Sender {
    /// The key that it brought.
    pub(in crate::http) owner: KeyId,
    /// The conversation that it belongs to (`X-Session-ID`).
    pub(in crate::http) session: Option<String>,
}

impl Sender {
    /// The sender of `request`.
    pub(in crate::http) fn of(request: &HttpRequest) -> Result<Self, WireError> {
        Ok(Self { owner: access(request).key, session: session(request)? })
    }
}

/// What the border found that a request may do.
pub(in crate::http) fn access(request: &HttpRequest) -> Access {
    request.extensions().get().copied().unwrap_or_default()
}

fn session(request: &HttpRequest) -> Result<Option<String>, WireError> {
    let fits =
        |text: &str| (1..=SESSION_MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    header(request, "X-Session-ID", "1 to 128 printable ASCII characters", |text| fits(text).then(|| text.to_owned()))
}

/// The dialect that a request asks for (`X-SSE-Dialect`).
pub(in crate::http) fn dialect(request: &HttpRequest) -> Result<Option<Dialect>, WireError> {
    header(request, "X-SSE-Dialect", Dialect::NAMES, Dialect::named)
}

fn header<T>(
    request: &HttpRequest,
    name: &str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, WireError> {
    let Some(value) = request.headers().get(name) else { return Ok(None) };
    match value.to_str().ok().and_then(read) {
        Some(read) => Ok(Some(read)),
        None => Err(WireError::Unfit {
            param: name.to_owned(),
            found: format!("a header of {} bytes", value.len()),
            expected: expected.to_owned(),
        }),
    }
}
