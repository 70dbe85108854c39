//! Bad requests whose fault is not a field: bodies, sizes, headers, prompts that are too long.

use std::time::{Duration, Instant};

use antiphon::metrics::Names;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::client::{Reply, exchange, get, post, post_with, read, request};
use super::world::{CONTEXT_TOKENS_MAX, Plan, World, tokens};

const CHAT: &str = "/v1/chat/completions";

fn blame(reply: &Reply) -> (u16, serde_json::Value, serde_json::Value) {
    let error = reply.error();
    (reply.status, error["param"].clone(), error["code"].clone())
}

#[actix_rt::test]
async fn what_is_no_json_is_refused() {
    let world = World::open(Plan::default()).await;
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    for (body, param) in [
        ("", json!(null)),
        ("{", json!(null)),
        ("[]", json!(null)),
        ("\u{feff}{}", json!(null)),
        ("{\"user\":\"\\ux\"}", json!("user")),
    ] {
        assert_eq!(blame(&post(world.address, CHAT, body).await).0, 400, "{body}");
        assert_eq!(blame(&post(world.address, CHAT, body).await).1, param, "{body}");
    }
    assert_eq!(blame(&post(world.address, CHAT, &deep).await).0, 400);
    let mut raw = request("POST", CHAT, "Content-Type: application/json\r\n", "{\"user\":\"__\"}");
    let at = raw.len() - 4;
    raw[at] = 0xff;
    assert_eq!(blame(&exchange(world.address, &raw).await).0, 400);
    let twice = r#"{"messages":[{"role":"user","role":"system","content":"x"}]}"#;
    assert_eq!(blame(&post(world.address, CHAT, twice).await), (400, json!("messages[0].role"), json!("duplicate_field")));
    world.close().await;
}

