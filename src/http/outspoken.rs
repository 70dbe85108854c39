//! The answers that actix gives by itself, in this server's form.
//!
//! What is no HTTP never reaches a route: actix answers it with a bare 400, 408 or 431 and closes the connection. Here the
//! connection is wrapped, and such an answer goes out with the error object and an id like any other.
//!
//! Every answer of this server carries `x-request-id`; a head that lacks it and announces an empty body is actix's own. Such a
//! head is the last thing on its connection, so it is looked for at the end of what is written and nowhere else. No body
//! looks like one: JSON and events hold no raw line ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::http::StatusCode;
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::front::RequestId;
use super::wire::error::{ErrorObject, INVALID, SERVER};

/// Longest head that actix makes for an answer of its own; a longer one is somebody's answer.
const OWN_HEAD_MAX_BYTES: usize = 256;
const HEAD_BEGIN: &[u8] = b"HTTP/1.1 ";

/// A connection on which every error says what is wrong.
#[derive(Debug)]
pub(super) struct Outspoken {
    stream: TcpStream,
    /// An answer in place of actix's own: its bytes, and how many of them are sent.
    instead: Option<(Vec<u8>, usize)>,
}

impl Outspoken {
    /// Wraps a connection.
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, instead: None }
    }

    /// Sends the rest of the answer that goes out in place of `replaced` bytes.
    fn poll_instead(&mut self, context: &mut Context<'_>, replaced: usize) -> Poll<io::Result<usize>> {
        while let Some((answer, sent)) = &mut self.instead {
            if *sent == answer.len() {
                self.instead = None;
                break;
            }
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &answer[*sent..]))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            *sent += written;
        }
        Poll::Ready(Ok(replaced))
    }
}

impl AsyncWrite for Outspoken {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_some() {
            return this.poll_instead(context, bytes.len());
        }
        match own_head(bytes) {
            Some((0, status)) => {
                this.instead = Some((answer(status), 0));
                this.poll_instead(context, bytes.len())
            }
            // What stands before it goes first; it comes again by itself.
            Some((at, _)) => Pin::new(&mut this.stream).poll_write(context, &bytes[..at]),
            None => Pin::new(&mut this.stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl AsyncRead for Outspoken {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

/// Where a head of actix's own begins at the end of `bytes`, and its status.
fn own_head(bytes: &[u8]) -> Option<(usize, StatusCode)> {
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
fn answer(status: StatusCode) -> Vec<u8> {
    let (kind, code, message) = match status {
        StatusCode::REQUEST_TIMEOUT => (INVALID, "head_timeout", "the request's head did not arrive in time"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            (INVALID, "head_too_large", "the request's head is too large; expected at most 96 headers and 128 KiB")
        }
        _ if status.is_server_error() => (SERVER, "internal_error", "something broke inside"),
        _ => (INVALID, "bad_http", "this is no HTTP/1.1 request, or its framing is wrong"),
    };
    let object = ErrorObject { message: message.to_owned(), kind, param: None, code: Some(code) };
    let body = serde_json::to_string(&object.body()).expect("texts are JSON");
    let RequestId(id) = RequestId::new();
    // Port scans and TLS hellos come all the time, and there is nothing for an operator to mend.
    if status.is_server_error() {
        tracing::error!(request_id = id, status = status.as_u16(), code, "what is no request");
    } else {
        tracing::debug!(request_id = id, status = status.as_u16(), code, "what is no request");
    }
    let (status, length) = (format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()), body.len());
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\ncontent-type: application/json\r\n\
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
        assert_eq!(own_head(OWN.as_bytes()), Some((0, StatusCode::BAD_REQUEST)));
        let before = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: a\r\n\r\n{}";
        assert_eq!(own_head(format!("{before}{OWN}").as_bytes()), Some((before.len(), StatusCode::BAD_REQUEST)));
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
            assert_eq!(own_head(other.as_bytes()), None, "{other:?}");
        }
    }
}
