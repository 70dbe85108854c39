//! What a socket may say, and what it hears back.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{exchange, parse};
use super::world::{Plan, World};

const HOST: &str = "Host: localhost\r\nConnection: close\r\n";

#[actix_rt::test]
async fn the_framing_is_strict() {
    let world = World::open(Plan::default()).await;
    let post = |headers: &str, body: &str| format!("POST /tokenize HTTP/1.1\r\n{HOST}{headers}\r\n{body}");
    let body = r#"{"prompt":"x"}"#;
    let headers = |count: usize| (0..count).map(|index| format!("X-{index}: 1\r\n")).collect::<String>();
    for (what, raw, status) in [
        ("both framings", post("Content-Length: 14\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        ("two lengths", post("Content-Length: 14\r\nContent-Length: 15\r\n", body), 400),
        ("a length below zero", post("Content-Length: -1\r\n", body), 400),
        ("a signed length", post("Content-Length: +2\r\n", "{}"), 400),
        ("a chunk of 2^68", post("Transfer-Encoding: chunked\r\n", "100000000000000000\r\nx"), 400),
        ("a chunk of no size", post("Transfer-Encoding: chunked\r\n", "zz\r\n"), 400),
        ("no host", "GET /version HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("a folded header", format!("GET /version HTTP/1.1\r\n{HOST}X: a\r\n b\r\n\r\n"), 400),
        ("a NUL", format!("GET /version HTTP/1.1\r\n{HOST}X: a\0b\r\n\r\n"), 400),
        ("h2 by surprise", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        ("nonsense", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), 400),
        ("many headers", format!("GET /version HTTP/1.1\r\n{HOST}{}\r\n", headers(90)), 200),
        ("too many headers", format!("GET /version HTTP/1.1\r\n{HOST}{}\r\n", headers(97)), 431),
        ("too long a head", format!("GET /version HTTP/1.1\r\n{HOST}X: {}\r\n\r\n", "a".repeat(140_000)), 431),
        ("a body", post("Content-Length: 14\r\n", body), 200),
        ("a body in chunks", post("Transfer-Encoding: chunked\r\n", "e\r\n{\"prompt\":\"x\"}\r\n0\r\n\r\n"), 200),
    ] {
        let reply = exchange(world.address, raw.as_bytes()).await;
        assert_eq!(reply.status, status, "{what}: {reply:?}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn expect_is_answered() {
    let world = World::open(Plan::default()).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let head = format!("POST /tokenize HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 14\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 25];
    socket.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 100 Continue"), "{}", String::from_utf8_lossy(&first));
    socket.write_all(br#"{"prompt":"x"}"#).await.unwrap();
    assert_eq!(super::client::read(&mut socket).await.status, 200);
    world.close().await;
}

#[actix_rt::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::open(Plan::default()).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let one = |index: usize| format!("GET /v1/models/m{index} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let all: String = (0..99).map(one).chain([format!("GET /v1/models/m99 HTTP/1.1\r\n{HOST}\r\n")]).collect();
    socket.write_all(all.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let answers: Vec<_> = text.split("HTTP/1.1 404 Not Found\r\n").skip(1).collect();
    assert_eq!(answers.len(), 100);
    for (index, answer) in answers.iter().enumerate() {
        assert!(answer.contains(&format!("m{index}\\\"")), "{index}: {answer}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_slow_head_is_given_up() {
    let mut plan = Plan::default();
    plan.http.head_deadline = std::time::Duration::from_millis(300);
    let world = World::open(plan).await;
    for head in ["", "GET /ver", "GET /version HTTP/1.1\r\nHost: localh"] {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes).await;
        assert_eq!(parse(&bytes).status, 408, "{head:?}");
    }
    world.close().await;
}
