//! What other people's clients send to any server like OpenAI's, and what breaks them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::asking::{Heard, JAY, with};
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::raw::Raw;
use crate::client::{Api, Request};

/// More tokens than any model's context has.
const ENDLESS_TOKENS: u64 = 100_000_000;
/// Characters of more than one byte, and of more than one token.
const LETTERS: &str = "안녕하세요. 1, 2, 3,";

/// The strings of a list of JSON.
fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().unwrap_or_default()).collect()
}

/// The events of a stream that are JSON.
fn told(heard: &Heard) -> Vec<Value> {
    heard.events.iter().filter_map(|event| serde_json::from_str(&event.data).ok()).collect()
}

/// Whether a listed token has a text: a control token has none, nor a part of a character.
fn has_text(token: &str) -> bool {
    let is_control = token.starts_with("<|") && token.ends_with("|>");
    !(is_control || token.is_empty() || token.starts_with("bytes:") || token.contains('\u{fffd}'))
}

/// `text_offset` counts characters, of the prompt too where it is echoed.
pub(super) async fn offsets(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let body = json!({"model": bench.model, "prompt": LETTERS, "max_tokens": 8, "temperature": 0, "logprobs": 1, "echo": true});
    let answer = bench.whole(Api::Completions, &body).await?;
    let choice = &answer["choices"][0];
    let text: Vec<char> = choice["text"].as_str().unwrap_or_default().chars().collect();
    let (tokens, offsets) = (strings(&choice["logprobs"]["tokens"]), &choice["logprobs"]["text_offset"]);
    let offsets: Vec<u64> = offsets.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    checks.that(!tokens.is_empty() && tokens.len() == offsets.len(), || {
        format!("{} tokens are listed with {} offsets", tokens.len(), offsets.len())
    });
    for (token, offset) in tokens.into_iter().zip(offsets).filter(|(token, _)| has_text(token)) {
        let rest: String = text.iter().skip(offset as usize).collect();
        checks.that(rest.starts_with(token), || format!("{token:?} has the offset {offset}, where the text goes on {rest:?}"));
    }
    Ok(())
}

/// The part of `text` from its middle on that comes nowhere before, as short as it can be.
fn stop_of(text: &str) -> Option<&str> {
    let middle = text.char_indices().nth(text.chars().count() / 2)?.0;
    let ends = text[middle..].char_indices().map(|(at, letter)| middle + at + letter.len_utf8());
    ends.map(|end| &text[middle..end]).find(|stop| text.find(stop) == Some(middle))
}

/// A stop string cuts the text and the list of tokens at the same place, plain and streamed.
pub(super) async fn stop(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let body = json!({"model": bench.model, "prompt": "1, 2, 3, 4,", "max_tokens": 24, "temperature": 0, "logprobs": 1});
    let unstopped = bench.whole(Api::Completions, &body).await?;
    let text = unstopped["choices"][0]["text"].as_str().unwrap_or_default();
    let stop = stop_of(text).ok_or_else(|| Halt::Fail(format!("the answer {text:?} has no part that comes once")))?;
    let expected = text.split(stop).next().unwrap_or_default();
    let body = with(body, &json!({"stop": stop}));
    let joined =
        |lists: &[&Value]| -> String { lists.iter().flat_map(|list| strings(list)).filter(|token| has_text(token)).collect() };

    let plain = bench.whole(Api::Completions, &body).await?;
    let choice = &plain["choices"][0];
    checks.same("the text before the stop string", &choice["text"].as_str(), &Some(expected));
    checks.same("its listed tokens", &joined(&[&choice["logprobs"]["tokens"]]).as_str(), &expected);

    let heard = bench.hear(Api::Completions, &with(body, &json!({"stream": true}))).await?;
    checks.same("the streamed text before the stop string", &heard.text().as_str(), &expected);
    let events = told(&heard);
    let lists: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["logprobs"]["tokens"]).collect();
    checks.same("the tokens listed in the stream", &joined(&lists).as_str(), &expected);
    Ok(())
}

