//! A client that believes nothing: joins the events of a message, for tests. The suite has this
//! file too.

use serde_json::{Value, json};

/// The message that `events`, which are names and data, make when they are joined as Anthropic's
/// clients join them. Every event is compared with what came before. Pings may come anywhere.
pub(crate) fn joined(events: &[(String, Value)]) -> Value {
    for (name, event) in events {
        assert_eq!(event["type"], json!(name), "{event}");
    }
    let told: Vec<&Value> = events.iter().map(|(_, event)| event).filter(|event| event["type"] != "ping").collect();
    let [first, blocks @ .., delta, stop] = told.as_slice() else { panic!("a message begins and ends: {told:?}") };
    assert_eq!(
        (&first["type"], &delta["type"], &stop["type"]),
        (&json!("message_start"), &json!("message_delta"), &json!("message_stop"))
    );
    let mut message = first["message"].clone();
    assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &Value::Null), "nothing is said yet");
    let mut content = Vec::new();
    let mut rest = blocks;
    while let [start, ..] = rest {
        assert_eq!((&start["type"], &start["index"]), (&json!("content_block_start"), &json!(content.len())), "{start}");
        let length = 1 + rest.iter().position(|event| event["type"] == "content_block_stop").expect("a block ends");
        content.push(block(content.len(), start, &rest[1..length]));
        rest = &rest[length..];
    }
    message["content"] = json!(content);
    for field in ["stop_reason", "stop_sequence"] {
        message[field] = delta["delta"][field].clone();
    }
    message["usage"] = delta["usage"].clone();
    message
}

/// The block number `index`, which began with `start`.
fn block(index: usize, start: &Value, events: &[&Value]) -> Value {
    let mut block = start["content_block"].clone();
    let mut arguments = String::new();
    let [deltas @ .., stop] = events else { panic!("{start} has no end") };
    assert_eq!(**stop, json!({"type": "content_block_stop", "index": index}));
    for event in deltas {
        assert_eq!((&event["type"], &event["index"]), (&json!("content_block_delta"), &json!(index)), "{event}");
        let delta = &event["delta"];
        let (kind, field) = match delta["type"].as_str().expect("a delta has a type") {
            "text_delta" => ("text", "text"),
            "thinking_delta" => ("thinking", "thinking"),
            "signature_delta" => ("thinking", "signature"),
            "input_json_delta" => ("tool_use", "partial_json"),
            other => panic!("{other} is no delta"),
        };
        let piece = delta[field].as_str().expect("a piece of text");
        assert!(block["type"] == kind && !piece.is_empty(), "{event} in {block}");
        if field == "partial_json" {
            arguments.push_str(piece);
        } else {
            block[field] = json!(block[field].as_str().expect("a text").to_owned() + piece);
        }
    }
    if block["type"] == "tool_use" {
        assert_eq!(block["input"], json!({}), "arguments come in pieces");
        let said = if arguments.is_empty() { "{}" } else { &arguments };
        let read = serde_json::from_str(said).ok().filter(Value::is_object);
        block["input"] = read.unwrap_or_else(|| json!({"INVALID_JSON": arguments}));
    }
    block
}
