//! `/v1/conversations`: items under one id, which responses are asked with and added to.

use antiphon::http::{ApiKey, KeyRing, Keys};
use antiphon::store::{ResponseStore, StoreLimits};
use serde_json::{Value, json};

use super::client::{Reply, exchange, get, post, post_with, request};
use super::world::{Plan, World, harmony};

const PATH: &str = "/v1/conversations";

async fn world() -> World {
    World::open(Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() }).await
}

async fn told(world: &World, path: &str, body: Value) -> Value {
    let reply = post(world.address, path, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{body} {reply:?}");
    reply.json()
}

async fn delete(world: &World, path: &str) -> Reply {
    exchange(world.address, &request("DELETE", path, "", "")).await
}

fn path_of(conversation: &Value) -> String {
    format!("{PATH}/{}", conversation["id"].as_str().expect("an id"))
}

/// Type and role of each item, oldest first.
async fn listed(world: &World, conversation: &Value) -> Vec<String> {
    let list = get(world.address, &format!("{}/items?order=asc&limit=100", path_of(conversation))).await.json();
    let name = |item: &Value| item["role"].as_str().or(item["type"].as_str()).unwrap_or_default().to_owned();
    list["data"].as_array().expect("a list").iter().map(name).collect()
}

#[actix_rt::test]
async fn responses_go_on_with_a_conversation_and_are_added_to_it() {
    let world = world().await;
    let begun = json!({"items": [{"type": "message", "role": "user", "content": "One?"}], "metadata": {"topic": "greetings"}});
    let conversation = told(&world, PATH, begun).await;
    assert_eq!((&conversation["object"], &conversation["metadata"]["topic"]), (&json!("conversation"), &json!("greetings")));
    let first = told(&world, "/v1/responses", json!({"input": "Two?", "conversation": conversation["id"]})).await;
    assert_eq!(first["conversation"], json!({"id": conversation["id"]}));
    // Streamed, by the other form of the name, and kept nowhere but here.
    let body = json!({"input": "Three?", "conversation": {"id": conversation["id"]}, "store": false, "stream": true});
    let streamed = post(world.address, "/v1/responses", &body.to_string()).await;
    assert!(streamed.body.contains("response.completed"), "{streamed:?}");
    let turn = ["user", "reasoning", "assistant"];
    assert_eq!(listed(&world, &conversation).await, [&["user"][..], &turn, &turn].concat());
    // What is computed is what a chat of the same messages computes.
    let last = told(&world, "/v1/responses", json!({"input": "Four?", "conversation": conversation["id"]})).await;
    let said = json!({"role": "assistant", "content": "Hello.", "reasoning": "She greets."});
    let user = |text: &str| json!({"role": "user", "content": text});
    let messages = [user("One?"), user("Two?"), said.clone(), user("Three?"), said, user("Four?")];
    let chat = told(&world, "/v1/chat/completions", json!({"messages": messages})).await;
    assert_eq!(last["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    // A response of the conversation is found by its id too, unless it was not to be kept.
    let kept = get(world.address, &format!("/v1/responses/{}", first["id"].as_str().unwrap())).await;
    assert_eq!(kept.json()["conversation"]["id"], conversation["id"]);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn items_are_added_listed_and_removed() {
    let world = world().await;
    let conversation = told(&world, PATH, json!({})).await;
    let path = path_of(&conversation);
    let items = json!({"items": [
        {"role": "user", "content": "What is the weather?"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    ]});
    let added = told(&world, &format!("{path}/items"), items).await;
    assert_eq!((&added["object"], added["data"].as_array().unwrap().len()), (&json!("list"), 3));
    assert_eq!(added["data"][0]["content"], json!([{"type": "input_text", "text": "What is the weather?"}]));
    let call = added["data"][1]["id"].as_str().unwrap();
    let one = get(world.address, &format!("{path}/items/{call}")).await.json();
    assert_eq!(one, added["data"][1]);
    let page = get(world.address, &format!("{path}/items?limit=2")).await.json();
    assert_eq!((&page["data"][0], &page["has_more"]), (&added["data"][2], &json!(true)), "latest first");
    let left = delete(&world, &format!("{path}/items/{call}")).await.json();
    assert_eq!((&left["id"], &left["object"]), (&conversation["id"], &json!("conversation")));
    assert_eq!(listed(&world, &conversation).await, ["user", "function_call_output"]);
    // No id is given twice, whatever was removed.
    let again = told(&world, &format!("{path}/items"), json!({"items": [{"role": "user", "content": "x"}]})).await;
    assert_ne!(again["data"][0]["id"], added["data"][2]["id"]);
    let relabelled = told(&world, &path, json!({"metadata": {"a": "b"}})).await;
    assert_eq!(relabelled["metadata"], json!({"a": "b"}));
    assert_eq!(get(world.address, &path).await.json(), relabelled);
    let deleted = delete(&world, &path).await.json();
    assert_eq!(deleted, json!({"id": conversation["id"], "object": "conversation.deleted", "deleted": true}));
    for path in [path.clone(), format!("{path}/items"), format!("{PATH}/other"), format!("{PATH}/conv_0")] {
        let missing = get(world.address, &path).await;
        assert_eq!((missing.status, &missing.error()["code"]), (404, &json!("conversation_not_found")), "{path}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn what_cannot_be_added_is_refused_and_changes_nothing() {
    let world = world().await;
    let conversation = told(&world, PATH, json!({"items": [{"role": "user", "content": "One?"}]})).await;
    let items = format!("{}/items", path_of(&conversation));
    let many = vec![json!({"role": "user", "content": "x"}); 21];
    let user = json!({"role": "user", "content": "x"});
    let cases = [
        (items.as_str(), json!({"items": []}), 400, "items"),
        (&items, json!({}), 400, "items"),
        (&items, json!({"items": "x"}), 400, "items"),
        (&items, json!({"items": many}), 400, "items"),
        (&items, json!({"items": [user, {"type": "message", "role": "x", "content": ""}]}), 400, "items[1].role"),
        (&items, json!({"items": [{"type": "item_reference", "id": "msg_1"}]}), 400, "items[0]"),
        (&items, json!({"items": [{"type": "web_search_call"}]}), 400, "items[0].type"),
        (PATH, json!({"metadata": {"a": 1}}), 400, "metadata.a"),
        (PATH, json!({"metadata": "x"}), 400, "metadata"),
        ("/v1/responses", json!({"input": "x", "conversation": 1}), 400, "conversation"),
        ("/v1/responses", json!({"input": "x", "conversation": {}}), 400, "conversation.id"),
        ("/v1/responses", json!({"input": "x", "conversation": "conv_0"}), 404, "conversation"),
        (
            "/v1/responses",
            json!({"input": "x", "conversation": "conv_0", "previous_response_id": "resp_0"}),
            400,
            "conversation",
        ),
    ];
    for (path, body, status, param) in cases {
        let reply = post(world.address, path, &body.to_string()).await;
        assert_eq!((reply.status, &reply.error()["param"]), (status, &json!(param)), "{path} {body} {reply:?}");
    }
    assert_eq!(listed(&world, &conversation).await, ["user"]);
    let item = get(world.address, &format!("{items}/msg_0")).await;
    assert_eq!((item.status, &item.error()["code"]), (404, &json!("item_not_found")));
    let put = exchange(world.address, &request("PUT", &items, "", "")).await;
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD, POST")));
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_conversation_is_its_owners_and_fits_the_store() {
    let keys = ["one", "two"].map(|key| ApiKey::new(key).unwrap()).to_vec();
    let mut plan = Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() };
    plan.http.keys = KeyRing::new(Keys { users: keys, admins: vec![ApiKey::new("root").unwrap()] });
    plan.http.responses = ResponseStore::in_memory(StoreLimits { bytes_max: 20_000, ..StoreLimits::default() });
    let world = World::open(plan).await;
    let by = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let conversation = post_with(world.address, PATH, &by("one"), "{}").await.json();
    let path = path_of(&conversation);
    for (key, status) in [("one", 200), ("two", 404), ("root", 200)] {
        let reply = exchange(world.address, &request("GET", &path, &by(key), "")).await;
        assert_eq!(reply.status, status, "{key}");
        let asked = json!({"input": "x", "conversation": conversation["id"]}).to_string();
        assert_eq!(post_with(world.address, "/v1/responses", &by(key), &asked).await.status, status, "{key}");
    }
    // What changes it is its owner's too, and a response is no conversation.
    let (item, labels) =
        (json!({"items": [{"role": "user", "content": "x"}]}).to_string(), json!({"metadata": {}}).to_string());
    for (path, body) in [(format!("{path}/items"), &item), (path.clone(), &labels), (format!("{PATH}/resp_0"), &labels)] {
        let refused = post_with(world.address, &path, &by("two"), body).await;
        assert_eq!((refused.status, &refused.error()["code"]), (404, &json!("conversation_not_found")), "{path}");
    }
    let large = json!({"items": [{"role": "user", "content": "x".repeat(25_000)}]}).to_string();
    let refused = post_with(world.address, &format!("{path}/items"), &by("one"), &large).await;
    assert_eq!((refused.status, &refused.error()["param"]), (400, &json!("items")));
    assert_eq!(exchange(world.address, &request("GET", &path, &by("one"), "")).await.status, 200, "as it was");
    world.close().await;

    let mut off = Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() };
    off.http.responses = ResponseStore::off();
    let world = World::open(off).await;
    let refused = post(world.address, PATH, "{}").await;
    assert_eq!(refused.status, 400);
    assert!(refused.error()["message"].as_str().unwrap().contains("--response-store off"), "{refused:?}");
    assert_eq!(refused.error()["param"], json!(null), "nothing of the body is at fault");
    world.close().await;
}

/// What one turn brought must not stand in the way of the next.
#[actix_rt::test]
async fn a_conversation_stands_by_itself() {
    let world = world().await;
    let kept = told(&world, "/v1/responses", json!({"input": "One?"})).await;
    let conversation = told(&world, PATH, json!({})).await;
    let reference = json!({"type": "item_reference", "id": kept["output"][1]["id"]});
    let call = json!({"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": "call_1", "output": "1"});
    let user = json!({"role": "user", "content": "Two?"});
    let asked = |input: Value| json!({"input": input, "conversation": conversation["id"]});
    told(&world, "/v1/responses", asked(json!([user, reference, user]))).await;
    assert_eq!(delete(&world, &format!("/v1/responses/{}", kept["id"].as_str().unwrap())).await.status, 200);
    told(&world, "/v1/responses", asked(json!([user, call, output]))).await;
    // The same call again, as a turn beside that one would bring it.
    told(&world, &format!("{}/items", path_of(&conversation)), json!({"items": [call, output]})).await;
    let last = told(&world, "/v1/responses", asked(json!("Three?"))).await;
    assert_eq!(last["status"], "completed");
    let names = listed(&world, &conversation).await;
    assert_eq!(names.iter().filter(|name| name.starts_with("function_call")).count(), 2, "{names:?}");
    assert_eq!(names[..3], ["user", "assistant", "user"], "the item itself, not its id");
    // Ids that clients send again would make lists begin again behind them.
    let named = |id: &str| json!({"role": "user", "id": id, "content": "x"});
    let items = json!({"items": [named("m"), named("m"), named(""), named(&"m".repeat(65))]});
    let added = told(&world, &format!("{}/items", path_of(&conversation)), items).await;
    let ids = added["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned());
    let ids: std::collections::BTreeSet<String> = ids.filter(|id| (1..=64).contains(&id.len())).collect();
    assert!(ids.len() == 4 && ids.contains("m"), "{ids:?}");
    world.close().await;
}

#[actix_rt::test]
async fn a_conversation_has_a_size_that_it_cannot_grow_beyond() {
    let world = world().await;
    let conversation = told(&world, PATH, json!({})).await;
    let items = format!("{}/items", path_of(&conversation));
    let large = json!({"items": [{"role": "user", "content": "x".repeat(1_500_000)}]}).to_string();
    for status in [200, 200, 400] {
        assert_eq!(post(world.address, &items, &large).await.status, status);
    }
    let refused = post(world.address, &items, &large).await;
    assert_eq!(refused.error()["param"], "items");
    assert_eq!(listed(&world, &conversation).await.len(), 2, "as it was");
    world.assert_empty().await;
    world.close().await;
}

/// A store whose file cannot be opened again: an answer that nothing is found of is an error, and
/// another says that it is not kept.
#[actix_rt::test]
async fn what_cannot_be_kept_is_not_promised() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    let store = ResponseStore::open(&inner.join("responses.redb"), StoreLimits::default(), 1).unwrap();
    let mut plan = Plan { answer: harmony("She greets.", "Hello."), ..Plan::default() };
    plan.http.responses = store.clone();
    let world = World::open(plan).await;
    let conversation = told(&world, PATH, json!({})).await;
    std::fs::remove_dir_all(&inner).unwrap();
    std::fs::write(&inner, "no folder").unwrap();
    store.flush();
    assert!(store.problem().is_some());
    let plain = told(&world, "/v1/responses", json!({"input": "One?"})).await;
    assert_eq!((&plain["status"], &plain["store"]), (&json!("completed"), &json!(false)));
    for body in [json!({"input": "x", "background": true}), json!({"input": "x", "conversation": conversation["id"]})] {
        let refused = post(world.address, "/v1/responses", &body.to_string()).await;
        assert_eq!((refused.status, &refused.error()["code"]), (500, &json!("response_store_failed")), "{body}");
    }
    world.assert_empty().await;
    world.close().await;
}
