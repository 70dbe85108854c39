//! The lists beside a text: log-probabilities, offsets, usage so far. In one piece and streamed
//! they are the same.

use serde_json::{Value, json};

use super::client::post;
use super::world::{Plan, World, harmony};

const CHAT: &str = r#""messages":[{"role":"user","content":"hi"}],"temperature":0"#;

/// All items of the lists that `pointer` finds in `answers`, one after another.
fn joined(answers: &[Value], pointer: &str) -> Vec<Value> {
    answers.iter().filter_map(|answer| answer.pointer(pointer)?.as_array()).flatten().cloned().collect()
}

fn texts(items: &[Value]) -> String {
    items.iter().map(|item| item.as_str().or(item["token"].as_str()).expect("the text of a token")).collect()
}

#[actix_rt::test]
async fn a_stop_string_cuts_the_lists_as_it_cuts_the_text() {
    let world = World::open(Plan { answer: harmony("Think.", "Hello! How can I help you?"), ..Plan::default() }).await;
    for (stop, text) in [("can I", "Hello! How "), ("How", "Hello! "), ("?", "Hello! How can I help you"), ("Hello", "")] {
        let fields = format!(r#"{CHAT},"logprobs":true,"stop":["{stop}"]"#);
        let whole = post(world.address, "/v1/chat/completions", &format!("{{{fields}}}")).await.json();
        assert_eq!(whole["choices"][0]["message"]["content"], text);
        let in_one_piece = joined(std::slice::from_ref(&whole), "/choices/0/logprobs/content");
        assert_eq!(texts(&in_one_piece), text, "{stop:?}");
        let chunks = post(world.address, "/v1/chat/completions", &format!(r#"{{{fields},"stream":true}}"#)).await.chunks();
        assert_eq!(joined(&chunks, "/choices/0/logprobs/content"), in_one_piece, "{stop:?}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn completions_list_every_token_at_its_place() {
    let world = World::open(Plan { answer: "ef👋<|channel|>gh".to_owned(), ..Plan::default() }).await;
    let body = |stream: bool| format!(r#"{{"prompt":"ab👋cd","echo":true,"logprobs":1,"max_tokens":40,"stream":{stream}}}"#);
    let whole = post(world.address, "/v1/completions", &body(false)).await.json();
    let text: Vec<char> = whole["choices"][0]["text"].as_str().unwrap().chars().collect();
    assert_eq!(text.iter().collect::<String>(), "ab👋cdef👋gh");
    let lists = &whole["choices"][0]["logprobs"];
    let tokens = joined(std::slice::from_ref(lists), "/tokens");
    let offsets: Vec<usize> =
        joined(std::slice::from_ref(lists), "/text_offset").iter().map(|at| at.as_u64().unwrap() as usize).collect();
    for (token, at) in tokens.iter().zip(&offsets) {
        let token = token.as_str().unwrap();
        let is_whole = !token.contains('\u{fffd}') && !token.starts_with("<|");
        let rest: String = text[*at..].iter().collect();
        assert!(!is_whole || rest.starts_with(token), "{token:?} at {at}: {rest:?}");
    }
    let controls = tokens.iter().filter(|token| token.as_str().unwrap().starts_with("<|")).count();
    assert_eq!(controls, 2, "the one inside and the stop token: {tokens:?}");
    let used = &whole["usage"];
    assert_eq!(json!(tokens.len()), used["total_tokens"], "one entry a token");
    let chunks = post(world.address, "/v1/completions", &body(true)).await.chunks();
    for list in ["tokens", "text_offset", "token_logprobs", "top_logprobs"] {
        let streamed = joined(&chunks, &format!("/choices/0/logprobs/{list}"));
        assert_eq!(json!(streamed), lists[list], "{list}");
    }
    let only =
        post(world.address, "/v1/completions", r#"{"prompt":"ab👋cd","echo":true,"logprobs":1,"max_tokens":0}"#).await.json();
    let at = joined(&[only], "/choices/0/logprobs/text_offset");
    assert!(at.iter().all(|at| at.as_u64().unwrap() < 5), "within the five characters: {at:?}");
    world.close().await;
}

#[actix_rt::test]
async fn usage_so_far_counts_the_reasoning_and_comes_only_where_usage_is_wanted() {
    let world = World::open(Plan { answer: harmony("Think of it.", "Yes."), ..Plan::default() }).await;
    let ask = async |include: bool| {
        let options = format!(r#""stream_options":{{"include_usage":{include},"continuous_usage_stats":true}}"#);
        post(world.address, "/v1/chat/completions", &format!(r#"{{{CHAT},"stream":true,{options}}}"#)).await.chunks()
    };
    assert!(ask(false).await.iter().all(|chunk| chunk.get("usage").is_none()));
    let chunks = ask(true).await;
    let reasoning = |chunk: &Value| chunk["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    let counts: Vec<u64> = chunks.iter().map(reasoning).collect();
    assert!(counts.is_sorted() && counts[0] == 0, "{counts:?}");
    let last = *counts.last().unwrap();
    let first_answer =
        chunks.iter().find(|chunk| chunk["choices"][0]["delta"]["content"] == "Yes").unwrap_or(&chunks[chunks.len() - 2]);
    assert!(last > 0 && reasoning(first_answer) == last, "all reasoning is known when the answer begins: {counts:?}");
    world.close().await;
}

#[actix_rt::test]
async fn an_answer_without_content_has_an_empty_list() {
    let world = World::open(Plan { answer: harmony("Think of it for long.", "Yes."), ..Plan::default() }).await;
    let fields = format!(r#"{CHAT},"logprobs":true,"max_tokens":5"#);
    let whole = post(world.address, "/v1/chat/completions", &format!("{{{fields}}}")).await.json();
    assert_eq!(whole["choices"][0]["logprobs"], json!({"content": [], "refusal": null}));
    world.close().await;
}
