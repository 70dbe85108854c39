//! `/v1/messages` over real sockets: what is streamed is what is told whole, what an answer gave may
//! be sent back, and every refusal is in Anthropic's form.

use std::time::Duration;

use antiphon::http::ApiKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::access::ring;
use super::client::{Reply, exchange, post, post_with, request};
use super::responses::named;
use super::world::{CONTEXT_TOKENS_MAX, Plan, World, harmony};

#[path = "../../../src/http/messages/replay.rs"]
mod replay;

use replay::joined;

const PATH: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";
const CALL: &str = "<|channel|>analysis<|message|>Two places.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>\
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"city\": \"Bergen\"}<|end|>\
    <|start|>assistant<|channel|>commentary to=functions.g <|constrain|>json<|message|>{}<|call|>";

async fn world(answer: &str) -> World {
    World::open(Plan { answer: answer.to_owned(), ..Plan::default() }).await
}

fn tools() -> Value {
    json!([{"name": "f", "input_schema": {"type": "object"}}, {"type": "tool_search_tool_regex_20251119", "name": "t"},
        {"name": "g", "input_schema": {}, "cache_control": {"type": "ephemeral"}}])
}

/// A body with these `fields`, in which the user says hi.
fn hi(fields: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 200});
    body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    body
}

/// A message without what differs from one request to the next.
fn same(message: &Value) -> Value {
    let mut same = message.clone();
    assert!(same["id"].as_str().is_some_and(|id| id.starts_with("msg_")), "{same}");
    let usage = &same["usage"];
    let prompt = ["input_tokens", "cache_read_input_tokens"].map(|field| usage[field].as_u64().expect("a count"));
    same["usage"] = json!([prompt[0] + prompt[1], usage["output_tokens"], usage["output_tokens_details"]]);
    for field in ["id", "antiphon"] {
        same.as_object_mut().expect("an object").remove(field);
    }
    for block in same["content"].as_array_mut().into_iter().flatten() {
        for (field, prefix) in [("signature", ""), ("id", "toolu_")] {
            if let Some(text) = block.get_mut(field) {
                assert!(text.as_str().is_some_and(|text| text.len() > prefix.len() && text.starts_with(prefix)), "{text}");
                *text = json!("differs");
            }
        }
    }
    same
}

/// The message that answers `body`, which is the same streamed.
async fn ask(world: &World, mut body: Value) -> Value {
    let reply = post(world.address, PATH, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{body} {reply:?}");
    let whole = reply.json();
    for header in ["request-id", "x-request-id"] {
        assert_eq!(reply.header(header), whole["id"].as_str(), "{header}");
    }
    body["stream"] = json!(true);
    let streamed = joined(&named(&post(world.address, PATH, &body.to_string()).await));
    assert_eq!(same(&streamed), same(&whole), "{body}");
    whole
}

/// The error of a refusal, checked for its form.
fn error(reply: &Reply) -> Value {
    let body = reply.json();
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&body), ["type", "error", "request_id"], "{reply:?}");
    assert_eq!(keys(&body["error"]), ["type", "message", "param", "code"], "{reply:?}");
    assert_eq!(body["type"], "error");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{reply:?}");
    for header in ["request-id", "x-request-id"] {
        assert_eq!(reply.header(header), body["request_id"].as_str(), "{reply:?}");
    }
    body["error"].clone()
}

#[actix_rt::test]
async fn a_message_is_its_blocks() {
    let world = world(CALL).await;
    let thinking = json!({"type": "enabled", "budget_tokens": 2000});
    let whole = ask(&world, hi(&json!({"tools": tools(), "temperature": 0, "thinking": thinking}))).await;
    let mut content = whole["content"].clone();
    content[0]["signature"] = Value::Null;
    content[2]["id"] = Value::Null;
    content[3]["id"] = Value::Null;
    let expected = json!([
        {"type": "thinking", "thinking": "Two places.", "signature": null},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": null, "name": "f", "input": {"city": "Bergen"}},
        {"type": "tool_use", "id": null, "name": "g", "input": {}},
    ]);
    assert_eq!(content, expected);
    assert_eq!(
        (&whole["stop_reason"], &whole["role"], &whole["model"]),
        (&json!("tool_use"), &json!("assistant"), &json!("tiny"))
    );
    assert!(whole["usage"]["output_tokens_details"]["thinking_tokens"].as_u64().is_some_and(|count| count > 0), "{whole}");
    // Unasked it is generated and not shown; switched off it is not said.
    assert_eq!(ask(&world, hi(&json!({"tools": tools()}))).await["content"][0]["text"], "I look.");
    let off = ask(&world, hi(&json!({"tools": tools(), "thinking": {"type": "disabled"}}))).await;
    assert!(off["content"].as_array().expect("a list").iter().all(|block| block["type"] != "thinking"), "{off}");
    world.assert_empty().await;
    world.close().await;
}

