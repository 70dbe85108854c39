//! What a request may call the model, and what the model is told of the day.

use serde_json::Value;

use super::server::{Server, command};

#[test]
fn the_model_is_told_the_date_of_the_machine() {
    // Two places 26 hours apart never have the same date.
    let dates = ["<+14>-14", "<-12>12"].map(|zone| {
        let server = Server::of(command(&["--model", "tiny"]).env("TZ", zone));
        let body = r#"{"messages":[{"role":"user","content":"hi"}],"return_token_strs":true}"#;
        let answer: Value = serde_json::from_str(&server.ask("POST", "/tokenize", body)).expect("JSON");
        let texts = answer["token_strs"].as_array().expect("a list").iter();
        let prompt: String = texts.map(|text| text.as_str().expect("a text")).collect();
        let (_, rest) = prompt.split_once("Current date: ").expect("the prompt tells the date");
        rest[..10].to_owned()
    });
    assert!(dates[0] > dates[1], "{dates:?}");
}

#[test]
fn the_model_is_known_by_each_of_its_names() {
    let server = Server::start();
    for (name, status) in [("tiny", 200), ("gpt-oss-tiny", 200), ("openai/gpt-oss-20b", 404), ("gpt-4", 404)] {
        let body = format!(r#"{{"model":"{name}","prompt":"hi","max_tokens":1}}"#);
        assert_eq!(server.answer("POST", "/v1/completions", &body).0, status, "{name}");
    }
}
