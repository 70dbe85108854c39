//! Every route that generates, as its readers see it.

use serde_json::json;

use super::client::{get, post, post_with};
use super::world::{Plan, World, harmony, tokens};

const CHAT: &str = r#""messages":[{"role":"user","content":"hi"}],"temperature":0"#;

async fn speaking(analysis: &str, text: &str) -> World {
    World::open(Plan { answer: harmony(analysis, text), ..Plan::default() }).await
}

/// The text of a stream of chunks, from where `pointer` finds it.
fn joined(chunks: &[serde_json::Value], pointer: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk.pointer(pointer)?.as_str()).collect()
}

#[actix_rt::test]
async fn a_chat_streams_what_it_says_in_one_piece() {
    let world = speaking("Greet them.", "Hello 안녕 👋🏽!\n  Indented.").await;
    // Once before, so that both find the prompt computed.
    post(world.address, "/v1/chat/completions", &format!("{{{CHAT}}}")).await;
    let whole = post(world.address, "/v1/chat/completions", &format!("{{{CHAT}}}")).await;
    assert_eq!((whole.status, whole.header("content-type")), (200, Some("application/json")));
    let answer = whole.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "Hello 안녕 👋🏽!\n  Indented.");
    assert_eq!((&message["reasoning"], &message["reasoning_content"]), (&json!("Greet them."), &json!("Greet them.")));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole.header("x-request-id"), answer["id"].as_str());
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["antiphon"]["request_id"], answer["id"]);
    assert_eq!((&answer["antiphon"]["model_id"], answer.get("metadata")), (&json!("tiny"), None));

    let body = format!(r#"{{{CHAT},"stream":true,"stream_options":{{"include_usage":true}}}}"#);
    let stream = post(world.address, "/v1/chat/completions", &body).await;
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.header("cache-control"), Some("no-cache"));
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    let chunks = stream.chunks();
    assert_eq!(joined(&chunks, "/choices/0/delta/content"), "Hello 안녕 👋🏽!\n  Indented.");
    assert_eq!(joined(&chunks, "/choices/0/delta/reasoning"), "Greet them.");
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &answer["usage"]), "usage as in one piece");
    assert!(
        last["antiphon"].is_object()
            && last.get("metadata").is_none()
            && chunks.iter().all(|chunk| chunk.get("error").is_none())
    );
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn function_calls_are_streamed_as_they_are_written() {
    let call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>";
    let world = World::open(Plan { answer: call.to_owned(), ..Plan::default() }).await;
    let tools = r#""tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#;
    let whole = post(world.address, "/v1/chat/completions", &format!("{{{CHAT},{tools}}}")).await.json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], json!(null));
    let function = json!({"name": "f", "arguments": "{\"city\": \"Paris\"}"});
    assert_eq!(choice["message"]["tool_calls"][0]["function"], function);
    let body = format!(r#"{{{CHAT},{tools},"stream":true}}"#);
    let chunks = post(world.address, "/v1/chat/completions", &body).await.chunks();
    assert_eq!(joined(&chunks, "/choices/0/delta/tool_calls/0/function/arguments"), "{\"city\": \"Paris\"}");
    assert_eq!(joined(&chunks, "/choices/0/delta/tool_calls/0/function/name"), "f");
    world.close().await;
}