#[actix_rt::test]
async fn only_plain_json_is_taken() {
    let world = World::open(Plan::default()).await;
    let body = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":2}"#;
    for (headers, status) in [
        ("", 200),
        ("Content-Type: application/json; charset=utf-8\r\n", 200),
        ("Content-Type: application/vnd.api+json\r\n", 200),
        ("Content-Type: text/plain\r\n", 415),
        ("Content-Type: application/x-www-form-urlencoded\r\n", 415),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", 415),
    ] {
        let reply = exchange(world.address, &request("POST", CHAT, headers, body)).await;
        assert_eq!(reply.status, status, "{headers}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_body_that_is_too_large_is_not_read() {
    let mut plan = Plan::default();
    plan.http.body_max_bytes = 10_000;
    let world = World::open(plan).await;
    let declared = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n");
    let reply = exchange(world.address, declared.as_bytes()).await;
    assert_eq!((blame(&reply).0, reply.header("connection")), (413, Some("close")));

    let exact = format!("{{\"prompt\":\"x\",\"max_tokens\":1}}{}", " ".repeat(10_000 - 29));
    assert_eq!((exact.len(), post(world.address, "/v1/completions", &exact).await.status), (10_000, 200));
    world.close().await;
}

/// A body in chunks that never ends by itself; the server has to close.
#[actix_rt::test]
async fn a_body_without_end_is_cut_off() {
    let mut plan = Plan::default();
    plan.http.body_max_bytes = 10_000;
    let world = World::open(plan).await;
    for (path, status) in [(CHAT, 413), ("/nothing", 404), ("/v1/models", 405)] {
        let (mut reader, mut writer) = TcpStream::connect(world.address).await.unwrap().into_split();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
        let writing = actix_rt::spawn(async move {
            while writer.write_all(chunk.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let reply = read(&mut reader).await;
        assert_eq!((blame(&reply).0, reply.header("connection")), (status, Some("close")), "{path}");
        writing.await.unwrap();
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_body_that_drips_is_given_up() {
    let mut plan = Plan::default();
    plan.http.body_deadline = Duration::from_millis(300);
    let world = World::open(plan).await;
    for body in ["", "{\"prompt\":"] {
        let begun = Instant::now();
        let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{body}");
        let reply = exchange(world.address, head.as_bytes()).await;
        assert_eq!((blame(&reply).0, reply.header("connection")), (408, Some("close")));
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_body_in_single_bytes_is_still_a_body() {
    let world = World::open(Plan::default()).await;
    let text = json!({"prompt": "x".repeat(20_000), "max_tokens": 1}).to_string();
    let mut raw =
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    text.bytes().for_each(|byte| raw.extend([b"1\r\n".as_slice(), &[byte], b"\r\n"].concat()));
    raw.extend(b"0\r\n\r\n");
    assert_eq!(exchange(world.address, &raw).await.status, 200);
    world.close().await;
}

#[actix_rt::test]
async fn a_prompt_beyond_the_context_is_refused_by_name() {
    let world = World::open(Plan::default()).await;
    let id = tokens("x")[0];
    let body = json!({"prompt": vec![id; CONTEXT_TOKENS_MAX - 3], "max_tokens": 4}).to_string();
    let (status, param, code) = blame(&post(world.address, "/v1/completions", &body).await);
    assert_eq!((status, code), (400, json!("context_length_exceeded")), "{param}");
    assert!(param.is_string(), "{param}");
    let body = json!({"prompt": "a ".repeat(CONTEXT_TOKENS_MAX), "max_tokens": 4}).to_string();
    assert_eq!(blame(&post(world.address, "/v1/completions", &body).await).2, json!("context_length_exceeded"));
    // A hundred thousand messages are a long prompt, not a broken server.
    let many = vec![json!({"role": "user", "content": "a"}); 100_000];
    let reply = post(world.address, CHAT, &json!({"messages": many}).to_string()).await;
    assert!([200, 400].contains(&reply.status), "{}", reply.head);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn sessions_have_plain_names() {
    let world = World::open(Plan::default()).await;
    let body = r#"{"prompt":"x","max_tokens":1}"#;
    let long = "s".repeat(129);
    for (session, status) in [("abc-1 2", 200), (&long[1..], 200), (&long[..], 400), ("\u{e9}", 400), ("", 400)] {
        let reply = post_with(world.address, "/v1/completions", &format!("X-Session-ID: {session}\r\n"), body).await;
        assert_eq!(reply.status, status, "{session}");
        if status == 400 {
            assert_eq!(blame(&reply).1, json!("X-Session-ID"));
        }
    }
    assert_eq!(world.service.snapshot().sessions_active, 2);
    world.close().await;
}

#[actix_rt::test]
async fn a_panic_is_one_answer_and_tells_nothing() {
    let world = World::open(Plan::default()).await;
    let reply = get(world.address, "/panic").await;
    let error = reply.error();
    assert_eq!((reply.status, &error["type"], &error["code"]), (500, &json!("server_error"), &json!("internal_error")));
    assert!(error["message"].as_str().unwrap().contains(reply.header("x-request-id").unwrap()), "{error}");
    assert!(!reply.body.contains("secret"), "{error}");
    assert_eq!(get(world.address, "/version").await.status, 200);
    assert!(world.backend.metrics.exposition(Names::All, world.backend.clock.now()).contains("antiphon_request_panics_total{"));
    world.close().await;
}

#[actix_rt::test]
async fn refused_requests_are_counted() {
    let world = World::open(Plan::default()).await;
    for (path, body) in
        [(CHAT, "{}"), ("/v1/completions", "{}"), ("/generate", "[]"), ("/generate/stream", "{}"), ("/v1/messages", "{}")]
    {
        assert_eq!(post(world.address, path, body).await.status, 400);
    }
    let stats = world.backend.metrics.stats(world.backend.clock.now());
    assert_eq!((stats.rejected, stats.requests.total), (5, 0));
    world.close().await;
}
