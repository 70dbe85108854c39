//! The answers that actix gives by itself, in this server's form.
//!
//! What is no HTTP never reaches a route: actix answers it with a bare 400, 408 or 431 and closes
//! the connection. Such an answer goes out with the error object and an id like any other.
//!
//! Every answer of this server carries `x-request-id`; a head that lacks it and announces an empty
//! body is actix's own. Such a head is the last thing on its connection, so it is looked for at the
//! end of what is written and nowhere else. No body looks like one: JSON and events hold no raw
//! line ends.

use actix_web::http::StatusCode;

use crate::http::state::RequestId;
use crate::http::wire::error::{ErrorObject, INVALID, SERVER, UNAVAILABLE};

/// Longest head that actix makes for an answer of its own; a longer one is a route's answer.
const OWN_HEAD_MAX_BYTES: usize = 256;
const HEAD_BEGIN: &[u8] = b"HTTP/1.1 ";
/// When a client that was turned away should come back: connections come and go with requests,
/// which take seconds.
const FULL_RETRY_SECONDS: u64 = 5;

/// Where a head of actix's own begins at the end of `bytes`, and its status.
pub(in crate::http) fn head(bytes: &[u8]) -> Option<(usize, StatusCode)> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = bytes.len().saturating_sub(OWN_HEAD_MAX_BYTES);
    let at = from + bytes[from..].windows(HEAD_BEGIN.len()).rposition(|window| window == HEAD_BEGIN)?;
    let head = std::str::from_utf8(&bytes[at..]).ok()?.to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok())?;
    let own = head.contains("\r\ncontent-length: 0\r\n") && !head.contains("\r\nx-request-id: ");
    let whole = head.matches("\r\n\r\n").count() == 1;
    (own && whole && (status.is_client_error() || status.is_server_error())).then_some((at, status))
}

/// A whole answer in place of actix's own.
pub(in crate::http) fn answer(status: StatusCode) -> Vec<u8> {
    let (kind, code, message) = match status {
        StatusCode::REQUEST_TIMEOUT => (INVALID, "head_timeout", "the request's head did not arrive in time"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            (INVALID, "head_too_large", "the request's head is too large; expected at most 96 headers and 128 KiB")
        }
        _ if status.is_server_error() => (SERVER, "internal_error", "something broke inside"),
        _ => (INVALID, "bad_http", "this is no HTTP/1.1 request, or its framing is wrong"),
    };
    let RequestId(id) = RequestId::new();
    // Port scans and TLS hellos come all the time, and there is nothing for an operator to mend.
    if status.is_server_error() {
        tracing::error!(request_id = id, status = status.as_u16(), code, "what is no request");
    } else {
        tracing::debug!(request_id = id, status = status.as_u16(), code, "what is no request");
    }
    write(status, &id, "", ErrorObject { message: message.to_owned(), kind, param: None, code: Some(code) })
}

/// The answer to a connection for which there is no place.
pub(in crate::http) fn full() -> Vec<u8> {
    let message = "too many connections are open; close some, or try again later".to_owned();
    let object = ErrorObject { message, kind: UNAVAILABLE, param: None, code: Some("too_many_connections") };
    let RequestId(id) = RequestId::new();
    write(StatusCode::SERVICE_UNAVAILABLE, &id, &format!("retry-after: {FULL_RETRY_SECONDS}\r\n"), object)
}

fn write(status: StatusCode, id: &str, headers: &str, object: ErrorObject) -> Vec<u8> {
    let body = serde_json::to_string(&object.body()).expect("texts are JSON");
    let (status, length) = (format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()), body.len());
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}content-type: application/json\r\n\
         x-request-id: {id}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: now\r\n\r\n";

    #[test]
    fn only_actixs_own_heads_are_found() {
        assert_eq!(head(OWN.as_bytes()), Some((0, StatusCode::BAD_REQUEST)));
        let before = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: a\r\n\r\n{}";
        assert_eq!(head(format!("{before}{OWN}").as_bytes()), Some((before.len(), StatusCode::BAD_REQUEST)));
        for other in [
            "",
            "\r\n\r\n",
            before,
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nx-request-id: a\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\n\r\n",
            &format!("{OWN}data: x\n\n"),
        ] {
            assert_eq!(head(other.as_bytes()), None, "{other:?}");
        }
    }
}