#[actix_rt::test]
async fn the_header_and_the_option_choose_the_dialect() {
    let mut plan = Plan { answer: harmony("x", "Yes."), ..Plan::default() };
    plan.http.dialect = antiphon::http::Dialect::Both;
    let world = World::open(plan).await;
    let body = format!(r#"{{{CHAT},"stream":true}}"#);
    let both = post(world.address, "/v1/chat/completions", &body).await.chunks();
    assert_eq!(joined(&both, "/content"), "Yes.");
    assert_eq!(joined(&both, "/choices/0/delta/content"), "Yes.");
    assert_eq!((&both[0]["type"], &both.last().unwrap()["type"]), (&json!("start"), &json!("done")));
    assert_eq!(both.last().unwrap()["metadata"]["model_id"], "tiny", "as the predecessor named it");
    for headers in ["", "X-SSE-Dialect: events\r\n"] {
        let whole = post_with(world.address, "/v1/chat/completions", headers, &format!("{{{CHAT}}}")).await.json();
        assert_eq!((&whole["metadata"]["model_id"], whole.get("antiphon")), (&json!("tiny"), None));
    }
    let events = post_with(world.address, "/v1/chat/completions", "X-SSE-Dialect: events\r\n", &body).await;
    let types: Vec<String> = events
        .events()
        .iter()
        .map(|event| serde_json::from_str::<serde_json::Value>(event).unwrap()["type"].to_string())
        .collect();
    assert_eq!((types.first().unwrap().as_str(), types.last().unwrap().as_str()), ("\"start\"", "\"done\""));
    assert!(!events.body.contains("event:"));
    let wrong = post_with(world.address, "/v1/chat/completions", "X-SSE-Dialect: morse\r\n", &body).await;
    assert_eq!((wrong.status, wrong.error()["param"].clone()), (400, json!("X-SSE-Dialect")));
    let several = post(world.address, "/v1/chat/completions", &format!(r#"{{{CHAT},"stream":true,"n":2}}"#)).await;
    assert_eq!((several.status, several.error()["param"].clone()), (400, json!("n")));
    world.close().await;
}

#[actix_rt::test]
async fn generate_speaks_named_events() {
    let world = speaking("x", "Hi.").await;
    let reply = post(world.address, "/generate", r#"{"prompt":"hi","temperature":0}"#).await;
    let id = reply.header("x-request-id").unwrap().to_owned();
    let text = world.service.limits().map(|_| reply.body.clone()).unwrap();
    let begin =
        format!("event: start\ndata: {{\"type\":\"start\",\"request_id\":\"{id}\",\"model\":\"tiny\"}}\n\nevent: token\n");
    assert!(text.starts_with(&begin), "{text}");
    assert!(
        text.contains(&format!("\n\nevent: done\ndata: {{\"type\":\"done\",\"request_id\":\"{id}\",\"metadata\":{{")),
        "{text}"
    );
    let whole = post(world.address, "/generate", r#"{"prompt":"hi","stream":false}"#).await.json();
    assert_eq!((&whole["choices"][0]["message"]["content"], &whole["metadata"]["model_id"]), (&json!("Hi."), &json!("tiny")));
    world.close().await;
}

#[actix_rt::test]
async fn the_text_stream_is_exact() {
    let world = speaking("I write code.", "print(\"Jay\")").await;
    let body = r#"{"user_id":"u","model_type":"code_generation","prompt":"print Jay","user_select_options":{},"temperature":0.3,"top_p":0.95,"max_tokens":1024}"#;
    let reply = post(world.address, "/generate/stream", body).await;
    let chunks = reply.chunks();
    assert_eq!(joined(&chunks, "/text"), "print(\"Jay\")");
    let frames: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    assert_eq!(reply.body, format!("{frames}data: [DONE]\n\n"), "nothing but texts and the end");
    world.close().await;
}

#[actix_rt::test]
async fn completions_continue_texts_and_tokens() {
    let world = World::open(Plan { answer: " and so on".to_owned(), ..Plan::default() }).await;
    let (address, ids) = (world.address, tokens("One"));
    let body = r#"{"prompt":["One","Two"],"n":2,"max_tokens":50,"echo":true}"#;
    let whole = post(address, "/v1/completions", body).await.json();
    let texts: Vec<&str> = whole["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["One and so on", "One and so on", "Two and so on", "Two and so on"]);
    let prompt_tokens = ids.len() + tokens("Two").len();
    assert_eq!(whole["usage"]["prompt_tokens"], json!(prompt_tokens), "each prompt once");

    let body = json!({"prompt": ids, "max_tokens": 50, "echo": true, "logprobs": 2, "return_token_ids": true, "stream": true});
    let chunks = post(address, "/v1/completions", &body.to_string()).await.chunks();
    assert_eq!(joined(&chunks, "/choices/0/text"), "One and so on");
    assert_eq!(chunks[0]["choices"][0]["prompt_token_ids"], json!(ids));
    assert_eq!(chunks[0]["choices"][0]["logprobs"]["token_logprobs"][0], json!(null));
    let logged: String = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["tokens"].as_array().cloned())
        .flatten()
        .map(|token| token.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(logged, "One and so on<|return|>", "one entry a token, the stop token's last");
    let scored = post(address, "/v1/completions", r#"{"prompt":"One","max_tokens":0,"echo":true,"logprobs":1}"#).await.json();
    assert_eq!(scored["choices"][0]["text"], "One");
    assert_eq!(scored["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), ids.len());
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn token_ids_tell_prompt_and_answer() {
    let world = World::open(Plan { answer: "Hi.".to_owned(), ..Plan::default() }).await;
    let body = json!({"prompt": "One", "max_tokens": 9, "return_token_ids": true}).to_string();
    let choice = post(world.address, "/v1/completions", &body).await.json()["choices"][0].clone();
    assert_eq!(choice["prompt_token_ids"], json!(tokens("One")));
    let generated = choice["token_ids"].as_array().unwrap();
    assert_eq!(generated[..generated.len() - 1], json!(tokens("Hi.")).as_array().unwrap()[..], "then the stop token");
    world.close().await;
}

#[actix_rt::test]
async fn text_turns_into_tokens_and_back() {
    let world = World::open(Plan::default()).await;
    let body = json!({"prompt": "Hello 안녕", "return_token_strs": true}).to_string();
    let reply = post(world.address, "/tokenize", &body).await.json();
    assert_eq!((&reply["tokens"], &reply["count"]), (&json!(tokens("Hello 안녕")), &json!(tokens("Hello 안녕").len())));
    assert_eq!(reply["max_model_len"], 2048);
    assert_eq!(reply["token_strs"].as_array().unwrap().len(), tokens("Hello 안녕").len());
    let back = post(world.address, "/detokenize", &json!({"tokens": reply["tokens"]}).to_string()).await.json();
    assert_eq!(back, json!({"prompt": "Hello 안녕"}));
    let chat = post(world.address, "/tokenize", &format!("{{{CHAT}}}")).await.json();
    assert!(chat["count"].as_u64().unwrap() > 0, "{chat}");
    world.close().await;
}

#[actix_rt::test]
async fn models_are_listed_under_all_names() {
    let world = World::open(Plan::default()).await;
    for path in ["/v1/models", "/models"] {
        let list = get(world.address, path).await.json();
        let names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
        assert_eq!(names, ["tiny", "org/alias"]);
    }
    let one = get(world.address, "/v1/models/org/alias").await.json();
    assert_eq!((&one["id"], &one["root"], &one["max_model_len"]), (&json!("org/alias"), &json!("tiny"), &json!(2048)));
    assert_eq!(get(world.address, "/v1/models/org%2Falias").await.json(), one, "as the official client writes it");
    for path in ["/v1/models/%ff", "/v1/models/%00", "/v1/models/a%2525"] {
        assert_eq!(get(world.address, path).await.error()["code"], "model_not_found", "{path}");
    }
    assert_eq!(get(world.address, "/v1/models/gpt-4").await.error()["code"], "model_not_found");
    let body = format!(r#"{{{CHAT},"model":"org/alias"}}"#);
    assert_eq!(post(world.address, "/v1/chat/completions", &body).await.json()["model"], "org/alias");
    assert_eq!(get(world.address, "/version").await.json(), json!({"version": antiphon::VERSION}));
    world.close().await;
}
