//! Many prompts in one request: they take turns with other requests', and succeed or fail together.

use std::time::Duration;

use antiphon::batch::TokenId;
use antiphon::engine::fake::EngineFault;
use serde_json::{Value, json};

use super::client::{get, post, request};
use super::world::{Plan, World, tokens};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const PATH: &str = "/v1/completions";
const SICK: TokenId = TokenId(2_000);

fn plan() -> Plan {
    Plan { endless: true, running_max_count: 16, step_time: Duration::from_millis(1), ..Plan::default() }
}

fn sixty(max_tokens: u32, stream: bool) -> String {
    let prompts: Vec<String> = (0..60).map(|i| format!("Number {i}")).collect();
    json!({"prompt": prompts, "max_tokens": max_tokens, "stream": stream, "return_token_ids": true}).to_string()
}

fn single(max_tokens: u32) -> String {
    json!({"prompt": "One", "max_tokens": max_tokens}).to_string()
}

/// Four requests that come after one with sixty prompts are through before half of its prompts have
/// begun: a place is free for each of them at once, which would otherwise be free when all sixty
/// have begun.
#[actix_rt::test]
async fn requests_after_sixty_prompts_do_not_wait_for_them() {
    let world = World::open(plan()).await;
    let address = world.address;
    let many = actix_rt::spawn(async move { post(address, PATH, &sixty(100, false)).await });
    world.until(|snapshot| snapshot.scheduler.decode_count > 0).await;
    assert_eq!(world.service.snapshot().requests_active, 1, "one request, however many prompts");
    let single = |_| post(address, PATH, r#"{"prompt":"One","max_tokens":10}"#);
    let singles = futures_util::future::join_all((0..4).map(single)).await;
    let waiting_count = world.service.snapshot().scheduler.waiting_count;
    assert!(singles.iter().all(|reply| reply.status == 200));
    assert!(waiting_count > 30, "only {waiting_count} of sixty prompts still wait");

    let whole = many.await.unwrap().json();
    let choices = whole["choices"].as_array().unwrap();
    assert!(choices.iter().zip(0..).all(|(choice, index)| choice["index"] == index), "in their order");
    let lens: Vec<usize> = (0..60).map(|i| tokens(&format!("Number {i}")).len()).collect();
    for (choice, i) in choices.iter().zip(0..60) {
        assert_eq!(choice["prompt_token_ids"], json!(tokens(&format!("Number {i}"))));
        assert_eq!(choice["token_ids"].as_array().map(Vec::len), Some(100));
    }
    assert_eq!(whole["usage"]["prompt_tokens"], lens.iter().sum::<usize>());
    assert_eq!(whole["usage"]["completion_tokens"], 6_000);
    world.assert_empty().await;
    world.close().await;
}

/// A stream tells the same, with every choice from its beginning to its end.
#[actix_rt::test]
async fn sixty_prompts_are_streamed_as_they_are_told_whole() {
    let world = World::open(plan()).await;
    let whole = post(world.address, PATH, &sixty(12, false)).await.json();
    let chunks = post(world.address, PATH, &sixty(12, true)).await.chunks();
    let told = |index: usize| -> String {
        let of = |chunk: &&Value| chunk["choices"][0]["index"] == json!(index);
        chunks.iter().filter(of).filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect()
    };
    for index in 0..60 {
        assert_eq!(whole["choices"][index]["text"], told(index));
    }
    world.close().await;
}

/// One prompt of sixty at which the model breaks is the end of all of them, and of no other
/// request.
#[actix_rt::test]
async fn one_prompt_that_fails_ends_the_request() {
    let world = World::open(Plan { faults: vec![EngineFault::NotFiniteOnToken(SICK)], ..plan() }).await;
    let address = world.address;
    let mut prompts = vec![vec![1]; 60];
    prompts[40] = vec![SICK.0];
    let witness = actix_rt::spawn(async move { post(address, PATH, r#"{"prompt":"One","max_tokens":300}"#).await });
    for stream in [false, true] {
        let body = json!({"prompt": prompts, "max_tokens": 10, "stream": stream}).to_string();
        let reply = post(address, PATH, &body).await;
        if stream {
            let errors: Vec<Value> = reply.chunks().iter().filter_map(|chunk| chunk.pointer("/error/code").cloned()).collect();
            assert_eq!((reply.status, errors), (200, vec![json!("model_numeric_error")]));
        } else {
            assert_eq!((reply.status, &reply.error()["code"]), (500, &json!("model_numeric_error")));
        }
        // Nothing of it is left, although the client was told of one alone.
        world.until(|snapshot| snapshot.scheduler.waiting_count == 0 && snapshot.scheduler.decode_count <= 1).await;
    }
    let witness = witness.await.unwrap().json();
    assert_eq!(witness["usage"]["completion_tokens"], 300);
    world.assert_empty().await;
    world.close().await;
}

/// What was refused, or whose client left, leaves no prompt behind, begun or not.
#[actix_rt::test]
async fn a_request_is_refused_and_left_as_a_whole() {
    let world = World::open(Plan { waiting_max_count: 59, ..plan() }).await;
    for (body, param) in [(sixty(10, false), "prompt"), (json!({"prompt": "One", "n": 60}).to_string(), "n")] {
        let reply = post(world.address, PATH, &body).await;
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(param)), "never, however long it waits");
        let message = reply.error()["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("60 sequences, and at most 59 may wait"), "{message}");
    }
    assert_eq!(world.service.snapshot().scheduler.waiting_count, 0);
    world.close().await;

    let world = World::open(Plan { waiting_max_count: 60, running_max_count: 1, ..plan() }).await;
    let address = world.address;
    let others: Vec<_> = (0..2).map(|_| actix_rt::spawn(async move { post(address, PATH, &single(1_500)).await })).collect();
    world.until(|snapshot| snapshot.scheduler.waiting_count == 1).await;
    // The first goes to the scheduler, which says when to come back; the second does not cost any
    // text work.
    for told in ["1 requests of", "1 requests wait already"] {
        let reply = post(address, PATH, &sixty(10, false)).await;
        assert_eq!((reply.status, &reply.error()["code"]), (429, &json!("queue_full")));
        let message = reply.error()["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.starts_with(told), "{message}");
    }
    others.into_iter().for_each(|other| other.abort());
    world.close().await;

    let world = World::open(plan()).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let asked = request("POST", PATH, "Content-Type: application/json\r\n", &sixty(1_500, false));
    socket.write_all(&asked).await.unwrap();
    world.until(|snapshot| snapshot.scheduler.decode_count == 8).await;
    assert_eq!(world.service.snapshot().scheduler.waiting_count, 52);
    drop(socket);
    world.assert_empty().await;
    world.close().await;
}

/// Behind one that runs, on each route that generates: what asks for more is served first, and what
/// asks for less last, whenever it came.
#[actix_rt::test]
async fn a_lower_priority_number_is_served_earlier_on_every_route() {
    let world = World::open(Plan { running_max_count: 1, ..plan() }).await;
    let address = world.address;
    let runs = actix_rt::spawn(async move { post(address, PATH, &single(400)).await });
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    let mut others = Vec::new();
    for (count, (path, body)) in [
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "priority": 3})),
        (PATH, json!({"prompt": "la", "max_tokens": 2})),
        ("/generate", json!({"prompt": "Hello there", "max_tokens": 2, "stream": false, "priority": -100})),
        (PATH, json!({"prompt": "la la la la", "max_tokens": 2, "priority": -1})),
    ]
    .into_iter()
    .enumerate()
    {
        others.push(actix_rt::spawn(async move { post(address, path, &body.to_string()).await.status }));
        world.until(|snapshot| snapshot.scheduler.waiting_count == count + 1).await;
    }
    let live = get(address, "/console/live").await.json();
    let arrived: Vec<&Value> = live["live"].as_array().expect("requests")[1..].iter().map(|one| &one["request_id"]).collect();
    let queue: Vec<&Value> = live["queue"].as_array().expect("sequences").iter().map(|one| &one["request_id"]).collect();
    assert_eq!(queue, [2, 3, 1, 0].map(|at| arrived[at]), "{live}");
    runs.abort();
    for other in others {
        assert_eq!(other.await.expect("it is answered"), 200);
    }
    world.assert_empty().await;
    world.close().await;
}
