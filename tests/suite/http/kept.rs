//! Responses that are kept: continued by their id, told again, forgotten, generated with no client
//! waiting; by their owner alone.

use std::time::Duration;

use antiphon::http::{ApiKey, KeyRing, Keys};
use antiphon::store::{ResponseStore, StoreLimits};
use serde_json::{Value, json};

use super::client::{Reply, exchange, get, post, post_with, request};
use super::responses::named;
use super::responses::replay::replayed;
use super::world::{Plan, World, harmony};

const PATH: &str = "/v1/responses";

async fn world() -> World {
    World::open(Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() }).await
}

async fn ask(world: &World, body: Value) -> Value {
    let reply = post(world.address, PATH, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{body} {reply:?}");
    reply.json()
}

async fn delete(world: &World, path: &str) -> Reply {
    exchange(world.address, &request("DELETE", path, "", "")).await
}

fn path_of(response: &Value) -> String {
    format!("{PATH}/{}", response["id"].as_str().expect("an id"))
}

/// Tokens of a chat's prompt.
async fn chat_tokens(world: &World, messages: Value) -> Value {
    let body = json!({"messages": messages}).to_string();
    post(world.address, "/v1/chat/completions", &body).await.json()["usage"]["prompt_tokens"].clone()
}

#[actix_rt::test]
async fn a_conversation_goes_on_by_its_last_id() {
    let world = world().await;
    let first = ask(&world, json!({"input": "One?", "instructions": "Be brief."})).await;
    let second = ask(&world, json!({"input": "Two?", "previous_response_id": first["id"]})).await;
    assert_eq!((&second["previous_response_id"], &second["store"]), (&first["id"], &json!(true)));
    let third =
        ask(&world, json!({"input": [{"role": "user", "content": "Three?"}], "previous_response_id": second["id"]})).await;
    let said = |text: &str| json!({"role": "assistant", "content": "Hello.", "reasoning": text});
    let user = |text: &str| json!({"role": "user", "content": text});
    // Instructions are those of one turn, as OpenAI has them.
    let chat = json!([user("One?"), said("She greets."), user("Two?"), said("She greets."), user("Three?")]);
    assert_eq!(third["usage"]["input_tokens"], chat_tokens(&world, chat).await);
    // From an earlier turn the conversation goes on another way.
    let other = ask(&world, json!({"input": "Three?", "previous_response_id": first["id"]})).await;
    assert_eq!(other["usage"]["input_tokens"], chat_tokens(&world, json!([user("One?"), said("x"), user("Three?")])).await);
    // An item of a response stands for itself by its id.
    let reference = json!({"type": "item_reference", "id": first["output"][1]["id"]});
    let referring = ask(&world, json!({"input": [user("One?"), reference, user("Three?")]})).await;
    assert_eq!(referring["usage"]["input_tokens"], other["usage"]["input_tokens"]);
    // So it does where the conversation goes on behind the request that named it.
    let behind = ask(&world, json!({"input": "Four?", "previous_response_id": referring["id"]})).await;
    assert_eq!(behind["status"], "completed");
    for (body, status, code, param) in [
        (json!({"input": "x", "previous_response_id": "resp_0"}), 404, "previous_response_not_found", "previous_response_id"),
        (json!({"input": "x", "previous_response_id": "other"}), 404, "previous_response_not_found", "previous_response_id"),
        (json!({"input": [{"type": "item_reference", "id": "msg_0"}]}), 400, "invalid_value", "input[0].id"),
        (json!({"input": [{"type": "item_reference", "id": format!("msg_{:036}", 0)}]}), 400, "invalid_value", "input[0].id"),
    ] {
        let error = post(world.address, PATH, &body.to_string()).await;
        assert_eq!((error.status, &error.error()["code"], &error.error()["param"]), (status, &json!(code), &json!(param)));
    }
    // What was forgotten is no part of a conversation any more.
    assert_eq!(delete(&world, &path_of(&first)).await.status, 200);
    let broken = post(world.address, PATH, &json!({"input": "x", "previous_response_id": second["id"]}).to_string()).await;
    assert_eq!(
        (broken.status, broken.error()["message"].as_str().unwrap().contains(first["id"].as_str().unwrap())),
        (404, true)
    );
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_response_is_told_again_as_it_was() {
    let world = world().await;
    let whole = ask(&world, json!({"input": "One?", "metadata": {"a": "b"}})).await;
    assert_eq!(get(world.address, &path_of(&whole)).await.json(), whole);
    let body = json!({"input": "One?", "stream": true}).to_string();
    let streamed = replayed(&named(&post(world.address, PATH, &body).await));
    assert_eq!(get(world.address, &path_of(&streamed)).await.json(), streamed, "as the last event had it");
    let input = json!({"input": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Two?"}]});
    let listed = ask(&world, input).await;
    let list = get(world.address, &format!("{}/input_items?order=asc&limit=2", path_of(&listed))).await.json();
    assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(true)));
    assert_eq!(list["data"][0]["content"], json!([{"type": "input_text", "text": "One?"}]));
    assert_eq!((&list["data"][1]["type"], &list["data"][1]["content"][0]["type"]), (&json!("message"), &json!("output_text")));
    assert_eq!(list["last_id"], list["data"][1]["id"]);
    let deleted = delete(&world, &path_of(&whole)).await.json();
    assert_eq!(deleted, json!({"id": whole["id"], "object": "response", "deleted": true}));
    let unkept = ask(&world, json!({"input": "One?", "store": false})).await;
    assert_eq!(unkept["store"], false);
    for path in [path_of(&whole), path_of(&unkept), format!("{PATH}/other"), format!("{}/input_items", path_of(&whole))] {
        let missing = get(world.address, &path).await;
        assert_eq!((missing.status, &missing.error()["code"]), (404, &json!("response_not_found")), "{path}");
    }
    assert_eq!(delete(&world, &path_of(&whole)).await.status, 404);
    let put = exchange(world.address, &request("PUT", &path_of(&listed), "", "")).await;
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD, DELETE")));
    let streamed = get(world.address, &format!("{}?stream=true", path_of(&listed))).await;
    assert_eq!((streamed.status, &streamed.error()["param"]), (400, &json!("stream")));
    world.close().await;
}

#[actix_rt::test]
async fn a_response_is_its_owners() {
    let keys = ["one", "two"].map(|key| ApiKey::new(key).unwrap()).to_vec();
    let admins = vec![ApiKey::new("root").unwrap()];
    let mut plan = Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() };
    plan.http.keys = KeyRing::new(Keys { users: keys, admins });
    let world = World::open(plan).await;
    let header = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let sealed = r#"{"input":"One?","include":["reasoning.encrypted_content"]}"#;
    let response = post_with(world.address, PATH, &header("one"), sealed).await.json();
    let path = path_of(&response);
    for (key, status) in [("one", 200), ("two", 404), ("root", 200)] {
        for asked in [request("GET", &path, &header(key), ""), request("GET", &format!("{path}/input_items"), &header(key), "")]
        {
            assert_eq!(exchange(world.address, &asked).await.status, status, "{key}");
        }
        let body = json!({"input": "x", "previous_response_id": response["id"]}).to_string();
        assert_eq!(post_with(world.address, PATH, &header(key), &body).await.status, status, "{key}");
    }
    for method in ["DELETE", "POST"] {
        let path = if method == "POST" { format!("{path}/cancel") } else { path.clone() };
        assert_eq!(exchange(world.address, &request(method, &path, &header("two"), "")).await.status, 404);
    }
    // Sealed reasoning is opened for its owner, and left out for another.
    let item = |fields: &[&str]| {
        let mut item = response["output"][0].clone();
        item.as_object_mut().unwrap().retain(|key, _| fields.contains(&key.as_str()));
        json!({"input": [{"role": "user", "content": "One?"}, item, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "4"}]})
    };
    let tokens = async |key: &str, body: Value| {
        post_with(world.address, PATH, &header(key), &body.to_string()).await.json()["usage"]["input_tokens"].as_u64().unwrap()
    };
    let plain = tokens("one", item(&["type", "content"])).await;
    assert_eq!(tokens("one", item(&["type", "encrypted_content"])).await, plain);
    let without = tokens("one", item(&["type"])).await;
    assert!(without < plain);
    assert_eq!(tokens("two", item(&["type", "encrypted_content"])).await, without);
    world.close().await;
}

