use serde_json::Value;

use super::{KeyParameters, Salt, cache_key, key_text};
use crate::prompt::builder::PromptVersion;
use crate::prompt::conversation::{Conversation, Message};
use crate::prompt::python_json::float;

fn asked(text: &str) -> Conversation {
    Conversation { messages: vec![Message::User { content: text.into() }], ..Conversation::default() }
}

/// The three vectors of WIRE.md, section 4.
#[test]
fn the_protocols_vectors_hold() {
    for (text, temperature, max_tokens, seed, key) in [
        ("What is 2+2?", 0.0, 10, Some(42), "06c4836e796c405b8fe66a8198be0d0064cc28f763115b86bf55968689c94a8d"),
        ("Hello, how are you?", 0.0, 20, Some(1), "1310e88d97e95ac165498f639e44947e201ff14883bb807ae28681f99c9c2115"),
        ("안녕", 0.7, 100, None, "588bcf96efef5d9077ea5ff9353350c2ba9f7649259c61056664b4719a212559"),
    ] {
        let parameters = KeyParameters {
            temperature: Some(temperature),
            top_p: Some(0.9),
            max_tokens: Some(max_tokens),
            seed,
            stop_strings: Vec::new(),
            salt: Salt::default(),
        };
        assert_eq!(cache_key(&asked(text), &parameters, "gpt-oss-20b", PromptVersion::V1), key);
    }
}

fn message(pair: &Value) -> Message {
    let content = pair[1].as_str().unwrap().to_owned();
    match pair[0].as_str().unwrap() {
        "system" => Message::System { content },
        "developer" => Message::Developer { content },
        "user" => Message::User { content },
        "assistant" => Message::Assistant { content: Some(content), reasoning: None, tool_calls: Vec::new() },
        _ => Message::Tool { call_id: String::new(), content },
    }
}

#[test]
fn keys_are_those_that_python_computes() {
    let golden: Value = serde_json::from_str(include_str!("../../tests/goldens/cache_keys.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 53);
    for case in cases {
        let messages = case["messages"].as_array().unwrap().iter().map(message).collect();
        let conversation = Conversation { messages, ..Conversation::default() };
        let number = |name: &str| case[name].as_str().map(|text| text.parse().unwrap());
        let stop_strings = case["stop_sequences"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
        let parameters = KeyParameters {
            temperature: number("temperature"),
            top_p: number("top_p"),
            max_tokens: case["max_tokens"].as_u64(),
            seed: case["seed"].as_i64(),
            stop_strings: stop_strings.collect(),
            salt: Salt::default(),
        };
        let model_id = case["model_id"].as_str().unwrap();
        let version = PromptVersion::from_name(case["prompt_version"].as_str().unwrap()).unwrap();
        assert_eq!(key_text(&conversation, &parameters, model_id, version), case["text"].as_str().unwrap());
        assert_eq!(cache_key(&conversation, &parameters, model_id, version), case["key"].as_str().unwrap());
    }
}

#[test]
fn numbers_that_json_does_not_know_are_written_as_python_writes_them() {
    let written = |value| {
        let mut out = String::new();
        float(&mut out, value);
        out
    };
    assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(written), ["NaN", "Infinity", "-Infinity"]);
}

#[test]
fn the_version_and_the_model_are_part_of_the_key_the_tools_are_not() {
    let parameters = KeyParameters::default();
    let key = |version, model| cache_key(&asked("x"), &parameters, model, version);
    assert_ne!(key(PromptVersion::V1, "a"), key(PromptVersion::V2, "a"));
    assert_ne!(key(PromptVersion::V1, "a"), key(PromptVersion::V1, "b"));
    let forced = Conversation { forced_tool: Some("f".into()), ..asked("x") };
    assert_eq!(cache_key(&forced, &parameters, "a", PromptVersion::V1), key(PromptVersion::V1, "a"));
    assert_eq!(key(PromptVersion::V1, "a").len(), 64);
}
