//! Files and batches: lines answered as their routes would, faults told by their line, and a batch that goes on after a restart.

use std::path::Path;
use std::time::Duration;

use antiphon::http::{ApiKey, KeyRing, Keys};
use antiphon::store::{ResponseStore, StoreLimits};
use serde_json::{Value, json};

use super::client::{Reply, exchange, get, post, post_with, request};
use super::world::{Plan, World, harmony};

const CHAT: &str = "/v1/chat/completions";

fn line(id: &str, url: &str, body: &Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string() + "\n"
}

fn said(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

async fn upload_with(world: &World, headers: &str, parts: &[(&str, &str)]) -> Reply {
    let part = |(name, content): &(&str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"in.jsonl\"\r\n\r\n{content}\r\n")
    };
    let body = parts.iter().map(part).collect::<String>() + "--b--\r\n";
    let headers = format!("Content-Type: multipart/form-data; boundary=b\r\n{headers}");
    exchange(world.address, &request("POST", "/v1/files", &headers, &body)).await
}

/// The id of a file with this content.
async fn upload(world: &World, content: &str) -> Value {
    let reply = upload_with(world, "", &[("purpose", "batch"), ("file", content)]).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["id"].clone()
}

async fn begin(world: &World, endpoint: &str, content: &str) -> Value {
    let body = json!({"input_file_id": upload(world, content).await, "endpoint": endpoint, "completion_window": "24h"});
    let reply = post(world.address, "/v1/batches", &body.to_string()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn path_of(batch: &Value) -> String {
    format!("/v1/batches/{}", batch["id"].as_str().expect("an id"))
}

/// The batch, once it is as `wanted`.
async fn until(world: &World, batch: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let batch = get(world.address, &path_of(batch)).await.json();
        if wanted(&batch) {
            return batch;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn has_ended(batch: &Value) -> bool {
    !["in_progress", "finalizing", "cancelling"].contains(&batch["status"].as_str().expect("a status"))
}

/// The lines of a file of the batch.
async fn lines(world: &World, file: &Value) -> Vec<Value> {
    let Some(id) = file.as_str() else { return Vec::new() };
    let content = get(world.address, &format!("/v1/files/{id}/content")).await;
    assert_eq!(content.status, 200, "{content:?}");
    content.body.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[actix_rt::test]
async fn each_line_is_answered_as_its_route_would() {
    let world = World::open(Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() }).await;
    let bad = json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 9});
    let content = [
        line("one", CHAT, &said("One?")),
        line("two", CHAT, &bad),
        "\n".to_owned(),
        line("three", CHAT, &json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true})),
        line("four", CHAT, &said("Four?")),
    ];
    let begun = begin(&world, CHAT, &content.concat()).await;
    assert_eq!(
        (&begun["object"], &begun["errors"], &begun["request_counts"]["total"]),
        (&json!("batch"), &Value::Null, &json!(4))
    );
    let ended = until(&world, &begun, has_ended).await;
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["request_counts"], json!({"total": 4, "completed": 2, "failed": 2}));
    let answers = lines(&world, &ended["output_file_id"]).await;
    assert_eq!(answers.iter().map(|line| &line["custom_id"]).collect::<Vec<_>>(), [&json!("one"), &json!("four")]);
    let alone = post(world.address, CHAT, &said("One?").to_string()).await.json();
    for answer in &answers {
        let response = &answer["response"];
        assert_eq!((&answer["error"], &response["status_code"]), (&Value::Null, &json!(200)));
        assert_eq!(response["body"]["choices"], alone["choices"], "as the route says it alone");
        assert!(response["body"]["id"].as_str().unwrap().ends_with(response["request_id"].as_str().unwrap()));
    }
    let errors = lines(&world, &ended["error_file_id"]).await;
    let told: Vec<(&Value, &Value, &Value)> = errors
        .iter()
        .map(|line| (&line["custom_id"], &line["response"]["status_code"], &line["response"]["body"]["error"]["param"]))
        .collect();
    assert_eq!(told, [(&json!("two"), &json!(400), &json!("temperature")), (&json!("three"), &json!(400), &json!("stream"))]);
    let file = get(world.address, &format!("/v1/files/{}", ended["output_file_id"].as_str().unwrap())).await.json();
    assert_eq!((&file["purpose"], &file["object"]), (&json!("batch_output"), &json!("file")));
    assert_eq!(get(world.address, "/v1/batches").await.json()["data"][0]["id"], ended["id"]);
    assert_eq!(get(world.address, "/v1/files?purpose=batch").await.json()["data"][0]["id"], ended["input_file_id"]);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn texts_and_responses_are_batched_too() {
    let world = World::open(Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() }).await;
    for (endpoint, body, object) in [
        ("/v1/completions", json!({"prompt": "a", "max_tokens": 2}), "text_completion"),
        ("/v1/responses", json!({"input": "Hi"}), "response"),
    ] {
        let ended = until(&world, &begin(&world, endpoint, &line("a", endpoint, &body)).await, has_ended).await;
        let answers = lines(&world, &ended["output_file_id"]).await;
        assert_eq!(answers[0]["response"]["body"]["object"], object, "{ended}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn what_is_wrong_with_a_file_is_told_by_its_line() {
    let world = World::open(Plan::default()).await;
    for (content, code, at) in [
        (String::new(), "empty_file", Value::Null),
        (line("a", CHAT, &said("x")) + "{no json\n", "invalid_json_line", json!(2)),
        (line("a", CHAT, &said("x")) + &line("a", CHAT, &said("y")), "duplicate_custom_id", json!(2)),
        (line("a", "/v1/embeddings", &said("x")), "invalid_url", json!(1)),
    ] {
        let failed = begin(&world, CHAT, &content).await;
        assert_eq!(failed["status"], "failed");
        let fault = &failed["errors"]["data"][0];
        assert_eq!((&fault["code"], &fault["line"]), (&json!(code), &at));
        assert!(failed["failed_at"].is_u64() && get(world.address, &path_of(&failed)).await.json() == failed);
        let late = post(world.address, &format!("{}/cancel", path_of(&failed)), "").await;
        assert_eq!((late.status, &late.error()["param"]), (400, &json!("batch_id")));
    }
    for (parts, param) in [
        (&[("purpose", "batch")][..], json!("file")),
        (&[("file", "x")], json!("purpose")),
        (&[("file", "x"), ("purpose", "vision")], json!("purpose")),
    ] {
        let refused = upload_with(&world, "", parts).await;
        assert_eq!((refused.status, &refused.error()["param"]), (400, &param));
    }
    assert_eq!(post(world.address, "/v1/files", "{}").await.status, 415);
    let gone = post(world.address, "/v1/batches", &json!({"input_file_id": "file-0", "endpoint": CHAT}).to_string()).await;
    assert_eq!(
        (gone.status, &gone.error()["code"], &gone.error()["param"]),
        (404, &json!("file_not_found"), &json!("input_file_id"))
    );
    for path in ["/v1/files/file-0", "/v1/files/file-0/content", "/v1/batches/batch_0"] {
        assert_eq!(get(world.address, path).await.status, 404, "{path}");
    }
    let file = upload(&world, "x").await;
    let path = format!("/v1/files/{}", file.as_str().unwrap());
    assert_eq!(exchange(world.address, &request("DELETE", &path, "", "")).await.json()["deleted"], true);
    assert_eq!(get(world.address, &path).await.status, 404);
    world.close().await;
}

#[actix_rt::test]
async fn a_server_that_keeps_nothing_runs_no_batch() {
    let mut plan = Plan::default();
    plan.http.responses = ResponseStore::off();
    let world = World::open(plan).await;
    let body = json!({"input_file_id": "file-0", "endpoint": CHAT}).to_string();
    let refused = [
        upload_with(&world, "", &[("purpose", "batch"), ("file", "x")]).await,
        post(world.address, "/v1/batches", &body).await,
        get(world.address, "/v1/files").await,
        get(world.address, "/v1/batches/batch_0").await,
    ];
    for reply in refused {
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(reply.error()["message"].as_str().unwrap().contains("--response-store off"), "{reply:?}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn files_and_batches_are_their_owners() {
    let keys = ["one", "two"].map(|key| ApiKey::new(key).unwrap()).to_vec();
    let mut plan = Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() };
    plan.http.keys = KeyRing::new(Keys { users: keys, admins: Vec::new() });
    let world = World::open(plan).await;
    let header = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let content = line("a", CHAT, &said("x"));
    let parts = [("purpose", "batch"), ("file", content.as_str())];
    let file = upload_with(&world, &header("one"), &parts).await.json()["id"].clone();
    let body = json!({"input_file_id": file, "endpoint": CHAT}).to_string();
    assert_eq!(post_with(world.address, "/v1/batches", &header("two"), &body).await.status, 404);
    let batch = post_with(world.address, "/v1/batches", &header("one"), &body).await.json();
    for (key, status, count) in [("one", 200, 1), ("two", 404, 0)] {
        let asked = request("GET", &path_of(&batch), &header(key), "");
        assert_eq!(exchange(world.address, &asked).await.status, status, "{key}");
        let listed = exchange(world.address, &request("GET", "/v1/batches", &header(key), "")).await.json();
        assert_eq!(listed["data"].as_array().unwrap().len(), count, "{key}");
        let called_off = request("POST", &format!("{}/cancel", path_of(&batch)), &header(key), "");
        assert!([status, 400].contains(&exchange(world.address, &called_off).await.status), "{key}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_batch_is_called_off() {
    let plan = Plan { endless: true, step_time: Duration::from_millis(5), ..Plan::default() };
    let world = World::open(plan).await;
    let content: String = (0..6).map(|index| line(&index.to_string(), CHAT, &said("x"))).collect();
    let batch = begin(&world, CHAT, &content).await;
    world.until(|snapshot| snapshot.scheduler.decode_count > 0).await;
    let told = post(world.address, &format!("{}/cancel", path_of(&batch)), "").await.json();
    assert_eq!(told["status"], "cancelling");
    let ended = until(&world, &batch, has_ended).await;
    assert_eq!((&ended["status"], &ended["request_counts"]["completed"]), (&json!("cancelled"), &json!(0)));
    // What ran was cancelled with it.
    world.assert_empty().await;
    world.close().await;
}

/// Of 4 places a batch takes 2, and one while others wait.
#[actix_rt::test]
async fn what_clients_wait_for_comes_first() {
    let plan = Plan { endless: true, step_time: Duration::from_millis(2), running_max_count: 4, ..Plan::default() };
    let world = World::open(plan).await;
    let short = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 400});
    let content: String = (0..8).map(|index| line(&index.to_string(), CHAT, &short)).collect();
    let batch = begin(&world, CHAT, &content).await;
    world.until(|snapshot| snapshot.scheduler.decode_count == 2).await;
    for _ in 0..5 {
        let asked = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3});
        assert_eq!(post(world.address, CHAT, &asked.to_string()).await.status, 200);
        let counts = world.service.snapshot().scheduler;
        assert!(counts.decode_count + counts.prefill_count <= 2, "a batch leaves half of the places free");
    }
    let ended = until(&world, &batch, has_ended).await;
    assert_eq!(ended["request_counts"], json!({"total": 8, "completed": 8, "failed": 0}));
    world.close().await;
}

