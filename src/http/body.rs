//! A request's body: within its size and its time, and JSON.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use actix_web::web::{Data, Payload};
use futures_util::StreamExt;
use serde_json::Value;

use crate::actors::budget::{Budget, Reserved, Use};
use crate::http::answer::stream;
use crate::http::errors::ApiError;
use crate::http::state::AppState;
use crate::http::wire::defaults::Terms;
use crate::http::wire::document;
use crate::http::wire::error::{WireError, quoted};

/// Largest body that is read, and largest answer that is written, on the worker of its connection.
pub(super) const HERE_MAX_BYTES: usize = 64 << 10;
/// Large bodies that are parsed at the same time: more would hold up the threads that compute.
pub(super) const PARSERS_COUNT: usize = 2;

/// What a body may hold in memory until its prompt is built, as a multiple of its size: itself, its
/// text, and what rendering and tokenizing that takes. That is 8 bytes a byte of prose, 20 of one
/// endless word whose every letter is a token.
pub(super) const BODY_FACTOR: u64 = 24;
/// What a value of JSON takes besides its text: as measured of objects in objects, 270 bytes, and a
/// little more.
const VALUE_BYTES: u64 = 320;

/// The largest body that a budget of so many bytes ever has room for.
#[must_use]
pub fn largest_body_bytes(budget_bytes: u64) -> usize {
    usize::try_from(Budget::new(budget_bytes).most_for(Use::LargeBody) / BODY_FACTOR).unwrap_or(usize::MAX)
}

/// The type of a body of JSON.
const JSON: &str = "application/json, without encoding";

/// A body that was read, and what it holds of the server's memory.
pub(super) struct ReadBody<T> {
    pub(super) asked: T,
    pub(super) memory: Reserved,
}

/// Reads the body as JSON, and that with `understand`. Memory for it is reserved before it arrives,
/// and for what becomes of it before it is parsed.
///
/// # Errors
/// [`ApiError`]: not JSON, too large, too slow, or broken off; no memory for it; what `understand`
/// says.
pub(super) async fn read_json<T: Send + 'static>(
    request: &HttpRequest,
    payload: Payload,
    state: &Data<AppState>,
    understand: impl FnOnce(Value, &Terms<'_>) -> Result<T, WireError> + Send + 'static,
) -> Result<ReadBody<T>, ApiError> {
    check_media_type(request.headers())?;
    let (bytes, memory) = read_bytes(request, payload, state).await?;
    let (large, state) = (bytes.len() > HERE_MAX_BYTES, state.clone());
    // Goes with the work, which goes on if the client leaves.
    let parsers = Arc::clone(&state.parsers);
    let parser = if large { Some(parsers.acquire_owned().await.expect("the semaphore is never closed")) } else { None };
    away(large, move || {
        let _parser = parser;
        let wanted = kind(bytes.len());
        let values_bytes = VALUE_BYTES * values_count(&bytes).min(document::VALUES_MAX) as u64;
        memory.set(wanted, BODY_FACTOR * bytes.len() as u64 + values_bytes)?;
        let json = document::parse(&bytes)?;
        drop(bytes);
        Ok(ReadBody { asked: understand(json, &state.terms()?)?, memory })
    })
    .await?
}

/// The bytes of a body, and the memory that is reserved for them and what becomes of them. A server
/// that leaves reads none.
///
/// # Errors
/// [`ApiError`]: too large, too slow, or broken off; no memory for it; the server drains.
pub(super) async fn read_bytes(
    request: &HttpRequest,
    payload: Payload,
    state: &Data<AppState>,
) -> Result<(Vec<u8>, Reserved), ApiError> {
    state.backend.service.takes_work()?;
    let max_bytes = state.options.body_max_bytes;
    // A declared size is believed at once: nothing of what is too large is read.
    let declared = declared_bytes(request.headers());
    if declared.is_some_and(|bytes| bytes > max_bytes as u64) {
        return Err(ApiError::BodyTooLarge { max_bytes });
    }
    let mut body = IncomingBody { bytes: Vec::new(), max_bytes, memory: state.backend.service.budget().open() };
    body.make_room(declared.map_or(0, |bytes| bytes as usize))?;
    let deadline = state.options.body_deadline;
    match tokio::time::timeout(deadline, body.read(payload)).await {
        Ok(body) => body.map(|IncomingBody { bytes, memory, .. }| (bytes, memory)),
        Err(_elapsed) => Err(ApiError::BodyTooSlow { seconds: seconds(deadline) }),
    }
}

/// No fewer than the values that `json` holds: each but the first stands behind one of these.
fn values_count(json: &[u8]) -> usize {
    1 + json.iter().filter(|byte| matches!(byte, b',' | b':' | b'[')).count()
}

