//! What the scripts of the servers that antiphon replaces do, against the options under which they
//! are served.

use serde_json::{Value, json};

use super::PROMPT;
use super::server::{Server, events, joined, read_on, read_until};
use crate::metrics::DEMANDED;

const METADATA: [&str; 14] = [
    "prompt_version",
    "model_id",
    "model_size",
    "dtype",
    "gpu_mode",
    "cache_key",
    "cache_hit",
    "tokens_before",
    "tokens_after",
    "truncated",
    "truncation_info",
    "params",
    "timestamp",
    "request_id",
];

fn server() -> Server {
    Server::with(&["--served-model-name", "gpt-oss-20b", "--sse-dialect", "both"])
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Asserts that `object` has each of `keys`.
fn assert_keys(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object.get(key).is_some(), "{key} is not in {object}");
    }
}

#[test]
fn a_chat_is_read_by_its_typed_keys_and_by_openai_s() {
    let server = server();
    let chat = |rest: &str| {
        let messages = format!(r#""messages":[{{"role":"user","content":"{PROMPT}"}}]"#);
        format!(r#"{{"model":"gpt-oss-20b",{messages},"profile":"latency_first","temperature":0,"max_tokens":200{rest}}}"#)
    };
    let whole = json_of(&server.ask("POST", "/v1/chat/completions", &chat("")));
    let text = whole["choices"][0]["message"]["content"].as_str().expect("content");
    assert!(text.contains(r#"print("Jay")"#), "{text}");
    assert_eq!(whole["model"], "gpt-oss-20b");
    assert_keys(&whole["metadata"], &METADATA);
    assert_eq!(whole["metadata"]["request_id"], whole["id"]);

    let stream = server.ask("POST", "/v1/chat/completions", &chat(r#","stream":true"#));
    let chunks: Vec<Value> = events(&stream).collect();
    let kinds: Vec<&str> = chunks.iter().map(|chunk| chunk["type"].as_str().expect("a type")).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"start"), Some(&"done")));
    assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind == "token"), "{kinds:?}");
    assert_eq!(joined(&stream, "/content"), text, "the reader of typed events");
    assert_eq!(joined(&stream, "/choices/0/delta/content"), text, "the reader of chunks");
    assert!(stream.contains("data: [DONE]"), "{stream}");
    let id = &chunks[0]["request_id"];
    assert!(chunks.iter().all(|chunk| chunk["request_id"] == *id && chunk["id"] == *id), "{stream}");
    let last = &chunks[chunks.len() - 1]["metadata"];
    assert_keys(last, &METADATA);
    assert_eq!(last["cache_key"], whole["metadata"]["cache_key"], "the same question");
    assert_eq!((&whole["metadata"]["cache_hit"], &last["cache_hit"]), (&json!(false), &json!(true)));
}

#[test]
fn generate_and_its_cancel_speak_named_events() {
    let server = server();
    let body = format!(r#"{{"model":"gpt-oss-20b","prompt":"{PROMPT}","temperature":0}}"#);
    let stream = server.ask("POST", "/generate", &body);
    let names: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!((names.first(), names.last()), (Some(&"start"), Some(&"done")));
    let text = joined(&stream, "/content");
    let whole = json_of(&server.ask("POST", "/generate", &body.replace("\"temperature\"", "\"stream\":false,\"temperature\"")));
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    assert_keys(&whole["metadata"], &METADATA);

    let endless = r#"{"prompt":"Count from 1 to 90","max_tokens":4000,"ignore_eos":true}"#;
    let mut stream = server.send("POST", "/generate", endless);
    let mut begun = read_until(&mut stream, "event: token");
    let start = events(&begun).next().expect("a start");
    let id = start["request_id"].as_str().expect("an id");
    let cancelled = json_of(&server.ask("POST", &format!("/cancel/{id}"), ""));
    assert_eq!(cancelled, json!({"status": "cancelled", "request_id": id}));
    begun += &read_on(&mut stream);
    let last = events(&begun).last().expect("an end");
    assert_eq!((&last["type"], &last["request_id"]), (&json!("cancelled"), &json!(id)));
    let unknown = json_of(&server.answer("POST", "/cancel/nobody", "").1);
    assert_eq!(unknown, json!({"status": "not_found", "request_id": "nobody"}));
}

#[test]
fn the_text_stream_takes_what_its_back_end_sends() {
    let server = server();
    let body = format!(
        r#"{{"user_id":7,"model_type":"code_generation","prompt":"{PROMPT}","user_select_options":{{}},"temperature":0.3,"top_p":0.95,"max_tokens":1024}}"#
    );
    let stream = server.ask("POST", "/generate/stream", &body);
    assert!(joined(&stream, "/text").contains("Jay") && stream.contains("data: [DONE]"), "{stream}");
}

#[test]
fn what_is_watched_has_the_keys_that_are_read() {
    let server = server();
    server.ask("POST", "/v1/completions", r#"{"model":"gpt-oss-20b","prompt":"x","max_tokens":2}"#);
    let models = json_of(&server.ask("GET", "/v1/models", ""));
    assert!(models["data"].as_array().expect("a list").iter().any(|model| model["id"] == "gpt-oss-20b"), "{models}");
    let health = json_of(&server.ask("GET", "/health", ""));
    assert_keys(
        &health,
        &["status", "health_score", "version", "model", "model_id", "model_size", "dtype", "profile", "stats"],
    );
    assert_keys(&health["model"], &["model_id", "model_size", "dtype", "gpu_mode", "prompt_version"]);
    assert_keys(&health["stats"], &["active_requests", "qps", "error_rate", "p95_ttft_ms", "p95_e2e_ms"]);
    let counts = ["requests_total", "requests_success", "requests_failed", "requests_cancelled", "active_requests"];
    let times = ["p50_ttft_ms", "p95_ttft_ms", "p99_ttft_ms", "p50_e2e_ms", "p95_e2e_ms", "p99_e2e_ms", "uptime_seconds"];
    let more =
        ["stream_active", "stream_cancelled_total", "qps", "error_rate", "model_metrics", "prompt_metrics", "model_info", "kv"];
    assert_keys(&server.stats(), &[&counts[..], &times, &more].concat());
    assert_keys(&json_of(&server.ask("GET", "/admin/debug/bundle", "")), &[]);
    json_of(&server.ask("GET", "/memory_stats", ""));
    let metrics = server.ask("GET", "/metrics", "");
    for name in DEMANDED {
        assert!(metrics.lines().any(|line| line.starts_with(&format!("# TYPE {name} "))), "{name} is not in {metrics}");
    }
}
