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
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let body = r#"{"prompt":"x"}"#;
    let headers = |count: usize| (0..count).map(|index| format!("X-{index}: 1\r\n")).collect::<String>();
    let long = |length: usize| format!("GET /version HTTP/1.1\r\n{HOST}X: {}\r\n\r\n", "a".repeat(length));
    for (what, raw, status) in [
        ("both framings", post("Content-Length: 14\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        ("two lengths", post("Content-Length: 14\r\nContent-Length: 15\r\n", body), 400),
        ("a length below zero", post("Content-Length: -1\r\n", body), 400),
        ("a signed length", post("Content-Length: +2\r\n", "{}"), 400),
        ("a length that is no number", post("Content-Length: x\r\n", "{}"), 400),
        ("a chunk of 2^68", chunked("100000000000000000\r\nx"), 400),
        ("a chunk of no size", chunked("zz\r\n"), 400),
        ("a chunk with an extension", chunked(&format!("e;{}\r\n{body}\r\n0\r\n\r\n", "x".repeat(10_000))), 200),
        ("a chunk with a long extension", chunked(&format!("e;{}\r\n{body}\r\n0\r\n\r\n", "x".repeat(20_000))), 400),
        ("many extensions", chunked(&format!("{}0\r\n\r\n", format!("1;{}\r\n \r\n", "x".repeat(1000)).repeat(20))), 400),
        ("trailers", chunked(&format!("e\r\n{body}\r\n0\r\n{}\r\n", headers(20))), 200),
        ("long trailers", chunked(&format!("e\r\n{body}\r\n0\r\n{}\r\n", headers(3000))), 400),
        ("a bare line feed in a trailer", chunked(&format!("e\r\n{body}\r\n0\r\nX: y\n\r\n")), 400),
        ("a bare line feed behind a size", chunked(&format!("e\n{body}\r\n0\r\n\r\n")), 400),
        // A recipient may take a bare line feed for a line's end (RFC 9112, 2.2); what stands before it may not.
        ("bare line feeds", format!("GET /version HTTP/1.1\n{}\n", HOST.replace("\r\n", "\n")), 400),
        ("a bare line feed", format!("GET /version HTTP/1.1\r\n{HOST}X: y\n\r\n"), 400),
        ("a bare carriage return", format!("GET /version HTTP/1.1\r\n{HOST}X: y\rz\r\n\r\n"), 400),
        ("a lone line", "GET /version\r\n".to_owned(), 400),
        ("no host", "GET /version HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("a host that is none", "GET /version HTTP/1.1\r\nConnection: close\r\nHost: a/b?c\r\n\r\n".to_owned(), 403),
        ("a folded header", format!("GET /version HTTP/1.1\r\n{HOST}X: a\r\n b\r\n\r\n"), 400),
        ("a NUL", format!("GET /version HTTP/1.1\r\n{HOST}X: a\0b\r\n\r\n"), 400),
        ("h2 by surprise", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        ("nonsense", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), 400),
        ("TLS", "\u{16}\u{3}\u{1}\0\u{5}\u{1}\r\n".to_owned(), 400),
        ("96 headers", format!("GET /version HTTP/1.1\r\n{HOST}{}\r\n", headers(94)), 200),
        ("97 headers", format!("GET /version HTTP/1.1\r\n{HOST}{}\r\n", headers(95)), 431),
        ("a long head", long(130_000), 200),
        ("too long a head", long(140_000), 431),
        ("a lying length", post("Content-Length: 100000000\r\n", body), 413),
        ("a body", post("Content-Length: 14\r\n", body), 200),
        ("a body in chunks", chunked("e\r\n{\"prompt\":\"x\"}\r\n0\r\n\r\n"), 200),
    ] {
        let reply = exchange(world.address, raw.as_bytes()).await;
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        if status != 200 {
            // Also where no route was reached.
            assert_eq!((reply.error()["code"].is_string(), reply.header("connection")), (true, Some("close")), "{what}");
        }
    }
    world.close().await;
}

/// What is wrong is said after what was right, and no answer is lost or split.
#[actix_rt::test]
async fn a_broken_request_behind_good_ones_is_answered_last() {
    let world = World::open(Plan::default()).await;
    let good = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(format!("{good}{good}nonsense\r\n\r\n").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (ok, bad) = text.split_once("HTTP/1.1 400 Bad Request\r\n").expect("an answer to the nonsense");
    assert_eq!(ok.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{text}");
    assert_eq!(parse(format!("HTTP/1.1 400 Bad Request\r\n{bad}").as_bytes()).error()["code"], "bad_http");
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
        let reply = parse(&bytes);
        assert_eq!((reply.status, &reply.error()["code"]), (408, &"head_timeout".into()), "{head:?}");
    }
    world.close().await;
}

/// Deadlines of a head never come early, wherever actix's clock of 500 ms stands.
#[actix_rt::test]
async fn no_head_is_given_up_before_its_time() {
    let mut plan = Plan::default();
    let deadline = std::time::Duration::from_millis(700);
    plan.http.head_deadline = deadline;
    let world = World::open(plan).await;
    let given_up = (0..8_u64).map(|index| {
        let address = world.address;
        actix_rt::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(index * 130)).await;
            let mut socket = TcpStream::connect(address).await.unwrap();
            let began = std::time::Instant::now();
            socket.write_all(if index % 2 == 0 { b"" } else { b"GET /ver" }).await.unwrap();
            let mut bytes = Vec::new();
            let _ = socket.read_to_end(&mut bytes).await;
            (began.elapsed(), parse(&bytes).status)
        })
    });
    for given_up in futures_util::future::join_all(given_up).await {
        let (after, status) = given_up.unwrap();
        assert!(after >= deadline && status == 408, "{status} after {after:?}");
    }
    world.close().await;
}

