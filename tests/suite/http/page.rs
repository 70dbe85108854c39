//! The page's files, and what its console is told.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::client::{exchange, get, post, request};
use super::world::{Plan, World};

const SECRET: &str = "xylophone-of-the-user";

#[actix_rt::test]
async fn the_page_comes_with_a_strict_policy_and_is_not_sent_twice() {
    let world = World::open(Plan::default()).await;
    let page = get(world.address, "/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    for rule in
        ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"]
    {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let script = get(world.address, "/page/app.js").await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    let tag = script.header("etag").expect("a tag");
    for (tag, status) in [(tag, 304), ("\"other\"", 200), (&format!("\"other\", W/{tag}"), 304)] {
        let known = format!("If-None-Match: {tag}\r\n");
        assert_eq!(exchange(world.address, &request("GET", "/page/app.js", &known, "")).await.status, status, "{tag}");
    }
    assert_eq!(exchange(world.address, &request("HEAD", "/", "", "")).await.body, "");
    assert_eq!(exchange(world.address, &request("POST", "/", "", "")).await.status, 405);
    assert_eq!(get(world.address, "/page/nothing.js").await.status, 404);
    let settings = get(world.address, "/page/settings.json").await.json();
    assert_eq!((&settings["model"], &settings["key_needed"]), (&json!("tiny"), &json!(false)));
    world.close().await;
}

#[actix_rt::test]
async fn the_console_sees_who_runs_and_what_became_of_whom() {
    let step_time = Duration::from_millis(5);
    let world = World::open(Plan { endless: true, step_time, ..Plan::default() }).await;
    // Begins to watch, so that latencies are counted.
    assert_eq!(get(world.address, "/console/live").await.json()["batch"], json!([]));
    let body = json!({"stream": true, "prompt": SECRET, "max_tokens": 2_000}).to_string();
    let mut stream = TcpStream::connect(world.address).await.expect("the server listens");
    let headers = "Content-Type: application/json\r\nX-Session-ID: somebody's session\r\n";
    stream.write_all(&request("POST", "/v1/completions", headers, &body)).await.expect("the server reads");
    let live = seen(&world, |live| live["live"][0]["first_text_ms"].is_f64()).await;
    let sequence = &live["batch"][0];
    assert_eq!((&sequence["phase"], &sequence["request_id"]), (&json!("decode"), &live["live"][0]["request_id"]));
    for group in ["full", "sliding"] {
        let kv = &live["kv"][group];
        let count = |key: &str| kv[key].as_u64().expect("a count");
        assert_eq!(count("total"), count("free") + count("cached") + count("in_use"), "{group}");
        let held = kv["holders"].as_array().expect("holders").iter().filter(|holder| **holder == json!(0)).count();
        assert!(held > 0 && count("in_use") > 0, "{group}: the sequence holds blocks");
        assert!(kv["cells"].as_array().expect("cells").len() <= 1_024);
    }
    drop(stream);
    world.assert_empty().await;
    let live = seen(&world, |live| live["ended"][0]["outcome"] == "cancelled").await;
    let ended = &live["ended"][0];
    let times = ["queued_ms", "prefill_ms", "first_token_ms", "first_text_ms", "age_ms"].map(|key| ended[key].as_f64());
    assert!(times.iter().all(Option::is_some) && times.is_sorted(), "{ended}");
    for name in ["ttft", "itl"] {
        let counted: u64 = live["latency"][name].as_array().expect("rungs").iter().filter_map(|rung| rung[1].as_u64()).sum();
        assert!(counted > 0, "{name} was watched");
    }
    for secret in [SECRET, "somebody's session"] {
        assert!(!live.to_string().contains(secret), "{secret} is shown");
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_refused_request_and_a_finished_one_are_told_apart() {
    let world = World::open(Plan::default()).await;
    let long = json!({"prompt": "la ".repeat(5_000), "max_tokens": 10}).to_string();
    assert_eq!(post(world.address, "/v1/completions", &long).await.status, 400);
    assert_eq!(post(world.address, "/v1/completions", r#"{"prompt": "a"}"#).await.status, 200);
    let live = seen(&world, |live| live["ended"].as_array().is_some_and(|ended| ended.len() == 2)).await;
    assert_eq!((&live["ended"][0]["outcome"], &live["ended"][1]["outcome"]), (&json!("stop"), &json!("refused")));
    world.close().await;
}

#[actix_rt::test]
async fn consoles_share_an_answer() {
    let world = World::open(Plan::default()).await;
    let answers = futures_util::future::join_all((0..20).map(|_| get(world.address, "/console/live"))).await;
    let mut moments: Vec<String> = answers.iter().map(|answer| answer.json()["at_ms"].to_string()).collect();
    moments.dedup();
    assert!(moments.len() < 20, "twenty at once are not twenty looks: {moments:?}");
    world.close().await;
}

/// The first answer that is as `wanted`; ends the test if there is never one.
async fn seen(world: &World, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let live = get(world.address, "/console/live").await.json();
        if wanted(&live) {
            return live;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
