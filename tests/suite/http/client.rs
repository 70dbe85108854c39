//! A client that is no better than it must be: bytes out, bytes in.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Reply {
    /// The value of a header; names without regard to case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as JSON.
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The error object, checked for its shape.
    pub(super) fn error(&self) -> Value {
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        assert!(error["type"].is_string(), "{self:?}");
        let keys: Vec<&str> = error.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"], "{self:?}");
        assert!(self.header("x-request-id").is_some(), "{self:?}");
        error
    }

    /// The data of each event of a stream.
    pub(super) fn events(&self) -> Vec<&str> {
        self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// The data of each event of a stream, as JSON, without the `[DONE]` that must be the last one.
    pub(super) fn chunks(&self) -> Vec<Value> {
        let events = self.events();
        let (last, rest) = events.split_last().unwrap_or_else(|| panic!("no events in {self:?}"));
        assert_eq!(*last, "[DONE]", "{self:?}");
        rest.iter().map(|event| serde_json::from_str(event).expect("an event is JSON")).collect()
    }
}

/// Sends bytes and reads until the server closes, which requests ask it to.
pub(super) async fn exchange(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    // A server that refuses closes before it has read everything: that is no failure of the test.
    let _ = stream.write_all(request).await;
    read(&mut stream).await
}

/// Reads an answer until the server closes.
pub(super) async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Reply {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    parse(&bytes)
}

/// Reads the first answer in `bytes`, which is the only one.
pub(super) fn parse(bytes: &[u8]) -> Reply {
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(&bytes[split..]) } else { bytes[split..].to_vec() };
    Reply { status, head, body: String::from_utf8(body).expect("answers are UTF-8") }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n").expect("a chunk begins with its size");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).expect("digits"), 16).expect("a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

/// The bytes of a request that asks the server to close afterwards.
pub(super) fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

/// Posts JSON.
pub(super) async fn post(address: SocketAddr, path: &str, json: &str) -> Reply {
    post_with(address, path, "", json).await
}

/// Posts JSON with more headers, each with its line's end.
pub(super) async fn post_with(address: SocketAddr, path: &str, headers: &str, json: &str) -> Reply {
    let headers = format!("Content-Type: application/json\r\n{headers}");
    exchange(address, &request("POST", path, &headers, json)).await
}

/// Gets a path.
pub(super) async fn get(address: SocketAddr, path: &str) -> Reply {
    exchange(address, &request("GET", path, "", "")).await
}
