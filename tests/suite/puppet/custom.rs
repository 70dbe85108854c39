//! Custom tools: calls that hold a text, free or of a grammar, on chats and responses.

use serde_json::{Value, json};

use super::{ASKED, Puppet, extend};
use crate::embedded::events;
use crate::http::responses::replay::replayed;

/// Codex's grammar of a patch, as it sends it.
const PATCH: &str = include_str!("../../clients/apply_patch.lark");
const CALL: &str = "<|channel|>analysis<|message|>A patch.<|end|><|start|>assistant<|channel|>commentary to=functions.say<|message|>\
                    Hello \"Jay\"!\n<|call|>";

fn say() -> Value {
    json!({"type": "custom", "custom": {"name": "say", "description": "Says it."}})
}

fn apply_patch() -> Value {
    let format = json!({"type": "grammar", "grammar": {"syntax": "lark", "definition": PATCH}});
    json!({"type": "custom", "custom": {"name": "apply_patch", "format": format}})
}

/// A tool in the form of responses.
fn flat(tool: &Value) -> Value {
    let mut flat = tool["custom"].clone();
    flat["type"] = json!("custom");
    if let Some(grammar) = flat.pointer("/format/grammar").cloned() {
        flat["format"] = grammar;
        flat["format"]["type"] = json!("grammar");
    }
    flat
}

/// The calls of a chat's answer as they are on the wire, the same in one piece and joined from a
/// stream; and the finish reason.
fn calls(puppet: &Puppet, fields: &Value) -> (Vec<Value>, Value) {
    let mut body = json!({"messages": [{"role": "user", "content": ASKED}], "max_tokens": 200, "temperature": 0});
    extend(&mut body, fields);
    let ask = |body: &Value| puppet.server.ask("POST", "/v1/chat/completions", &body.to_string());
    let whole: Value = serde_json::from_str(&ask(&body)).expect("JSON");
    let calls = whole["choices"][0]["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{whole}")).clone();
    body["stream"] = json!(true);
    let mut joined: Vec<Value> = Vec::new();
    for chunk in events(&ask(&body)) {
        for piece in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            if piece["id"].is_string() {
                let mut call = piece.clone();
                call.as_object_mut().expect("an object").remove("index");
                joined.push(call);
            } else {
                let call = joined.last_mut().expect("a call began");
                let more = piece["custom"]["input"].as_str().expect("a piece of the input");
                call["custom"]["input"] = json!(call["custom"]["input"].as_str().expect("a text").to_owned() + more);
            }
        }
    }
    for (one, other) in calls.iter().zip(&joined) {
        assert_eq!((&one["type"], &one["custom"]), (&other["type"], &other["custom"]));
    }
    assert_eq!(calls.len(), joined.len());
    (calls, whole["choices"][0]["finish_reason"].clone())
}

#[test]
fn a_call_of_a_custom_tool_holds_its_text() {
    let puppet = Puppet::chat(CALL);
    let (called, finish) = calls(&puppet, &json!({"tools": [say(), super::tool("f")]}));
    let [call] = called.as_slice() else { panic!("{called:?}") };
    assert_eq!(finish, "tool_calls");
    assert_eq!((&call["type"], &call["custom"]), (&json!("custom"), &json!({"name": "say", "input": "Hello \"Jay\"!\n"})));
    assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")) && call.get("function").is_none(), "{call}");
}

/// Whatever the model would say, a forced call holds what its grammar takes.
#[test]
fn a_grammar_is_kept() {
    let puppet = Puppet::chat(CALL);
    let pick = json!({"type": "custom", "custom": {"name": "pick", "format": {"type": "grammar",
        "grammar": {"syntax": "regex", "definition": "(left|right)!"}}}});
    let choice = |name: &str| json!({"type": "custom", "custom": {"name": name}});
    for choice in [choice("pick"), json!({"type": "allowed_tools", "mode": "required", "tools": [choice("pick")]})] {
        let (called, finish) = calls(&puppet, &json!({"tools": [pick, apply_patch()], "tool_choice": choice}));
        assert!(
            ["left!", "right!"].iter().any(|input| called[0]["custom"] == json!({"name": "pick", "input": input})),
            "{called:?}"
        );
        assert_eq!(finish, "tool_calls");
    }
    let (called, _) = calls(&puppet, &json!({"tools": [apply_patch()], "tool_choice": "required"}));
    let input = called[0]["custom"]["input"].as_str().expect("a text");
    assert!(input.starts_with("*** Begin Patch\n*** "), "{input}");
    let broken = json!({"type": "custom", "custom": {"name": "p", "format": {"type": "grammar",
        "grammar": {"syntax": "lark", "definition": "start: nothing"}}}});
    let body = json!({"messages": [{"role": "user", "content": ASKED}], "tools": [say(), broken]});
    let refused = puppet.refusal("/v1/chat/completions", &body);
    assert_eq!(refused["param"], "tools[1].custom.format.grammar.definition", "{refused}");
}

