//! A client that believes nothing: reads the events of a response, for tests. The suite has this
//! file too.

use serde_json::{Value, json};

/// The response that the last of `events`, which are names and data, holds. Every event is compared
/// with what came before: numbers, ids, places, and texts with their pieces.
pub(crate) fn replayed(events: &[(String, Value)]) -> Value {
    for (number, (name, event)) in events.iter().enumerate() {
        assert_eq!((&event["type"], &event["sequence_number"]), (&json!(name), &json!(number)), "{event}");
    }
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"]);
    let mut output = Vec::new();
    let mut rest = &events[2..];
    while let [(name, added), ..] = rest
        && name == "response.output_item.added"
    {
        let length = 1 + rest.iter().position(|(name, _)| name == "response.output_item.done").unwrap_or(rest.len() - 2);
        output.push(item(output.len(), added, &rest[1..length]));
        rest = &rest[length..];
    }
    let [(name, last)] = rest else { panic!("one event ends a response, and these are left: {names:?}") };
    let response = &last["response"];
    let status = name.strip_prefix("response.").expect("an event of the response");
    assert!(response["status"] == status || response["status"] == "cancelled", "{name}: {response}");
    assert_eq!(response["output"], json!(output), "what was streamed is the response");
    for (_, event) in &events[..2] {
        let begun = &event["response"];
        assert_eq!((&begun["status"], &begun["output"], &begun["usage"]), (&json!("in_progress"), &json!([]), &Value::Null));
        for field in ["id", "created_at", "model", "tools", "instructions", "metadata", "text"] {
            assert_eq!(begun[field], response[field], "{field}");
        }
    }
    response.clone()
}

/// The item number `index`, which began with `added`.
fn item(index: usize, added: &Value, events: &[(String, Value)]) -> Value {
    let begun = &added["item"];
    assert_eq!((&added["output_index"], &begun["status"]), (&json!(index), &json!("in_progress")), "{added}");
    let (kind, prefix) = match begun["type"].as_str().expect("an item has a type") {
        "reasoning" => ("reasoning_text", "rs_"),
        "message" => ("output_text", "msg_"),
        "function_call" => ("function_call_arguments", "fc_"),
        "custom_tool_call" => ("custom_tool_call_input", "ctc_"),
        other => panic!("{other} is no item"),
    };
    assert!(begun["id"].as_str().is_some_and(|id| id.starts_with(prefix)), "{begun}");
    let is_call = ["function_call_arguments", "custom_tool_call_input"].contains(&kind);
    let mut names = Vec::new();
    let (mut text, mut logprobs, mut done) = (String::new(), Vec::new(), Value::Null);
    for (name, event) in events {
        assert_eq!(event["output_index"], index, "{event}");
        if name != "response.output_item.done" {
            assert_eq!(event["item_id"], begun["id"], "{event}");
            assert_eq!(event.get("content_index"), (!is_call).then_some(&json!(0)), "{event}");
        }
        if let Some(delta) = event["delta"].as_str() {
            assert!(!delta.is_empty() || event["logprobs"].as_array().is_some_and(|list| !list.is_empty()), "{event}");
            text.push_str(delta);
            logprobs.extend(event["logprobs"].as_array().cloned().unwrap_or_default());
        }
        if names.last() != Some(&name.as_str()) {
            names.push(name.as_str());
        }
        match name.rsplit('.').next() {
            Some("done") if all_of(event).is_some() => {
                assert_eq!(all_of(event), Some(&json!(text)), "{event}");
                let told_name = begun.get("name").filter(|_| begun["type"] == "function_call");
                assert_eq!(event.get("name"), told_name, "{event}");
            }
            Some("done") if name == "response.output_item.done" => done = event["item"].clone(),
            _ => {}
        }
    }
    let (delta, end) = (format!("response.{kind}.delta"), format!("response.{kind}.done"));
    let part = |name| (!is_call).then_some(name);
    let expected: Vec<&str> = [part("response.content_part.added"), (!text.is_empty()).then_some(&*delta), Some(&*end)]
        .into_iter()
        .chain([part("response.content_part.done"), Some("response.output_item.done")])
        .flatten()
        .collect();
    assert_eq!(names, expected);
    let whole = if is_call { all_of(&done).expect("a call has a text") } else { &done["content"][0]["text"] };
    assert_eq!(*whole, text, "{done}");
    if kind == "output_text" {
        assert_eq!(done["content"][0]["logprobs"], json!(logprobs));
    }
    for field in ["id", "type", "call_id", "name", "role"] {
        assert_eq!(begun.get(field), done.get(field), "{field}");
    }
    done
}

/// All text of an item that ends, or of a call.
fn all_of(value: &Value) -> Option<&Value> {
    ["text", "arguments", "input"].iter().find_map(|field| value.get(field))
}
