//! Byte-exact goldens of every dialect.

use std::sync::Arc;

use serde_json::json;

use crate::actors::messages::TokenText;
use crate::batch::TokenId;
use crate::http::answer::encoder::*;
use crate::http::answer::heading::FINGERPRINT;
use crate::http::answer::progress::AnswerProgress;
use crate::http::answer::whole::{Gather, GatheredAnswer};
use crate::http::chat::answer::{ChatAnswer, Shown};
use crate::http::chat::calls::CallStyle;
use crate::http::completions::answer::{CompletionAnswer, ShownPrompt};
use crate::http::wire::lists::TokenLists;
use crate::http::wire::samples::{content, finished, heading, metadata, part, token_text};
use crate::prompt::conversation::CallKind;

const STOP: FinishKind = FinishKind::Stop { matched: None };
const METADATA: &str = r#"{"prompt_version":"SYS/v1","model_id":"tiny","model_size":"tiny","dtype":"mxfp4","gpu_mode":"none","cache_key":"ab","cache_hit":false,"tokens_before":3,"tokens_after":3,"truncated":false,"truncation_info":null,"params":{"temperature":0.5,"top_p":1.0,"max_tokens":null,"seed":-1,"stop_sequences":[]},"timestamp":7,"request_id":"id-1"}"#;
const CHAT: &str =
    r#""id":"id-1","object":"chat.completion.chunk","created":7,"model":"tiny","system_fingerprint":"FP","choices""#;
const TEXT: &str = r#""id":"id-1","object":"text_completion","created":7,"model":"tiny","system_fingerprint":"FP","choices""#;

/// The stream as text, a frame a line; `METADATA` shortened to a word.
fn written(mut encoder: Encoder, parts: &[Part]) -> Vec<String> {
    let mut frames = Vec::new();
    encoder.begin(&mut frames);
    for (index, part) in parts.iter().enumerate() {
        let over = encoder.part(part, &mut frames);
        assert_eq!(over, index + 1 == parts.len(), "part {index} says that the stream is over: {over}");
    }
    let shorten =
        |text: String| text.replace(METADATA, "META").replace(FINGERPRINT, "FP").replace(CHAT, "CHAT").replace(TEXT, "TEXT");
    let line = |frame: Frame| match frame.event {
        Some(name) => format!("{name}: {}", shorten(frame.data)),
        None => shorten(frame.data),
    };
    frames.into_iter().map(line).collect()
}

const NO_LISTS: TokenLists = TokenLists { logprobs: None, prompt_logprobs: None, ids: false, as_ids: false };
const LOGPROBS: TokenLists = TokenLists { logprobs: Some(20), ..NO_LISTS };
const SHOWN: Shown = Shown { reasoning: true, call_style: CallStyle::Tools, lists: NO_LISTS, as_predecessor: false };

fn chat(choices_count: usize, change: impl Fn(&mut ChatEncoder)) -> Encoder {
    let mut encoder = ChatEncoder {
        answer: ChatAnswer { heading: heading(), metadata: metadata(), token_ids: None, shown: SHOWN },
        progress: AnswerProgress::new(3, choices_count),
        include_usage: false,
        continuous_usage: false,
        typed: false,
    };
    change(&mut encoder);
    Encoder::Chat(Box::new(encoder))
}

fn as_the_predecessor(encoder: &mut ChatEncoder) {
    encoder.typed = true;
    encoder.answer.shown.as_predecessor = true;
}

fn kinds() -> Vec<Part> {
    let start = PartKind::ToolCallStart { index: 0, id: "call_1".into(), name: "f".into(), kind: CallKind::Function };
    let arguments = PartKind::ToolCallArguments { index: 0, kind: CallKind::Function, text: "{\"a\":1}".into() };
    vec![
        part(0, PartKind::Reasoning("hm".into()), &[1], 1),
        content(0, "Hé\"\n", 2),
        content(0, "", 3),
        part(0, start, &[4], 4),
        part(0, arguments, &[5], 5),
        finished(0, STOP, 6),
    ]
}

