//! `/v1/responses` over real sockets: what is streamed is what is told whole, and what an answer
//! gave may be sent back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Reply, post, post_with, request};
use super::world::{Plan, World, harmony};

#[path = "../../../src/http/responses/replay.rs"]
pub(crate) mod replay;

use replay::replayed;

const PATH: &str = "/v1/responses";
const CALL: &str = "<|channel|>analysis<|message|>Two places.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>\
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"city\": \"Bergen\"}<|end|>\
    <|start|>assistant<|channel|>commentary to=functions.g <|constrain|>json<|message|>{}<|call|>";

async fn world(answer: &str) -> World {
    World::open(Plan { answer: answer.to_owned(), ..Plan::default() }).await
}

fn tools() -> Value {
    json!([{"type": "function", "name": "f", "parameters": null, "strict": false}, {"type": "web_search"},
        {"type": "function", "name": "g"}])
}

/// The same as an answer repeats them: the functions alone.
fn told_tools() -> Value {
    let told = |name: &str| json!({"type": "function", "name": name, "description": null, "parameters": null, "strict": false});
    json!([told("f"), told("g")])
}

/// Names and data of a stream's events.
pub(super) fn named(reply: &Reply) -> Vec<(String, Value)> {
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")), "{reply:?}");
    let names = reply.body.lines().filter_map(|line| line.strip_prefix("event: "));
    let data = reply.events().into_iter().map(|data| serde_json::from_str(data).expect("an event is JSON"));
    names.map(str::to_owned).zip(data).collect()
}

/// A response without what differs from one request to the next.
fn same(response: &Value) -> Value {
    let id = response["id"].as_str().expect("an id");
    let digits = id.strip_prefix("resp_").expect("the id of a response");
    let text = response.to_string().replace(digits, "ID");
    let mut same: Value = serde_json::from_str(&text).expect("JSON");
    for field in ["created_at", "antiphon"] {
        same.as_object_mut().expect("an object").remove(field);
    }
    same["usage"]["input_tokens_details"] = Value::Null;
    for item in same["output"].as_array_mut().into_iter().flatten() {
        if item["type"] == "function_call" {
            assert!(item["call_id"].as_str().is_some_and(|id| id.starts_with("call_")), "{item}");
            item["call_id"] = json!("call");
        }
    }
    same
}

