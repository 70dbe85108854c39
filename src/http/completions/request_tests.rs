use crate::batch::TokenId;
use crate::http::completions::request::*;
use crate::http::wire::samples::{blame, terms, value};

fn read(json: &str) -> Result<CompletionRequest, WireError> {
    CompletionRequest::read(value(json), &terms())
}

fn prompts(json: &str) -> Vec<String> {
    let show = |input: ResponseInput| match input {
        ResponseInput::Text(text) => text,
        ResponseInput::Tokens(tokens) => format!("{:?}", tokens.iter().map(|TokenId(id)| id).collect::<Vec<_>>()),
        ResponseInput::Chat(_) => panic!("no chats here"),
    };
    read(&format!(r#"{{"prompt":{json}}}"#)).unwrap().prompts.into_iter().map(show).collect()
}

#[test]
fn prompts_come_in_four_shapes() {
    assert_eq!(prompts(r#""a b""#), ["a b"]);
    assert_eq!(prompts(r#"["a","b"]"#), ["a", "b"]);
    assert_eq!(prompts("[1,2047]"), ["[1, 2047]"]);
    assert_eq!(prompts("[[1],[2,3]]"), ["[1]", "[2, 3]"]);
}

#[test]
fn bad_prompts_are_refused_by_place() {
    let long = format!("[{}1]", "1,".repeat(1000));
    let many = format!("[{}\"a\"]", "\"a\",".repeat(128));
    for (json, param) in [
        ("null", "prompt"),
        ("7", "prompt"),
        (r#""""#, "prompt"),
        ("[]", "prompt"),
        ("{}", "prompt"),
        ("[true]", "prompt"),
        ("[1,2048]", "prompt[1]"),
        ("[1,\"a\"]", "prompt[1]"),
        ("[\"a\",\"\"]", "prompt[1]"),
        ("[[1],[]]", "prompt[1]"),
        ("[[1],[-1]]", "prompt[1][0]"),
        (long.as_str(), "prompt"),
        (many.as_str(), "prompt"),
    ] {
        assert_eq!(blame(read(&format!(r#"{{"prompt":{json}}}"#))).0, param, "{json:.40}");
    }
}

#[test]
fn scoring_a_text_generates_one_token_that_is_not_shown() {
    let request = read(r#"{"prompt":"a","echo":true,"max_tokens":0,"logprobs":5}"#).unwrap();
    assert!(request.prompt_only && request.generation.sampling.prompt_logprobs);
    assert_eq!((request.generation.max_tokens, request.generation.sampling.logprobs), (Some(1), Some(5)));
    assert_eq!(blame(read(r#"{"prompt":"a","max_tokens":0}"#)).0, "max_tokens");
    assert!(!read(r#"{"prompt":"a","echo":true}"#).unwrap().generation.sampling.prompt_logprobs);
}

#[test]
fn choices_are_bounded_together() {
    assert!(read(r#"{"prompt":["a","b"],"n":64}"#).is_ok());
    assert_eq!(blame(read(r#"{"prompt":["a","b"],"n":65}"#)).0, "n");
    assert!(read(r#"{"prompt":"a","n":2,"best_of":2}"#).is_ok());
    assert_eq!(blame(read(r#"{"prompt":"a","n":2,"best_of":3}"#)), ("best_of".into(), "unsupported_value"));
    assert_eq!(blame(read(r#"{"prompt":"a","suffix":"z"}"#)), ("suffix".into(), "unsupported_value"));
    assert_eq!(blame(read(r#"{"prompt":"a","logprobs":21}"#)).0, "logprobs");
    assert_eq!(blame(read(r#"{"prompt":"a","logprobs":true}"#)).0, "logprobs");
}
