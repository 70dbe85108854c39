use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::actors::budget::Budget;
use crate::actors::messages::{Cached, KeyId};
use crate::http::answer::encoder::Encoder;
use crate::http::messages::answer::*;
use crate::http::messages::replay::joined;
use crate::http::wire::samples::{arguments, content, finished, heading, metadata, start, thought};
use crate::store::ResponseStore;

const STOP: FinishKind = FinishKind::Stop { matched: None };

fn encoder(thinking: ThinkingShown, budget_bytes: Option<u64>) -> MessagesEncoder {
    let memory = budget_bytes.map(|bytes| Arc::new(Budget::new(bytes)).open());
    let sealing = Sealing { store: ResponseStore::off(), owner: KeyId::default() };
    let mut encoder = MessagesEncoder::new(heading(), metadata(), AnswerProgress::new(30, 1), thinking, sealing, memory);
    encoder.cut_after(Some(20));
    encoder
}

/// The events of parts, names and data.
fn events(encoder: MessagesEncoder, parts: &[Part]) -> Vec<(String, Value)> {
    let mut encoder = Encoder::Messages(Box::new(encoder));
    let mut frames = Vec::new();
    encoder.begin(&mut frames);
    for part in parts {
        if encoder.part(part, &mut frames) {
            break;
        }
    }
    let read = |frame: Frame| (frame.event.expect("a name").to_owned(), serde_json::from_str(&frame.data).unwrap());
    frames.into_iter().map(read).collect()
}

/// A message without its signatures, which never are the same twice.
fn unsigned(mut message: Value) -> Value {
    for block in message["content"].as_array_mut().unwrap() {
        if block["type"] == "thinking" {
            assert!(block["signature"].as_str().is_some_and(|signature| signature.len() > 30), "{block}");
            block["signature"] = json!("signed");
        }
    }
    message
}

/// The message of parts, which is the same streamed and in one piece.
fn message(thinking: ThinkingShown, parts: &[Part]) -> Value {
    let streamed = joined(&events(encoder(thinking, Some(1 << 20)), parts));
    let mut whole = encoder(thinking, None);
    for part in parts {
        whole.take(part.clone()).unwrap();
    }
    assert!(whole.is_done());
    let whole: Value = serde_json::from_str(&to_json(&whole.object())).unwrap();
    assert_eq!(unsigned(streamed), unsigned(whole.clone()), "the stream is the answer in one piece");
    whole
}

#[test]
fn each_kind_of_part_is_a_block() {
    let parts = [
        thought("h"),
        thought("m"),
        content(0, "I look.", 3),
        start(0, "f"),
        arguments(0, "{\"b\""),
        arguments(0, ": 1.0, \"a\":[] }"),
        start(1, "g"),
        Part { cached: Cached { tokens: 16, miss: None }, ..finished(0, FinishKind::ToolCalls, 9) },
    ];
    let whole = message(ThinkingShown::Text, &parts);
    assert!(to_json(&whole).contains(r#""input":{"b":1.0,"a":[]}"#), "keys stay in their order: {whole}");
    let mut told = unsigned(whole);
    assert_eq!(told["antiphon"]["cache_key"], "ab");
    told.as_object_mut().unwrap().remove("antiphon");
    let expected = json!({"id": "id-1", "type": "message", "role": "assistant", "model": "tiny", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "signed"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_0", "name": "f", "input": {"b": 1.0, "a": []}},
        {"type": "tool_use", "id": "toolu_1", "name": "g", "input": {}},
    ], "stop_reason": "tool_use", "stop_sequence": null, "usage": {"input_tokens": 14, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 16, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 1}}});
    assert_eq!(told, expected);
}

#[test]
fn a_stream_begins_with_an_empty_message_and_a_ping() {
    let events = events(encoder(ThinkingShown::Text, Some(1 << 20)), &[content(0, "a", 1), finished(0, STOP, 2)]);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let text = ["content_block_start", "content_block_delta", "content_block_stop"];
    assert_eq!(names, [&["message_start", "ping"][..], &text, &["message_delta", "message_stop"]].concat());
    let begun = &events[0].1["message"];
    assert_eq!((&begun["usage"]["input_tokens"], &begun["usage"]["output_tokens"]), (&json!(30), &json!(0)));
    assert_eq!((&events[1].1, &events[6].1), (&json!({"type": "ping"}), &json!({"type": "message_stop"})));
}

#[test]
fn what_is_shown_of_the_analysis_is_what_was_asked_for() {
    let parts = [content(0, "p", 1), thought("h"), thought("m"), content(0, "\n\na", 3), finished(0, STOP, 4)];
    let hidden = message(ThinkingShown::Nothing, &parts);
    assert_eq!(hidden["content"], json!([{"type": "text", "text": "p\n\na"}]), "one text, as a chat has it");
    let shown = message(ThinkingShown::Text, &parts);
    let kinds =
        |message: &Value| message["content"].as_array().unwrap().iter().map(|it| it["type"].clone()).collect::<Vec<_>>();
    assert_eq!(kinds(&shown), ["text", "thinking", "text"]);
    assert_eq!((&shown["content"][1]["thinking"], &shown["content"][2]["text"]), (&json!("hm"), &json!("a")));
    let sealed = message(ThinkingShown::Sealed, &parts);
    assert_eq!((kinds(&sealed), &sealed["content"][1]["thinking"]), (kinds(&shown), &json!("")));
    // It is in the signature, for the server that sealed it.
    let mut one = encoder(ThinkingShown::Sealed, None);
    parts.iter().for_each(|part| one.take(part.clone()).unwrap());
    let signature = &one.content[1].signature;
    assert_eq!(one.sealing.open(signature).as_deref(), Some("hm"));
    assert!(!signature.contains("hm"));
}