/// The response to `body`, which is the same streamed.
async fn ask(world: &World, mut body: Value) -> Value {
    let reply = post(world.address, PATH, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{body} {reply:?}");
    let whole = reply.json();
    assert_eq!(reply.header("x-request-id"), whole["id"].as_str());
    body["stream"] = json!(true);
    let streamed = replayed(&named(&post(world.address, PATH, &body.to_string()).await));
    assert_eq!(same(&streamed), same(&whole), "{body}");
    whole
}

#[actix_rt::test]
async fn a_response_is_its_items() {
    let world = world(CALL).await;
    let whole = ask(&world, json!({"input": "hi", "tools": tools(), "temperature": 0, "metadata": {"a": "b"}})).await;
    let kinds: Vec<&str> = whole["output"].as_array().unwrap().iter().filter_map(|item| item["type"].as_str()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    let output = &whole["output"];
    assert_eq!(output[0]["content"][0], json!({"type": "reasoning_text", "text": "Two places."}));
    assert_eq!(output[1]["content"][0]["text"], "I look.");
    assert_eq!((&output[2]["name"], &output[2]["arguments"]), (&json!("f"), &json!("{\"city\": \"Bergen\"}")));
    assert_eq!((&output[3]["name"], &output[3]["arguments"]), (&json!("g"), &json!("{}")));
    assert_eq!(
        (&whole["status"], &whole["tools"], &whole["metadata"]),
        (&json!("completed"), &told_tools(), &json!({"a": "b"}))
    );
    let usage = &whole["usage"];
    assert!(usage["output_tokens_details"]["reasoning_tokens"].as_u64().is_some_and(|count| count > 0), "{usage}");
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap()
    );
    world.assert_empty().await;
    world.close().await;
}

/// Seeded requests of every kind: cut at any token, with several channels, characters of several
/// bytes, stop strings and log-probabilities.
#[actix_rt::test]
async fn the_stream_is_the_response_for_many_requests() {
    let answers = [CALL.to_owned(), harmony("Hé, 안녕 👋🏽.", "Ça va? 옛날에 Sure."), "<|channel|>final<|message|>".to_owned()];
    for answer in answers {
        let world = world(&answer).await;
        for seed in 0..24 {
            let mut body = json!({"input": "hi", "seed": seed, "temperature": f64::from(seed % 3) / 2.0, "tools": tools()});
            if seed % 4 > 0 {
                body["max_output_tokens"] = json!(1 + seed * 7 % 45);
            }
            if seed % 5 == 1 {
                body["top_logprobs"] = json!(2);
            }
            if seed % 5 == 2 {
                body["stop"] = json!(["va"]);
            }
            if seed % 7 == 3 {
                body["include_reasoning"] = json!(false);
            }
            let whole = ask(&world, body.clone()).await;
            let reason = &whole["incomplete_details"]["reason"];
            assert_eq!(whole["status"] == "incomplete", reason == "max_output_tokens", "{body} {whole}");
        }
        world.assert_empty().await;
        world.close().await;
    }
}

/// The next turn sends back every item that the last one gave, as it came or without ids: the
/// prompt is that of the same chat.
#[actix_rt::test]
async fn every_item_may_be_sent_back() {
    let world = world(CALL).await;
    let first = ask(&world, json!({"input": "hi", "instructions": "Be brief.", "tools": tools()})).await;
    let mut items = vec![json!({"role": "user", "content": "hi"})];
    items.extend(first["output"].as_array().unwrap().iter().cloned());
    for index in [2, 3] {
        let call_id = &first["output"][index]["call_id"];
        items.push(json!({"type": "function_call_output", "call_id": call_id, "output": "4"}));
    }
    let input_tokens = |response: &Value| response["usage"]["input_tokens"].clone();
    let with_ids = ask(&world, json!({"input": items, "instructions": "Be brief.", "tools": tools()})).await;
    for item in items.iter_mut().skip(1) {
        for field in ["id", "status"] {
            item.as_object_mut().unwrap().remove(field);
        }
    }
    let without = ask(&world, json!({"input": items, "instructions": "Be brief.", "tools": tools()})).await;
    let call = |name: &str, id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let function = |name: &str| json!({"type": "function", "function": {"name": name}});
    let chat = json!({"messages": [
        {"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look.", "reasoning": "Two places.",
         "tool_calls": [call("f", "a", "{\"city\": \"Bergen\"}"), call("g", "b", "{}")]},
        {"role": "tool", "tool_call_id": "a", "content": "4"}, {"role": "tool", "tool_call_id": "b", "content": "4"},
    ], "tools": [function("f"), function("g")]});
    let chat = post(world.address, "/v1/chat/completions", &chat.to_string()).await.json();
    assert_eq!(input_tokens(&with_ids), chat["usage"]["prompt_tokens"]);
    assert_eq!(input_tokens(&without), chat["usage"]["prompt_tokens"]);
    world.close().await;
}

#[actix_rt::test]
async fn bad_input_is_named_before_any_stream() {
    let world = world("ok").await;
    let schema = json!({"format": {"type": "json_schema", "name": "n", "schema": {"type": "object", "not": {}}}});
    let strict = json!([{"type": "web_search"}, {"type": "function", "name": "f", "strict": true, "parameters": {"not": {}}}]);
    for (fields, status, param) in [
        (json!({"model": "other"}), 404, "model"),
        (json!({"input": 7}), 400, "input"),
        (
            json!({"input": [{"type": "message", "role": "user", "content": [{"type": "input_image"}]}]}),
            400,
            "input[0].content[0].type",
        ),
        (json!({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}), 400, "input[0].call_id"),
        (json!({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]}), 400, "input"),
        (json!({"input": "long ".repeat(4000)}), 400, "input"),
        (json!({"instructions": "long ".repeat(4000)}), 400, "instructions"),
        (json!({"user": "u".repeat(65)}), 400, "user"),
        (json!({"messages": [{"role": "user", "content": "x"}]}), 400, "messages"),
        (json!({"functions": [{"name": "f"}]}), 400, "functions"),
        (json!({"max_output_tokens": 2048}), 400, "input"),
        (json!({"text": schema}), 400, "text.format.schema.not"),
        (json!({"tools": strict}), 400, "tools[1].parameters.not"),
        (
            json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "g"}}),
            400,
            "tool_choice.name",
        ),
        (json!({"tool_choice": "required"}), 400, "tool_choice"),
        (json!({"n": 2}), 400, "n"),
    ] {
        for stream in [false, true] {
            let mut body = json!({"input": "hi", "stream": stream});
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let reply = post(world.address, PATH, &body.to_string()).await;
            assert_eq!((reply.status, reply.error()["param"].as_str()), (status, Some(param)), "{fields}: {reply:?}");
        }
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_response_that_is_left_or_cancelled_frees_its_blocks() {
    let plan = || Plan { endless: true, step_time: Duration::from_millis(5), ..Plan::default() };
    let world = World::open(plan()).await;
    for stream in [false, true] {
        let body = json!({"input": "hi", "stream": stream}).to_string();
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        socket.write_all(&request("POST", PATH, "Content-Type: application/json\r\n", &body)).await.unwrap();
        world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
        if stream {
            let _ = socket.read(&mut [0; 100]).await;
        }
        drop(socket);
        world.assert_empty().await;
    }
    // Cancelled by its id, a stream ends with a response that says so.
    let address = world.address;
    let body = json!({"input": "hi", "stream": true}).to_string();
    let asked = actix_rt::spawn(async move { post(address, PATH, &body).await });
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    let id = world.service.live_requests()[0].request_id.clone();
    assert_eq!(post(address, &format!("/cancel/{id}"), "").await.json()["status"], "cancelled");
    let ended = replayed(&named(&asked.await.unwrap()));
    assert_eq!((&ended["status"], &ended["id"]), (&json!("cancelled"), &json!(id)));
    assert_eq!(ended["incomplete_details"], Value::Null);
    world.assert_empty().await;
    world.close().await;
}

/// A stream holds its text to the end, and reserves memory for it: without room it ends with an
/// error, and the server goes on.
#[actix_rt::test]
async fn a_response_without_room_in_the_memory_fails_alone() {
    let world = World::open(Plan { endless: true, memory_budget_bytes: 200_000, ..Plan::default() }).await;
    let body = json!({"input": "hi", "stream": true}).to_string();
    let ended = replayed(&named(&post(world.address, PATH, &body).await));
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("failed"), &json!("rate_limit_exceeded")));
    assert_eq!(ended["error"]["antiphon_code"], "memory_full");
    world.assert_empty().await;
    let short = json!({"input": "hi", "max_output_tokens": 3}).to_string();
    assert_eq!(post(world.address, PATH, &short).await.json()["status"], "incomplete");
    world.close().await;
}

