//! Connections that do what ordinary clients do not: ask for other protocols, pipeline, dribble,
//! come by the thousand.

use std::net::SocketAddr;
use std::time::Duration;

use antiphon::metrics::Names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::client::{Reply, exchange, get, parse, request};
use super::world::{Plan, World};

const GET: &str = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Reads one answer with a length from a connection that stays.
async fn answer(socket: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        assert_eq!(socket.read(&mut byte).await.expect("an answer"), 1, "closed after {}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
        let reply = parse(&bytes);
        let length = reply.header("content-length").and_then(|length| length.parse::<usize>().ok());
        if bytes.windows(4).any(|window| window == b"\r\n\r\n") && length == Some(reply.body.len()) {
            return reply;
        }
    }
}

/// Java's HttpClient asks each server for HTTP/2 with its first request, and others do for
/// WebSockets. RFC 9110, 7.8: what a server does not take it ignores, and the request is one like
/// any other.
#[actix_rt::test]
async fn an_upgrade_that_is_not_taken_is_ignored() {
    let world = World::open(Plan::default()).await;
    for headers in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
        "connection: upgrade\r\nupgrade: WebSocket, foo/2\r\n",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
    ] {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        for _ in 0..3 {
            let body = r#"{"prompt":"x"}"#;
            let framings =
                [("Content-Length: 14", body.to_owned()), ("Transfer-Encoding: chunked", format!("e\r\n{body}\r\n0\r\n\r\n"))];
            for (framing, body) in framings {
                let post = format!("POST /tokenize HTTP/1.1\r\nHost: localhost\r\n{headers}{framing}\r\n\r\n{body}");
                socket.write_all(post.as_bytes()).await.unwrap();
                let reply = answer(&mut socket).await;
                assert_eq!((reply.status, reply.header("connection")), (200, None), "{headers:?}: {reply:?}");
                assert!(reply.json()["tokens"].is_array(), "the body was read: {reply:?}");
            }
            socket.write_all(format!("GET /version HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).await.unwrap();
            let reply = answer(&mut socket).await;
            assert_eq!((reply.status, reply.header("connection"), reply.header("upgrade")), (200, None, None), "{headers:?}");
        }
        socket
            .write_all(format!("GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(super::client::read(&mut socket).await.header("connection"), Some("close"), "{headers:?}");
    }
    world.close().await;
}

/// Each kind of request, cut at each byte, on one connection.
#[actix_rt::test]
async fn requests_that_come_in_halves_are_answered() {
    let world = World::open(Plan::default()).await;
    let body = r#"{"prompt":"x"}"#;
    let post = format!("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n{body}");
    let chunked = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                   4;x=y\r\n{\"pr\r\nA\r\nompt\":\"x\"}\r\n0\r\nX: y\r\n\r\n";
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for raw in [GET, &post, chunked, &format!("\r\n{GET}")] {
        for split in 1..raw.len() {
            socket.write_all(&raw.as_bytes()[..split]).await.unwrap();
            tokio::task::yield_now().await;
            socket.write_all(&raw.as_bytes()[split..]).await.unwrap();
            assert_eq!(answer(&mut socket).await.status, 200, "{raw:?} cut at {split}");
        }
    }
    world.close().await;
}

/// One at a time, the first of which takes its time; the last asks for the end.
#[actix_rt::test]
async fn requests_behind_a_long_answer_are_answered_after_it() {
    let world = World::open(Plan { endless: true, step_time: Duration::from_millis(20), ..Plan::default() }).await;
    let body = r#"{"prompt":"go on","max_tokens":30,"stream":true}"#;
    let long = String::from_utf8(request("POST", "/v1/completions", "", body)).unwrap().replace("Connection: close\r\n", "");
    let one = |index: usize| format!("GET /v1/models/m{index} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let behind: String = (0..100).map(one).collect();
    let last = String::from_utf8(request("POST", "/tokenize", "", &format!(r#"{{"prompt":"{}"}}"#, "x".repeat(1000)))).unwrap();
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(format!("{long}{behind}{last}").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (stream, rest) = text.split_once("data: [DONE]\n\n\r\n0\r\n\r\n").expect("the stream ends before the next answer");
    assert!(stream.starts_with("HTTP/1.1 200 OK\r\n") && !stream.contains("404"), "{stream}");
    let answers: Vec<_> = rest.split("HTTP/1.1 404 Not Found\r\n").skip(1).collect();
    assert_eq!(answers.len(), 100);
    for (index, answer) in answers.iter().enumerate() {
        assert!(answer.contains(&format!("m{index}\\\"")), "{index}: {answer}");
    }
    assert!(answers[99].contains("HTTP/1.1 200 OK\r\n") && rest.contains("\"tokens\":["), "the last is answered");
    world.close().await;
}

/// What is kept behind them is full all the time, and each answer is quick: together they may take
/// longer than any of them.
#[actix_rt::test]
async fn an_answer_has_its_time_whatever_those_before_it_took() {
    let world = World::open(Plan { endless: true, step_time: Duration::from_millis(100), ..Plan::default() }).await;
    let body = r#"{"prompt":"go on","max_tokens":1}"#;
    let step = String::from_utf8(request("POST", "/v1/completions", "", body)).unwrap().replace("Connection: close\r\n", "");
    let last = String::from_utf8(request("GET", "/version", "", "")).unwrap();
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(format!("{}{}{last}", step.repeat(13), GET.repeat(230)).as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 13 + 230 + 1);
    world.close().await;
}

/// A thousand times what is kept behind a request: the burst is read as fast as it is answered.
#[actix_rt::test]
async fn a_burst_of_short_requests_is_answered_to_its_end() {
    let world = World::open(Plan::default()).await;
    let (mut from, mut to) = TcpStream::connect(world.address).await.unwrap().into_split();
    let sender = actix_rt::spawn(async move {
        to.write_all(GET.repeat(6_000).as_bytes()).await.unwrap();
        to
    });
    let (mut bytes, mut count) = (vec![0; 1 << 16], 0);
    let mut carry = String::new();
    while count < 6_000 {
        let length = from.read(&mut bytes).await.unwrap();
        assert!(length > 0, "closed after {count}");
        carry += std::str::from_utf8(&bytes[..length]).unwrap();
        count += carry.matches("HTTP/1.1 200 OK\r\n").count();
        // What may be the beginning of the next.
        carry = carry.rsplit_once("HTTP/1.1 200 OK\r\n").map_or(carry.clone(), |(_, rest)| rest.to_owned());
    }
    drop(sender.await.unwrap());
    world.close().await;
}

/// What is thrown away behind a long answer is told by the end of the connection, and the answer is
/// whole.
#[actix_rt::test]
async fn an_answer_with_too_much_behind_it_is_whole_and_the_last() {
    let world = World::open(Plan { endless: true, step_time: Duration::from_millis(40), ..Plan::default() }).await;
    let body = r#"{"prompt":"go on","max_tokens":60,"stream":true}"#;
    let long = String::from_utf8(request("POST", "/v1/completions", "", body)).unwrap().replace("Connection: close\r\n", "");
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(long.as_bytes()).await.unwrap();
    let (mut from, mut to) = socket.into_split();
    let sender = actix_rt::spawn(async move {
        let _ = to.write_all(GET.repeat(20_000).as_bytes()).await;
        to
    });
    let reply = super::client::read(&mut from).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
    drop(sender);
    world.assert_empty().await;
    world.close().await;
}

async fn connect_from(local: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{local}:0").parse().expect("an address")).expect("every 127.0.0.0/8 is local");
    socket.connect(address).await.expect("the server listens")
}

#[actix_rt::test]
async fn connections_beyond_the_bounds_are_turned_away() {
    let mut plan = Plan::default();
    (plan.http.connections_max_count, plan.http.address_connections_max_count) = (6, 4);
    let world = World::open(plan).await;
    let mut open = Vec::new();
    for local in ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2"] {
        let mut socket = connect_from(local, world.address).await;
        socket.write_all(GET.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut socket).await.status, 200, "{local}");
        open.push(socket);
        if open.len() == 4 {
            // The address is full, the server is not.
            assert_turned_away(connect_from("127.0.0.1", world.address).await).await;
        }
    }
    assert_turned_away(connect_from("127.0.0.3", world.address).await).await;
    let text = world.backend.metrics.exposition(Names::All, world.backend.clock.now());
    for reason in ["all", "address"] {
        let refused =
            |line: &&str| line.starts_with("antiphon_connections_refused_total{") && line.contains(&format!("\"{reason}\""));
        let line = text.lines().find(refused).expect("the family is exposed");
        assert!(line.ends_with(" 1"), "{line}");
    }
    // Those that are open go on, and a place that is left is free.
    open[5].write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut open[5]).await.status, 200);
    drop(open.remove(0));
    while get(world.address, "/version").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.close().await;
}

async fn assert_turned_away(mut socket: TcpStream) {
    // The request may come too late.
    let _ = socket.write_all(GET.as_bytes()).await;
    let reply = super::client::read(&mut socket).await;
    assert_eq!((reply.status, &reply.error()["code"]), (503, &"too_many_connections".into()));
    assert!(reply.header("retry-after").is_some() && reply.header("connection") == Some("close"), "{reply:?}");
}

/// A slow reader is not a reader that stopped: what counts is that bytes are taken.
#[actix_rt::test]
async fn a_client_that_reads_slowly_is_not_given_up() {
    let mut plan = Plan { endless: true, step_time: Duration::from_micros(200), ..Plan::default() };
    plan.http.send_deadline = Duration::from_millis(1500);
    let world = World::open(plan).await;
    let socket = TcpSocket::new_v4().expect("there are sockets");
    socket.set_recv_buffer_size(32 << 10).unwrap();
    let mut socket = socket.connect(world.address).await.unwrap();
    let body = r#"{"prompt":"go on","n":4,"max_tokens":2000,"logprobs":20,"stream":true}"#;
    socket.write_all(&request("POST", "/v1/completions", "", body)).await.unwrap();
    // Four times the deadline, at a speed that the answer outruns.
    for _ in 0..120 {
        socket.read_exact(&mut [0; 4096]).await.expect("the server goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.service.snapshot().requests_active, 1);
    drop(socket);
    world.assert_empty().await;
    world.close().await;
}

/// A reader that stops behind its own requests, on the routes whose answers are large.
#[actix_rt::test]
async fn a_client_that_takes_nothing_is_given_up_whatever_is_behind_its_request() {
    let mut plan = Plan { endless: true, step_time: Duration::from_micros(200), ..Plan::default() };
    plan.http.send_deadline = Duration::from_millis(500);
    plan.http.connections_max_count = 1;
    let world = World::open(plan).await;
    let stream = r#"{"prompt":"go on","n":4,"max_tokens":2000,"logprobs":20,"stream":true}"#;
    let page = request("GET", "/page/marked.js", "", "");
    for (raw, behind) in [(request("POST", "/v1/completions", "", stream), ""), (page.clone(), ""), (page, GET)] {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(world.address).await.unwrap();
        socket.write_all(&raw).await.unwrap();
        let _ = socket.try_write(behind.repeat(6_000).as_bytes());
        // There is one place: it is free again once the connection is given up.
        tokio::time::sleep(Duration::from_millis(100)).await;
        while exchange(world.address, GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(socket);
        world.assert_empty().await;
    }
    world.close().await;
}