#[test]
fn chat_in_openais_dialect() {
    let expected = [
        r#"{CHAT:[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"{CHAT:[{"index":0,"delta":{"reasoning":"hm","reasoning_content":"hm"},"finish_reason":null}]}"#,
        r#"{CHAT:[{"index":0,"delta":{"content":"Hé\"\n"},"finish_reason":null}]}"#,
        r#"{CHAT:[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}"#,
        r#"{CHAT:[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]},"finish_reason":null}]}"#,
        r#"{CHAT:[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"antiphon":META}"#,
        "[DONE]",
    ];
    assert_eq!(written(chat(1, |_| {}), &kinds()), expected);
}

#[test]
fn chat_with_usage_ids_and_logprobs() {
    let mut first = content(0, "a", 1);
    first.logprobs = vec![token_text(5, "a", -1.5)];
    let parts = [first, content(1, "b", 1), finished(1, FinishKind::Length, 1), finished(0, STOP, 2)];
    let encoder = chat(2, |encoder| {
        encoder.include_usage = true;
        encoder.answer.token_ids = Some(Arc::new([TokenId(8), TokenId(9)]));
        encoder.answer.shown.lists = LOGPROBS;
    });
    let expected = [
        r#"{CHAT:[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"prompt_token_ids":[8,9]}"#,
        r#"{CHAT:[{"index":1,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"{CHAT:[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"token":"a","logprob":-1.5,"bytes":[97],"top_logprobs":[{"token":"top","logprob":-0.25,"bytes":[116,111,112]}]}],"refusal":null},"finish_reason":null,"token_ids":[1]}]}"#,
        r#"{CHAT:[{"index":1,"delta":{"content":"b"},"finish_reason":null,"token_ids":[1]}]}"#,
        r#"{CHAT:[{"index":1,"delta":{},"logprobs":{"content":[],"refusal":null},"finish_reason":"length"}]}"#,
        r#"{CHAT:[{"index":0,"delta":{},"logprobs":{"content":[],"refusal":null},"finish_reason":"stop"}]}"#,
        r#"{CHAT:[],"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":2}},"antiphon":META}"#,
        "[DONE]",
    ];
    assert_eq!(written(encoder, &parts), expected);
}

