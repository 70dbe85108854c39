//! The binary as a user starts it: the embedded model behind real sockets.

mod descriptors;
mod flood;
mod forms;
mod garbage;
mod kept;
mod keys;
mod memory;
mod predecessor;
mod quiet;
mod requests;
mod restored;
mod server;
mod stopping;
mod storm;
mod warm_up;

use std::fs::OpenOptions;
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;

use server::read_on;
pub(crate) use server::{PATIENCE, Server, command, events, joined, read_until};

use super::fake_hub::{FakeHub, Faults, tiny};

const PROMPT: &str = r#"Write Python code that prints \"Jay\"."#;

#[test]
fn jay_is_printed_on_every_route() {
    let server = Server::start();
    let chat = format!(r#"{{"messages":[{{"role":"user","content":"{PROMPT}"}}],"temperature":0,"stream":STREAM}}"#);
    let whole: Value =
        serde_json::from_str(&server.ask("POST", "/v1/chat/completions", &chat.replace("STREAM", "false"))).expect("JSON");
    let whole = whole["choices"][0]["message"]["content"].as_str().expect("content").to_owned();
    assert!(whole.contains(r#"print("Jay")"#), "{whole}");
    let stream = server.ask("POST", "/v1/chat/completions", &chat.replace("STREAM", "true"));
    assert_eq!(joined(&stream, "/choices/0/delta/content"), whole, "the joined stream is the whole answer");
    let body = format!(r#"{{"user_id":"u","model_type":"code_generation","prompt":"{PROMPT}","temperature":0}}"#);
    let stream = server.ask("POST", "/generate/stream", &body);
    assert!(joined(&stream, "/text").contains(r#"print("Jay")"#) && stream.contains("data: [DONE]"), "{stream}");
    let stream = server.ask("POST", "/generate", &format!(r#"{{"prompt":"{PROMPT}","temperature":0,"stream":true}}"#));
    assert!(joined(&stream, "/content").contains(r#"print("Jay")"#), "{stream}");
}

/// A line of the log names the rule that a refused request broke, and the field, and nothing of
/// what the request said.
#[test]
fn the_log_names_what_was_refused() {
    let mut server = Server::start();
    let body = r#"{"messages":[{"role":"user","content":"hush-hush"}],"temperature":"hush-hush"}"#;
    assert_eq!(server.answer("POST", "/v1/chat/completions", body).0, 400);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers = format!("X-Request-Id: order-66\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
    assert_eq!(server.answer_with("GET", "/version", &headers).0, 200);
    server.signal("-TERM");
    let (_, log) = server.end();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.find(|line| line["status"] == 400).unwrap_or_else(|| panic!("no line has the status: {log}"));
    assert_eq!((&line["code"], &line["param"]), (&"invalid_value".into(), &"temperature".into()), "{line}");
    assert!(!log.contains("hush"), "{log}");
    let traced = lines.find(|line| line["client_request_id"] == "order-66").unwrap_or_else(|| panic!("no id: {log}"));
    assert_eq!((&traced["trace_id"], traced["span_id"].as_str().map(str::len)), (&trace.into(), Some(16)), "{traced}");
}

#[test]
fn a_server_that_is_open_to_everybody_says_so() {
    const WARNING: &str = "other machines can reach this server, and it asks for no key";
    let with = |host: &str, key: Option<&str>| {
        let mut command = command(&["--host", host]);
        key.map(|key| command.env("ANTIPHON_API_KEY", key));
        Server::of(&mut command).log.contains(WARNING)
    };
    assert!(with("0.0.0.0", None));
    assert!(!with("0.0.0.0", Some("Sesame")) && !with("127.0.0.1", None));
}

/// What `serve --model 20b` does on a machine that never saw the model: it is fetched, past a
/// download that breaks off, and answers.
#[test]
fn a_model_of_the_hub_is_fetched_and_served() {
    let (hub, cache) =
        (FakeHub::start(&tiny(), Faults { cut: 1, ..Faults::default() }), tempfile::tempdir().expect("a folder"));
    let (elsewhere, place) = (cache.path().join("elsewhere"), cache.path().join("hub"));
    let variables =
        [("HF_HOME", elsewhere.as_path()), ("HF_HUB_CACHE", place.as_path()), ("HF_ENDPOINT", Path::new(&hub.endpoint))];
    let mut command = command(&["--model", "20b"]);
    command.envs(variables);
    let server = Server::of(&mut command);
    assert!(server.log.contains("model.safetensors"), "progress is shown: {}", server.log);
    let models: Value = serde_json::from_str(&server.ask("GET", "/v1/models", "")).expect("JSON");
    assert_eq!(models["data"][0]["id"], "gpt-oss-20b");
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{PROMPT}"}}],"temperature":0}}"#);
    let answer = server.ask("POST", "/v1/chat/completions", &body);
    assert!(answer.contains(r#"print(\"Jay\")"#), "{answer}");
    assert!(place.join("models--openai--gpt-oss-20b/refs/main").exists() && !elsewhere.exists());
}

/// Weights that are cut while they are served end the process in order: the running stream is told,
/// the exit code says it.
#[test]
fn a_checkpoint_that_is_cut_ends_every_stream_with_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    for file in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(model.join(file), folder.path().join(file)).expect("copied");
    }
    let mut server = Server::serving(folder.path().to_str().expect("UTF-8"));
    let body = r#"{"prompt":"Count from 1 to 90","temperature":0,"max_tokens":4000,"ignore_eos":true,"stream":true}"#;
    // Many, so that a process that left at once could not have told them all.
    let mut streams: Vec<TcpStream> = (0..8).map(|_| server.send("POST", "/v1/completions", body)).collect();
    let begun: Vec<String> = streams.iter_mut().map(|stream| read_until(stream, "data: ")).collect();
    let weights = OpenOptions::new().write(true).open(folder.path().join("model.safetensors")).expect("opened");
    weights.set_len(4096).expect("cut");
    for (stream, mut text) in streams.iter_mut().zip(begun) {
        text += &read_on(stream);
        let error = events(&text).find(|event| event["error"].is_object()).unwrap_or_else(|| panic!("no error: {text}"));
        assert_eq!(error["error"]["type"], "server_error", "{error}");
        assert!(text.contains("data: [DONE]"), "{text}");
    }
    assert_eq!(server.end().0, Some(70));
}
