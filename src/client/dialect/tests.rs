//! Streams of every form become the same events.

use super::super::event::Usage;
use super::super::sse::SseParser;
use super::*;

fn read(api: Api, stream: &str) -> Result<Vec<AnswerEvent>, String> {
    let (mut parser, mut decoder, mut events) = (SseParser::default(), Decoder::new(api), Vec::new());
    parser.push(stream.as_bytes());
    while let Some(event) = parser.next_event().map_err(|error| error.to_string())? {
        decoder.decode(&event, &mut |event| events.push(event)).map_err(|error| error.to_string())?;
    }
    decoder.finish().map_err(|expected| format!("ended before {expected}"))?;
    Ok(events)
}

fn data(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("data: {line}\n\n")).collect()
}

fn named(lines: &[(&str, &str)]) -> String {
    lines.iter().map(|(name, line)| format!("event: {name}\ndata: {line}\n\n")).collect()
}

fn started(id: &str) -> AnswerEvent {
    AnswerEvent::Started { id: id.to_owned() }
}

fn content(text: &str) -> AnswerEvent {
    AnswerEvent::Content { choice: 0, text: text.to_owned() }
}

fn reasoning(text: &str) -> AnswerEvent {
    AnswerEvent::Reasoning { choice: 0, text: text.to_owned() }
}

fn finish(reason: &str) -> AnswerEvent {
    AnswerEvent::Finish { choice: 0, reason: reason.to_owned() }
}

fn call(index: u32, id: Option<&str>, name: Option<&str>, arguments: &str) -> AnswerEvent {
    let own = |text: Option<&str>| text.map(str::to_owned);
    AnswerEvent::ToolCall { choice: 0, index, id: own(id), name: own(name), arguments: arguments.to_owned() }
}

#[test]
fn a_chat_has_reasoning_under_either_name_tool_calls_and_usage() {
    let stream = data(&[
        r#"{"id":"c1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"{"id":"c1","choices":[{"index":0,"delta":{"reasoning":"hm","reasoning_content":"hm"}}],"usage":null}"#,
        r#"{"id":"c1","choices":[{"index":0,"delta":{"reasoning_content":"so"}}]}"#,
        r#"{"id":"c1","choices":[{"index":0,"delta":{"content":"J"}},{"index":1,"delta":{"content":"K"}}]}"#,
        r#"{"id":"c1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":"{"}}]}}]}"#,
        r#"{"id":"c1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}}]}"#,
        r#"{"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        r#"{"id":"c1","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":2}}}"#,
        "[DONE]",
    ]);
    let usage = Usage { prompt_tokens: 5, completion_tokens: 4, reasoning_tokens: Some(2), cached_tokens: Some(1) };
    let wanted = vec![
        started("c1"),
        reasoning("hm"),
        reasoning("so"),
        content("J"),
        AnswerEvent::Content { choice: 1, text: "K".to_owned() },
        call(0, Some("t"), Some("f"), "{"),
        call(0, None, None, "}"),
        finish("tool_calls"),
        AnswerEvent::Usage(usage),
        AnswerEvent::Done,
    ];
    assert_eq!(read(Api::Chat, &stream).unwrap(), wanted);
}

#[test]
fn completions_are_texts() {
    let stream = data(&[
        r#"{"id":"x","choices":[{"index":0,"text":"a","finish_reason":null}]}"#,
        r#"{"id":"x","choices":[{"index":0,"text":"","finish_reason":"length"}]}"#,
        "[DONE]",
    ]);
    assert_eq!(read(Api::Completions, &stream).unwrap(), [started("x"), content("a"), finish("length"), AnswerEvent::Done]);
}

