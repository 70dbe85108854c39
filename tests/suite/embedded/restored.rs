//! KV blocks in a file, over restarts of the binary: what is found, and what is not.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::Server;

/// A system prompt of nearly eight thousand tokens, the embedded model's context, and a question
/// behind it.
fn asked(server: &Server, question: &str) -> Value {
    const SENTENCE: &str = "The lighthouse stood on a rock that no boat could reach in winter, and it was cold. ";
    let tokens: Value =
        serde_json::from_str(&server.ask("POST", "/tokenize", &json!({"prompt": SENTENCE}).to_string())).expect("JSON");
    let story = SENTENCE.repeat(7_800 / tokens["count"].as_u64().expect("a count") as usize);
    let body = json!({
        "messages": [{"role": "system", "content": story}, {"role": "user", "content": question}],
        "temperature": 0, "max_tokens": 12, "logprobs": true, "top_logprobs": 3,
    });
    serde_json::from_str(&server.ask("POST", "/v1/chat/completions", &body.to_string())).expect("JSON")
}

/// What of the prompt was found, and why nothing was.
fn found(answer: &Value) -> (u64, &Value) {
    let details = &answer["usage"]["prompt_tokens_details"];
    (details["cached_tokens"].as_u64().expect("a count"), &details["cache_miss"])
}

fn stored(server: &Server, name: &str) -> u64 {
    server.stats()["kv_store"][name].as_u64().expect("a count")
}

fn options(file: &Path) -> [&str; 4] {
    ["--kv-store", file.to_str().expect("UTF-8"), "--system-date", "2026-11-22"]
}

fn ended(mut server: Server) -> String {
    server.signal("-TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    server.log.clone() + &log
}

#[test]
fn a_long_system_prompt_is_warm_after_a_restart_with_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kept/kv");
    let options = options(&file);
    let server = Server::with(&options);
    let cold = asked(&server, "Who lived there?");
    assert_eq!(found(&cold), (0, &json!("not_cached")));
    let tokens = cold["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert!(tokens > 7_500, "a long prompt: {tokens}");
    // A second server goes without, and says so.
    let second = Server::with(&options);
    assert!(second.log.contains("is in use by another process"), "{}", second.log);
    assert_eq!(second.stats()["kv_store"], Value::Null);
    drop(second);
    assert!(ended(server).contains("cached KV blocks go to the KV store"));
    assert_eq!(file.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);

    let server = Server::with(&options);
    let warm = asked(&server, "Who lived there?");
    assert_eq!(found(&warm), ((tokens - 1) / 16 * 16, &Value::Null));
    assert_eq!(warm["choices"], cold["choices"], "log-probabilities too");
    assert_eq!((stored(&server, "hits"), stored(&server, "failed_blocks")), (1, 0));
    assert!(stored(&server, "restored_tokens") > 6_000 && stored(&server, "read_bytes") > 0);
    let metrics = server.ask("GET", "/metrics", "");
    assert!(metrics.lines().any(|line| line.starts_with("antiphon_kv_store_hits_total{") && line.ends_with(" 1")), "{metrics}");
    // The same beginning under another question, of which KV memory has the window now.
    assert_eq!(asked(&server, "Who lived there?")["choices"], cold["choices"]);

    // Killed: what was written stays.
    drop(server);
    let server = Server::with(&options);
    let again = asked(&server, "Who lived there?");
    assert_eq!((found(&again).0, &again["choices"]), ((tokens - 1) / 16 * 16, &cold["choices"]));
    ended(server);
}

#[test]
fn what_is_damaged_or_foreign_is_computed_and_said_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kv");
    let options = options(&file);
    let server = Server::with(&options);
    let cold = asked(&server, "Who lived there?");
    ended(server);

    // A byte of each block that is found.
    let mut bytes = std::fs::read(&file).expect("it is there");
    let from = bytes.len() / 2;
    bytes[from..].iter_mut().step_by(1_000).for_each(|byte| *byte ^= 4);
    std::fs::write(&file, bytes).expect("written");
    let server = Server::with(&options);
    let answer = asked(&server, "Who lived there?");
    assert_eq!(answer["choices"], cold["choices"]);
    assert!(stored(&server, "failed_blocks") > 0, "{}", server.stats());
    ended(server);
    let server = Server::with(&options);
    let answer = asked(&server, "Who lived there?");
    assert!(found(&answer).0 > 6_000, "it was stored again: {answer}");
    assert_eq!(answer["choices"], cold["choices"]);
    ended(server);

    // Another arithmetic's file, and a file that is none.
    let exact = Server::with(&[&options[..], &["--cpu-math", "exact"]].concat());
    assert_eq!(exact.log.matches("the KV store begins anew").count(), 1, "{}", exact.log);
    assert_eq!(found(&asked(&exact, "Who lived there?")).0, 0);
    drop(exact);
    std::fs::write(&file, "a letter to a friend ".repeat(999)).expect("written");
    let server = Server::with(&options);
    assert_eq!(server.log.matches("the KV store begins anew").count(), 1, "{}", server.log);
    assert_eq!(asked(&server, "Who lived there?")["choices"], cold["choices"]);
}
