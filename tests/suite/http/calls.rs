//! What a request allows of calls, and what becomes of damaged answers: in one piece and streamed.

use serde_json::{Value, json};

use super::client::post;
use super::world::{Plan, World};

const TOOLS: &str =
    r#""tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"get_time"}}]"#;
const CALL: &str = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"city\": \"Bergen\"}";
const TIME: &str = "<|start|>assistant<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>";

/// A chunk's texts, put together as clients do.
fn gathered(chunks: &[Value]) -> Value {
    let mut calls: Vec<(String, String)> = Vec::new();
    let (mut content, mut reasoning, mut reason) = (String::new(), String::new(), Value::Null);
    for choice in chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0")) {
        let delta = &choice["delta"];
        content += delta["content"].as_str().unwrap_or_default();
        reasoning += delta["reasoning"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            if let Some(name) = function["name"].as_str() {
                assert_eq!(call["index"], calls.len());
                calls.push((name.to_owned(), String::new()));
            }
            calls.last_mut().expect("a call began").1 += function["arguments"].as_str().unwrap_or_default();
        }
        if !choice["finish_reason"].is_null() {
            reason = choice["finish_reason"].clone();
        }
    }
    json!([content, reasoning, calls, reason])
}

fn whole(answer: &Value) -> Value {
    let choice = &answer["choices"][0];
    let text = |name: &str| choice["message"][name].as_str().unwrap_or_default().to_owned();
    let calls = choice["message"]["tool_calls"].as_array().into_iter().flatten();
    let calls: Vec<_> = calls.map(|call| json!([call["function"]["name"], call["function"]["arguments"]])).collect();
    json!([text("content"), text("reasoning"), calls, choice["finish_reason"]])
}

/// What a client gets of `answer` is `[content, reasoning, [[function, arguments] …],
/// finish_reason]`, streamed or not.
async fn check(answer: &str, fields: &str, expected: Value) {
    let world = World::open(Plan { answer: answer.to_owned(), ..Plan::default() }).await;
    let fields = if fields.is_empty() { String::new() } else { format!(",{fields}") };
    let body = format!(r#""messages":[{{"role":"user","content":"hi"}}],"temperature":0{fields}"#);
    let plain = post(world.address, "/v1/chat/completions", &format!("{{{body}}}")).await;
    assert_eq!(plain.status, 200, "{answer} {fields}");
    assert_eq!(whole(&plain.json()), expected, "{answer} {fields}");
    let streamed = post(world.address, "/v1/chat/completions", &format!(r#"{{{body},"stream":true}}"#)).await;
    assert_eq!(gathered(&streamed.chunks()), expected, "streamed: {answer} {fields}");
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn only_what_was_offered_is_called() {
    let call = format!("{CALL}<|call|>");
    let made = json!(["", "", [["f", "{\"city\": \"Bergen\"}"]], "tool_calls"]);
    let reasoned = json!(["", "{\"city\": \"Bergen\"}", [], "stop"]);
    check(&call, TOOLS, made.clone()).await;
    check(&call.replace("functions.f", "f"), TOOLS, made.clone()).await;
    check(&call, &format!(r#"{TOOLS},"tool_choice":"none""#), reasoned.clone()).await;
    check(&call, "", reasoned.clone()).await;
    check(&call.replace("functions.f", "functions.g"), TOOLS, reasoned.clone()).await;
    check(&call.replace("commentary to=functions.f", "analysis to=python"), TOOLS, reasoned).await;
}

#[actix_rt::test]
async fn a_forced_call_is_of_the_function_that_was_named() {
    for choice in [r#""tool_choice":{"type":"function","function":{"name":"f"}}"#, r#""tool_choice":"required""#] {
        let tools = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
        check("{\"a\": 1}<|call|>", &format!("{tools},{choice}"), json!(["", "", [["f", "{\"a\": 1}"]], "tool_calls"])).await;
    }
}

#[actix_rt::test]
async fn one_call_at_most_is_one_call() {
    let two = format!("{CALL}<|end|>{TIME}{{}}<|call|>");
    let first = json!(["f", "{\"city\": \"Bergen\"}"]);
    check(&two, TOOLS, json!(["", "", [first, ["get_time", "{}"]], "tool_calls"])).await;
    check(&two, &format!(r#"{TOOLS},"parallel_tool_calls":false"#), json!(["", "", [first], "tool_calls"])).await;
}

#[actix_rt::test]
async fn what_follows_the_answer_is_no_part_of_it() {
    let answer = "<|channel|>final<|message|>Which size?<|end|>";
    let asked = json!(["Which size?", "", [], "stop"]);
    check(&format!("{answer}<|start|>user<|message|>Large.<|end|>{}", answer.repeat(3)), "", asked.clone()).await;
    check(&format!("{answer}<|start|>assistant{answer}"), TOOLS, asked).await;
    let result = format!("{CALL}<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>4<|end|>");
    check(&result, TOOLS, json!(["", "", [["f", "{\"city\": \"Bergen\"}"]], "tool_calls"])).await;
}

#[actix_rt::test]
async fn damage_shows_in_no_answer() {
    let thought = "<|channel|>analysis<|message|>One.<|end|>";
    let made = |reasoning: &str| json!(["", reasoning, [["get_time", "{}"]], "tool_calls"]);
    check(&format!("{thought}{}<|call|>", TIME.replace("<|start|>assistant<|channel|>", "")), TOOLS, made("One.")).await;
    check(&format!("{thought}<|start|>assistant{thought}{TIME}<|call|>"), TOOLS, made("One.\n\nOne.")).await;
    let preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>";
    check(preamble, TOOLS, json!(["I look.\n\nDone.", "", [], "stop"])).await;
    check("Let me see. <|channel|>final<|message|>Done.<|return|>", "", json!(["Let me see. \n\nDone.", "", [], "stop"])).await;
    let refusal = "<|channel|>analysis I must refuse.<|end|><|start|>assistant<|channel|>final<|message|>No.<|return|>";
    check(refusal, "", json!(["No.", "I must refuse.", [], "stop"])).await;
}