/// As codex asks: with stream and store off, every item sent back.
#[test]
fn a_response_has_the_call_as_an_item_and_takes_it_back() {
    let puppet = Puppet::chat(CALL);
    let body = json!({"input": [{"role": "user", "content": ASKED}], "tools": [flat(&say()), flat(&apply_patch()), {"type": "web_search"}],
        "temperature": 0, "max_output_tokens": 400, "store": false, "tool_choice": {"type": "custom", "name": "say"}});
    let ask = |body: &Value| puppet.server.ask("POST", "/v1/responses", &body.to_string());
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let answer = ask(&streamed);
    let names = answer.lines().filter_map(|line| line.strip_prefix("event: ")).map(|name| name.trim().to_owned());
    let events: Vec<(String, Value)> = names.zip(events(&answer)).collect();
    assert!(events.iter().any(|(name, _)| name == "response.custom_tool_call_input.done"), "{answer}");
    let response = replayed(&events);
    let items = response["output"].as_array().expect("a list");
    let call = items.last().expect("an item");
    assert_eq!((&call["type"], &call["name"]), (&json!("custom_tool_call"), &json!("say")), "{response}");
    assert_eq!(response["tools"], json!([expected(&say()), expected(&apply_patch())]));
    // The next turn: all items, and what the tool gave.
    let mut next = body;
    let input = next["input"].as_array_mut().expect("a list");
    input.extend(items.iter().cloned());
    input.push(json!({"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "Said."}));
    next.as_object_mut().expect("an object").remove("tool_choice");
    let next: Value = serde_json::from_str(&ask(&next)).expect("JSON");
    assert_eq!(next["object"], "response", "{next}");
    let lone = json!({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "say", "input": "x"}]});
    let lone = puppet.refusal("/v1/responses", &lone);
    assert!(lone["message"].as_str().is_some_and(|said| said.contains("No tool output found")), "{lone}");
}

/// A tool as the answer tells it again.
fn expected(tool: &Value) -> Value {
    let mut told = flat(tool);
    for (field, unsaid) in [("description", Value::Null), ("format", json!({"type": "text"}))] {
        if told.get(field).is_none() {
            told[field] = unsaid;
        }
    }
    told
}

/// The same prompt whichever API says it, with the input as it was said.
#[test]
fn the_prompt_tells_of_the_tool_and_holds_the_input() {
    let puppet = Puppet::chat(CALL);
    let call = json!({"id": "c", "type": "custom", "custom": {"name": "say", "input": "{\"a\": 1"}});
    let body = json!({"tools": [say(), apply_patch()], "messages": [{"role": "user", "content": ASKED},
        {"role": "assistant", "content": null, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "Said."}],
        "tool_choice": {"type": "custom", "custom": {"name": "apply_patch"}}});
    let prompt = puppet.server.ask("POST", "/apply-template", &body.to_string());
    let prompt = serde_json::from_str::<Value>(&prompt).expect("JSON")["prompt"]
        .as_str()
        .unwrap_or_else(|| panic!("{prompt}"))
        .to_owned();
    for part in [
        "// Says it.\n// Its input is the whole text of the call's message as it is, and no JSON.\ntype say = (_: string) => any;",
        "// It is what this grammar takes:\n// start: begin_patch hunk+ end_patch\n",
        "<|start|>assistant to=functions.say<|channel|>commentary<|message|>{\"a\": 1<|call|>",
        "<|start|>functions.say to=assistant<|channel|>commentary<|message|>Said.<|end|>",
    ] {
        assert!(prompt.contains(part), "{part:?} is not in {prompt}");
    }
    assert!(prompt.ends_with("<|start|>assistant<|channel|>commentary to=functions.apply_patch<|message|>"), "{prompt}");
}
