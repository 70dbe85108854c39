use crate::http::legacy::text_request::*;
use crate::http::wire::samples::{blame, terms, value};

fn read(json: &str) -> Result<TextRequest, WireError> {
    TextRequest::read(value(json), &terms())
}

#[test]
fn a_prompt_is_a_chat_of_one_message() {
    let request =
        read(r#"{"user_id":"u","model_type":"code_generation","prompt":"print Jay","user_select_options":{}}"#).unwrap();
    assert_eq!(request.conversation.messages, [Message::User { content: "print Jay".into() }]);
    let sampling = &request.generation.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, request.generation.max_tokens), (0.3, 0.95, Some(500)));
    let asked = read(r#"{"prompt":"p","temperature":0,"max_tokens":7}"#).unwrap().generation;
    assert_eq!((asked.sampling.temperature, asked.max_tokens), (0.0, Some(7)));
    assert_eq!(request.coalescing, Coalescing { max_ms: 5, max_chars: 0 });
    let gathered = read(r#"{"prompt":"p","stream_options":{"coalesce_max_ms":70}}"#).unwrap().coalescing;
    assert_eq!(gathered.max_ms, 70);
}

#[test]
fn kind_and_options_instruct() {
    let json =
        r#"{"model_type":"error_fix","prompt":"p","user_select_options":{"language":"Rust","strict":true,"n":2,"x":null}}"#;
    let messages = read(json).unwrap().conversation.messages;
    let Message::Developer { content } = &messages[0] else { panic!("{messages:?}") };
    assert!(content.starts_with("Find the error"), "{content}");
    assert!(content.ends_with("The user's options:\n- language: Rust\n- strict: true\n- n: 2"), "{content}");
}

#[test]
fn nonsense_is_refused_by_name() {
    for (json, param) in [
        ("{}", "prompt"),
        (r#"{"prompt":["a"]}"#, "prompt"),
        (r#"{"prompt":"p","model_type":"poem"}"#, "model_type"),
        (r#"{"prompt":"p","user_id":[7]}"#, "user_id"),
        (r#"{"prompt":"p","guided_regex":"a+"}"#, "guided_regex"),
        (r#"{"prompt":"p","user_select_options":{"a":[]}}"#, "user_select_options.a"),
        (r#"{"prompt":"p","n":2}"#, "n"),
        (r#"{"prompt":"p","stream":false}"#, "stream"),
    ] {
        assert_eq!(blame(read(json)).0, param, "{json}");
    }
}

#[test]
fn users_have_numbers_or_names() {
    for user in ["7", "-7", "18446744073709551615", "7.0", "\"u\"", "\"\"", "null"] {
        assert!(read(&format!(r#"{{"prompt":"p","user_id":{user}}}"#)).is_ok(), "{user}");
    }
}
