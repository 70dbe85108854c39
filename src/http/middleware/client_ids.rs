//! What a client calls its request (`X-Request-Id`), and the trace that it is part of
//! (`traceparent`).
//!
//! A client's id need not be unique: gateways send one again when they retry. So it stands beside
//! the server's own, and never in its place: it is in the answer's head, in the log, in the
//! metadata, and cancels what it names.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::actors::messages::KeyId;
use crate::http::middleware::key::Access;

/// The header of W3C's trace context.
pub(in crate::http) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The flags of a trace whose spans are told.
const SAMPLED: &str = "01";
/// Longest id of a client, in bytes; others are not taken.
const ID_MAX_BYTES: usize = 128;

/// What a client calls a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct ClientRequestId(pub(in crate::http) String);

impl ClientRequestId {
    /// The one in the head of a request: printable ASCII without blanks. Another is as good as
    /// none.
    pub(in crate::http) fn of(headers: &HeaderMap, name: HeaderName) -> Option<Self> {
        let text = headers.get(name)?.to_str().ok()?;
        let fits = (1..=ID_MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// The same as a header.
    pub(in crate::http) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("it came in a header")
    }
}

/// A place in a trace: the request's own span, below that of the client. Source: W3C Trace Context,
/// version 00.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct TraceContext {
    /// 32 hexadecimal digits, not all zero.
    pub(in crate::http) trace_id: String,
    /// The client's span: 16 hexadecimal digits, not all zero; none for a trace that begins here.
    pub(in crate::http) parent_id: Option<String>,
    /// The request's span.
    pub(in crate::http) span_id: String,
    flags: String,
}

impl TraceContext {
    /// That of a request, if its head holds one that is whole.
    pub(in crate::http) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(TRACEPARENT);
        let text = given.next()?.to_str().ok()?;
        let only = given.next().is_none();
        Self::read(text).filter(|_| only)
    }

    fn read(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let (version, trace_id, parent_id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let is_hex = |field: &str, digits: usize| {
            field.len() == digits && field.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        // Later versions may have more behind the flags; ff is none.
        let whole = is_hex(version, 2) && version != "ff" && (version != "00" || fields.next().is_none());
        let named = |field: &str, digits| is_hex(field, digits) && field.bytes().any(|byte| byte != b'0');
        if !(whole && named(trace_id, 32) && named(parent_id, 16) && is_hex(flags, 2)) {
            return None;
        }
        let parent_id = Some(parent_id.to_owned());
        Some(Self { trace_id: trace_id.to_owned(), parent_id, span_id: drawn_span_id(), flags: flags.to_owned() })
    }

    /// A trace that begins with this request.
    pub(in crate::http) fn root() -> Self {
        let trace_id = Uuid::new_v4().simple().to_string();
        Self { trace_id, parent_id: None, span_id: drawn_span_id(), flags: SAMPLED.to_owned() }
    }

    /// Whether the spans of the trace are told to a collector: its first flag.
    pub(in crate::http) fn is_sampled(&self) -> bool {
        u8::from_str_radix(&self.flags, 16).is_ok_and(|flags| flags & 1 == 1)
    }

    /// What is handed on: the trace, with the request's span as the one above.
    pub(in crate::http) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.to_string()).expect("hexadecimal digits are a header value")
    }
}

/// 16 digits of a v4 uuid whose fixed bits are not all zero.
fn drawn_span_id() -> String {
    Uuid::new_v4().simple().to_string()[..16].to_owned()
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{}", self.trace_id, self.span_id, self.flags)
    }
}

/// The requests that are being answered, by what their clients call them.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct NamedRequests(Arc<Mutex<HashMap<String, Vec<NamedRequest>>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedRequest {
    owner: KeyId,
    /// The id that the border gave it.
    id: String,
}

impl NamedRequests {
    fn locked(&self) -> MutexGuard<'_, HashMap<String, Vec<NamedRequest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request `id` is called `name` until what this returns is dropped.
    pub(in crate::http) fn enter(&self, name: &ClientRequestId, owner: KeyId, id: &str) -> NamedEntry {
        let request = NamedRequest { owner, id: id.to_owned() };
        self.locked().entry(name.0.clone()).or_default().push(request.clone());
        NamedEntry { all: self.clone(), name: name.0.clone(), request }
    }

    /// The ids of the requests that are called `name` and that `access` may see.
    pub(in crate::http) fn ids(&self, name: &str, access: Access) -> Vec<String> {
        let all = self.locked();
        let named = all.get(name).into_iter().flatten().filter(|request| access.sees(request.owner));
        named.map(|request| request.id.clone()).collect()
    }
}

/// A request that has a client's name.
#[derive(Debug)]
pub(in crate::http) struct NamedEntry {
    all: NamedRequests,
    name: String,
    request: NamedRequest,
}

impl Drop for NamedEntry {
    fn drop(&mut self) {
        let mut all = self.all.locked();
        if let Some(named) = all.get_mut(&self.name) {
            named.retain(|request| *request != self.request);
            if named.is_empty() {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_trace_is_taken_whole_or_not_at_all() {
        let read = |text: &str| TraceContext::read(text);
        let context = read(&format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!((context.trace_id.as_str(), context.parent_id.as_deref()), (TRACE, Some("00f067aa0ba902b7")));
        assert_eq!(context.to_string(), format!("00-{TRACE}-{}-01", context.span_id));
        assert!(context.parent_id.as_ref() != Some(&context.span_id) && context.span_id.len() == 16);
        assert!(context.is_sampled() && TraceContext::root().is_sampled());
        assert!(!read(&format!("00-{TRACE}-00f067aa0ba902b7-02")).unwrap().is_sampled());
        let root = TraceContext::root();
        assert_eq!(read(&root.to_string()).map(|below| below.trace_id), Some(root.trace_id));
        assert!(read(&format!("cc-{TRACE}-00f067aa0ba902b7-01-more")).is_some(), "a later version");
        for text in [
            String::new(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}x-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-1"),
        ] {
            assert_eq!(read(&text), None, "{text}");
        }
    }

    #[test]
    fn a_name_is_there_as_long_as_its_requests() {
        let names = NamedRequests::default();
        let (one, two) = (KeyId(Some([1; 16])), KeyId(Some([2; 16])));
        let name = ClientRequestId("x".to_owned());
        let access = |key, is_admin| Access { key, is_admin };
        let first = names.enter(&name, one, "a");
        let second = names.enter(&name, two, "b");
        assert_eq!(names.ids("x", access(one, false)), ["a"]);
        assert_eq!(names.ids("x", access(one, true)), ["a", "b"]);
        assert_eq!(names.ids("y", access(one, true)), [""; 0]);
        drop(first);
        assert_eq!(names.ids("x", access(one, true)), ["b"]);
        drop(second);
        assert!(names.locked().is_empty());
    }
}