/// Sends a piece every 20 ms for as long as the connection takes it, 4 s at most. Returns how many,
/// and what came back.
async fn dribble(address: std::net::SocketAddr, begin: &str, piece: &'static str) -> (usize, String) {
    let (mut reader, mut writer) = TcpStream::connect(address).await.expect("it listens").into_split();
    writer.write_all(format!("GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n{begin}").as_bytes()).await.expect("it is open");
    let dribbling = actix_rt::spawn(async move {
        for count in 0..200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            if writer.write_all(piece.as_bytes()).await.is_err() {
                return count;
            }
        }
        200
    });
    let mut bytes = Vec::new();
    let _ = reader.read_to_end(&mut bytes).await;
    (dribbling.await.expect("it ends"), String::from_utf8(bytes).expect("text"))
}

/// A byte now and then keeps no connection: neither one of a head, nor of the empty lines that may
/// stand before it.
#[actix_rt::test]
async fn a_second_head_that_dribbles_is_given_up() {
    let mut plan = Plan::default();
    // actix takes the first head's deadline from a clock that ticks every 500 ms.
    plan.http.head_deadline = std::time::Duration::from_secs(1);
    let world = World::open(plan).await;
    let dribbles = [("GET /", "a"), ("", "\r\n")].map(|(begin, piece)| actix_rt::spawn(dribble(world.address, begin, piece)));
    for dribble in dribbles {
        let (pieces_count, text) = dribble.await.unwrap();
        let (ok, late) = text.split_once("HTTP/1.1 408 Request Timeout\r\n").expect("the head is given up");
        assert!(ok.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert_eq!(parse(format!("HTTP/1.1 408 Request Timeout\r\n{late}").as_bytes()).error()["code"], "head_timeout");
        assert!(pieces_count < 200, "a byte every 20 ms kept the connection");
    }
    world.close().await;
}

/// Nothing of a head is with actix before it is whole, so that the time of an idle connection goes
/// on.
#[actix_rt::test]
async fn a_second_head_that_never_ends_is_given_up() {
    let mut plan = Plan::default();
    plan.http.idle_deadline = std::time::Duration::from_millis(500);
    let world = World::open(plan).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\nGET /version HTTP/1.1\r\nHost: local").await.unwrap();
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && bytes.ends_with(b"}"), "{}", String::from_utf8_lossy(&bytes));
    world.close().await;
}

/// Right (RFC 9112, 6.1): no transfer coding for HTTP/1.0, and the body ends with the connection,
/// asked to stay or not.
#[actix_rt::test]
async fn a_stream_to_http_1_0_has_no_chunks() {
    let world = World::open(Plan::default()).await;
    let chat = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":4,"stream":true}"#;
    let text = r#"{"prompt":"x","max_tokens":4,"stream":true}"#;
    for (path, body) in [("/v1/chat/completions", chat), ("/v1/completions", text)] {
        for headers in ["", "Host: localhost\r\n", "Connection: keep-alive\r\n"] {
            let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n{headers}", body.len());
            let raw = format!("{head}Content-Type: application/json\r\n\r\n{body}");
            let mut socket = TcpStream::connect(world.address).await.unwrap();
            socket.write_all(raw.as_bytes()).await.unwrap();
            let mut bytes = Vec::new();
            socket.read_to_end(&mut bytes).await.unwrap();
            let reply = String::from_utf8(bytes).unwrap();
            let (head, events) = reply.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{path} {headers:?}: {head}");
            let head = head.to_ascii_lowercase();
            assert!(!head.contains("transfer-encoding") && !head.contains("keep-alive"), "{path} {headers:?}: {head}");
            assert!(events.starts_with("data: {") && events.ends_with("data: [DONE]\n\n"), "{path} {headers:?}: {events}");
        }
    }
    world.close().await;
}

/// HTTP/1.0 has no Host; one that it brings is checked all the same.
#[actix_rt::test]
async fn http_1_0_is_served_without_a_host() {
    let world = World::open(Plan::default()).await;
    for (headers, status) in [("", 200), ("Host: localhost\r\n", 200), ("Host: evil.example\r\n", 403)] {
        let raw = format!("GET /version HTTP/1.0\r\n{headers}\r\n");
        assert_eq!(exchange(world.address, raw.as_bytes()).await.status, status, "{headers:?}");
    }
    world.close().await;
}
