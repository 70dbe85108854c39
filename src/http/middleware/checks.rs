//! The border of every request: its id, the checks that come before any route, and the catch of a
//! panic.

use std::any::Any;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Version};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{HttpMessage, HttpResponse, ResponseError};
use futures_util::FutureExt;

use crate::http::errors::{ApiError, Complaint};
use crate::http::listen::connection::Answering;
use crate::http::messages::error as messages_error;
use crate::http::middleware::client_ids::{ClientRequestId, NamedEntry, NamedRequests, TRACEPARENT, TraceContext};
use crate::http::middleware::cors::{Allowance, AllowedOrigin};
use crate::http::middleware::key::{Access, KeyRing, MetricsAccess, is_given};
use crate::http::middleware::spans::{OpenSpan, Spans};
use crate::http::middleware::unread_body::{BodyShare, until_sent};
use crate::http::observe::ObservedState;
use crate::http::page;
use crate::http::state::{RequestId, access};
use crate::http::wire::error::{clip, quoted};
use crate::metrics::Metrics;

/// The header under which every answer tells its id, or what the client calls it.
pub(in crate::http) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header that names the cost model of a simulated engine.
const SIMULATED: HeaderName = HeaderName::from_static("x-antiphon-simulated");

/// Paths that tell of the server as a whole, and need no key if the operator says so.
const METRICS_PATHS: [&str; 5] = ["/metrics", "/stats", "/memory_stats", "/v1/loads", "/get_load"];

/// What is checked before any route.
#[derive(Debug)]
pub(in crate::http) struct Border {
    pub(in crate::http) keys: KeyRing,
    pub(in crate::http) metrics_access: MetricsAccess,
    /// Names that `Host` may hold, lower case; `None` does not check. Guards a server on loopback
    /// from web pages whose name was made to point to 127.0.0.1.
    pub(in crate::http) hosts: Option<Vec<String>>,
    /// Origins whose pages may read the answers.
    pub(in crate::http) cors_origins: Vec<AllowedOrigin>,
    /// The cost model of a simulated engine, which every answer names.
    pub(in crate::http) simulated: Option<HeaderValue>,
    /// Counts the panics.
    pub(in crate::http) metrics: Metrics,
    /// What is being answered, by what clients call it.
    pub(in crate::http) named: NamedRequests,
    /// Where spans begin, if they are told.
    pub(in crate::http) spans: Option<Spans>,
}

/// Takes a request through the checks to its route, and its answer back with an id.
pub(in crate::http) async fn pass(
    border: Data<Border>,
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let id = RequestId::new();
    request.extensions_mut().insert(id.clone());
    let client_id = ClientRequestId::of(request.headers(), REQUEST_ID);
    let (trace, span) = border.trace(&request);
    if let Some(client_id) = &client_id {
        request.extensions_mut().insert(client_id.clone());
    }
    let (answering, held) = (Answering::of(&request), BodyShare::of(&mut request));
    let line = format!("{} {}", clip(request.method().as_str()), quoted(request.path()));
    let allowance = Allowance::of(&border.cors_origins, &request);
    let (routine, version) = (is_routine(request.path()), request.version());
    let is_messages = messages_error::is_route(request.path());
    let (id_text, simulated) = (id.0.clone(), border.simulated.clone());
    let mut visit = Visit {
        line,
        id: id_text,
        client_id,
        trace,
        span,
        named: None,
        status: None,
        complaint: None,
        answering,
        held,
        allowance,
        simulated,
        routine,
        is_messages,
        version,
    };
    if let Some(response) = border.turn_back(&request, visit.allowance.as_ref()) {
        let (request, _) = request.into_parts();
        return Ok(ServiceResponse::new(request, visit.leave(response)));
    }
    if let Some(client_id) = &visit.client_id {
        let owner = access(request.request()).key;
        visit.named = Some(border.named.enter(client_id, owner, &id.0));
    }
    let error = match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(Ok(response)) => {
            let (request, response) = response.into_parts();
            return Ok(ServiceResponse::new(request, visit.leave(response)));
        }
        // Handlers answer their own errors; what arrives here comes from actix itself, and its text
        // is not ours.
        Ok(Err(error)) => format!("actix: {error}"),
        Err(panic) => {
            border.metrics.request_panicked();
            format!("panic: {}", panic_text(&*panic))
        }
    };
    tracing::error!(error_id = id.0, error, "a request broke inside");
    let cause = ApiError::Internal { error_id: id.0 };
    let response = visit.leave(cause.error_response());
    Err(InternalError::from_response(cause, response).into())
}

