//! Responses that are kept in a file, over restarts of the binary.

use std::process::Stdio;

use serde_json::Value;

use super::server::ended;
use super::{Server, command};

/// A response and its path.
fn asked(server: &Server, fields: &str) -> (Value, String) {
    let body = format!(r#"{{"input":"Hello","max_output_tokens":8,"temperature":0{fields}}}"#);
    let response: Value = serde_json::from_str(&server.ask("POST", "/v1/responses", &body)).expect("JSON");
    let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    (response, path)
}

#[test]
fn a_conversation_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kept/responses.redb");
    let options = ["--response-store", file.to_str().expect("UTF-8")];
    let mut server = Server::with(&options);
    let (first, path) = asked(&server, "");
    // The file is one server's.
    let mut second = command(&options).args(["--port", "0"]).stderr(Stdio::piped()).spawn().expect("the binary starts");
    assert!(!ended(&mut second).success());
    let mut said = String::new();
    std::io::Read::read_to_string(second.stderr.as_mut().expect("piped"), &mut said).expect("text");
    assert!(said.contains("is in use by another process"), "{said}");
    server.signal("-TERM");
    server.end();

    let mut server = Server::with(&options);
    let again: Value = serde_json::from_str(&server.ask("GET", &path, "")).expect("JSON");
    assert_eq!(again, first);
    let (next, _) = asked(&server, &format!(r#","previous_response_id":{}"#, first["id"]));
    assert_eq!(next["previous_response_id"], first["id"]);
    server.signal("-TERM");
    server.end();

    std::fs::write(&file, "a letter to a friend ".repeat(999)).expect("written");
    let server = Server::with(&options);
    assert_eq!(server.log.matches("the response store begins anew").count(), 1, "{}", server.log);
    assert_eq!(server.answer("GET", &path, "").0, 404);
    let (response, path) = asked(&server, "");
    assert_eq!(serde_json::from_str::<Value>(&server.ask("GET", &path, "")).expect("JSON"), response);
}

/// What was acknowledged is as the client left it, however soon the signal comes after it.
#[test]
fn an_end_in_order_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("responses.redb");
    let options = ["--response-store", file.to_str().expect("UTF-8")];
    let mut server = Server::with(&options);
    let (_, forgotten) = asked(&server, "");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let long = r#"{"input":"Hello","max_output_tokens":400,"ignore_eos":true,"background":true}"#;
    let begun: Value = serde_json::from_str(&server.ask("POST", "/v1/responses", long)).expect("JSON");
    assert_eq!(begun["status"], "in_progress");
    assert_eq!(server.answer("DELETE", &forgotten, "").0, 200);
    let (last, kept) = asked(&server, "");
    server.signal("-TERM");
    assert_eq!(server.end().0, Some(0));

    let server = Server::with(&options);
    assert_eq!(server.answer("GET", &forgotten, "").0, 404);
    assert_eq!(serde_json::from_str::<Value>(&server.ask("GET", &kept, "")).expect("JSON"), last);
    let path = format!("/v1/responses/{}", begun["id"].as_str().expect("an id"));
    let ended: Value = serde_json::from_str(&server.ask("GET", &path, "")).expect("JSON");
    assert_eq!((&ended["status"], &ended["usage"]["output_tokens"]), (&"incomplete".into(), &400.into()), "{ended}");
}