#[test]
fn chat_in_both_dialects() {
    let parts = [part(0, PartKind::Reasoning("hm".into()), &[1], 1), content(0, "a", 2), finished(0, STOP, 3)];
    let expected = [
        r#"{CHAT:[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"type":"start","content":"","request_id":"id-1"}"#,
        r#"{CHAT:[{"index":0,"delta":{"reasoning":"hm","reasoning_content":"hm"},"finish_reason":null}],"type":"token","content":"","request_id":"id-1"}"#,
        r#"{CHAT:[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"type":"token","content":"a","request_id":"id-1"}"#,
        r#"{CHAT:[{"index":0,"delta":{},"finish_reason":"stop"}],"metadata":META,"type":"done","content":"","request_id":"id-1"}"#,
        "[DONE]",
    ];
    assert_eq!(written(chat(1, as_the_predecessor), &parts), expected);
    let cancelled = written(chat(1, as_the_predecessor), &[finished(0, FinishKind::Cancelled, 0)]);
    assert!(cancelled[1].contains(r#""finish_reason":"cancelled""#) && cancelled[1].contains(r#""type":"cancelled""#));
}

#[test]
fn continuous_usage_stands_in_every_chunk() {
    let frames = written(chat(1, |encoder| encoder.continuous_usage = true), &[content(0, "a", 1), finished(0, STOP, 2)]);
    let usage = |completion| format!(r#""usage":{{"prompt_tokens":3,"completion_tokens":{completion},"#);
    for (frame, completion) in frames.iter().zip([0, 1, 2]) {
        assert!(frame.contains(&usage(completion)), "{frame}");
    }
    let thought = Part { reasoning_tokens: 2, ..part(0, PartKind::Reasoning("hm".into()), &[1, 2], 2) };
    let frames = written(chat(1, |encoder| encoder.continuous_usage = true), &[thought, finished(0, STOP, 3)]);
    assert!(frames[1].contains(r#""reasoning_tokens":2"#), "as far as it is: {}", frames[1]);
}

#[test]
fn log_probabilities_that_were_asked_for_are_a_list_even_without_any() {
    let shown = Shown { lists: LOGPROBS, reasoning: false, ..SHOWN };
    let nothing = || whole(vec![part(0, PartKind::Reasoning("hm".into()), &[1], 1), finished(0, FinishKind::Length, 1)], 1);
    let answer = ChatAnswer { heading: heading(), metadata: metadata(), token_ids: None, shown };
    let json: serde_json::Value = serde_json::from_str(&answer.whole(&nothing())).unwrap();
    assert_eq!(json["choices"][0]["logprobs"], json!({"content": [], "refusal": null}));
    assert_eq!(json["choices"][0]["message"].get("reasoning"), None, "not shown");
    let frames = written(
        chat(1, |encoder| encoder.answer.shown = shown),
        &[part(0, PartKind::Reasoning("hm".into()), &[1], 1), finished(0, FinishKind::Length, 1)],
    );
    assert_eq!(frames.len(), 3, "role, end, [DONE]: {frames:?}");
    assert!(frames[1].contains(r#""logprobs":{"content":[],"refusal":null}"#), "{frames:?}");
}

/// OpenAI lists those of the answer's text. Each kind of part has one here, and the end has its
/// stop token's.
#[test]
fn log_probabilities_of_a_chat_are_those_of_its_text_alone() {
    let mut parts = kinds();
    for (number, part) in (0..).zip(&mut parts) {
        part.logprobs = vec![token_text(number, &format!("t{number}"), -1.0)];
    }
    let shown = Shown { lists: LOGPROBS, ..SHOWN };
    let tokens = |choice: &serde_json::Value| -> Vec<String> {
        let listed = choice["logprobs"]["content"].as_array().into_iter().flatten();
        listed.map(|token| token["token"].as_str().unwrap().to_owned()).collect()
    };
    let frames = written(chat(1, |encoder| encoder.answer.shown = shown), &parts);
    let listed: Vec<String> = frames
        .iter()
        .filter(|frame| frame.starts_with('{'))
        .flat_map(|frame| {
            let chunk = frame.replace("CHAT", "\"choices\"").replace("META", "null");
            let chunk: serde_json::Value = serde_json::from_str(&chunk).unwrap();
            tokens(&chunk["choices"][0])
        })
        .collect();
    assert_eq!(listed, ["t1", "t2"], "{frames:?}");
    let answer = ChatAnswer { heading: heading(), metadata: metadata(), token_ids: None, shown };
    let whole: serde_json::Value = serde_json::from_str(&answer.whole(&whole(parts, 1))).unwrap();
    assert_eq!(tokens(&whole["choices"][0]), listed, "in one piece as streamed");
}

#[test]
fn offsets_count_characters_of_the_text() {
    let token = |bytes: &[u8], is_control| TokenText { bytes: bytes.to_vec(), is_control, ..token_text(1, "", -1.0) };
    // A token that ends inside a character, one inside, one that ends it and goes on; a control
    // token; a character that breaks off.
    let generated = [
        token(b"a\xf0\x9f", false),
        token(b"\x91", false),
        token(b"\x8bb", false),
        token(b"<|end|>", true),
        token(b"c", false),
        token(b"\xf0", false),
        token(b"d", false),
    ];
    let text = Part { logprobs: generated.to_vec(), ..content(0, "a👋bc\u{fffd}d", 7) };
    let stop = Part { logprobs: vec![token(b"<|return|>", true)], ..finished(0, STOP, 8) };
    let mut prompt = part(0, PartKind::Prompt, &[], 0);
    prompt.logprobs = vec![token(b"\x95", false), token(b"\xea", false)];
    let echo = |answer: &mut CompletionAnswer| {
        answer.prompts[0] =
            ShownPrompt { echo: Some("안\u{fffd}".into()), first_token: b"\xec\x95".to_vec(), ..answer.prompts[0].clone() };
        answer.lists = LOGPROBS;
    };
    prompt.logprobs[0].bytes = b"\x88".to_vec();
    let parts = [prompt, text, stop];
    let whole: serde_json::Value = serde_json::from_str(&completion_answer(echo).whole(&whole(parts.to_vec(), 1))).unwrap();
    // 안, then the prompt's broken character, then what was generated.
    assert_eq!(whole["choices"][0]["logprobs"]["text_offset"], json!([0, 0, 1, 2, 3, 3, 5, 5, 6, 7, 8]));
    let frames = written(completion(1, echo), &parts);
    let offsets = frames[..3].iter().flat_map(|frame| {
        let (_, offsets) = frame.split_once(r#""text_offset":["#).unwrap();
        offsets[..offsets.find(']').unwrap()].split(',').map(|offset| offset.parse::<u32>().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(json!(offsets.collect::<Vec<_>>()), whole["choices"][0]["logprobs"]["text_offset"], "streamed as in one piece");
}

#[test]
fn an_error_in_mid_stream_ends_it() {
    let failed = || finished(0, FinishKind::Failed { code: "engine_failed", message: "it broke".into() }, 1);
    let error = r#"{"error":{"message":"it broke","type":"server_error","param":null,"code":"engine_failed"}}"#;
    assert_eq!(written(chat(2, |_| {}), &[failed()])[2..], [error, "[DONE]"]);
    assert_eq!(written(completion(1, |_| {}), &[failed()]), [error, "[DONE]"]);
    assert_eq!(written(events(true), &[failed()])[1..], [r#"error: {"type":"error","error":"it broke"}"#]);
    assert_eq!(written(Encoder::Text(TextEncoder), &[failed()]), [r#"{"error":"it broke"}"#, "[DONE]"]);
    let typed = written(chat(1, |encoder| encoder.typed = true), &[failed()]);
    let expected = error.replace("\"}}", "\"},\"type\":\"error\",\"request_id\":\"id-1\"}");
    assert_eq!(typed[1], expected);
}

fn events(named: bool) -> Encoder {
    let (heading, metadata, progress) = (heading(), metadata(), AnswerProgress::new(3, 1));
    Encoder::Events(Box::new(EventEncoder { heading, metadata, progress, include_usage: false, named }))
}

#[test]
fn typed_events() {
    let parts = [part(0, PartKind::Reasoning("hm".into()), &[1], 1), content(0, "a\n", 2), finished(0, STOP, 3)];
    let expected = [
        r#"start: {"type":"start","request_id":"id-1","model":"tiny"}"#,
        r#"token: {"type":"token","content":"a\n"}"#,
        r#"done: {"type":"done","request_id":"id-1","metadata":META}"#,
    ];
    assert_eq!(written(events(true), &parts), expected);
    let unnamed: Vec<&str> = expected.iter().map(|line| line.split_once(": ").unwrap().1).collect();
    assert_eq!(written(events(false), &parts), unnamed);
    let cancelled = written(events(true), &[finished(0, FinishKind::Cancelled, 0)]);
    assert_eq!(cancelled[1], r#"cancelled: {"type":"cancelled","request_id":"id-1","metadata":META}"#);
}

#[test]
fn texts() {
    let parts = [part(0, PartKind::Reasoning("hm".into()), &[1], 1), content(0, "안녕", 2), finished(0, STOP, 3)];
    assert_eq!(written(Encoder::Text(TextEncoder), &parts), [r#"{"text":"안녕"}"#, "[DONE]"]);
}

fn completion_answer(change: impl Fn(&mut CompletionAnswer)) -> CompletionAnswer {
    let tokens: Arc<[TokenId]> = Arc::new([TokenId(8), TokenId(9)]);
    let mut answer = CompletionAnswer {
        heading: heading(),
        metadata: metadata(),
        prompts: vec![ShownPrompt { tokens, echo: None, first_token: b"p".to_vec() }],
        choices_a_prompt: 1,
        prompt_only: false,
        lists: NO_LISTS,
    };
    change(&mut answer);
    answer
}

fn completion(choices_count: usize, change: impl Fn(&mut CompletionAnswer)) -> Encoder {
    let answer = completion_answer(|answer| {
        answer.choices_a_prompt = choices_count;
        change(answer);
    });
    Encoder::Completion(Box::new(CompletionEncoder::new(answer, AnswerProgress::new(2, choices_count), false, false)))
}

#[test]
fn completions() {
    let parts = [content(0, "a", 1), finished(0, FinishKind::Stop { matched: Some("END".into()) }, 2)];
    let expected = [
        r#"{TEXT:[{"index":0,"text":"a","logprobs":null,"finish_reason":null,"stop_reason":null}]}"#,
        r#"{TEXT:[{"index":0,"text":"","logprobs":null,"finish_reason":"stop","stop_reason":"END"}],"metadata":META}"#,
        "[DONE]",
    ];
    assert_eq!(written(completion(1, |_| {}), &parts), expected);
}

/// Parts of an answer to the prompt `pq`, with log-probabilities.
fn scored() -> Vec<Part> {
    let mut prompt = part(0, PartKind::Prompt, &[], 0);
    prompt.logprobs = vec![token_text(9, "q", -2.0)];
    let mut first = content(0, "é", 1);
    first.logprobs = vec![token_text(5, "é", f32::NEG_INFINITY)];
    vec![prompt, first, finished(0, FinishKind::Length, 1)]
}

fn echo_all(answer: &mut CompletionAnswer) {
    answer.prompts[0].echo = Some("pq".into());
    answer.lists = TokenLists { ids: true, ..LOGPROBS };
}

#[test]
fn completions_echo_the_prompt_with_logprobs() {
    let expected = [
        r#"{TEXT:[{"index":0,"text":"pq","logprobs":{"text_offset":[0,1],"token_logprobs":[null,-2.0],"tokens":["p","q"],"top_logprobs":[null,{"top":-0.25,"q":-2.0}]},"finish_reason":null,"stop_reason":null,"prompt_token_ids":[8,9]}]}"#,
        r#"{TEXT:[{"index":0,"text":"é","logprobs":{"text_offset":[2],"token_logprobs":[-9999.0],"tokens":["é"],"top_logprobs":[{"top":-0.25,"é":-9999.0}]},"finish_reason":null,"stop_reason":null,"token_ids":[1]}]}"#,
        r#"{TEXT:[{"index":0,"text":"","logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":[]}],"metadata":META}"#,
        "[DONE]",
    ];
    assert_eq!(written(completion(1, echo_all), &scored()), expected);
    let alone = written(
        completion(1, |answer| {
            echo_all(answer);
            answer.prompt_only = true;
        }),
        &scored(),
    );
    assert_eq!(alone.len(), 3, "the prompt, the end, [DONE]: {alone:?}");
}

#[test]
fn echo_without_logprobs_comes_first() {
    let frames = written(completion(1, |answer| answer.prompts[0].echo = Some("pq".into())), &kinds()[5..]);
    assert!(frames[0].contains(r#""text":"pq""#) && frames[1].contains(r#""finish_reason":"stop""#), "{frames:?}");
}

fn whole(parts: Vec<Part>, choices_count: usize) -> GatheredAnswer {
    let mut whole = GatheredAnswer::new(AnswerProgress::new(3, choices_count));
    for part in parts {
        whole.take(part).unwrap();
    }
    assert!(whole.progress.is_done());
    whole
}

#[test]
fn a_chat_in_one_piece() {
    let answer = ChatAnswer { heading: heading(), metadata: metadata(), token_ids: None, shown: SHOWN };
    let json: serde_json::Value = serde_json::from_str(&answer.whole(&whole(kinds(), 1))).unwrap();
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let message = json!({
        "role": "assistant", "content": "Hé\"\n", "refusal": null, "reasoning": "hm", "reasoning_content": "hm", "tool_calls": [call],
    });
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "tool_calls"});
    assert_eq!(json["choices"], json!([choice]));
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["usage"]["total_tokens"], 9);
    assert_eq!(json["antiphon"]["params"]["seed"], -1);
    let silent: serde_json::Value =
        serde_json::from_str(&answer.whole(&whole(vec![finished(0, FinishKind::Length, 1)], 1))).unwrap();
    assert_eq!(silent["choices"][0]["message"]["content"], "", "a string, for clients that strip it");
}

#[test]
fn a_completion_in_one_piece() {
    let json =
        |answer: &CompletionAnswer| -> serde_json::Value { serde_json::from_str(&answer.whole(&whole(scored(), 1))).unwrap() };
    let answer = json(&completion_answer(echo_all));
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "pqé");
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 2]));
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -2.0, -9999.0]));
    assert_eq!((&choice["prompt_token_ids"], &choice["token_ids"]), (&json!([8, 9]), &json!([1])));
    let alone = json(&completion_answer(|answer| {
        echo_all(answer);
        answer.prompt_only = true;
    }));
    assert_eq!(alone["choices"][0]["text"], "pq");
    assert_eq!(alone["choices"][0]["logprobs"]["tokens"], json!(["p", "q"]));
    assert_eq!(alone["usage"]["completion_tokens"], 0);
}

#[test]
fn a_broken_choice_breaks_the_answer() {
    let mut whole = GatheredAnswer::new(AnswerProgress::new(3, 2));
    let failed = finished(1, FinishKind::Failed { code: "engine_failed", message: "it broke".into() }, 1);
    assert_eq!(whole.take(failed).unwrap_err().code, "engine_failed");
}
