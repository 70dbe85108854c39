//! What is said is the same prompt, whichever API says it: token for token.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::batch::TokenId;
use crate::http::chat::request::{BodyRoute, ChatRequest};
use crate::http::messages::request::{MessagesRequest, MessagesRoute};
use crate::http::responses::conversation_of;
use crate::http::wire::samples::terms;
use crate::prompt::builder::{KeyParameters, PromptBuilder, PromptSettings, PromptVersion};
use crate::prompt::conversation::Conversation;
use crate::prompt::tokenizer::Tokenizer;

fn tokens(conversation: &Conversation) -> Vec<TokenId> {
    let json = include_bytes!("../../../models/tiny/tokenizer.json");
    let tokenizer = Tokenizer::from_json("tokenizer.json", json, 2048).unwrap();
    let settings = PromptSettings { model_id: "tiny".to_owned(), version: PromptVersion::V1, cache_max_bytes: 0 };
    let builder = PromptBuilder::new(Arc::new(tokenizer), settings);
    builder.build(conversation, &KeyParameters::default(), "2025-11-22").unwrap().tokens.to_vec()
}

/// The prompt of three bodies, which is one.
fn same(chat: Value, response: Value, mut message: Value) -> Vec<TokenId> {
    message["max_tokens"] = json!(9);
    let said = chat.to_string();
    let of_chat = tokens(&ChatRequest::read(chat, BodyRoute::Chat, &terms()).unwrap().conversation);
    let of_response = tokens(&conversation_of(response, &terms()));
    let of_message = MessagesRequest::read(message, MessagesRoute::Create, &terms(), |_| None).unwrap().conversation;
    assert_eq!(of_response, of_chat, "{said}");
    assert_eq!(tokens(&of_message), of_chat, "{said}");
    of_chat
}

const SCHEMA: &str =
    r#"{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"]}"#;

#[test]
fn a_question_with_instructions_and_an_effort() {
    let user = json!({"role": "user", "content": "Hé, 안녕 👋🏽?"});
    same(
        json!({"messages": [{"role": "system", "content": "Be brief."}, user], "reasoning_effort": "high"}),
        json!({"input": [user], "instructions": "Be brief.", "reasoning": {"effort": "high"}}),
        json!({"messages": [user], "system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            "thinking": {"type": "enabled", "budget_tokens": 20_000}}),
    );
    same(json!({"messages": [user]}), json!({"input": [user]}), json!({"messages": [user]}));
}

#[test]
fn a_tool_loop() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let arguments = r#"{"city":"Bergen","days":2}"#;
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let chat = json!({"messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Two places."},
        {"role": "assistant", "content": "I look.", "reasoning": "Twice.", "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "4"}, {"role": "tool", "tool_call_id": "b", "content": "5"},
        {"role": "user", "content": "And?"},
    ], "tools": [{"type": "function", "function": {"name": "f", "description": "The weather.", "parameters": schema}}]});
    let item = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": arguments});
    let output = |id: &str, text: &str| json!({"type": "function_call_output", "call_id": id, "output": text});
    let reasoning = json!({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Twice."}]});
    let response = json!({"input": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Two places."},
        reasoning, {"role": "assistant", "content": "I look."}, item("a"), item("b"), output("a", "4"), output("b", "5"),
        {"role": "user", "content": "And?"},
    ], "tools": [{"type": "function", "name": "f", "description": "The weather.", "parameters": schema}]});
    let used = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {"city": "Bergen", "days": 2}});
    let result = |id: &str, text: &str| json!({"type": "tool_result", "tool_use_id": id, "content": text});
    let thinking = json!({"type": "thinking", "thinking": "Twice.", "signature": "s"});
    let message = json!({"messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "user", "content": [{"type": "text", "text": "Two places."}]},
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "I look."}, used("a"), used("b")]},
        {"role": "user", "content": [result("a", "4"), result("b", "5"), {"type": "text", "text": "And?"}]},
    ], "tools": [{"name": "f", "description": "The weather.", "input_schema": schema}]});
    let prompt = same(chat.clone(), response.clone(), message.clone());

    // A call that must be made ends each prompt alike.
    let with = |mut body: Value, choice: Value| {
        body["tool_choice"] = choice;
        body
    };
    let forced = same(
        with(chat, json!({"type": "function", "function": {"name": "f"}})),
        with(response, json!({"type": "function", "name": "f"})),
        with(message, json!({"type": "tool", "name": "f"})),
    );
    assert!(forced.len() > prompt.len() && forced.starts_with(&prompt[..prompt.len() - 3]));
}

#[test]
fn an_answer_of_a_schema() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let user = json!({"role": "user", "content": "hi"});
    let named = json!({"name": "answer", "schema": schema});
    same(
        json!({"messages": [user], "response_format": {"type": "json_schema", "json_schema": named}}),
        json!({"input": [user], "text": {"format": {"type": "json_schema", "name": "answer", "schema": schema}}}),
        json!({"messages": [user], "output_config": {"format": {"type": "json_schema", "schema": schema}}}),
    );
}