/// Asks until the response is not in progress any more.
async fn done(world: &World, path: &str) -> Value {
    loop {
        let response = get(world.address, path).await.json();
        if response["status"] != "in_progress" {
            return response;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix_rt::test]
async fn a_response_in_the_background_is_there_when_it_is_done() {
    let world = world().await;
    let begun = ask(&world, json!({"input": "One?", "background": true})).await;
    assert_eq!((&begun["status"], &begun["background"], &begun["output"]), (&json!("in_progress"), &json!(true), &json!([])));
    let ended = done(&world, &path_of(&begun)).await;
    assert_eq!((&ended["status"], &ended["output"][1]["content"][0]["text"]), (&json!("completed"), &json!("Hello.")));
    let next = ask(&world, json!({"input": "Two?", "previous_response_id": ended["id"]})).await;
    assert_eq!(next["status"], "completed");
    let kept = post(world.address, &format!("{}/cancel", path_of(&next)), "").await;
    assert_eq!((kept.status, &kept.error()["param"]), (400, &json!("response_id")), "only one of the background");
    assert_eq!(post(world.address, &format!("{}/cancel", path_of(&ended)), "").await.json(), ended, "it was done");
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_response_in_the_background_is_called_off() {
    let world = World::open(Plan { endless: true, step_time: Duration::from_millis(5), ..Plan::default() }).await;
    let begun = ask(&world, json!({"input": "One?", "background": true})).await;
    let early = post(world.address, PATH, &json!({"input": "x", "previous_response_id": begun["id"]}).to_string()).await;
    assert_eq!((early.status, &early.error()["code"]), (400, &json!("conflicting_parameters")), "it is not done");
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    let cancelled = post(world.address, &format!("{}/cancel", path_of(&begun)), "").await.json();
    assert_eq!((&cancelled["status"], &cancelled["id"]), (&json!("cancelled"), &begun["id"]));
    assert_eq!(cancelled["incomplete_details"], Value::Null);
    assert_eq!(get(world.address, &path_of(&begun)).await.json(), cancelled);
    world.assert_empty().await;
    // Forgotten, it is called off too.
    let begun = ask(&world, json!({"input": "One?", "background": true})).await;
    assert_eq!(delete(&world, &path_of(&begun)).await.status, 200);
    world.assert_empty().await;
    assert_eq!(get(world.address, &path_of(&begun)).await.status, 404);
    world.close().await;
}

#[actix_rt::test]
async fn a_server_that_keeps_nothing_says_so() {
    let mut plan = Plan::default();
    plan.http.responses = ResponseStore::off();
    let world = World::open(plan).await;
    let response = ask(&world, json!({"input": "One?"})).await;
    assert_eq!(response["store"], false);
    assert_eq!(get(world.address, &path_of(&response)).await.status, 404);
    for (field, value) in [("previous_response_id", response["id"].clone()), ("background", json!(true))] {
        let reply = post(world.address, PATH, &json!({"input": "x", field: value}).to_string()).await;
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(field)));
    }
    world.close().await;
}

/// What is in the file is there for the next server; a response that was never done has failed.
#[actix_rt::test]
async fn a_file_is_read_by_the_next_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("responses.redb");
    let plan = |endless: bool, path: &std::path::Path| {
        let answer = harmony("She greets.", "Hello.");
        let mut plan = Plan { answer, endless, step_time: Duration::from_millis(1), ..Plan::default() };
        plan.http.responses = ResponseStore::open(path, StoreLimits::default(), antiphon::clock::unix_seconds()).unwrap();
        plan
    };
    let world = World::open(plan(true, &path)).await;
    let whole = ask(&world, json!({"input": "One?", "max_output_tokens": 4})).await;
    let begun = ask(&world, json!({"input": "One?", "background": true})).await;
    // As after a crash: the next server finds what was on the disk.
    let copy = folder.path().join("copy.redb");
    tokio::time::sleep(Duration::from_millis(600)).await;
    std::fs::copy(&path, &copy).unwrap();
    let second = World::open(plan(false, &copy)).await;
    assert_eq!(get(second.address, &path_of(&whole)).await.json(), whole);
    let next = ask(&second, json!({"input": "Two?", "previous_response_id": whole["id"]})).await;
    assert_eq!(next["status"], "completed");
    let lost = get(second.address, &path_of(&begun)).await.json();
    assert_eq!((&lost["status"], &lost["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert_eq!(lost["error"]["antiphon_code"], "server_shutdown");
    second.close().await;
    delete(&world, &path_of(&begun)).await;
    world.close().await;
}

/// A response that has no room in the store is not there afterwards, and does not say that it is.
#[actix_rt::test]
async fn a_response_that_could_not_be_kept_says_so() {
    let mut plan = Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() };
    plan.http.responses = ResponseStore::in_memory(StoreLimits { bytes_max: 600, ..StoreLimits::default() });
    let world = World::open(plan).await;
    let whole = ask(&world, json!({"input": "One?"})).await;
    let events = named(&post(world.address, PATH, &json!({"input": "One?", "stream": true}).to_string()).await);
    let numbers: Vec<u64> = events.iter().map(|(_, event)| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let streamed = replayed(&events);
    for response in [&whole, &streamed] {
        assert_eq!((&response["status"], &response["store"]), (&json!("completed"), &json!(false)));
        assert_eq!(response["output"][1]["content"][0]["text"], "Hello.");
        assert_eq!(get(world.address, &path_of(response)).await.status, 404);
    }
    world.close().await;
}