/// Log-probabilities are those of the content's tokens, the same in a stream.
pub(super) async fn logprobs(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let body = bench.chat(JAY, &json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 512}));
    let whole = bench.whole(Api::Chat, &body).await?;
    let choice = &whole["choices"][0];
    let plain: Vec<Value> = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
    let said: String = plain.iter().filter_map(|entry| entry["token"].as_str()).collect();
    checks.same("the tokens joined", &said.as_str(), &choice["message"]["content"].as_str().unwrap_or_default());
    let heard = bench.hear(Api::Chat, &with(body, &json!({"stream": true}))).await?;
    let entries = |event: Value| event["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default();
    let streamed: Vec<Value> = told(&heard).into_iter().flat_map(entries).collect();
    checks.same("tokens listed in the stream", &streamed.len(), &plain.len());
    for (one, other) in plain.iter().zip(&streamed) {
        let near =
            one["logprob"].as_f64().zip(other["logprob"].as_f64()).is_some_and(|(one, other)| (one - other).abs() < 0.01);
        checks.that(near && one["token"] == other["token"], || format!("{other} is streamed, and {one} without a stream"));
    }
    Ok(())
}

/// A question that asks for two calls of a function.
fn weather(bench: &Bench, more: &Value) -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let tool = json!({"name": "get_weather", "description": "The weather in a city.", "parameters": schema});
    let body = bench.chat("What is the weather in Paris and in Rome?", &json!({"max_tokens": 512}));
    with(with(body, &json!({"tools": [{"type": "function", "function": tool}]})), more)
}

/// How many calls an answer holds, plain and streamed.
async fn calls(bench: &Bench, body: Value) -> Result<[usize; 2], Halt> {
    let whole = bench.whole(Api::Chat, &body).await?;
    let plain = whole["choices"][0]["message"]["tool_calls"].as_array().map_or(0, Vec::len);
    let heard = bench.hear(Api::Chat, &with(body, &json!({"stream": true}))).await?;
    let indices = told(&heard).into_iter().flat_map(|event| {
        let calls = event["choices"][0]["delta"]["tool_calls"].as_array().cloned().unwrap_or_default();
        calls.into_iter().map(|call| call["index"].as_u64().unwrap_or(0) + 1)
    });
    Ok([plain, indices.max().unwrap_or(0) as usize])
}

pub(super) async fn no_calls(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let found = calls(bench, weather(bench, &json!({"tool_choice": "none"}))).await?;
    checks.same("calls with tool_choice none, plain and streamed", &found, &[0, 0]);
    Ok(())
}

pub(super) async fn one_call(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let more = json!({"parallel_tool_calls": false, "tool_choice": "required"});
    let found = calls(bench, weather(bench, &more)).await?;
    checks.same("calls with parallel_tool_calls false, plain and streamed", &found, &[1, 1]);
    Ok(())
}

/// What a field asks for that no answer meets by chance: the field is obeyed or refused.
pub(super) async fn obeyed(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let schema = json!({"name": "animal", "strict": true, "schema": {"type": "string", "enum": ["zebra"]}});
    for (field, value) in [
        ("guided_choice", json!(["zebra"])),
        ("guided_regex", json!("zebra")),
        ("structured_outputs", json!({"choice": ["zebra"]})),
        ("response_format", json!({"type": "json_schema", "json_schema": schema})),
    ] {
        let body = with(bench.chat(JAY, &json!({"max_tokens": 512})), &json!({field: value}));
        let whole = bench.client.call(&Request::post_json(Api::Chat.path(), &body)).await?;
        let answer = whole.json().unwrap_or_default();
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().trim().trim_matches('"');
        let refused = (400..500).contains(&whole.status) && answer["error"]["message"].is_string();
        checks.that(refused || (whole.status == 200 && content == "zebra"), || {
            format!("{field} asks for \"zebra\" and the answer is {} {content:?}, expected it or an error", whole.status)
        });
    }
    Ok(())
}

