use proptest::prelude::*;
use serde_json::{Value, json};

use std::sync::Arc;

use crate::actors::budget::Budget;
use crate::http::answer::encoder::Encoder;
use crate::http::responses::answer::*;
use crate::http::responses::replay::replayed;
use crate::http::responses::request::ResponsesRequest;
use crate::http::wire::samples::{arguments, content, finished, heading, metadata, start, terms, thought, token_text, value};

const STOP: FinishKind = FinishKind::Stop { matched: None };

fn state() -> ResponseState {
    let body = r#"{"input":"hi","instructions":"Be brief.","tools":[{"type":"function","name":"f"}],"metadata":{"a":"b"}}"#;
    let echoed = ResponsesRequest::read(value(body), &terms(), "resp_00ff").unwrap().echoed;
    let heading = crate::http::answer::heading::Heading { id: "resp_00ff".to_owned(), ..heading() };
    ResponseState::new(heading, metadata(), echoed)
}

fn encoder(budget_bytes: Option<u64>) -> ResponsesEncoder {
    let memory = budget_bytes.map(|bytes| Arc::new(Budget::new(bytes)).open());
    ResponsesEncoder::new(state(), AnswerProgress::new(3, 1), true, memory)
}

/// The events of parts, names and data.
fn events(encoder: ResponsesEncoder, parts: &[Part]) -> Vec<(String, Value)> {
    let mut encoder = Encoder::Responses(Box::new(encoder));
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

/// The response of parts, which is the same streamed and in one piece.
fn response(parts: &[Part]) -> Value {
    let streamed = replayed(&events(encoder(Some(1 << 20)), parts));
    let mut whole = encoder(None);
    for part in parts {
        whole.take(part.clone()).unwrap();
    }
    assert!(whole.is_done());
    let whole: Value = serde_json::from_str(&to_json(&whole.object())).unwrap();
    assert_eq!(streamed, whole, "the stream is the answer in one piece");
    whole
}

#[test]
fn each_kind_of_part_is_an_item() {
    let parts = [
        thought("h"),
        thought("m"),
        content(0, "I look.", 3),
        start(0, "f"),
        arguments(0, "{\"a\""),
        arguments(0, ":1}"),
        start(1, "g"),
        finished(0, FinishKind::ToolCalls, 9),
    ];
    let whole = response(&parts);
    let expected = json!([
        {"type": "reasoning", "id": "rs_00ff0000", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}], "status": "completed"},
        {"type": "message", "id": "msg_00ff0001", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]},
        {"type": "function_call", "id": "fc_00ff0002", "status": "completed", "call_id": "call_0", "name": "f", "arguments": "{\"a\":1}"},
        {"type": "function_call", "id": "fc_00ff0003", "status": "completed", "call_id": "call_1", "name": "g", "arguments": ""},
    ]);
    assert_eq!(whole["output"], expected);
    assert_eq!(
        (&whole["status"], &whole["error"], &whole["incomplete_details"]),
        (&json!("completed"), &Value::Null, &Value::Null)
    );
    let usage = json!({"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 12});
    assert_eq!(whole["usage"], usage);
    assert_eq!(whole["antiphon"]["cache_key"], "ab");
    for (field, expected) in [
        ("id", json!("resp_00ff")),
        ("object", json!("response")),
        ("created_at", json!(7)),
        ("model", json!("tiny")),
        ("instructions", json!("Be brief.")),
        ("metadata", json!({"a": "b"})),
        ("temperature", json!(1.0)),
        ("tools", json!([{"type": "function", "name": "f", "description": null, "parameters": null, "strict": false}])),
        ("tool_choice", json!("auto")),
        ("store", json!(false)),
        ("parallel_tool_calls", json!(true)),
        ("text", json!({"format": {"type": "text"}})),
        ("truncation", json!("disabled")),
        ("reasoning", json!({"effort": "medium", "summary": null})),
        ("max_output_tokens", Value::Null),
    ] {
        assert_eq!(whole[field], expected, "{field}");
    }
}

/// Texts of one kind that a chat joins by a blank line are items of their own here, without it.
#[test]
fn items_of_one_kind_are_apart_where_others_lie_between() {
    let parts =
        [thought("a"), content(0, "p", 2), thought("\n"), thought("\nb"), content(0, "\n\n\nc", 4), finished(0, STOP, 5)];
    let texts: Vec<Value> =
        response(&parts)["output"].as_array().unwrap().iter().map(|it| it["content"][0]["text"].clone()).collect();
    assert_eq!(json!(texts), json!(["a", "p", "b", "\nc"]));
}

#[test]
fn each_end_has_its_status() {
    let cut = response(&[thought("hm"), finished(0, FinishKind::Length, 2)]);
    assert_eq!((&cut["status"], &cut["incomplete_details"]["reason"]), (&json!("incomplete"), &json!("max_output_tokens")));
    assert_eq!(cut["output"][0]["status"], "incomplete");
    let cancelled = response(&[content(0, "a", 1), finished(0, FinishKind::Cancelled, 2)]);
    assert_eq!((&cancelled["status"], &cancelled["output"][0]["status"]), (&json!("cancelled"), &json!("incomplete")));
    assert_eq!(cancelled["incomplete_details"], Value::Null, "the status says it");
    // An answer that says nothing is an empty message, where clients look for one.
    let empty = response(&[thought("hm"), finished(0, STOP, 2)]);
    assert_eq!((&empty["output"][1]["type"], &empty["output"][1]["content"][0]["text"]), (&json!("message"), &json!("")));
    assert_eq!(empty["status"], "completed");
}

#[test]
fn a_failure_is_the_last_event() {
    let failed = FinishKind::Failed { code: "engine_failed", message: "It broke.".to_owned() };
    let parts = [content(0, "a", 1), finished(0, failed, 2)];
    let response = replayed(&events(encoder(Some(1 << 20)), &parts));
    assert_eq!(response["error"], json!({"code": "server_error", "message": "It broke.", "antiphon_code": "engine_failed"}));
    assert_eq!(response["output"][0]["status"], "incomplete");
    let mut whole = encoder(None);
    let broken = parts.into_iter().try_for_each(|part| whole.take(part)).unwrap_err();
    assert_eq!(broken, Broken { code: "engine_failed", message: "It broke.".to_owned() });
    // An answer that has no room in the memory ends, and says why.
    let parts = [content(0, &"long ".repeat(200), 1), finished(0, STOP, 2)];
    let response = replayed(&events(encoder(Some(2_000)), &parts));
    assert_eq!((&response["status"], &response["error"]["code"]), (&json!("failed"), &json!("rate_limit_exceeded")));
    assert_eq!(response["error"]["antiphon_code"], "memory_full");
    // Whatever broke, the code is one of OpenAI's.
    for code in ["server_shutdown", "constraint_dead_end", "request_failed"] {
        let failed = FinishKind::Failed { code, message: "It broke.".to_owned() };
        let response = replayed(&events(encoder(Some(1 << 20)), &[finished(0, failed, 2)]));
        assert_eq!((&response["error"]["code"], &response["error"]["antiphon_code"]), (&json!("server_error"), &json!(code)));
    }
}

#[test]
fn log_probabilities_go_with_their_text() {
    let mut first = content(0, "a", 1);
    first.logprobs = vec![token_text(5, "a", -1.5)];
    let mut late = content(0, "", 2);
    late.logprobs = vec![token_text(6, "b", -0.5)];
    let whole = response(&[first, late, finished(0, STOP, 3)]);
    let listed = &whole["output"][0]["content"][0]["logprobs"];
    assert_eq!((&listed[0]["token"], &listed[1]["logprob"]), (&json!("a"), &json!(-0.5)));
}

#[test]
fn reasoning_that_is_not_shown_is_no_item() {
    let mut hidden =
        ResponsesEncoder::new(state(), AnswerProgress::new(3, 1), false, Some(Arc::new(Budget::new(1 << 20)).open()));
    let mut frames = Vec::new();
    hidden.begin(&mut frames);
    for part in [thought("hm"), content(0, "a", 1), finished(0, STOP, 2)] {
        hidden.part(&part, &mut frames);
    }
    assert!(frames.iter().all(|frame| !frame.data.contains("rs_") && !frame.data.contains("hm")), "{frames:?}");
}

proptest! {
    /// Whatever comes in whatever order, the events are whole and are the answer in one piece.
    #[test]
    fn the_stream_is_the_answer_in_one_piece(kinds in prop::collection::vec((0..4_u8, "[a\n]{0,3}"), 0..20), end in 0..3_u8) {
        let mut calls_count = 0;
        let mut parts = Vec::new();
        for (kind, text) in kinds {
            parts.push(match kind {
                0 => thought(&text),
                1 => content(0, &text, 1),
                2 if calls_count > 0 && matches!(parts.last(), Some(Part { kind: PartKind::ToolCallStart { .. } | PartKind::ToolCallArguments { .. }, .. })) => {
                    arguments(calls_count - 1, &text)
                }
                2 => continue,
                _ => {
                    calls_count += 1;
                    start(calls_count - 1, "f")
                }
            });
        }
        parts.push(finished(0, [STOP, FinishKind::Length, FinishKind::Cancelled][end as usize].clone(), 9));
        response(&parts);
    }
}
