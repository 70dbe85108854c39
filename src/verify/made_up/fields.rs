//! What the made-up server makes of the fields that other people's clients send.

use serde_json::{Value, json};

use super::fault::Fault;
use super::server::MadeUpServer;

/// More tokens than any request of the tests asks for in earnest.
const TOKENS_MAX: u64 = 1_000_000;
const CONSTRAINTS: [&str; 4] = ["guided_choice", "guided_regex", "structured_outputs", "response_format"];

/// With what a body is refused for what it asks.
pub(super) fn refusal(server: &MadeUpServer, body: &Value) -> Option<(u16, &'static str)> {
    if CONSTRAINTS.iter().any(|field| !body[field].is_null()) && !server.bad(Fault::IgnoresConstraints) {
        return Some((400, "constraints are not served"));
    }
    let long = body["max_tokens"].as_u64().is_some_and(|tokens| tokens > TOKENS_MAX);
    match long {
        true if server.bad(Fault::LongIsNoContext) => Some((400, "that is much")),
        true => Some((400, "This model's maximum context length is 512 tokens.")),
        false => None,
    }
}

/// The pieces of a completion, and the tokens that are listed for them.
pub(super) fn completion(server: &MadeUpServer, body: &Value, tokens: usize) -> (Vec<String>, Vec<String>) {
    let mut pieces: Vec<String> = (0..tokens).map(|index| format!("{}, ", index + 5)).collect();
    if body["echo"] == true {
        pieces.insert(0, body["prompt"].as_str().unwrap_or_default().to_owned());
    }
    let whole = pieces.clone();
    let ignores = body["stream"] == true && server.bad(Fault::StopsNoStream);
    if let Some(stop) = body["stop"].as_str().filter(|_| !ignores)
        && let Some(mut left) = pieces.concat().find(stop)
    {
        pieces.retain_mut(|piece| {
            piece.truncate(left);
            left -= piece.len();
            !piece.is_empty()
        });
    }
    let listed = if server.bad(Fault::ListsBehindStop) { whole } else { pieces.clone() };
    (pieces, listed)
}

/// The list of a completion's tokens, from this place of the text on.
pub(super) fn list(server: &MadeUpServer, tokens: &[String]) -> Value {
    let mut at = 0;
    let mut offset = |token: &String| {
        let begin = at;
        at += if server.bad(Fault::OffsetsInBytes) { token.len() } else { token.chars().count() };
        begin
    };
    let offsets: Vec<usize> = tokens.iter().map(&mut offset).collect();
    json!({"tokens": tokens, "text_offset": offsets})
}

/// The log-probabilities of pieces of a chat.
pub(super) fn content(server: &MadeUpServer, pieces: &[String], streamed: bool) -> Value {
    let logprob = if streamed && server.bad(Fault::OtherLogprobsInStream) { -0.9 } else { -0.1 };
    let entries: Vec<Value> = pieces.iter().map(|piece| json!({"token": piece, "logprob": logprob})).collect();
    json!({"content": entries})
}

/// The calls of a chat: two, unless the request allows fewer.
pub(super) fn calls(server: &MadeUpServer, body: &Value) -> Option<Value> {
    let call = |index: u64| json!({"index": index, "type": "function", "function": {"name": "get_weather", "arguments": "{}"}});
    let none = body["tool_choice"] == "none" && !server.bad(Fault::CallsAnyway);
    let one = body["parallel_tool_calls"] == false && !server.bad(Fault::CallsTwice);
    (body["tools"].is_array() && !none).then(|| (0..if one { 1 } else { 2 }).map(call).collect())
}
