//! A request's body: within its size and its time, and JSON.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use actix_web::web::{BytesMut, Payload};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::errors::ApiError;
use super::front::Front;
use super::stream;
use super::wire::document;

/// Largest body that is parsed on the worker that received it.
const PARSED_HERE_MAX_BYTES: usize = 64 << 10;
/// Large bodies that are parsed at the same time. A tree of values takes up to 40 MB, so their count bounds memory.
pub(super) const PARSERS_COUNT: usize = 2;

/// Reads the body as JSON.
///
/// # Errors
/// [`ApiError`]: not JSON, too large, too slow, or broken off.
pub(super) async fn read_json(request: &HttpRequest, payload: Payload, front: &Front) -> Result<Value, ApiError> {
    check_media_type(request.headers())?;
    let max_bytes = front.options.body_max_bytes;
    // A declared size is believed at once: nothing of what is too large is read.
    if declared_bytes(request.headers()).is_some_and(|bytes| bytes > max_bytes as u64) {
        return Err(ApiError::BodyTooLarge { max_bytes });
    }
    let deadline = front.options.body_deadline;
    let body = match tokio::time::timeout(deadline, read(payload, max_bytes)).await {
        Ok(body) => body?,
        Err(_elapsed) => return Err(ApiError::BodyTooSlow { seconds: seconds(deadline) }),
    };
    parse(body, &front.parsers).await
}

/// Parses a large body on a thread of its own: a worker that parses answers no probe and sends no event of a stream.
async fn parse(body: BytesMut, parsers: &Semaphore) -> Result<Value, ApiError> {
    if body.len() <= PARSED_HERE_MAX_BYTES {
        return Ok(document::parse(&body)?);
    }
    let _parser = parsers.acquire().await.expect("the semaphore is never closed");
    let parsed = tokio::task::spawn_blocking(move || document::parse(&body)).await;
    Ok(parsed.map_err(|_| stream::lost())??)
}

async fn read(mut payload: Payload, max_bytes: usize) -> Result<BytesMut, ApiError> {
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|_| ApiError::BodyBroken)?;
        if body.len() + piece.len() > max_bytes {
            return Err(ApiError::BodyTooLarge { max_bytes });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// A body without a type is taken for JSON; one that says it is something else is not.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: HeaderName| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    if let Some(encoding) = text(CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(ApiError::MediaType { found: format!("encoded as {encoding:?}") });
    }
    let Some(found) = text(CONTENT_TYPE) else { return Ok(()) };
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        Ok(())
    } else {
        Err(ApiError::MediaType { found: format!("{found:?}") })
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
    use futures_util::FutureExt;

    use super::*;

    fn body(letters: usize, end: &str) -> BytesMut {
        format!("{{\"prompt\": \"{}\"{end}", "x".repeat(letters)).as_bytes().into()
    }

    #[actix_web::test]
    async fn a_large_body_leaves_its_worker_free_and_a_small_one_does_not_wait() {
        let parsers = Semaphore::new(PARSERS_COUNT);
        let all_busy = parsers.acquire_many(PARSERS_COUNT as u32).await.expect("open");
        let small = parse(body(8, "}"), &parsers).now_or_never();
        assert!(matches!(small, Some(Ok(_))), "{small:?}");

        let large = parse(body(PARSED_HERE_MAX_BYTES, "}"), &parsers);
        tokio::pin!(large);
        assert!(large.as_mut().now_or_never().is_none(), "parsed on the worker");
        drop(all_busy);
        let value = large.await.expect("JSON");
        assert_eq!(value["prompt"].as_str().map(str::len), Some(PARSED_HERE_MAX_BYTES));
    }

    #[actix_web::test]
    async fn a_large_body_that_is_no_json_is_refused_as_a_small_one_is() {
        let parsers = Semaphore::new(PARSERS_COUNT);
        for letters in [8, PARSED_HERE_MAX_BYTES] {
            let found = parse(body(letters, ", \"prompt\": 1}"), &parsers).await;
            let twice = super::super::wire::error::WireError::Twice { param: "prompt".to_owned() };
            assert!(matches!(&found, Err(ApiError::Wire(error)) if error.to_string() == twice.to_string()), "{found:?}");
        }
        assert_eq!(parsers.available_permits(), PARSERS_COUNT, "a parser is kept");
    }
}
