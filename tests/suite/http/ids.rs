//! What clients call their requests, and the traces that these are part of.

use std::time::Duration;

use antiphon::http::{ApiKey, KeyRing, Keys};
use serde_json::json;

use super::client::{exchange, post_with, request};
use super::world::{Plan, World, harmony};

const CHAT: &str = "/v1/chat/completions";
const SAID: &str = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[actix_rt::test]
async fn a_client_finds_its_own_id_in_the_answer() {
    let world = World::open(Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() }).await;
    for (path, body) in [
        (CHAT, SAID),
        ("/v1/completions", r#"{"prompt":"a","max_tokens":2}"#),
        ("/v1/responses", r#"{"input":"Hi"}"#),
        ("/v1/messages", r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":50}"#),
    ] {
        let named = post_with(world.address, path, "X-Request-Id: order-66/1\r\n", body).await;
        assert_eq!((named.status, named.header("x-request-id")), (200, Some("order-66/1")), "{path}");
        let answer = named.json();
        let metadata = [&answer["antiphon"], &answer["metadata"]].into_iter().find(|told| told["request_id"].is_string());
        let metadata = metadata.unwrap_or_else(|| panic!("{path} {answer}"));
        assert_eq!((&metadata["client_request_id"], &metadata["request_id"]), (&json!("order-66/1"), &answer["id"]), "{path}");
        // Without one, and with one that no log should hold, the answer has the server's.
        for header in ["", "X-Request-Id: a b\r\n", &format!("X-Request-Id: {}\r\n", "a".repeat(129))] {
            let unnamed = post_with(world.address, path, header, body).await;
            assert_eq!(unnamed.header("x-request-id").map(json_of), Some(unnamed.json()["id"].clone()), "{path} {header}");
        }
    }
    let refused = post_with(world.address, CHAT, "X-Request-Id: order-66/2\r\n", "{}").await;
    assert_eq!((refused.status, refused.header("x-request-id")), (400, Some("order-66/2")));
    world.close().await;
}

fn json_of(text: &str) -> serde_json::Value {
    json!(text)
}

#[actix_rt::test]
async fn a_request_is_cancelled_by_what_its_client_calls_it() {
    let mut plan = Plan { endless: true, step_time: Duration::from_millis(5), ..Plan::default() };
    let keys = ["one", "two"].map(|key| ApiKey::new(key).unwrap()).to_vec();
    plan.http.keys = KeyRing::new(Keys { users: keys, admins: Vec::new() });
    let world = World::open(plan).await;
    let address = world.address;
    let key = |key: &str| format!("Authorization: Bearer {key}\r\n");
    for (path, body) in [
        (CHAT, r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true}"#),
        (CHAT, SAID),
        ("/v1/completions", r#"{"prompt":"a","max_tokens":2000}"#),
        ("/v1/responses", r#"{"input":"Hi"}"#),
        ("/generate", r#"{"prompt":"Hi"}"#),
    ] {
        let headers = format!("{}X-Request-Id: mine\r\n", key("one"));
        let running = actix_rt::spawn(async move { post_with(address, path, &headers, body).await });
        world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
        let cancel =
            async |key: String| exchange(address, &request("POST", "/cancel/mine", &key, "")).await.json()["status"].clone();
        assert_eq!(cancel(key("two")).await, "not_found", "{path}: it is another's");
        assert_eq!(cancel(key("one")).await, "cancelled", "{path}");
        assert_eq!(running.await.unwrap().status, 200, "{path}");
        world.until(|snapshot| snapshot.requests_active == 0).await;
        assert_eq!(cancel(key("one")).await, "not_found", "{path}: it is over");
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_trace_is_handed_on_with_a_span_of_its_own() {
    let world = World::open(Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() }).await;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let spans = [0, 1].map(|_| format!("traceparent: {parent}\r\n"));
    let mut seen = Vec::new();
    for header in spans {
        let answer = post_with(world.address, CHAT, &header, SAID).await;
        let told = answer.header("traceparent").expect("a trace").to_owned();
        assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-01") && told != parent, "{told}");
        seen.push(told);
    }
    assert_ne!(seen[0], seen[1], "each request is a span");
    for header in ["", "traceparent: none\r\n", &format!("traceparent: {parent}\r\ntraceparent: {parent}\r\n")] {
        let answer = post_with(world.address, CHAT, header, SAID).await;
        assert_eq!((answer.status, answer.header("traceparent")), (200, None), "{header}");
    }
    world.close().await;
}
