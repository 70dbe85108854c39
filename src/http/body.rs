//! A request's body: within its size and its time, and JSON.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use actix_web::web::{BytesMut, Payload};
use futures_util::StreamExt;
use serde_json::Value;

use super::errors::ApiError;
use super::front::Front;
use super::wire::document;

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
    Ok(document::parse(&body)?)
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
