//! Prompts token for token as OpenAI's openai-harmony renders them, and what the parser makes of well-formed answers.

use std::sync::Arc;

use antiphon::batch::TokenId;
use antiphon::prompt::builder::{KeyParameters, PromptBuilder, PromptSettings, PromptVersion};
use antiphon::prompt::conversation::{Conversation, Message, ReasoningEffort, Tool, ToolCall};
use antiphon::prompt::harmony::parser::{EventKind, Parser, ParserStart};
use serde_json::Value;

use super::o200k;

/// The cases of `tests/goldens/harmony/prompts.json`.
fn cases() -> Vec<Value> {
    let golden: Value = serde_json::from_str(include_str!("../../goldens/harmony/prompts.json")).expect("the golden is JSON");
    golden["cases"].as_array().expect("a list of cases").clone()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn optional(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn message(value: &Value) -> Message {
    let content = optional(&value["content"]);
    match (value["role"].as_str(), content) {
        (Some("system"), Some(content)) => Message::System { content },
        (Some("developer"), Some(content)) => Message::Developer { content },
        (Some("user"), Some(content)) => Message::User { content },
        (Some("tool"), Some(content)) => Message::Tool { call_id: text(&value["call_id"]), content },
        (Some("assistant"), content) => {
            let call = |call: &Value| ToolCall {
                id: text(&call["id"]),
                name: text(&call["name"]),
                arguments: text(&call["arguments"]),
            };
            let tool_calls = value["tool_calls"].as_array().expect("a list of calls").iter().map(call).collect();
            Message::Assistant { content, reasoning: optional(&value["reasoning"]), tool_calls }
        }
        _ => panic!("not a message: {value}"),
    }
}

fn conversation(case: &Value) -> Conversation {
    let tool = |tool: &Value| Tool {
        name: text(&tool["name"]),
        description: optional(&tool["description"]),
        parameters: Some(tool["parameters"].clone()).filter(|parameters| !parameters.is_null()),
    };
    Conversation {
        messages: case["messages"].as_array().expect("a list of messages").iter().map(message).collect(),
        tools: case["tools"].as_array().expect("a list of tools").iter().map(tool).collect(),
        effort: match case["effort"].as_str() {
            Some("low") => ReasoningEffort::Low,
            Some("high") => ReasoningEffort::High,
            _ => ReasoningEffort::Medium,
        },
        forced_tool: optional(&case["forced_tool"]),
    }
}

#[test]
fn prompts_are_those_of_openai_harmony() {
    let tokenizer = o200k::tokenizer();
    let cases = cases();
    assert!(cases.len() >= 50);
    let mut wrong = Vec::new();
    for case in &cases {
        let version = PromptVersion::from_name(&text(&case["version"])).expect("a known version");
        let settings = PromptSettings { model_id: "gpt-oss-20b".into(), version, cache_max_bytes: 0 };
        let builder = PromptBuilder::new(Arc::clone(&tokenizer), settings);
        let built =
            builder.build(&conversation(case), &KeyParameters::default(), &text(&case["date"])).expect("it is well-formed");
        let ids =
            case["ids"].as_array().expect("a list of ids").iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        let expected: Vec<TokenId> = ids.map(|id| TokenId(id.expect("an id"))).collect();
        if *built.tokens != *expected {
            wrong.push(format!(
                "{}\n ours: {}\ntheirs: {}",
                case["name"],
                tokenizer.decode(&built.tokens),
                tokenizer.decode(&expected)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Whatever a conversation says, in whichever field: as many control tokens as its form has.
#[test]
fn control_tokens_come_from_the_form_alone() {
    let tokenizer = o200k::tokenizer();
    let build = |text: &str| {
        let said = || text.to_owned();
        let conversation = Conversation {
            messages: vec![
                Message::System { content: said() },
                Message::User { content: said() },
                Message::Assistant {
                    content: Some(said()),
                    reasoning: Some(said()),
                    tool_calls: vec![ToolCall { id: "c".into(), name: said(), arguments: said() }],
                },
                Message::Tool { call_id: "c".into(), content: said() },
                Message::Developer { content: said() },
            ],
            tools: vec![Tool {
                name: said(),
                description: Some(said()),
                parameters: Some(
                    serde_json::json!({"type": "object", "description": text, "properties": {text: {"enum": [text],
                    "type": "string", "default": text, "title": text, "examples": [text], "oneOf": [{"description": text}]}}}),
                ),
            }],
            effort: ReasoningEffort::Low,
            forced_tool: Some(said()),
        };
        let settings = PromptSettings { model_id: said(), version: PromptVersion::V1, cache_max_bytes: 0 };
        let built = PromptBuilder::new(Arc::clone(&tokenizer), settings).build(&conversation, &KeyParameters::default(), text);
        let tokens = built.expect("it is well-formed").tokens;
        tokens.iter().copied().filter(|token| tokenizer.is_control(*token)).collect::<Vec<_>>()
    };
    let form = build("x");
    for id in 199_998..=200_018 {
        let spelling = tokenizer.decode(&[TokenId(id)]);
        assert_eq!(build(&spelling), form, "{spelling}");
    }
}

/// What the library renders as an assistant's turn, our parser reads back.
#[test]
fn rendered_turns_parse_back() {
    let tokenizer = o200k::tokenizer();
    let control = *tokenizer.control();
    for case in cases() {
        let conversation = conversation(&case);
        let ids: Vec<TokenId> =
            case["ids"].as_array().expect("ids").iter().map(|id| TokenId(id.to_string().parse().expect("an id"))).collect();
        let role = tokenizer.encode_text("assistant");
        let mut parser = Parser::new(Arc::clone(&tokenizer), ParserStart::AssistantHeader);
        let mut events = Vec::new();
        // Every message of the assistant's in the prompt, one after another.
        for message in
            ids.split(|id| *id == control.start).filter(|message| message.starts_with(&role) && message.len() > role.len())
        {
            if case["forced_tool"].is_null() || message.contains(&control.message) {
                parser.push(control.start, &mut events);
                message.iter().for_each(|token| parser.push(*token, &mut events));
            }
        }
        let mut answers = String::new();
        let mut calls = Vec::new();
        for event in events {
            match event.kind {
                EventKind::Content(text) => answers.push_str(&text),
                EventKind::ToolCallStart { name } => calls.push((name, String::new())),
                EventKind::ToolCallArguments(text) => calls.last_mut().expect("a call began").1.push_str(&text),
                EventKind::Reasoning(_) | EventKind::MessageEnd | EventKind::ResponseEnd => {}
            }
        }
        let mut expected = (String::new(), Vec::new());
        for message in &conversation.messages {
            if let Message::Assistant { content, tool_calls, .. } = message {
                expected.0.push_str(content.as_deref().unwrap_or_default());
                expected.1.extend(tool_calls.iter().map(|call| (call.name.clone(), call.arguments.clone())));
            }
        }
        assert_eq!((answers, calls), expected, "{}", case["name"]);
    }
}
