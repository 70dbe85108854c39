//! Stop strings: they cut the lists beside a text exactly where they cut the text.

use serde_json::{Value, json};

use super::{Puppet, Script};

const TOKENS: &str = "Hel¦lo!¦ How¦ can I¦ help¦ you¦ 오늘¦,¦ my fri¦end?";

fn text() -> String {
    TOKENS.replace('¦', "")
}

/// Every piece of the text is a stop string once: at borders of tokens, inside of them, over
/// several.
fn stops() -> Vec<String> {
    let text = text();
    let at: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let pieces = (0..at.len() - 1).flat_map(|from| [1, 2, 5, 9].map(|length| (from, (from + length).min(at.len() - 1))));
    let mut stops: Vec<String> = pieces.step_by(3).map(|(from, to)| text[at[from]..at[to]].to_owned()).collect();
    stops.sort();
    stops.dedup();
    stops
}

/// What is left of the text, and of its tokens, before `stop`.
fn left(stop: &str) -> (String, Vec<String>) {
    let text = text().split(stop).next().expect("there is a first part").to_owned();
    let mut rest = text.as_str();
    let mut tokens = Vec::new();
    for token in TOKENS.split('¦') {
        let token = if rest.len() < token.len() { rest } else { token };
        rest = &rest[token.len()..];
        tokens.extend((!token.is_empty()).then(|| token.to_owned()));
    }
    (text, tokens)
}

fn strings(list: &Value, of: impl Fn(&Value) -> &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|item| of(item).as_str().expect("a text").to_owned()).collect()
}

#[test]
fn a_stop_string_cuts_a_chat_s_log_probabilities_as_its_text() {
    let script =
        format!("<|channel|>analysis<|message|>Well.<|end|><|start|>assistant<|channel|>final<|message|>{TOKENS}<|return|>");
    let puppet = Puppet::chat(&script);
    for stop in stops() {
        let said = puppet.ask(&json!({"stop": [stop], "logprobs": true, "top_logprobs": 2}));
        let (text, tokens) = left(&stop);
        assert_eq!(said["content"].as_str().unwrap_or_default(), text, "{stop:?}");
        assert_eq!((&said["finish_reason"], &said["stop_reason"]), (&json!("stop"), &json!(stop)));
        assert_eq!(strings(&said["logprobs"], |item| &item["token"]), tokens, "{stop:?}");
        for item in said["logprobs"].as_array().into_iter().flatten() {
            assert_eq!(item["bytes"], json!(item["token"].as_str().map(str::as_bytes)), "{stop:?}");
        }
    }
    let whole = puppet.ask(&json!({"stop": ["never"], "logprobs": true}));
    assert_eq!(strings(&whole["logprobs"], |item| &item["token"]).concat(), text());
    assert_eq!(whole.get("stop_reason"), None);
}

#[test]
fn a_stop_string_cuts_a_completion_s_lists_as_its_text() {
    const PROMPT: &str = "Answer me: ";
    let puppet = Puppet::saying(&Script::of(TOKENS), PROMPT);
    for stop in stops() {
        let said = &puppet.complete(PROMPT, &json!({"stop": [stop], "logprobs": 1}))[0];
        let (text, tokens) = left(&stop);
        assert_eq!(said["text"].as_str().unwrap_or_default(), text, "{stop:?}");
        assert_eq!(strings(&said["tokens"], |item| item), tokens, "{stop:?}");
        let lengths = tokens.iter().map(|token| token.chars().count());
        let offsets: Vec<usize> = lengths.scan(0, |at, length| Some(std::mem::replace(at, *at + length))).collect();
        assert_eq!(said.get("text_offset").cloned().unwrap_or(json!([])), json!(offsets), "{stop:?}");
        for list in ["token_logprobs", "top_logprobs"] {
            assert_eq!(said[list].as_array().map_or(0, Vec::len), tokens.len(), "{stop:?}: {list}");
        }
    }
}

/// A token that holds the end of one character, which is text, and the beginning of the stop
/// string.
#[test]
fn a_stop_string_cuts_inside_a_token_that_begins_inside_a_character() {
    let wave = "👋".as_bytes();
    let tokens: [&[u8]; 5] = [b"<|channel|>", b"final", b"<|message|>", &wave[..2], &[&wave[2..], b" stop"].concat()];
    let puppet = Puppet::saying(&Script::of_tokens(&tokens), super::CHAT);
    let said = puppet.ask(&json!({"stop": ["st"], "logprobs": true, "max_tokens": 5}));
    assert_eq!(said["content"], "👋 ");
    let bytes: Vec<u64> = said["logprobs"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|item| item["bytes"].as_array().expect("a list").iter().map(|byte| byte.as_u64().expect("a byte")))
        .collect();
    assert_eq!(bytes, "👋 ".bytes().map(u64::from).collect::<Vec<_>>());
}