/// A request on its way through; logged once, when it is answered or dropped because its client
/// left.
struct Visit {
    line: String,
    id: String,
    /// What the client calls it.
    client_id: Option<ClientRequestId>,
    /// The trace that it is part of.
    trace: Option<TraceContext>,
    /// Its span, if it is told.
    span: Option<OpenSpan>,
    /// It is found by that name until its answer is sent.
    named: Option<NamedEntry>,
    status: Option<u16>,
    complaint: Option<Complaint>,
    answering: Option<Answering>,
    held: Option<BodyShare>,
    /// For a request of a page that may read the answer.
    allowance: Option<Allowance>,
    /// The cost model of a simulated engine.
    simulated: Option<HeaderValue>,
    /// A probe or a scrape.
    routine: bool,
    /// For a route of Anthropic's API, whose answers have heads and errors of their own.
    is_messages: bool,
    /// The version of HTTP that the client speaks.
    version: Version,
}

impl Visit {
    /// The request is answered: the response is told the id, unless it has one of its own that
    /// names the same request, and takes the body along.
    fn leave(&mut self, mut response: HttpResponse) -> HttpResponse {
        self.complaint = response.extensions_mut().remove();
        if let Some(own) = response.headers().get(REQUEST_ID) {
            self.id = String::from_utf8_lossy(own.as_bytes()).into_owned();
        } else {
            let id = HeaderValue::from_str(&self.id).expect("hexadecimal digits are a header value");
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if self.is_messages {
            response = messages_error::of_route(response, self.complaint.as_ref(), &self.id);
        }
        if let Some(client_id) = &self.client_id {
            response.headers_mut().insert(REQUEST_ID, client_id.header());
        }
        if let Some(trace) = &self.trace {
            response.headers_mut().insert(TRACEPARENT, trace.header());
        }
        let status = response.status().as_u16();
        if let Some(span) = &mut self.span {
            span.answered(&self.id, status);
        }
        self.status = Some(status);
        if let Some(simulated) = self.simulated.take() {
            response.headers_mut().insert(SIMULATED, simulated);
        }
        if let Some(allowance) = &self.allowance {
            allowance.tell(response.headers_mut());
        }
        if self.version < Version::HTTP_11 && matches!(response.body().size(), BodySize::Stream) {
            // HTTP/1.0 knows no chunks (RFC 9112, 6.1): a body without a length ends with its
            // connection.
            response.head_mut().no_chunking(true);
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        let kept = (self.held.take(), self.answering.take(), self.named.take(), self.span.take());
        response.map_body(|_, body| until_sent(body, kept))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let (code, param) = match &self.complaint {
            Some(Complaint(object)) => (object.code, object.param.as_deref().map(clip)),
            None => (None, None),
        };
        // 499 is how nginx logs a client that left before its answer.
        let status = self.status.unwrap_or(499);
        // Probes and scrapes that succeed come every few seconds, and would hide the rest of the
        // log.
        let client_request_id = self.client_id.as_ref().map(|ClientRequestId(id)| id);
        let (trace_id, span_id) =
            (self.trace.as_ref().map(|trace| &trace.trace_id), self.trace.as_ref().map(|trace| &trace.span_id));
        if self.routine && (200..300).contains(&status) {
            tracing::debug!(request_id = self.id, client_request_id, trace_id, span_id, status, code, param, "{}", self.line);
        } else {
            tracing::info!(request_id = self.id, client_request_id, trace_id, span_id, status, code, param, "{}", self.line);
        }
    }
}

impl Border {
    /// The answer to a request that goes no further: one that is refused, or a browser's question
    /// whether it may ask. That question carries no key, and learns nothing that the operator
    /// did not allow its page.
    fn turn_back(&self, request: &ServiceRequest, allowance: Option<&Allowance>) -> Option<HttpResponse> {
        if let Err(error) = self.check_host(request) {
            return Some(error.error_response());
        }
        let preflight = allowance.and_then(|allowance| allowance.preflight(request));
        preflight.or_else(|| match self.check_key(request) {
            Ok(access) => {
                request.extensions_mut().insert(access);
                None
            }
            Err(error) => Some(error.error_response()),
        })
    }

    /// The trace of a request, and its span in it: one that it brings, or one that begins here if
    /// spans are told.
    fn trace(&self, request: &ServiceRequest) -> (Option<TraceContext>, Option<OpenSpan>) {
        let given = TraceContext::of(request.headers());
        let Some(spans) = &self.spans else { return (given, None) };
        let span_of = |trace: &TraceContext| spans.begin(request.path(), trace);
        match given {
            Some(given) => {
                let span = span_of(&given);
                (Some(given), span)
            }
            None => {
                let root = TraceContext::root();
                let span = span_of(&root);
                (span.is_some().then_some(root), span)
            }
        }
    }

    /// Whether a request may name this host.
    pub(in crate::http) fn serves(&self, host: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| is_allowed(host, hosts))
    }

    fn check_host(&self, request: &ServiceRequest) -> Result<(), ApiError> {
        if self.hosts.is_some() {
            let header = request.headers().get(HOST).map(|value| String::from_utf8_lossy(value.as_bytes()));
            // An absolute target's host takes the header's place (RFC 9112, 3.2.2). Either may be
            // what was forged.
            let target = request.uri().authority().map(|authority| authority.as_str().into());
            // HTTP/1.0 has no Host; a browser, whose pages this guards against, speaks 1.1 and
            // always sends it.
            if header.is_none() && request.version() >= Version::HTTP_11 {
                return Err(ApiError::HostForbidden { host: String::new() });
            }
            if let Some(host) = header.into_iter().chain(target).find(|host| !self.serves(host)) {
                return Err(ApiError::HostForbidden { host: clip(&host) });
            }
        }
        Ok(())
    }

    fn check_key(&self, request: &ServiceRequest) -> Result<Access, ApiError> {
        let (path, headers) = (request.path(), request.headers());
        // Of two keys each part of a chain of servers may believe another one.
        let count = headers.get_all(AUTHORIZATION).count();
        if count > 1 {
            return Err(ApiError::RepeatedKey { count });
        }
        let open_metrics = self.metrics_access == MetricsAccess::Open && METRICS_PATHS.contains(&path);
        // Probes have no key.
        let open = ObservedState::PROBES.contains(&path) || page::is_open(path) || open_metrics;
        let found = self.keys.now().admit(headers).or_else(|| open.then(Access::default));
        found.ok_or_else(|| ApiError::Unauthorized { given: is_given(headers) })
    }
}

/// Whether a monitor asks for `path` every few seconds.
fn is_routine(path: &str) -> bool {
    ObservedState::PROBES.contains(&path) || METRICS_PATHS.contains(&path)
}

/// Whether a server on loopback may be called by `host`: a name or an address, with or without a
/// port.
fn is_allowed(host: &str, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = bare.to_ascii_lowercase();
    name == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) || hosts.contains(&name)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text")
}

#[cfg(test)]
mod tests {
    use crate::http::middleware::checks::is_allowed;

    #[test]
    fn loopback_answers_to_its_own_names() {
        let extra = ["box.lan".to_owned()];
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.1.2.3", "[::1]:8000", "[::1]", "Box.lan:80"] {
            assert!(is_allowed(host, &extra), "{host} was refused");
        }
        for host in
            ["", "evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "a/b?c", "127.0.0.1:x", ":8000"]
        {
            assert!(!is_allowed(host, &extra), "{host} was let in");
        }
    }
}
