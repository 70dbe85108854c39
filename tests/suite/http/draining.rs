//! A server that has too much to do, or is about to stop.

use std::time::Duration;

use super::client::{get, post};
use super::world::{Plan, World};

const BODY: &str = r#"{"prompt":"x","max_tokens":60,"stream":true}"#;

async fn slow(step_time_ms: u64) -> World {
    World::open(Plan { endless: true, step_time: Duration::from_millis(step_time_ms), ..Plan::default() }).await
}

#[actix_rt::test]
async fn what_runs_is_finished_and_what_comes_is_refused() {
    let world = slow(3).await;
    let address = world.address;
    let running: Vec<_> = (0..8).map(|_| actix_rt::spawn(post(address, "/v1/completions", BODY))).collect();
    world.until(|snapshot| snapshot.scheduler.decode_count == 8).await;
    world.service.begin_drain();
    let refused = post(address, "/v1/completions", BODY).await;
    assert_eq!((refused.status, &refused.error()["code"]), (503, &"draining".into()));
    assert!(refused.header("retry-after").is_some() && refused.header("connection") == Some("close"), "{refused:?}");
    // What generates nothing is work too.
    for (path, body) in [
        ("/v1/conversations", "{}"),
        ("/v1/messages/count_tokens", r#"{"messages":[{"role":"user","content":"x"}]}"#),
        ("/v1/batches", r#"{"input_file_id":"file-0","endpoint":"/v1/responses"}"#),
        ("/tokenize", r#"{"prompt":"x"}"#),
        ("/apply-template", r#"{"messages":[{"role":"user","content":"x"}]}"#),
    ] {
        let refused = post(address, path, body).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &"draining".into()), "{path}");
    }
    assert_eq!(get(address, "/health/ready").await.status, 503);
    assert_eq!(get(address, "/health/live").await.status, 200);
    assert_eq!(world.service.drained(Duration::from_secs(60)).await.ended_count, 0);
    for stream in running {
        let chunks = stream.await.unwrap().chunks();
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    }
    world.close().await;
}

#[actix_rt::test]
async fn what_takes_too_long_is_ended_with_an_error() {
    let world = slow(50).await;
    let running = actix_rt::spawn(post(world.address, "/v1/completions", r#"{"prompt":"x","max_tokens":2000,"stream":true}"#));
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    world.service.begin_drain();
    assert_eq!(world.service.drained(Duration::from_millis(20)).await.ended_count, 1);
    let chunks = running.await.unwrap().chunks();
    assert_eq!(chunks.last().unwrap()["error"]["code"], "server_shutdown");
    world.close().await;
}

#[actix_rt::test]
async fn an_answer_in_one_piece_that_a_drain_ends_is_unavailable_and_may_be_asked_for_again() {
    let world = slow(50).await;
    let running = actix_rt::spawn(post(world.address, "/v1/completions", r#"{"prompt":"x","max_tokens":2000}"#));
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    world.service.begin_drain();
    assert_eq!(world.service.drained(Duration::from_millis(20)).await.ended_count, 1);
    let ended = running.await.unwrap();
    assert_eq!((ended.status, &ended.error()["code"]), (503, &"server_shutdown".into()));
    assert!(ended.header("retry-after").is_some(), "{ended:?}");
    world.close().await;
}

#[actix_rt::test]
async fn a_full_queue_says_when_to_come_back() {
    let plan = Plan { endless: true, step_time: Duration::from_millis(5), running_max_count: 1, ..Plan::default() };
    let world = World::open(Plan { waiting_max_count: 1, ..plan }).await;
    let address = world.address;
    let body = r#"{"prompt":"x","max_tokens":2000}"#;
    let first = actix_rt::spawn(post(address, "/v1/completions", body));
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    let second = actix_rt::spawn(post(address, "/v1/completions", body));
    world.until(|snapshot| snapshot.scheduler.waiting_count == 1).await;
    let refused = post(address, "/v1/completions", body).await;
    assert_eq!((refused.status, &refused.error()["type"]), (429, &"rate_limit_error".into()));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    first.abort();
    second.abort();
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_stream_that_waits_shows_that_it_is_alive() {
    let mut plan = Plan { endless: true, step_time: Duration::from_millis(5), running_max_count: 1, ..Plan::default() };
    plan.http.stream_keep_alive = Duration::from_millis(20);
    let world = World::open(plan).await;
    let address = world.address;
    let first = actix_rt::spawn(post(address, "/v1/completions", r#"{"prompt":"x","max_tokens":100}"#));
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    let body = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":1,"stream":true}"#;
    let waited = post(address, "/v1/chat/completions", body).await;
    let role = waited.body.find("\"role\"").expect("the role comes at once");
    let comment = waited.body.find("\n\n: keep-alive\n\n").expect("then silence is filled");
    assert!(role < comment && waited.chunks().len() >= 2, "{}", waited.body);
    assert_eq!(first.await.unwrap().status, 200);
    world.close().await;
}