/// Seeded requests of every kind: cut at any token, with several channels, characters of several
/// bytes, and stop sequences.
#[actix_rt::test]
async fn the_stream_is_the_message_for_many_requests() {
    let answers = [CALL.to_owned(), harmony("Hé, 안녕 👋🏽.", "Ça va? 옛날에 Sure."), "<|channel|>final<|message|>".to_owned()];
    for answer in answers {
        let world = world(&answer).await;
        for seed in 0..24 {
            let mut body = hi(&json!({"seed": seed, "temperature": f64::from(seed % 3) / 2.0, "tools": tools()}));
            if seed % 4 > 0 {
                body["max_tokens"] = json!(1 + seed * 7 % 45);
            }
            if seed % 5 == 2 {
                body["stop_sequences"] = json!(["va"]);
            }
            if seed % 7 != 3 {
                let display = if seed % 2 == 0 { "summarized" } else { "omitted" };
                body["thinking"] = json!({"type": "adaptive", "display": display});
            }
            let whole = ask(&world, body.clone()).await;
            let is_cut = whole["usage"]["output_tokens"] == body["max_tokens"];
            assert_eq!(is_cut, whole["stop_reason"] == "max_tokens", "{body} {whole}");
            assert_eq!(whole["stop_sequence"] == "va", whole["stop_reason"] == "stop_sequence", "{body} {whole}");
        }
        world.assert_empty().await;
        world.close().await;
    }
}

