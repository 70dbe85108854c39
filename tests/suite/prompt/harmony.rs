//! Prompts token for token as OpenAI's openai-harmony renders them, and what the parser makes of
//! well-formed answers.

use std::sync::Arc;

use antiphon::batch::TokenId;
use antiphon::prompt::builder::{KeyParameters, PromptBuilder, PromptSettings, PromptVersion};
use antiphon::prompt::conversation::{CallKind, Conversation, Message, NamedSchema, ReasoningEffort, Tool, ToolCall};
use antiphon::prompt::harmony::parser::{EventKind, Parser, ParserRules, ParserStart};
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
                kind: CallKind::Function,
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
        strict: false,
        custom: None,
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
        ..Conversation::default()
    }
}

fn ids(value: &Value) -> Vec<TokenId> {
    let id = |id: &Value| TokenId(id.as_u64().and_then(|id| u32::try_from(id).ok()).expect("an id"));
    value.as_array().expect("a list of ids").iter().map(id).collect()
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
        let expected = ids(&case["ids"]);
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
                    tool_calls: vec![ToolCall { id: "c".into(), name: said(), arguments: said(), kind: CallKind::Function }],
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
                strict: false,
                custom: None,
            }],
            effort: ReasoningEffort::Low,
            forced_tool: Some(said()),
            schema: Some(NamedSchema { name: said(), description: Some(said()), schema: serde_json::json!({text: text}) }),
            ..Conversation::default()
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
        let ids = ids(&case["ids"]);
        let role = tokenizer.encode_text("assistant");
        // What was called was offered, and a history holds several answers.
        let called = conversation.messages.iter().filter_map(|message| match message {
            Message::Assistant { tool_calls, .. } => Some(tool_calls),
            _ => None,
        });
        let functions = called.flatten().map(|call| call.name.clone());
        let rules = ParserRules { functions: functions.collect(), goes_on: true, ..ParserRules::default() };
        let mut parser = Parser::new(Arc::clone(&tokenizer), ParserStart::AssistantHeader, rules);
        let mut events = Vec::new();
        // Every message of the assistant's in the prompt, one after another.
        for message in
            ids.split(|id| *id == control.start).filter(|message| message.starts_with(&role) && message.len() > role.len())
        {
            // The header of a forced call is the answer's.
            if message.last() != Some(&control.message) {
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

/// What a client should get of damaged answers: `tests/goldens/harmony/damaged.json`.
#[test]
fn damaged_answers_are_what_they_were_meant_to_be() {
    let tokenizer = o200k::tokenizer();
    let golden: Value = serde_json::from_str(include_str!("../../goldens/harmony/damaged.json")).expect("the golden is JSON");
    let cases = golden["cases"].as_array().expect("a list of cases");
    assert!(cases.len() >= 16);
    let texts = |value: &Value| value.as_array().expect("a list of texts").iter().map(text).collect::<Vec<_>>();
    for case in cases {
        let tokens = tokenizer.encode_with_control(&text(&case["text"]));
        if !case["ids"].is_null() {
            assert_eq!(tokens, ids(&case["ids"]), "{}", case["name"]);
        }
        let rules = ParserRules { functions: texts(&case["tools"]).into(), ..ParserRules::default() };
        let mut parser = Parser::new(Arc::clone(&tokenizer), ParserStart::AssistantHeader, rules);
        let mut events = Vec::new();
        tokens.iter().for_each(|token| parser.push(*token, &mut events));
        parser.finish(&mut events);
        let expected: Vec<Vec<String>> = case["expected"].as_array().expect("a list of parts").iter().map(texts).collect();
        assert_eq!(parts(events.into_iter().map(|event| event.kind)), expected, "{}", case["name"]);
        let recovered: u32 = parser.recoveries().iter().map(|(_, count)| count).sum();
        // Another name of a function, or white space, is nothing that would have to be overlooked.
        let harmless = ["tool/bare_name_declared", "tool/no_to", "newline/analysis", "no_start/newline"];
        let is_harmless = harmless.iter().any(|name| case["name"] == *name);
        assert_eq!(recovered == 0, is_harmless, "{}", case["name"]);
    }
}

/// A part a message: `r` and reasoning, `c` and content, `t` and a function and its arguments.
fn parts(events: impl Iterator<Item = EventKind>) -> Vec<Vec<String>> {
    let (mut parts, mut open): (Vec<Vec<String>>, Vec<String>) = (Vec::new(), Vec::new());
    let add = |open: &mut Vec<String>, kind: &str, text: String| {
        if open.is_empty() {
            open.extend([kind.to_owned(), String::new()]);
        }
        open.last_mut().expect("it has a text").push_str(&text);
    };
    for event in events {
        match event {
            EventKind::Reasoning(text) => add(&mut open, "r", text),
            EventKind::Content(text) => add(&mut open, "c", text),
            EventKind::ToolCallStart { name } => open = vec!["t".to_owned(), name, String::new()],
            EventKind::ToolCallArguments(text) => add(&mut open, "t", text),
            EventKind::MessageEnd => parts.push(std::mem::take(&mut open)),
            EventKind::ResponseEnd => {}
        }
    }
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}