#[test]
fn each_end_has_its_reason() {
    let ended = |kind, tokens| {
        let message = message(ThinkingShown::Nothing, &[content(0, "a", 1), finished(0, kind, tokens)]);
        (message["stop_reason"].clone(), message["stop_sequence"].clone())
    };
    let matched = FinishKind::Stop { matched: Some("END".to_owned()) };
    for (kind, tokens, reason, sequence) in [
        (STOP, 2, json!("end_turn"), Value::Null),
        (matched, 2, json!("stop_sequence"), json!("END")),
        (FinishKind::Length, 20, json!("max_tokens"), Value::Null),
        (FinishKind::Length, 19, json!("model_context_window_exceeded"), Value::Null),
        (FinishKind::Cancelled, 2, Value::Null, Value::Null),
    ] {
        assert_eq!(ended(kind.clone(), tokens), (reason, sequence), "{kind:?}");
    }
    let called = message(ThinkingShown::Nothing, &[start(0, "f"), finished(0, STOP, 2)]);
    assert_eq!(called["stop_reason"], "tool_use");
    let nothing = message(ThinkingShown::Nothing, &[thought("hm"), finished(0, FinishKind::Length, 20)]);
    assert_eq!(nothing["content"], json!([]));
}

#[test]
fn arguments_that_are_no_object_are_told_as_they_were_said() {
    for (said, input) in [
        ("", json!({})),
        (" {\"a\": 1}\n", json!({"a": 1})),
        ("[1]", json!({"INVALID_JSON": "[1]"})),
        ("{\"a\": ", json!({"INVALID_JSON": "{\"a\": "})),
        ("{} {}", json!({"INVALID_JSON": "{} {}"})),
        ("null", json!({"INVALID_JSON": "null"})),
    ] {
        let parts = [start(0, "f"), arguments(0, said), finished(0, FinishKind::ToolCalls, 3)];
        assert_eq!(message(ThinkingShown::Text, &parts)["content"][0]["input"], input, "{said}");
    }
}

#[test]
fn a_failure_is_the_last_event() {
    let failed = |code| FinishKind::Failed { code, message: "It broke.".to_owned() };
    for (code, kind) in [("engine_failed", "api_error"), ("server_shutdown", "overloaded_error")] {
        let parts = [content(0, "a", 1), finished(0, failed(code), 2)];
        let events = events(encoder(ThinkingShown::Text, Some(1 << 20)), &parts);
        let error = json!({"type": kind, "message": "It broke.", "param": null, "code": code});
        let last = json!({"type": "error", "error": error, "request_id": "id-1"});
        assert_eq!(events.last(), Some(&("error".to_owned(), last)));
        let mut whole = encoder(ThinkingShown::Text, None);
        let broken = parts.into_iter().try_for_each(|part| whole.take(part)).unwrap_err();
        assert_eq!(broken, Broken { code, message: "It broke.".to_owned() });
    }
    // What is kept to be sealed needs room; what is only handed on does not.
    let long = [thought(&"long ".repeat(200)), finished(0, STOP, 2)];
    let last = |thinking| events(encoder(thinking, Some(2_000)), &long).pop().unwrap();
    assert_eq!(last(ThinkingShown::Sealed).1["error"]["code"], "memory_full");
    assert_eq!(last(ThinkingShown::Text).0, "message_stop");
}

proptest! {
    /// Whatever comes in whatever order, the events joined are the answer in one piece.
    #[test]
    fn the_stream_is_the_answer_in_one_piece(
        kinds in prop::collection::vec((0..4_u8, "[{}a\n]{0,3}"), 0..20),
        end in 0..3_u8,
        thinking in prop::sample::select(vec![ThinkingShown::Nothing, ThinkingShown::Text, ThinkingShown::Sealed]),
    ) {
        let mut calls_count = 0;
        let mut parts: Vec<Part> = Vec::new();
        for (kind, text) in kinds {
            let in_call = parts.last().is_some_and(|part| {
                matches!(part.kind, PartKind::ToolCallStart { .. } | PartKind::ToolCallArguments { .. })
            });
            parts.push(match kind {
                0 => thought(&text),
                1 => content(0, &text, 1),
                2 if in_call => arguments(calls_count - 1, &text),
                2 => continue,
                _ => {
                    calls_count += 1;
                    start(calls_count - 1, "f")
                }
            });
        }
        parts.push(finished(0, [STOP, FinishKind::Length, FinishKind::Cancelled][end as usize].clone(), 9));
        let whole = message(thinking, &parts);
        // A text that is sent back to Anthropic may not be empty.
        prop_assert!(whole["content"].as_array().unwrap().iter().all(|block| block["text"] != ""), "{whole}");
    }
}
