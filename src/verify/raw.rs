//! Requests as no client library writes them, and the bytes of their answers.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::bench::Bench;
use super::case::Halt;

/// A guard against a server that does not answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A connection of its own.
pub(super) struct Raw<'b> {
    bench: &'b Bench,
    stream: TcpStream,
}

/// An answer.
pub(super) struct RawAnswer {
    pub(super) status: u16,
    /// The status line and the headers, in lower case.
    pub(super) head: String,
    /// What came behind them, as it came.
    pub(super) body: Vec<u8>,
}

impl RawAnswer {
    /// A header's value, in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

impl<'b> Raw<'b> {
    /// Connects; skips the test if the server speaks TLS.
    pub(super) async fn connect(bench: &'b Bench) -> Result<Self, Halt> {
        let tls = || Halt::Skip("the server speaks TLS, and this test writes its own bytes".to_owned());
        let name = bench.client.url().socket_name().ok_or_else(tls)?;
        let stream = TcpStream::connect(&name).await.map_err(|error| Halt::Fail(format!("{name}: {error}")))?;
        Ok(Self { bench, stream })
    }

    /// Posts a body. `version`: `1.1`; `headers` end with a line break each.
    pub(super) async fn post(&mut self, route: &str, version: &str, headers: &str, body: &Value) -> Result<(), Halt> {
        let url = self.bench.client.url();
        let (path, host, body) = (url.path_of(route), url.socket_name().unwrap_or_default(), body.to_string());
        let key = self.bench.target.api_key.as_ref().map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let request = format!(
            "POST {path} HTTP/{version}\r\nHost: {host}\r\n{key}{headers}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.map_err(|error| Halt::Fail(format!("{path} cannot be sent: {error}")))
    }

    /// Reads one answer, to the end that its head announces.
    pub(super) async fn answer(&mut self) -> Result<RawAnswer, Halt> {
        let late = || Halt::Fail(format!("no whole answer within {} s", ANSWER_MAX.as_secs()));
        timeout(ANSWER_MAX, self.read()).await.map_err(|_| late())?
    }

    async fn read(&mut self) -> Result<RawAnswer, Halt> {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return Err(Halt::Fail(format!("the connection ended in a head: {:?}", String::from_utf8_lossy(&bytes))));
            }
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut answer = RawAnswer { status, head, body: bytes.split_off(head_end) };
        let length: Option<usize> = answer.header("content-length").and_then(|length| length.parse().ok());
        let chunked = answer.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        let is_whole = |body: &[u8]| match length {
            Some(length) => body.len() >= length,
            None => chunked && (body == b"0\r\n\r\n" || body.ends_with(b"\r\n0\r\n\r\n")),
        };
        while !is_whole(&answer.body) && self.stream.read_buf(&mut answer.body).await.unwrap_or(0) > 0 {}
        Ok(answer)
    }

    /// Ends the connection without a farewell.
    pub(super) fn reset(self) -> Result<(), Halt> {
        self.stream.set_zero_linger().map_err(|error| Halt::Fail(format!("the connection cannot be reset: {error}")))
    }
}
