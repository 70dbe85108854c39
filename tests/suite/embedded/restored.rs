//! KV blocks in a file, over restarts of the binary: what is found, and what is not.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::Server;

/// Nearly the embedded model's context.
const LONG: usize = 7_800;
/// Enough for many blocks, and computed in a second or two.
const SHORT: usize = 1_500;

/// What follows a system prompt of so many tokens and a question behind it.
fn asked(server: &Server, system_tokens: usize) -> Value {
    const SENTENCE: &str = "The lighthouse stood on a rock that no boat could reach in winter, and it was cold. ";
    let tokens: Value =
        serde_json::from_str(&server.ask("POST", "/tokenize", &json!({"prompt": SENTENCE}).to_string())).expect("JSON");
    let story = SENTENCE.repeat(system_tokens / tokens["count"].as_u64().expect("a count") as usize);
    let body = json!({
        "messages": [{"role": "system", "content": story}, {"role": "user", "content": "Who lived there?"}],
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
    let cold = asked(&server, LONG);
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
    let warm = asked(&server, LONG);
    assert_eq!(found(&warm), ((tokens - 1) / 16 * 16, &Value::Null));
    assert_eq!(warm["choices"], cold["choices"], "log-probabilities too");
    assert_eq!((stored(&server, "hits"), stored(&server, "failed_blocks")), (1, 0));
    assert!(stored(&server, "restored_tokens") > 6_000 && stored(&server, "read_bytes") > 0);
    let metrics = server.ask("GET", "/metrics", "");
    assert!(metrics.lines().any(|line| line.starts_with("antiphon_kv_store_hits_total{") && line.ends_with(" 1")), "{metrics}");
    // Once more, from KV memory.
    assert_eq!(asked(&server, LONG)["choices"], cold["choices"]);

    // Killed: what was written stays.
    drop(server);
    let server = Server::with(&options);
    let again = asked(&server, LONG);
    assert_eq!((found(&again).0, &again["choices"]), ((tokens - 1) / 16 * 16, &cold["choices"]));
    ended(server);
}

/// In the host's memory: for as long as the process lives. KV memory has room for
/// a few such prompts.
#[test]
fn what_was_evicted_comes_back_from_the_hosts_memory() {
    let place = ["--kv-offload-bytes", "64MiB", "--kv-bytes", "16MiB", "--running-max-count", "2"];
    let server = Server::with(&[&place[..], &["--system-date", "2026-11-22"]].concat());
    let cold = asked(&server, SHORT);
    let (mut other, mut asked_count) = (String::new(), 0);
    while stored(&server, "spilled_blocks") < 150 {
        asked_count += 1;
        assert!(asked_count < 20, "nothing is evicted: {}", server.stats());
        other += "A letter ";
        let text = format!("{other}{}", "of a winter that was long and dark, and of a boat. ".repeat(80));
        server.ask("POST", "/v1/completions", &json!({"prompt": text, "max_tokens": 1}).to_string());
    }
    let warm = asked(&server, SHORT);
    assert!(found(&warm).0 > 1_000 && stored(&server, "hits") > 0, "{}", server.stats());
    assert_eq!(warm["choices"], cold["choices"]);
}

#[test]
fn what_is_damaged_or_foreign_is_computed_and_said_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kv");
    let options = options(&file);
    let server = Server::with(&options);
    let cold = asked(&server, SHORT);
    ended(server);

    // A byte of each block that is found.
    let mut bytes = std::fs::read(&file).expect("it is there");
    let from = bytes.len() / 2;
    bytes[from..].iter_mut().step_by(1_000).for_each(|byte| *byte ^= 4);
    std::fs::write(&file, bytes).expect("written");
    let server = Server::with(&options);
    let answer = asked(&server, SHORT);
    assert_eq!(answer["choices"], cold["choices"]);
    assert!(stored(&server, "failed_blocks") > 0, "{}", server.stats());
    ended(server);
    let server = Server::with(&options);
    let answer = asked(&server, SHORT);
    assert!(found(&answer).0 > 1_000, "it was stored again: {answer}");
    assert_eq!(answer["choices"], cold["choices"]);
    ended(server);

    // Another arithmetic's file, and a file that is none.
    let exact = Server::with(&[&options[..], &["--cpu-math", "exact"]].concat());
    assert_eq!(exact.log.matches("the KV store begins anew").count(), 1, "{}", exact.log);
    assert_eq!(found(&asked(&exact, SHORT)).0, 0);
    drop(exact);
    std::fs::write(&file, "a letter to a friend ".repeat(999)).expect("written");
    let server = Server::with(&options);
    assert_eq!(server.log.matches("the KV store begins anew").count(), 1, "{}", server.log);
    assert_eq!(asked(&server, SHORT)["choices"], cold["choices"]);
}
