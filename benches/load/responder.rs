//! A server that does nothing but stream: every answer is the same events, rendered before, each
//! written on its own.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How many clients may wait to be accepted: ten thousand come at once.
const BACKLOG: u32 = 16_384;
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// How it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Tokens of an answer.
    pub(crate) tokens_count: usize,
    /// Between two of them; zero for as fast as the reader reads.
    pub(crate) gap: Duration,
}

/// Serves on a thread of its own, which lives as long as the process: the address, and the thread's
/// id.
pub(crate) fn start(manner: Manner) -> (SocketAddr, String) {
    let (sender, place) = mpsc::channel();
    thread::spawn(move || {
        let thread = std::fs::read_link("/proc/thread-self").expect("Linux names its threads");
        let id = thread.file_name().expect("a number").to_str().expect("digits").to_owned();
        serve(manner, |address| sender.send((address, id)).expect("the bench waits for it"));
    });
    place.recv().expect("the responder starts")
}

/// Serves on this thread, for ever.
pub(crate) fn serve(manner: Manner, listens: impl FnOnce(SocketAddr)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = listen().expect("a port");
        listens(listener.local_addr().expect("an address"));
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            // A client may leave at any moment, which ends its connection alone.
            tokio::spawn(async move { while answer(&mut stream, manner).await.is_ok() {} });
        }
    });
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.listen(BACKLOG)
}

/// Answers one request.
async fn answer(stream: &mut TcpStream, manner: Manner) -> io::Result<()> {
    let head = read(stream).await?;
    if head.starts_with("GET /v1/models ") {
        return whole(stream, "200 OK", r#"{"data":[{"id":"parrot"}]}"#).await;
    }
    if !head.starts_with("POST /v1/chat/completions ") {
        return whole(stream, "404 Not Found", "{}").await;
    }
    stream.write_all(HEAD.as_bytes()).await?;
    let event = chunk(
        r#"{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1764000000,"model":"parrot","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}"#,
    );
    let mut ticks = (!manner.gap.is_zero()).then(|| tokio::time::interval(manner.gap));
    for _ in 0..manner.tokens_count {
        match &mut ticks {
            Some(ticks) => drop(ticks.tick().await),
            // The others write too: no reader finds all its events in one read.
            None => tokio::task::yield_now().await,
        }
        stream.write_all(event.as_bytes()).await?;
    }
    let end = r#"{"id":"chatcmpl-0123456789abcdef","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#;
    stream.write_all(format!("{}{}0\r\n\r\n", chunk(end), chunk("[DONE]")).as_bytes()).await
}

/// Reads a request; its head.
async fn read(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return Ok(head.to_owned());
        }
    }
}

async fn whole(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).await
}

/// An event as a chunk of its own.
fn chunk(data: &str) -> String {
    format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8)
}
