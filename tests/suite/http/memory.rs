//! What requests hold in memory: reserved before it is taken, refused beyond the budget, given back
//! whatever way they end.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{exchange, get, post, read, request};
use super::world::{Plan, World};
use crate::ways::{WAYS, Way, reset_when_dropped};

/// Bytes that are reserved for each of a body.
const BODY_FACTOR: u64 = 24;

fn reserved(world: &World) -> u64 {
    world.service.budget().reserved_bytes()
}

/// Waits until nothing is reserved.
async fn until_free(world: &World) {
    while reserved(world) > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    world.assert_empty().await;
}

/// A connection on which a body of this length is announced, and `sent` of it came.
async fn announce(world: &World, headers: &str, sent: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(world.address).await.expect("the server listens");
    let head = format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("the server reads");
    socket.write_all(sent).await.expect("the server reads");
    socket
}

async fn refused(mut socket: TcpStream) {
    let reply = read(&mut socket).await;
    assert_eq!((reply.status, &reply.error()["code"]), (503, &"memory_full".into()), "{reply:?}");
    assert!(reply.header("retry-after").is_some() && reply.header("connection") == Some("close"), "{reply:?}");
}

#[actix_rt::test]
async fn a_body_is_paid_for_before_it_comes_and_small_ones_have_room_beside_large_ones() {
    let world = World::open(Plan { memory_budget_bytes: 64 << 20, ..Plan::default() }).await;
    // A large body may have half of the budget, 33 MB, in which two of these are, and not a third.
    let large = "Content-Length: 600000";
    let held = [announce(&world, large, b"{").await, announce(&world, large, b"{").await];
    while reserved(&world) < 2 * BODY_FACTOR * 600_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    refused(announce(&world, large, b"{").await).await;
    let reply = post(world.address, "/v1/completions", r#"{"prompt":"x","max_tokens":3}"#).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    // Its answer is read before its request has ended everywhere in the server.
    while reserved(&world) > 2 * BODY_FACTOR * 600_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let metrics = get(world.address, "/metrics").await.body;
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(value("antiphon_memory_budget_bytes"), 64 << 20);
    assert_eq!(value("antiphon_memory_reserved_bytes"), 2 * BODY_FACTOR * 600_000);
    let counted = metrics.lines().find(|line| line.contains("rejected_total") && line.contains("kind=\"memory\"")).unwrap();
    assert!(counted.ends_with(" 1"), "{counted}");
    drop(held);
    until_free(&world).await;
    world.close().await;
}

/// A body without a length is paid for as it grows, with what its buffer takes.
#[actix_rt::test]
async fn chunked_bodies_pay_as_they_grow() {
    let world = World::open(Plan { memory_budget_bytes: 64 << 20, ..Plan::default() }).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunked = "Transfer-Encoding: chunked";
    let mut growing = announce(&world, chunked, chunk.as_bytes()).await;
    while reserved(&world) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let first = reserved(&world);
    // The server stops reading it somewhere, and what is sent then may meet a closed connection.
    for _ in 0..100 {
        if growing.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = growing.read_to_end(&mut answer).await;
    drop(growing);
    until_free(&world).await;
    assert!(first >= BODY_FACTOR * 0x8000, "{first}");
    let metrics = get(world.address, "/metrics").await.body;
    // More than a body can ever have is the client's to change, and no want of memory.
    let counted = metrics.lines().find(|line| line.contains("rejected_total") && line.contains("kind=\"invalid\"")).unwrap();
    assert!(counted.ends_with(" 1"), "{counted}");
    world.close().await;
}

/// A client that comes back with what can never have room is refused for ever: it is not told to.
#[actix_rt::test]
async fn a_body_that_never_has_room_is_not_told_to_come_back() {
    let world = World::open(Plan { memory_budget_bytes: 64 << 20, ..Plan::default() }).await;
    // 48 MB, of which a large body may have 33 in an empty server.
    let reply = read(&mut announce(&world, "Content-Length: 2000000", b"{").await).await;
    let error = reply.error();
    assert_eq!((reply.status, &error["code"]), (413, &"request_too_large".into()), "{reply:?}");
    assert!(reply.header("retry-after").is_none() && reply.header("connection") == Some("close"), "{reply:?}");
    assert!(
        error["message"].as_str().is_some_and(|said| said.contains("48000000 bytes") && said.contains("33554432")),
        "{error}"
    );
    // The same of a small body that is full of values.
    let values = format!(r#"{{"prompt":[{}1]}}"#, "1,".repeat(120_000));
    let reply = post(world.address, "/v1/completions", &values).await;
    assert_eq!((reply.status, &reply.error()["code"]), (413, &"request_too_large".into()), "{reply:?}");
    until_free(&world).await;
    world.close().await;
}

#[actix_rt::test]
async fn whatever_way_a_body_ends_its_memory_is_given_back() {
    let mut plan = Plan { memory_budget_bytes: 512 << 20, ..Plan::default() };
    plan.http.body_deadline = Duration::from_millis(300);
    let world = World::open(plan).await;
    let length = "Content-Length: 100000";
    // Too slow, and cut short by each way of leaving.
    let mut slow = announce(&world, length, b"{\"prompt\"").await;
    assert_eq!(read(&mut slow).await.status, 408);
    until_free(&world).await;
    for way in WAYS {
        let mut socket = announce(&world, length, b"{\"prompt\"").await;
        while reserved(&world) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match way {
            Way::Fin => drop(socket),
            Way::Reset => {
                reset_when_dropped(&socket);
                drop(socket);
            }
            Way::Half => {
                socket.shutdown().await.unwrap();
                let _ = read(&mut socket).await;
            }
        }
        until_free(&world).await;
    }
    // Whole, and refused for what they say: no JSON, too many values, a prompt beyond the context.
    let large = |text: &str| format!(r#"{{"prompt":"{}"}}"#, text.repeat(100_000));
    for body in [large("x") + "}", format!("[{}0]", "0,".repeat(600_000)), large("word ")] {
        let reply = post(world.address, "/v1/completions", &body).await;
        assert_eq!(reply.status, 400, "{}", reply.body);
        until_free(&world).await;
    }
    // Served.
    for stream in [false, true] {
        let body = format!(r#"{{"prompt":"{}","max_tokens":3,"stream":{stream}}}"#, "x".repeat(1_000));
        assert_eq!(post(world.address, "/v1/completions", &body).await.status, 200);
        until_free(&world).await;
    }
    let tokens = post(world.address, "/tokenize", &large("word ")).await;
    assert_eq!(tokens.status, 200);
    let ids = tokens.json()["tokens"].to_string();
    let text = post(world.address, "/detokenize", &format!(r#"{{"tokens":{ids}}}"#)).await;
    assert_eq!(text.json()["prompt"].as_str().map(str::len), Some(500_000), "{}", text.status);
    until_free(&world).await;
    world.close().await;
}

/// An answer that is not read ends with an error once the budget is taken, and what it held is free
/// before it is read.
#[actix_rt::test]
async fn an_answer_that_waits_to_be_read_is_paid_for() {
    let world = World::open(Plan { endless: true, memory_budget_bytes: 2 << 20, ..Plan::default() }).await;
    let body = r#"{"prompt":"go on","n":4,"max_tokens":2000,"logprobs":20,"stream":true}"#;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(world.address).await.unwrap();
    socket.write_all(&request("POST", "/v1/completions", "", body)).await.unwrap();
    world.until(|snapshot| snapshot.scheduler.decode_count > 0).await;
    world.until(|snapshot| snapshot.scheduler.blocks().in_use_count() == 0).await;
    let reply = read(&mut socket).await;
    assert!(reply.events().iter().any(|event| event.contains("\"memory_full\"")), "{}", &reply.body[reply.body.len() - 500..]);
    until_free(&world).await;

    let whole = post(world.address, "/v1/completions", &body.replace("\"stream\":true", "\"stream\":false")).await;
    assert_eq!((whole.status, &whole.error()["code"]), (503, &"memory_full".into()));
    until_free(&world).await;
    let small = post(world.address, "/v1/completions", r#"{"prompt":"go on","max_tokens":20,"logprobs":20}"#).await;
    assert_eq!(small.status, 200, "{}", small.body);
    until_free(&world).await;
    world.close().await;
}

/// What a response repeats of its request waits in two events, besides where it is kept, while its
/// client reads none; a response that is kept is written down twice more.
#[actix_rt::test]
async fn what_a_response_repeats_is_paid_for_as_often_as_it_waits() {
    const LONG: usize = 600_000;
    let world = World::open(Plan { endless: true, ..Plan::default() }).await;
    for (store, copies) in [(false, 3), (true, 5)] {
        // No model is told of what it may not call.
        let tools = json!([{"type": "function", "name": "f", "description": "x".repeat(LONG)}]);
        let body = json!({"input": "hi", "tools": tools, "tool_choice": "none", "stream": true, "store": store}).to_string();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(world.address).await.unwrap();
        socket.write_all(&request("POST", "/v1/responses", "", &body)).await.unwrap();
        world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
        // The body's own share is given back once its prompt is built.
        let kept = (copies * LONG) as u64..((copies + 2) * LONG) as u64;
        while !kept.contains(&reserved(&world)) {
            assert!(reserved(&world) >= kept.start, "{} of {kept:?}", reserved(&world));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(socket);
        until_free(&world).await;
    }
    world.close().await;
}

/// A whole answer counts until its client has it.
#[actix_rt::test]
async fn a_whole_answer_is_paid_for_until_it_is_sent() {
    let world = World::open(Plan { endless: true, ..Plan::default() }).await;
    let body = r#"{"prompt":"go on","n":24,"max_tokens":1500,"logprobs":20}"#;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(world.address).await.unwrap();
    socket.write_all(&request("POST", "/v1/completions", "", body)).await.unwrap();
    let mut begin = [0; 400];
    socket.read_exact(&mut begin).await.unwrap();
    let head = String::from_utf8_lossy(&begin);
    let length = head.to_ascii_lowercase().split("content-length: ").nth(1).and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    });
    let length = length.unwrap_or_else(|| panic!("no length: {head}"));
    assert!(length > 5_000_000, "{length}");
    world.assert_empty().await;
    assert_eq!(reserved(&world), length);
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"}"), "cut short");
    until_free(&world).await;
    world.close().await;
}

/// Right: a large body is refused as a small one is, wherever it is read.
#[actix_rt::test]
async fn a_large_body_is_read_as_a_small_one() {
    let world = World::open(Plan::default()).await;
    for letters in [8, 200_000] {
        let twice = format!(r#"{{"prompt":"{}","prompt":1}}"#, "x".repeat(letters));
        let raw = request("POST", "/v1/completions", "Content-Type: application/json\r\n", &twice);
        let reply = exchange(world.address, &raw).await;
        let error = reply.error();
        assert_eq!((reply.status, &error["param"]), (400, &"prompt".into()), "{error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains("twice")), "{error}");
    }
    world.close().await;
}