/// The next turn sends back every block that the last one gave, thinking in the open or sealed: the
/// prompt is that of the same chat, and it is found computed.
#[actix_rt::test]
async fn every_block_may_be_sent_back() {
    let world = world(CALL).await;
    let call = |name: &str, id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let function =
        |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let chat = json!({"messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look.", "reasoning": "Two places.",
         "tool_calls": [call("f", "a", "{\"city\":\"Bergen\"}"), call("g", "b", "{}")]},
        {"role": "tool", "tool_call_id": "a", "content": "4"}, {"role": "tool", "tool_call_id": "b", "content": "Error: no"},
    ], "tools": [function("f", json!({"type": "object"})), function("g", json!({}))]});
    let chat = post(world.address, "/v1/chat/completions", &chat.to_string()).await.json();
    let prompt_tokens = chat["usage"]["prompt_tokens"].as_u64().unwrap();
    for display in ["summarized", "omitted"] {
        let fields = json!({"tools": tools(), "system": "Be brief.", "thinking": {"type": "adaptive", "display": display}});
        let first = ask(&world, hi(&fields)).await;
        let blocks = &first["content"];
        assert_eq!(blocks[0]["thinking"], if display == "omitted" { "" } else { "Two places." });
        let mut body = hi(&fields);
        let results = json!([
            {"type": "tool_result", "tool_use_id": blocks[2]["id"], "content": [{"type": "text", "text": "4"}]},
            {"type": "tool_result", "tool_use_id": blocks[3]["id"], "content": "no", "is_error": true},
        ]);
        let turns = body["messages"].as_array_mut().unwrap();
        turns.extend([json!({"role": "assistant", "content": blocks}), json!({"role": "user", "content": results})]);
        let second = ask(&world, body.clone()).await;
        let usage = &second["usage"];
        let (computed, found) = (usage["input_tokens"].as_u64().unwrap(), usage["cache_read_input_tokens"].as_u64().unwrap());
        assert_eq!((computed + found, found), (prompt_tokens, (prompt_tokens - 1) / 16 * 16), "{usage}");
        assert_eq!(usage["cache_creation_input_tokens"], 0);
        body.as_object_mut().unwrap().remove("max_tokens");
        let counted = post(world.address, COUNT, &body.to_string()).await;
        assert_eq!((counted.status, counted.json()), (200, json!({"input_tokens": prompt_tokens})));
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn bad_input_is_named_before_any_stream() {
    let world = world("ok").await;
    let strict =
        json!([{"type": "tool_search_tool_bm25_20251119"}, {"name": "f", "strict": true, "input_schema": {"not": {}}}]);
    let of = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (fields, status, param) in [
        (json!({"model": "claude-opus-4-1"}), 404, "model"),
        (json!({"max_tokens": null}), 400, "max_tokens"),
        (json!({"max_tokens": 0}), 400, "max_tokens"),
        (json!({"max_tokens": "9"}), 400, "max_tokens"),
        (json!({"messages": []}), 400, "messages"),
        (of(json!([])), 400, "messages[0].content"),
        (of(json!([{"type": "image", "source": {"type": "url", "url": "x"}}])), 400, "messages[0].content[0].type"),
        (of(json!([{"type": "tool_result", "tool_use_id": "c", "content": "x"}])), 400, "messages[0].content[0].tool_use_id"),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
            400,
            "messages[1].role",
        ),
        (of(json!("long ".repeat(4000))), 400, "messages"),
        (json!({"tools": strict}), 400, "tools[1].input_schema.not"),
        (
            json!({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}),
            400,
            "output_config.format.schema.not",
        ),
        (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), 400, "tools[0].type"),
        (json!({"tool_choice": {"type": "any"}}), 400, "tool_choice.type"),
        (json!({"tools": tools(), "tool_choice": {"type": "tool", "name": "t"}}), 400, "tool_choice.name"),
        (json!({"stop": ["x"]}), 400, "stop"),
        (json!({"max_tokens": 4, "min_tokens": 5}), 400, "min_tokens"),
    ] {
        for stream in [false, true] {
            let mut body = hi(&fields);
            body["stream"] = json!(stream);
            let reply = post(world.address, PATH, &body.to_string()).await;
            let error = error(&reply);
            assert_eq!((reply.status, error["param"].as_str()), (status, Some(param)), "{fields}: {reply:?}");
            let kind = if status == 404 { "not_found_error" } else { "invalid_request_error" };
            assert_eq!(error["type"], kind);
            assert!(error["message"].as_str().unwrap().contains(param) || param == "messages", "{error}");
        }
    }
    // A prompt that is not answered is refused for the same, by the same names.
    let unkept = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let unique = json!([{"type": "advisor_20260301"}, {"name": "f", "strict": true, "input_schema": unkept}]);
    for path in [PATH, "/v1/messages/render", COUNT] {
        let reply = post(world.address, path, &hi(&json!({"tools": unique})).to_string()).await;
        let (error, param) = (error(&reply), "tools[1].input_schema.properties.a.uniqueItems");
        assert_eq!((reply.status, error["param"].as_str()), (400, Some(param)), "{path}: {reply:?}");
        assert!(error["message"].as_str().unwrap().contains(param), "{path}: {error}");
    }
    // Claude Code shortens its conversation at these words.
    let long = post(world.address, PATH, &hi(&of(json!("long ".repeat(4000)))).to_string()).await;
    assert!(error(&long)["message"].as_str().unwrap().starts_with("prompt is too long: "), "{long:?}");
    for (path, body) in [(PATH, ""), (PATH, "{"), (PATH, "[]"), (COUNT, "{\"messages\":"), (COUNT, "{}")] {
        let reply = post(world.address, path, body).await;
        assert_eq!((reply.status, error(&reply)["type"].as_str()), (400, Some("invalid_request_error")), "{path} {body}");
    }
    let stats = world.backend.metrics.stats(world.backend.clock.now());
    assert_eq!(stats.requests.failed, 0);
    assert!(stats.rejected > 30, "refused messages are counted: {}", stats.rejected);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn an_answer_may_be_cut_by_the_context() {
    let world = World::open(Plan { endless: true, ..Plan::default() }).await;
    let whole = ask(&world, hi(&json!({"max_tokens": 100_000}))).await;
    assert_eq!(whole["stop_reason"], "model_context_window_exceeded");
    let usage = &whole["usage"];
    let tokens = ["input_tokens", "cache_read_input_tokens", "output_tokens"].map(|field| usage[field].as_u64().unwrap());
    assert_eq!(tokens.iter().sum::<u64>(), CONTEXT_TOKENS_MAX as u64);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn whatever_refuses_a_request_says_so_in_the_form() {
    let mut plan = Plan { answer: "ok".to_owned(), ..Plan::default() };
    plan.http.keys = ring(&["Sesame"], &[]);
    plan.http.body_max_bytes = 10_000;
    plan.http.cors_origins = vec!["https://page.example".parse().unwrap()];
    assert!(ApiKey::new("Sesame").is_ok());
    let world = World::open(plan).await;
    let body = hi(&json!({})).to_string();
    let key = "X-Api-Key: Sesame\r\nanthropic-version: 2023-06-01\r\nanthropic-beta: interleaved-thinking-2025-05-14\r\n";
    for headers in [key, "Authorization: Bearer Sesame\r\n"] {
        for path in [PATH, "/v1/messages?beta=true", COUNT, "/v1/messages/count_tokens?beta=true"] {
            assert_eq!(post_with(world.address, path, headers, &body).await.status, 200, "{path} {headers}");
        }
    }
    let large = json!({"messages": "x".repeat(10_000)}).to_string();
    let typed = "X-Api-Key: Sesame\r\nContent-Type: text/plain\r\n";
    for (method, path, headers, body, status, kind) in [
        ("POST", PATH, "", body.as_str(), 401, "authentication_error"),
        ("POST", COUNT, "X-Api-Key: other\r\n", body.as_str(), 401, "authentication_error"),
        ("GET", PATH, key, "", 405, "invalid_request_error"),
        ("OPTIONS", PATH, key, "", 405, "invalid_request_error"),
        ("DELETE", COUNT, key, "", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", key, body.as_str(), 404, "not_found_error"),
        ("POST", PATH, key, large.as_str(), 413, "request_too_large"),
        ("POST", PATH, typed, body.as_str(), 415, "invalid_request_error"),
    ] {
        let reply = exchange(world.address, &request(method, path, headers, body)).await;
        assert_eq!((reply.status, error(&reply)["type"].as_str()), (status, Some(kind)), "{method} {path} {reply:?}");
        assert_eq!(reply.header("allow"), (status == 405).then_some("POST"), "{reply:?}");
        assert_eq!(reply.header("www-authenticate"), (status == 401).then_some("Bearer"), "{reply:?}");
    }
    let head = exchange(world.address, &request("HEAD", PATH, key, "")).await;
    assert_eq!((head.status, head.body.as_str(), head.header("allow")), (405, "", Some("POST")));
    let host = format!("POST {PATH} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let refused = exchange(world.address, host.as_bytes()).await;
    assert_eq!((refused.status, error(&refused)["type"].as_str()), (403, Some("permission_error")));
    // A page may ask first, and read what it gets, errors too.
    let origin = "Origin: https://page.example\r\n";
    let asking = format!(
        "{origin}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-api-key, anthropic-version\r\n"
    );
    let allowed = exchange(world.address, &request("OPTIONS", PATH, &asking, "")).await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-headers")), (204, Some("x-api-key, anthropic-version")));
    for (headers, status) in [(format!("{origin}{key}"), 200), (origin.to_owned(), 401)] {
        let reply = post_with(world.address, PATH, &headers, &body).await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (status, Some("https://page.example")));
        assert_eq!(reply.header("access-control-expose-headers"), Some("x-request-id, request-id, retry-after"));
    }
    // Another API's errors stay its own.
    let other = post_with(world.address, "/v1/chat/completions", "X-Api-Key: Sesame\r\n", "{}").await;
    assert_eq!((other.error()["param"].as_str(), other.header("request-id")), (Some("messages"), None));
    world.close().await;
}

#[actix_rt::test]
async fn four_clients_that_leave_free_their_blocks() {
    let plan = || Plan { endless: true, step_time: Duration::from_millis(5), ..Plan::default() };
    let world = World::open(plan()).await;
    let mut sockets = Vec::new();
    for stream in [true, true, false, true] {
        let body = hi(&json!({"stream": stream, "max_tokens": 100_000, "thinking": {"type": "adaptive"}})).to_string();
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        socket.write_all(&request("POST", PATH, "Content-Type: application/json\r\n", &body)).await.unwrap();
        sockets.push((stream, socket));
    }
    world.until(|snapshot| snapshot.scheduler.decode_count == 4).await;
    for (stream, socket) in &mut sockets {
        if *stream {
            socket.read_exact(&mut [0; 1200]).await.unwrap();
        }
    }
    drop(sockets);
    world.assert_empty().await;
    // Called off by its id, a message ends without a reason of Anthropic's.
    let address = world.address;
    let body = hi(&json!({"stream": true, "max_tokens": 2000})).to_string();
    let asked = actix_rt::spawn(async move { post(address, PATH, &body).await });
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    let id = world.service.live_requests()[0].request_id.clone();
    assert!(id.starts_with("msg_"), "{id}");
    assert_eq!(post(address, &format!("/cancel/{id}"), "").await.json()["status"], "cancelled");
    let ended = joined(&named(&asked.await.unwrap()));
    assert_eq!((&ended["stop_reason"], &ended["id"]), (&Value::Null, &json!(id)));
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_server_that_is_full_or_leaves_says_so_in_the_form() {
    let plan = Plan { endless: true, step_time: Duration::from_millis(20), running_max_count: 1, ..Plan::default() };
    let mut plan = Plan { waiting_max_count: 1, ..plan };
    plan.http.stream_keep_alive = Duration::from_millis(20);
    let world = World::open(plan).await;
    let address = world.address;
    let body = hi(&json!({"stream": true, "max_tokens": 2000})).to_string();
    let ask = || {
        let body = body.clone();
        actix_rt::spawn(async move { post(address, PATH, &body).await })
    };
    let first = ask();
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    let second = ask();
    world.until(|snapshot| snapshot.scheduler.waiting_count == 1).await;
    let refused = post(address, PATH, &body).await;
    assert_eq!((refused.status, error(&refused)["type"].as_str()), (429, Some("rate_limit_error")));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.service.begin_drain();
    let refused = post(address, PATH, &body).await;
    assert_eq!((refused.status, error(&refused)["type"].as_str()), (503, Some("overloaded_error")));
    assert!(refused.header("retry-after").is_some() && refused.header("connection") == Some("close"), "{refused:?}");
    assert_eq!(world.service.drained(Duration::from_millis(20)).await.ended_count, 2);
    for (index, stream) in [first, second].into_iter().enumerate() {
        let stream = stream.await.unwrap();
        let events = named(&stream);
        let (name, last) = events.last().unwrap();
        assert_eq!((name.as_str(), &last["error"]["type"]), ("error", &json!("overloaded_error")), "{last}");
        assert_eq!((&last["error"]["code"], &last["request_id"]), (&json!("server_shutdown"), &events[0].1["message"]["id"]));
        // The one that waited showed that it was alive, by events of this API.
        let pings = events.iter().filter(|(name, _)| name == "ping").count();
        assert!(index == 0 || pings > 1, "{pings}");
        assert!(!stream.body.contains("keep-alive"));
    }
    world.close().await;

    // Without room for its prompt, ever, and for what an answer keeps to be sealed.
    let world = World::open(Plan { endless: true, memory_budget_bytes: 100_000, ..Plan::default() }).await;
    let full = post(world.address, PATH, &hi(&json!({"system": "x".repeat(5_000)})).to_string()).await;
    assert_eq!((full.status, error(&full)["type"].as_str()), (413, Some("request_too_large")));
    assert!(full.header("retry-after").is_none(), "{full:?}");
    world.assert_empty().await;
    world.close().await;
}