#[test]
fn responses_end_with_their_own_event() {
    let stream = named(&[
        ("response.created", r#"{"type":"response.created","response":{"id":"r"},"sequence_number":0}"#),
        ("response.in_progress", r#"{"type":"response.in_progress","response":{"id":"r"}}"#),
        (
            "response.output_item.added",
            r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"rs"}}"#,
        ),
        ("response.reasoning_text.delta", r#"{"type":"response.reasoning_text.delta","output_index":0,"delta":"hm"}"#),
        (
            "response.output_item.added",
            r#"{"type":"response.output_item.added","output_index":1,"item":{"type":"function_call","id":"fc","call_id":"t","name":"f","arguments":""}}"#,
        ),
        (
            "response.function_call_arguments.delta",
            r#"{"type":"response.function_call_arguments.delta","output_index":1,"delta":"{}"}"#,
        ),
        ("response.output_text.delta", r#"{"type":"response.output_text.delta","output_index":2,"delta":"J"}"#),
        (
            "response.completed",
            r#"{"type":"response.completed","response":{"id":"r","usage":{"input_tokens":3,"output_tokens":2,"output_tokens_details":{"reasoning_tokens":1}}}}"#,
        ),
    ]);
    let usage = Usage { prompt_tokens: 3, completion_tokens: 2, reasoning_tokens: Some(1), cached_tokens: None };
    let wanted = vec![
        started("r"),
        reasoning("hm"),
        call(1, Some("t"), Some("f"), ""),
        call(1, None, None, "{}"),
        content("J"),
        finish("stop"),
        AnswerEvent::Usage(usage),
        AnswerEvent::Done,
    ];
    assert_eq!(read(Api::Responses, &stream).unwrap(), wanted);
    let incomplete = named(&[(
        "response.incomplete",
        r#"{"type":"response.incomplete","response":{"incomplete_details":{"reason":"max_output_tokens"}}}"#,
    )]);
    assert_eq!(read(Api::Responses, &incomplete).unwrap(), [finish("length"), AnswerEvent::Done]);
    let failed = named(&[(
        "response.failed",
        r#"{"type":"response.failed","response":{"error":{"code":"server_error","message":"m"}}}"#,
    )]);
    let error = ErrorText { message: "m".to_owned(), kind: None, code: Some("server_error".to_owned()) };
    assert_eq!(read(Api::Responses, &failed).unwrap(), [AnswerEvent::Error(error), AnswerEvent::Done]);
    let error = read(Api::Responses, "event: response.created\ndata: {\"type\":\"response.failed\"}\n\n").unwrap_err();
    assert!(error.contains("`event: response.created` with type `response.failed`"), "{error}");
}

#[test]
fn typed_events_are_read_on_both_routes_that_have_them() {
    let lines = [
        ("start", r#"{"type":"start","request_id":"g","model":"m"}"#),
        ("token", r#"{"type":"token","content":"J"}"#),
        ("done", r#"{"type":"done","request_id":"g","metadata":{}}"#),
    ];
    let wanted = vec![started("g"), content("J"), finish("stop"), AnswerEvent::Done];
    assert_eq!(read(Api::Generate, &named(&lines)).unwrap(), wanted);
    let unnamed: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
    assert_eq!(read(Api::Chat, &data(&unnamed)).unwrap(), wanted);
    // A chunk of OpenAI's that is a typed event too is a chunk.
    let both = [
        r#"{"id":"g","type":"token","content":"J","request_id":"g","choices":[{"index":0,"delta":{"content":"J"}}]}"#,
        "[DONE]",
    ];
    assert_eq!(read(Api::Chat, &data(&both)).unwrap(), [started("g"), content("J"), AnswerEvent::Done]);
    let error = ErrorText { message: "no".to_owned(), ..ErrorText::default() };
    assert_eq!(
        read(Api::Generate, &named(&[("error", r#"{"type":"error","error":"no"}"#)])).unwrap(),
        [AnswerEvent::Error(error), AnswerEvent::Done]
    );
    assert_eq!(
        read(Api::Generate, &named(&[("cancelled", r#"{"type":"cancelled","request_id":"g"}"#)])).unwrap(),
        [finish("cancelled"), AnswerEvent::Done]
    );
}

#[test]
fn texts_are_read() {
    assert_eq!(
        read(Api::GenerateStream, &data(&[r#"{"text":"J"}"#, r#"{"text":""}"#, "[DONE]"])).unwrap(),
        [content("J"), AnswerEvent::Done]
    );
    let error = ErrorText { message: "no".to_owned(), ..ErrorText::default() };
    assert_eq!(
        read(Api::GenerateStream, &data(&[r#"{"error":"no"}"#, "[DONE]"])).unwrap(),
        [AnswerEvent::Error(error), AnswerEvent::Done]
    );
}

#[test]
fn what_does_not_belong_into_a_stream_is_an_error() {
    for (api, stream, said) in [
        (Api::Chat, "data: {\n\n", "before line 2: not JSON of this stream's shape"),
        (Api::Chat, "data: {\"x\":1}\n\n", "neither `choices` nor `error`; it was `{\"x\":1}`"),
        (Api::Chat, "data: {\"choices\":[{\"delta\":{\"content\":7}}]}\n\n", "expected a string"),
        (Api::Chat, "data: [DONE]\n\ndata: {\"choices\":[]}\n\n", "the stream was over"),
        (Api::Chat, "data: {\"choices\":[]}\n\n", "ended before data: [DONE]"),
        (Api::Responses, "data: [DONE]\n\n", "expected response.completed"),
        (Api::Generate, "data: {\"type\":\"start\"}\n\n", "`start` without `request_id`"),
        (Api::Generate, "event: token\ndata: {\"type\":\"done\"}\n\n", "`event: token` with type `done`"),
        (Api::Generate, "data: {\"type\":\"sing\"}\n\n", "`sing` is none of start, token, done"),
        (Api::GenerateStream, "data: {}\n\n", "neither `text` nor `error`"),
    ] {
        let error = read(api, stream).unwrap_err();
        assert!(error.contains(said), "{stream}: {error}");
    }
}
