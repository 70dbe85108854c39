//! A request's body: within its size and its time, and JSON.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use actix_web::web::{BytesMut, Data, Payload};
use futures_util::StreamExt;
use serde_json::Value;

use super::errors::ApiError;
use super::front::Front;
use super::stream;
use super::wire::document;
use super::wire::error::{WireError, quoted};
use super::wire::terms::Terms;

/// Largest body that is read, and largest answer that is written, on the worker of its connection.
pub(super) const HERE_MAX_BYTES: usize = 64 << 10;
/// Large bodies that are parsed at the same time. A tree of values takes up to 40 MB, so their count bounds memory.
pub(super) const PARSERS_COUNT: usize = 2;

/// Reads the body as JSON, and that with `understand`.
///
/// # Errors
/// [`ApiError`]: not JSON, too large, too slow, or broken off; what `understand` says.
pub(super) async fn read_json<T: Send + 'static>(
    request: &HttpRequest,
    payload: Payload,
    front: &Data<Front>,
    understand: impl FnOnce(Value, &Terms<'_>) -> Result<T, WireError> + Send + 'static,
) -> Result<T, ApiError> {
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
    let (large, front) = (body.len() > HERE_MAX_BYTES, front.clone());
    let _parser = if large { Some(front.parsers.acquire().await.expect("the semaphore is never closed")) } else { None };
    let understood = front.clone();
    away(large, move || {
        let json = document::parse(&body)?;
        drop(body);
        Ok(understand(json, &understood.terms()?)?)
    })
    .await?
}

/// Does work of a size that is not small on a thread of its own: a worker that computes answers no probe and sends no event of a
/// stream.
///
/// # Errors
/// [`ApiError::Broken`] if the server stops meanwhile, or the work panics.
pub(super) async fn away<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    if !large {
        return Ok(work());
    }
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| stream::lost())?)
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
        return Err(ApiError::MediaType { found: format!("encoded as {}", quoted(&encoding)) });
    }
    let Some(found) = text(CONTENT_TYPE) else { return Ok(()) };
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        Ok(())
    } else {
        Err(ApiError::MediaType { found: quoted(&found) })
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
}
