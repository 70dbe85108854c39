//! Answers of every route, in one piece and streamed.

use serde_json::{Value, json};

use super::{ASKED, Puppet, Script, tool};
use crate::embedded::joined;

const ANSWER: &str = "<|channel|>analysis<|message|>She says hello, so I greet her.<|end|><|start|>assistant<|channel|>final<|message|>\
                      Hello! Ça va, 안녕 👋🏽? Sure.<|return|>";

#[test]
fn a_chat_s_answer_is_the_script() {
    let puppet = Puppet::chat(ANSWER);
    let said = puppet.ask(&json!({}));
    assert_eq!(said["reasoning"], "She says hello, so I greet her.");
    assert_eq!(said["content"], "Hello! Ça va, 안녕 👋🏽? Sure.");
    assert_eq!(said["finish_reason"], "stop");
    // Each choice says it, at any temperature: nothing else is likely.
    let choices = puppet.choices(&json!({"n": 3, "temperature": 1}));
    assert_eq!(choices, vec![said.clone(); 3]);
    let without = puppet.ask(&json!({"include_reasoning": false}));
    assert_eq!((without.get("reasoning"), &without["content"]), (None, &said["content"]));
}

/// Wherever `max_tokens` cuts: the text up to there, a character that is cut is U+FFFD, and the
/// finish says it.
#[test]
fn an_answer_cut_anywhere_is_the_beginning_of_the_whole() {
    let puppet = Puppet::chat(ANSWER);
    let whole = puppet.ask(&json!({}));
    let text = |said: &Value, key: &str| said[key].as_str().unwrap_or_default().to_owned();
    let mut before = (0, 0);
    for max_tokens in 1..puppet.tokens_count {
        let said = puppet.ask(&json!({"max_tokens": max_tokens, "reserve_answer_tokens": 0}));
        assert_eq!(said["finish_reason"], "length", "{max_tokens}: {said}");
        let (reasoning, content) = (text(&said, "reasoning"), text(&said, "content"));
        assert!(text(&whole, "reasoning").starts_with(&reasoning) && text(&whole, "content").starts_with(&content), "{said}");
        assert!(reasoning.len() >= before.0 && content.len() >= before.1, "{max_tokens}: {said}");
        before = (reasoning.len(), content.len());
    }
    assert_eq!(before, (text(&whole, "reasoning").len(), text(&whole, "content").len()), "all but the last token is text");
}

#[test]
fn calls_come_with_their_arguments_in_one_piece_and_streamed() {
    let puppet = Puppet::chat(
        "<|channel|>analysis<|message|>Two places.<|end|><|start|>assistant<|channel|>commentary<|message|>I will look.<|end|>\
         <|start|>assistant<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{\"city\": \"Bergen\"}<|end|>\
         <|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{\"tz\":\"Å\"}<|call|>",
    );
    let said = puppet.ask(&json!({"tools": [tool("get_time"), tool("now")]}));
    let calls = json!([["get_time", "{\"city\": \"Bergen\"}"], ["now", "{\"tz\":\"Å\"}"]]);
    assert_eq!((&said["tool_calls"], &said["finish_reason"]), (&calls, &json!("tool_calls")));
    assert_eq!((&said["reasoning"], &said["content"]), (&json!("Two places."), &json!("I will look.")));
}

#[test]
fn a_completion_is_the_script_as_text() {
    let puppet = Puppet::saying(&Script::of("onc¦e up¦on a¦ time¦ 옛날¦에.¦\n\n"), "Tell me a tale: ");
    let choices = puppet.complete("Tell me a tale: ", &json!({"n": 2, "logprobs": 1}));
    assert_eq!(choices[0]["text"], "once upon a time 옛날에.\n\n");
    assert_eq!(choices[0]["tokens"], json!(["onc", "e up", "on a", " time", " 옛날", "에.", "\n\n"]));
    assert_eq!(choices[0]["text_offset"], json!([0, 3, 7, 11, 16, 19, 21]));
    assert_eq!(choices[0], choices[1]);
    let echoed = puppet.complete("Tell me a tale: ", &json!({"echo": true, "max_tokens": 2}));
    assert_eq!(echoed[0]["text"], "Tell me a tale: once up");
}

/// The predecessor's routes: their own events, the same text.
#[test]
fn the_older_routes_say_the_same_text() {
    let puppet = Puppet::chat(ANSWER);
    let body = |stream: bool| format!(r#"{{"prompt":"{ASKED}","temperature":0,"stream":{stream}}}"#);
    let whole: Value = serde_json::from_str(&puppet.server.ask("POST", "/generate", &body(false))).expect("JSON");
    let content = "Hello! Ça va, 안녕 👋🏽? Sure.";
    assert_eq!(whole["choices"][0]["message"]["content"], content, "{whole}");
    let stream = puppet.server.ask("POST", "/generate", &body(true));
    assert_eq!(joined(&stream, "/content"), content);
    let body = format!(r#"{{"user_id":7,"model_type":"prompt","prompt":"{ASKED}","temperature":0}}"#);
    assert_eq!(joined(&puppet.server.ask("POST", "/generate/stream", &body), "/text"), content);
}

#[test]
fn a_character_cut_by_max_tokens_is_a_replacement_character() {
    let wave = "👋".as_bytes();
    let tokens: [&[u8]; 4] = [b"Hi ", &wave[..1], &wave[1..3], &[&wave[3..], b"!"].concat()];
    let puppet = Puppet::saying(&Script::of_tokens(&tokens), "Greet me: ");
    for (max_tokens, text) in [(1, "Hi "), (2, "Hi \u{fffd}"), (3, "Hi \u{fffd}"), (4, "Hi 👋!")] {
        let said = &puppet.complete("Greet me: ", &json!({"max_tokens": max_tokens, "logprobs": 0}))[0];
        assert_eq!((&said["text"], &said["finish_reason"]), (&json!(text), &json!("length")), "{max_tokens}");
        assert_eq!(said["tokens"].as_array().map(Vec::len), Some(max_tokens), "an entry a token: {said}");
        assert_eq!(said["text_offset"], json!([0, 3, 3, 3][..max_tokens]));
    }
    let header: [&[u8]; 3] = [b"<|channel|>", b"final", b"<|message|>"];
    let puppet = Puppet::saying(&Script::of_tokens(&[&header[..], &tokens[..]].concat()), super::CHAT);
    for (max_tokens, text) in [(4, "Hi "), (5, "Hi \u{fffd}"), (6, "Hi \u{fffd}"), (7, "Hi 👋!")] {
        let said = puppet.ask(&json!({"max_tokens": max_tokens, "logprobs": true}));
        assert_eq!((&said["content"], &said["finish_reason"]), (&json!(text), &json!("length")), "{max_tokens}");
        assert_eq!(said["logprobs"].as_array().map(Vec::len), Some(max_tokens - 3), "an entry a token: {said}");
    }
}
