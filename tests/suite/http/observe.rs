//! The routes that watch the server: what they say agrees with what happened, and shows nothing
//! that a user wrote.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::client::{exchange, get, post, post_with, request};
use super::world::{Plan, World};

const SECRET: &str = "xylophone-of-the-user";

fn chat(stream: bool) -> String {
    json!({"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": SECRET}]}).to_string()
}

/// The sum of a family's samples.
pub(super) fn total(exposition: &str, name: &str) -> f64 {
    let sample = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    exposition.lines().filter_map(sample).sum()
}

/// A client that asks for a stream and is there until the world has taken it.
async fn linger(world: &World, path: &str, body: &str) -> TcpStream {
    let before = world.service.snapshot().requests_active;
    let mut stream = TcpStream::connect(world.address).await.expect("the server listens");
    let headers = "Content-Type: application/json\r\nX-Session-ID: somebody's session\r\n";
    stream.write_all(&request("POST", path, headers, body)).await.expect("the server reads");
    world.until(|snapshot| snapshot.requests_active > before && snapshot.scheduler.decode_count > 0).await;
    stream
}

#[actix_rt::test]
async fn the_numbers_agree_with_what_happened() {
    let world = World::open(Plan::default()).await;
    for stream in [true, false, true] {
        assert_eq!(post(world.address, "/v1/chat/completions", &chat(stream)).await.status, 200);
    }
    assert_eq!(post(world.address, "/v1/chat/completions", r#"{"messages": 3}"#).await.status, 400);
    world.assert_empty().await;

    let stats = get(world.address, "/stats").await.json();
    let counts = ["requests_total", "requests_success", "requests_failed", "requests_cancelled", "active_requests"];
    assert_eq!(counts.map(|key| stats[key].as_u64()), [Some(3), Some(3), Some(0), Some(0), Some(0)], "{stats}");
    assert_eq!((&stats["stream_active"], &stats["stream_cancelled_total"]), (&json!(0), &json!(0)), "{stats}");
    assert_eq!(stats["requests_rejected"], 1, "{stats}");
    assert!(stats["p50_ttft_ms"].as_f64() > Some(0.0) && stats["p99_e2e_ms"].as_f64() >= stats["p50_ttft_ms"].as_f64());
    let kv = &stats["kv"];
    let sum: u64 = ["free", "cached", "in_use"].iter().filter_map(|key| kv[key].as_u64()).sum();
    assert_eq!((kv["total"].as_u64(), kv["in_use"].as_u64()), (Some(sum), Some(0)), "{kv}");

    let reply = get(world.address, "/metrics").await;
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = reply.body;
    for (name, count) in [
        ("requests_total", 3.0),
        ("requests_active", 0.0),
        ("model_requests_total", 3.0),
        ("antiphon_requests_received_total", 4.0),
        ("antiphon_requests_rejected_total", 1.0),
        ("ttft_ms_count", 3.0),
        ("vllm:e2e_request_latency_seconds_count", 3.0),
        ("vllm:request_success_total", 3.0),
        ("stream_cancelled_total", 0.0),
        ("vllm:num_requests_running", 0.0),
        ("vllm:num_requests_waiting", 0.0),
        ("kv_bytes_in_use", 0.0),
    ] {
        assert_eq!(total(&text, name), count, "{name} in\n{text}");
    }
    assert_eq!(total(&text, "vllm:generation_tokens_total"), total(&text, "llm_decode_tokens_total"));
    assert!(total(&text, "vllm:prompt_tokens_total") > 0.0);
    world.close().await;
}

#[actix_rt::test]
async fn a_stream_that_its_client_leaves_is_cancelled_and_counted_once() {
    let plan = Plan { endless: true, step_time: Duration::from_millis(2), ..Plan::default() };
    let world = World::open(plan).await;
    let stream = linger(&world, "/v1/chat/completions", &chat(true)).await;
    let stats = get(world.address, "/stats").await.json();
    assert_eq!(
        (&stats["active_requests"], &stats["stream_active"], &stats["sessions_active"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let text = get(world.address, "/metrics").await.body;
    assert_eq!(["requests_active", "stream_active", "sessions_active"].map(|name| total(&text, name)), [1.0; 3]);
    assert!(total(&text, "kv_bytes_in_use") > 0.0);

    drop(stream);
    world.assert_empty().await;
    let left = |stats: &Value| stats["stream_cancelled_total"] == 1 && stats["requests_cancelled"] == 1;
    loop {
        let stats = get(world.address, "/stats").await.json();
        assert!(stats["requests_success"] == 0 && stats["requests_total"] == 1, "{stats}");
        if left(&stats) && stats["stream_active"] == 0 && stats["active_requests"] == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    world.close().await;
}

#[actix_rt::test]
async fn nothing_that_a_user_wrote_is_shown() {
    let plan = Plan { endless: true, step_time: Duration::from_millis(2), ..Plan::default() };
    let world = World::open(plan).await;
    let stream = linger(&world, "/generate", &json!({"prompt": SECRET, "stream": true}).to_string()).await;
    let headers = format!("X-Session-ID: {SECRET}\r\n");
    let wrong = json!({"model": "tiny", "messages": SECRET}).to_string();
    assert_eq!(post_with(world.address, "/v1/chat/completions", &headers, &wrong).await.status, 400);

    for path in ["/health", "/stats", "/metrics", "/memory_stats", "/admin/debug/bundle"] {
        let reply = get(world.address, path).await;
        assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")), "{path}");
        assert!(!reply.body.contains("xylophone") && !reply.body.contains("somebody"), "{path}: {}", reply.body);
    }
    let bundle = get(world.address, "/admin/debug/bundle").await.json();
    for key in ["version", "build", "settings", "health", "stats", "memory", "server", "requests", "warnings"] {
        assert!(bundle.get(key).is_some(), "{key} is missing in {bundle}");
    }
    assert_eq!((&bundle["requests"][0]["phase"], &bundle["server"]["engine"]), (&json!("decode"), &json!("ready")));
    let memory = get(world.address, "/memory_stats").await.json();
    assert!(memory["rss_bytes"].as_u64() > Some(0) && memory["kv_in_use_bytes"].as_u64() <= memory["kv_pool_bytes"].as_u64());
    drop(stream);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_draining_server_is_alive_but_not_ready() {
    let world = World::open(Plan::default()).await;
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(get(world.address, path).await.status, 200, "{path}");
        let head = exchange(world.address, &request("HEAD", path, "", "")).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let post = exchange(world.address, &request("POST", path, "", "")).await;
        assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
    world.service.begin_drain();
    assert_eq!(get(world.address, "/health/live").await.json()["status"], "live");
    for path in ["/health", "/health/ready"] {
        let reply = get(world.address, path).await;
        assert_eq!((reply.status, reply.header("retry-after").is_some()), (503, true), "{path}");
        assert!(reply.body.contains("draining"), "{path}: {}", reply.body);
    }
    world.close().await;
}

#[actix_rt::test]
async fn gateways_find_their_names() {
    let world = World::open(Plan::default()).await;
    for (path, key) in [
        ("/server_info", "served_model_name"),
        ("/get_server_info", "served_model_name"),
        ("/model_info", "model_path"),
        ("/get_model_info", "model_path"),
    ] {
        let reply = get(world.address, path).await;
        assert_eq!((reply.status, reply.json()[key].as_str().map(str::to_owned)), (200, Some("tiny".to_owned())), "{path}");
    }
    let loads = get(world.address, "/v1/loads?include=core").await.json();
    assert_eq!(loads["loads"][0]["num_running_reqs"], 0, "{loads}");
    assert!(loads["loads"][0]["max_total_num_tokens"].as_u64() > Some(0), "{loads}");
    assert_eq!(get(world.address, "/get_load").await.json()[0]["num_reqs"], 0);
    assert!(get(world.address, "/metrics").await.body.contains("vllm:cache_config_info{"));

    let before = world.service.snapshot().scheduler.decode_tokens_total;
    let reply = get(world.address, "/health_generate").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"status": "generates"})));
    world.assert_empty().await;
    assert_eq!(world.service.snapshot().scheduler.decode_tokens_total, before + 1, "a token was really generated");
    world.close().await;
}

#[actix_rt::test]
async fn a_full_queue_that_advances_is_healthy_and_a_draining_server_is_not() {
    let plan = Plan {
        endless: true,
        step_time: Duration::from_millis(2),
        running_max_count: 1,
        waiting_max_count: 1,
        ..Plan::default()
    };
    let world = World::open(plan).await;
    let running = linger(&world, "/v1/chat/completions", &chat(true)).await;
    let mut waiting = TcpStream::connect(world.address).await.expect("the server listens");
    waiting
        .write_all(&request("POST", "/v1/chat/completions", "Content-Type: application/json\r\n", &chat(true)))
        .await
        .expect("the server reads");
    world.until(|snapshot| snapshot.scheduler.waiting_count == 1).await;
    assert_eq!(post(world.address, "/v1/chat/completions", &chat(false)).await.status, 429, "the queue is full");
    assert_eq!(get(world.address, "/health_generate").await.status, 200);
    drop((running, waiting));
    world.assert_empty().await;

    world.service.announce_drain();
    let ready = get(world.address, "/health/ready").await;
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &json!("draining")));
    assert_eq!(get(world.address, "/health_generate").await.status, 200, "announced, requests are still taken");
    world.service.begin_drain();
    let reply = get(world.address, "/health_generate").await;
    assert_eq!((reply.status, &reply.json()["status"]), (503, &json!("does_not_generate")));
    let reason = reply.json()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("shutting down") && !reason.contains('{'), "in words: {reason}");
    world.close().await;
}