/// What memory for a body of this size is reserved for.
fn kind(bytes: usize) -> Use {
    if bytes > HERE_MAX_BYTES { Use::LargeBody } else { Use::Request }
}

/// A body on its way.
struct IncomingBody {
    bytes: Vec<u8>,
    max_bytes: usize,
    memory: Reserved,
}

impl IncomingBody {
    /// Makes room for `length` bytes in all, with memory reserved before it is taken.
    fn make_room(&mut self, length: usize) -> Result<(), ApiError> {
        self.memory.set(kind(length), BODY_FACTOR * length as u64)?;
        self.bytes.reserve_exact(length - self.bytes.len());
        Ok(())
    }

    async fn read(mut self, mut payload: Payload) -> Result<Self, ApiError> {
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(|_| ApiError::BodyBroken)?;
            let (length, capacity) = (self.bytes.len() + piece.len(), self.bytes.capacity());
            if length > self.max_bytes {
                return Err(ApiError::BodyTooLarge { max_bytes: self.max_bytes });
            }
            if length > capacity {
                self.make_room((2 * capacity).clamp(length, self.max_bytes))?;
            }
            self.bytes.extend_from_slice(&piece);
        }
        Ok(self)
    }
}

/// Does work of a size that is not small on a thread of its own: a worker that computes answers no
/// probe and sends no event of a stream.
///
/// # Errors
/// [`ApiError::Broken`] if the server stops meanwhile, or the work panics.
pub(super) async fn away<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    if !large {
        return Ok(work());
    }
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| stream::lost())?)
}

/// A body without a type is taken for JSON; one that says it is something else is not.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: HeaderName| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    if let Some(encoding) = text(CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        let found = format!("encoded as {}", quoted(&encoding));
        return Err(ApiError::MediaType { expected: JSON, found });
    }
    let Some(found) = text(CONTENT_TYPE) else { return Ok(()) };
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        Ok(())
    } else {
        Err(ApiError::MediaType { expected: JSON, found: quoted(&found) })
    }
}

fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn large_work_leaves_its_worker() {
        let here = std::thread::current().id();
        let place = |large| away(large, || std::thread::current().id());
        assert_eq!(place(false).await.expect("done"), here);
        assert_ne!(place(true).await.expect("done"), here);
    }

    #[actix_web::test]
    async fn large_work_that_panics_is_an_error() {
        let broken = away(true, || panic!("as told")).await;
        assert!(matches!(broken, Err(ApiError::Broken(_))), "{broken:?}");
    }

    /// What is reserved for parsing is no less than it takes, whatever the body is made of.
    #[test]
    fn parsing_takes_no_more_than_is_reserved() {
        let repeated = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        let mut worst: (f64, &str) = (0.0, "");
        for (what, body) in [
            ("prose", format!(r#"{{"prompt":"{}"}}"#, "It was the best of times. ".repeat(20_000))),
            ("escapes", format!(r#"{{"prompt":"{}"}}"#, r"\u00e9\n".repeat(50_000))),
            ("halves of pairs", format!(r#"{{"prompt":"{}"}}"#, r"\ud83d".repeat(50_000))),
            ("digits", repeated("0", 200_000)),
            ("fractions", repeated("0.25", 100_000)),
            ("empty texts", repeated(r#""""#, 100_000)),
            ("short texts", repeated(r#""a""#, 100_000)),
            ("empty lists", repeated("[]", 100_000)),
            ("lists of one", repeated("[0]", 100_000)),
            ("lists of five", repeated("[0,0,0,0,0]", 50_000)),
            ("empty objects", repeated("{}", 100_000)),
            ("objects of one", repeated(r#"{"":0}"#, 100_000)),
            ("objects of four", repeated(r#"{"a":0,"b":0,"c":0,"d":0}"#, 30_000)),
            ("objects of objects", repeated(r#"{"a":{"b":{"c":{}}}}"#, 30_000)),
            ("messages", repeated(r#"{"role":"user","content":"hi"}"#, 30_000)),
        ] {
            let bytes = body.as_bytes();
            let mut parsed = None;
            let taken = allocation_counter::measure(|| parsed = document::parse(bytes).ok());
            assert!(parsed.is_some(), "{what}");
            // The body itself, and what escapes take while they are decoded.
            let reserved = 5 * bytes.len() as u64 + VALUE_BYTES * values_count(bytes) as u64;
            let share = taken.bytes_max as f64 / reserved as f64;
            if share > worst.0 {
                worst = (share, what);
            }
        }
        assert!(worst.0 <= 1.0, "{worst:?}");
        // A bound that is far too high refuses what there is room for.
        assert!(worst.0 > 0.5, "{worst:?}");
    }
}