fn plan(path: &Path, step_time: Duration) -> Plan {
    let mut plan = Plan { endless: true, step_time, running_max_count: 4, ..Plan::default() };
    plan.http.responses = ResponseStore::open(path, StoreLimits::default(), antiphon::clock::unix_seconds()).expect("a store");
    plan
}

#[actix_rt::test]
async fn a_batch_goes_on_after_a_restart_with_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("responses.redb");
    let world = World::open(plan(&path, Duration::from_millis(5))).await;
    let short = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 8});
    let content: String = (0..200).map(|index| line(&format!("id-{index}"), CHAT, &short)).collect();
    let batch = begin(&world, CHAT, &content).await;
    until(&world, &batch, |batch| batch["request_counts"]["completed"].as_u64().unwrap() >= 3).await;
    // As after a crash: the next server finds what was on the disk.
    let copy = folder.path().join("copy.redb");
    tokio::time::sleep(Duration::from_millis(600)).await;
    std::fs::copy(&path, &copy).unwrap();
    world.close().await;
    let second = World::open(plan(&copy, Duration::ZERO)).await;
    let resumed = get(second.address, &path_of(&batch)).await.json();
    assert!(resumed["request_counts"]["completed"].as_u64().unwrap() >= 3, "{resumed}");
    assert_eq!(resumed["status"], "in_progress", "the first server had not ended it: {resumed}");
    let ended = until(&second, &batch, has_ended).await;
    assert_eq!(ended["request_counts"], json!({"total": 200, "completed": 200, "failed": 0}));
    let answers = lines(&second, &ended["output_file_id"]).await;
    let ids: Vec<String> = answers.iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (0..200).map(|index| format!("id-{index}")).collect::<Vec<_>>(), "each once, in the order of the file");
    second.close().await;
}