/// More tokens than the context has are an error that clients know by its words: litellm by the
/// message, others by the code.
pub(super) async fn too_long(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let chat = bench.chat(JAY, &json!({"max_tokens": ENDLESS_TOKENS}));
    let completion = json!({"model": bench.model, "prompt": "1, 2, 3,", "max_tokens": ENDLESS_TOKENS});
    for (api, body) in [(Api::Chat, chat), (Api::Completions, completion)] {
        let whole = bench.client.call(&Request::post_json(api.path(), &body)).await?;
        checks.same(&format!("the status of {} for a long answer", api.path()), &whole.status, &400);
        let error = whole.json().unwrap_or_default();
        let message = error["error"]["message"].as_str().unwrap_or_default().to_lowercase();
        let is_known = message.contains("maximum context length") || error["error"]["code"] == "context_length_exceeded";
        checks.that(is_known, || format!("{} answers {}, which names no context length", api.path(), whole.text()));
    }
    Ok(())
}

/// A connection that is reset while its answer is computed takes the request along, though nothing
/// was to be sent yet.
pub(super) async fn reset(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let before = bench.idle().await?;
    let mut raw = Raw::connect(bench).await?;
    raw.post(Api::Completions.path(), "1.1", "", &with(bench.endless(), &json!({"stream": false}))).await?;
    let sent = Instant::now();
    while bench.held().await?.requests == 0 {
        if sent.elapsed() > bench.effort.freed_max {
            return Err(Halt::Fail("the server never shows the request in /stats".to_owned()));
        }
        sleep(Duration::from_millis(1)).await;
    }
    raw.reset()?;
    let freed_ms = bench.freed(Instant::now(), before).await?;
    checks.at_most("until free", freed_ms, "ms", bench.criteria.cancel_max_ms);
    Ok(())
}

/// An offer of another protocol that is not taken changes nothing: Java's HttpClient makes it with
/// each first request.
pub(super) async fn upgrade(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let mut raw = Raw::connect(bench).await?;
    let body = bench.chat(JAY, &json!({"max_tokens": 8}));
    let offer =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";
    for (what, headers) in [("with an offer of h2c", offer), ("behind it on the same connection", "")] {
        raw.post(Api::Chat.path(), "1.1", headers, &body).await?;
        let answer = raw.answer().await?;
        checks.same(&format!("the status of a request {what}"), &answer.status, &200);
        let connection = answer.header("connection").unwrap_or_default();
        checks.that(!connection.contains("upgrade"), || format!("the answer {what} says connection: {connection}"));
    }
    Ok(())
}

/// A client of HTTP/1.0 knows no chunks: its stream ends with the connection.
pub(super) async fn old_stream(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let mut raw = Raw::connect(bench).await?;
    raw.post(Api::Chat.path(), "1.0", "", &bench.chat(JAY, &json!({"max_tokens": 8, "stream": true}))).await?;
    let answer = raw.answer().await?;
    checks.same("the status of a stream over HTTP/1.0", &answer.status, &200);
    let coding = answer.header("transfer-encoding");
    checks.that(coding.is_none(), || format!("a stream over HTTP/1.0 has transfer-encoding: {}", coding.unwrap_or_default()));
    let body = String::from_utf8_lossy(&answer.body);
    checks.that(body.trim_end().ends_with("data: [DONE]"), || format!("a stream over HTTP/1.0 ends {:?}", body.lines().last()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::stop_of;

    #[test]
    fn a_stop_string_comes_once() {
        assert_eq!(stop_of("5, 6, 7, 8, "), Some("7"));
        assert_eq!(stop_of("4, 4, 4, 5"), Some(" 4, 5"));
        assert_eq!((stop_of("aaaa"), stop_of("")), (None, None));
    }
}