/// What a client wrote comes back in a complaint no longer than it helps, on chats too.
#[actix_rt::test]
async fn a_complaint_about_a_schema_is_short() {
    let world = world("ok").await;
    let name = "n".repeat(200_000);
    let of = |schema: Value| json!({"type": "object", "properties": {&name: schema}});
    let schemas = [of(json!({"not": {}})), of(json!({"$ref": format!("#/{name}")})), of(json!({"minItems": &name}))];
    for schema in schemas {
        let named = json!({"name": "n", "schema": schema});
        let mut flat = named.clone();
        flat["type"] = json!("json_schema");
        let tools = |parameters: &Value| json!([{"type": "function", "name": "f", "strict": true, "parameters": parameters}]);
        let messages = json!([{"role": "user", "content": "hi"}]);
        for (path, body) in [
            (PATH, json!({"input": "hi", "text": {"format": flat}})),
            (PATH, json!({"input": "hi", "guided_json": schema})),
            (PATH, json!({"input": "hi", "tools": tools(&schema)})),
            (
                "/v1/chat/completions",
                json!({"messages": messages, "response_format": {"type": "json_schema", "json_schema": named}}),
            ),
            ("/v1/completions", json!({"prompt": "hi", "guided_json": schema})),
        ] {
            let reply = post(world.address, path, &body.to_string()).await;
            let error = reply.error();
            let (message, param) = (error["message"].as_str().unwrap(), error["param"].as_str().unwrap());
            assert_eq!(reply.status, 400, "{path} {}", reply.body.len());
            assert!(message.len() < 600 && param.len() < 200, "{path}: {} and {} bytes", message.len(), param.len());
        }
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn an_unknown_dialect_is_refused_as_on_chats() {
    let world = world("ok").await;
    for stream in [false, true] {
        let body = json!({"input": "hi", "stream": stream}).to_string();
        let reply = post_with(world.address, PATH, "X-SSE-Dialect: morse\r\n", &body).await;
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!("X-SSE-Dialect")));
        assert_eq!(post_with(world.address, PATH, "X-SSE-Dialect: openai\r\n", &body).await.status, 200);
    }
    world.close().await;
}
