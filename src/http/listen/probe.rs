//! Probes that are answered where connections are accepted: read from the bytes of a head, answered
//! in bytes.

use std::time::{Duration, UNIX_EPOCH};

use actix_web::http::StatusCode;
use actix_web::http::header::HttpDate;
use actix_web::web::Data;
use httparse::{EMPTY_HEADER, Header, Request, Status};

use crate::clock;
use crate::http::middleware::checks::Border;
use crate::http::observe::{ObservedState, RETRY_SECONDS};
use crate::http::state::RequestId;

/// Most headers of a probe.
const HEADERS_MAX: usize = 32;
/// Headers that ask for more than a probe does, or bring it a body.
const NOT_PLAIN: [&str; 5] = ["content-length", "expect", "origin", "transfer-encoding", "upgrade"];

/// What probes are answered from.
pub(in crate::http) struct Probes {
    pub(in crate::http) border: Data<Border>,
    pub(in crate::http) observed: Data<ObservedState>,
}

/// A probe.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct Probe {
    path: &'static str,
    /// The minor version of HTTP/1.
    version: u8,
    /// How long its head is.
    pub(in crate::http) head_bytes: usize,
    /// The connection ends with its answer.
    pub(in crate::http) close: bool,
}

impl Probes {
    /// Reads what came on a connection; `None` if it is anything but one whole, plain `GET` of a
    /// probe's path.
    pub(in crate::http) fn read(&self, bytes: &[u8]) -> Option<Probe> {
        Probe::read(bytes, |host| self.border.serves(host))
    }

    /// The answer, as the routes of [`crate::http::observe`] give it.
    pub(in crate::http) fn answer(&self, probe: &Probe) -> Vec<u8> {
        let (status, body) = self.observed.probe(probe.path);
        let RequestId(id) = RequestId::new();
        let line = format!("GET {:?}", probe.path);
        if status.is_success() {
            tracing::debug!(request_id = id, status = status.as_u16(), "{line}");
        } else {
            tracing::info!(request_id = id, status = status.as_u16(), "{line}");
        }
        let reason = status.canonical_reason().unwrap_or_default();
        let retry =
            if status == StatusCode::SERVICE_UNAVAILABLE { format!("retry-after: {RETRY_SECONDS}\r\n") } else { String::new() };
        let close = if probe.close { "connection: close\r\n" } else { "" };
        let date = HttpDate::from(UNIX_EPOCH + Duration::from_secs(clock::unix_seconds()));
        format!(
            "HTTP/1.{} {} {reason}\r\ncontent-length: {}\r\n{close}{retry}cache-control: no-store\r\n\
             content-type: application/json\r\nx-request-id: {id}\r\ndate: {date}\r\n\r\n{body}",
            probe.version,
            status.as_u16(),
            body.len()
        )
        .into_bytes()
    }
}

impl Probe {
    fn read(bytes: &[u8], serves: impl Fn(&str) -> bool) -> Option<Self> {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut headers);
        let Ok(Status::Complete(head_bytes)) = request.parse(bytes) else { return None };
        let path = request.path.filter(|_| request.method == Some("GET"))?;
        let path = ObservedState::PROBES.into_iter().find(|probe| path.split('?').next() == Some(probe))?;
        let version = request.version?;
        let all: &[Header<'_>] = request.headers;
        let header = |name: &'static str| all.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        let is_plain = |header: &Header<'_>| !NOT_PLAIN.iter().any(|name| header.name.eq_ignore_ascii_case(name));
        // Line ends that are none, or a head with more behind it, are for stricter readers.
        let lines = memchr::memchr_iter(b'\n', &bytes[..head_bytes]).all(|at| at > 0 && bytes[at - 1] == b'\r');
        if !lines || head_bytes != bytes.len() || !all.iter().all(is_plain) {
            return None;
        }
        let hosts: Vec<&str> = header("host").map(|header| std::str::from_utf8(header.value)).collect::<Result<_, _>>().ok()?;
        let is_served = match hosts[..] {
            // HTTP/1.0 has no Host.
            [] => version == 0,
            [host] => serves(host),
            _ => false,
        };
        if !is_served || header("authorization").count() > 1 {
            return None;
        }
        let closes = header("connection").any(|header| !header.value.eq_ignore_ascii_case(b"keep-alive"));
        Some(Self { path, version, head_bytes, close: version == 0 || closes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "GET /health/ready HTTP/1.1\r\nHost: localhost\r\nUser-Agent: kube-probe/1.31\r\nAccept: */*\r\n";

    fn read(head: &str) -> Option<Probe> {
        Probe::read(head.as_bytes(), |host| host == "localhost")
    }

    #[test]
    fn a_plain_get_of_a_probes_path_is_one() {
        for (head, path, close) in [
            (format!("{PLAIN}\r\n"), "/health/ready", false),
            (format!("{PLAIN}Connection: close\r\n\r\n"), "/health/ready", true),
            (format!("{PLAIN}Connection: Keep-Alive\r\nAuthorization: Bearer x\r\n\r\n"), "/health/ready", false),
            ("GET /health?from=lb HTTP/1.0\r\n\r\n".to_owned(), "/health", true),
            ("GET /health/live HTTP/1.0\r\nhost: localhost\r\nConnection: keep-alive\r\n\r\n".to_owned(), "/health/live", true),
        ] {
            let probe = read(&head).unwrap_or_else(|| panic!("not read: {head:?}"));
            assert_eq!((probe.path, probe.close, probe.head_bytes), (path, close, head.len()), "{head:?}");
        }
    }

    /// Whatever a rule of the border may refuse, or has to answer otherwise, is left to it.
    #[test]
    fn what_is_not_as_plain_is_left_to_the_workers() {
        let whole = format!("{PLAIN}\r\n");
        for head in [
            String::new(),
            whole[..whole.len() - 1].to_owned(),
            format!("{whole}GET"),
            whole.replace("GET", "HEAD"),
            whole.replace("GET", "POST"),
            whole.replace("/health/ready", "/health/other"),
            whole.replace("/health/ready", "http://localhost/health/ready"),
            whole.replace("/health/ready", "/metrics"),
            whole.replace("localhost", "evil.example"),
            whole.replace("Host: localhost\r\n", ""),
            whole.replace("Accept", "Host"),
            whole.replace("HTTP/1.1", "HTTP/2.0"),
            whole.replace("\r\n", "\n"),
            whole.replace("Accept: */*", "Content-Length: 2"),
            whole.replace("Accept: */*", "Transfer-Encoding: chunked"),
            whole.replace("Accept: */*", "Origin: https://example.org"),
            whole.replace("Accept: */*", "Expect: 100-continue"),
            whole.replace("Accept: */*", "Upgrade: h2c"),
            whole.replace("Accept: */*", "Authorization: a\r\nAuthorization: b"),
            format!("{PLAIN}{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX)),
        ] {
            assert_eq!(read(&head), None, "{head:?}");
        }
    }
}
