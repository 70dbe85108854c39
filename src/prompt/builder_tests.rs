use std::sync::Arc;

use serde_json::json;

use super::{BuiltPrompt, KeyParameters, PromptBuilder, PromptError, PromptSettings, PromptVersion, Salt};
use crate::prompt::conversation::{CallKind, Conversation, Message, NamedSchema, ReasoningEffort, Tool, ToolCall};
use crate::prompt::harmony::parser::ParserStart;
use crate::prompt::tokenizer::Tokenizer;

fn builder(cache_max_bytes: usize) -> PromptBuilder {
    let json = include_bytes!("../../tests/goldens/g1/tokenizer.json");
    let tokenizer = Tokenizer::from_json("g1/tokenizer.json", json, 640).unwrap();
    let settings = PromptSettings { model_id: "g1".into(), version: PromptVersion::V1, cache_max_bytes };
    PromptBuilder::new(Arc::new(tokenizer), settings)
}

fn build(builder: &PromptBuilder, conversation: &Conversation) -> BuiltPrompt {
    builder.build(conversation, &KeyParameters::default(), "2025-11-22").unwrap()
}

fn user(text: &str) -> Message {
    Message::User { content: text.into() }
}

fn tool(parameters: serde_json::Value) -> Tool {
    Tool { name: "f".into(), description: None, parameters: Some(parameters), strict: false, custom: None }
}

#[test]
fn the_second_time_is_a_hit_with_the_same_tokens() {
    let builder = builder(1 << 20);
    let conversation = Conversation { messages: vec![user("hi")], ..Conversation::default() };
    let first = build(&builder, &conversation);
    let second = build(&builder, &conversation);
    assert_eq!((first.cache_hit, second.cache_hit), (false, true));
    assert_eq!(BuiltPrompt { cache_hit: true, ..first.clone() }, second);
    let counts = builder.counts();
    assert_eq!((counts.cache_hits, counts.cache_misses, counts.cache_size), (1, 1, 1));
    assert!(counts.cache_bytes > 4 * first.tokens.len());
}

#[test]
fn a_hit_never_tells_one_owner_what_another_has_sent() {
    let builder = builder(1 << 20);
    let conversation = Conversation { messages: vec![user("hi")], ..Conversation::default() };
    let salts = [
        Salt::default(),
        Salt::of(Some(&[1; 16]), None),
        Salt::of(Some(&[2; 16]), None),
        Salt::of(Some(&[1; 16]), Some("a")),
        Salt::of(Some(&[1; 16]), Some("b")),
        Salt::of(None, Some("a")),
    ];
    let hits = || {
        salts.map(|salt| {
            let parameters = KeyParameters { salt, ..KeyParameters::default() };
            let built = builder.build(&conversation, &parameters, "2025-11-22").unwrap();
            assert_eq!(built.cache_key, build(&builder, &conversation).cache_key, "the key that clients see has no salt");
            built.cache_hit
        })
    };
    // Building one first: the unsalted prompt is built by the comparison as well.
    build(&builder, &conversation);
    assert_eq!(hits(), [true, false, false, false, false, false]);
    // No entry took another's place.
    assert_eq!(hits(), [true; 6]);
    assert_eq!(format!("{:?}", salts[1]), "Salt(…)");
}

/// Conversations that share a key, pair by pair, and must not share a prompt.
#[test]
fn a_shared_key_never_shares_a_prompt() {
    let with = |messages: Vec<Message>| Conversation { messages, ..Conversation::default() };
    let assistant = |reasoning: Option<&str>| {
        with(vec![
            user("a"),
            Message::Assistant { content: None, reasoning: reasoning.map(str::to_owned), tool_calls: Vec::new() },
        ])
    };
    let tools = |parameters| Conversation { tools: vec![tool(parameters)], ..with(vec![user("a")]) };
    let shown = |schema| {
        let named = NamedSchema { name: "n".into(), description: None, schema };
        Conversation { schema: Some(named), ..with(vec![user("a")]) }
    };
    let pairs = [
        (with(vec![user("at 10:11 today")]), with(vec![user("at 12:13 today")])),
        (with(vec![user("a  b")]), with(vec![user("a\n b")])),
        (with(vec![user("a")]), Conversation { effort: ReasoningEffort::High, ..with(vec![user("a")]) }),
        (with(vec![user("a")]), Conversation { forced_tool: Some("f".into()), ..with(vec![user("a")]) }),
        (assistant(None), assistant(Some("hm"))),
        (with(vec![user("a")]), tools(json!({}))),
        // Equal as JSON, but not in the prompt.
        (
            tools(json!({"type": "object", "properties": {"a": {}, "b": {}}})),
            tools(json!({"type": "object", "properties": {"b": {}, "a": {}}})),
        ),
        (tools(json!({"default": 0.0})), tools(json!({"default": -0.0}))),
        (with(vec![user("a")]), shown(json!({}))),
        (shown(json!({"a": {}, "b": {}})), shown(json!({"b": {}, "a": {}}))),
    ];
    for (one, other) in pairs {
        let builder = builder(1 << 20);
        let (first, second) = (build(&builder, &one), build(&builder, &other));
        assert_eq!(first.cache_key, second.cache_key);
        assert_eq!((first.cache_hit, second.cache_hit), (false, false), "{one:?} {other:?}");
    }
}

#[test]
fn another_date_is_another_prompt() {
    let builder = builder(1 << 20);
    let conversation = Conversation { messages: vec![user("hi")], ..Conversation::default() };
    let today = builder.build(&conversation, &KeyParameters::default(), "2025-11-22").unwrap();
    let tomorrow = builder.build(&conversation, &KeyParameters::default(), "2025-11-23").unwrap();
    assert_eq!(today.cache_key, tomorrow.cache_key);
    assert!(!tomorrow.cache_hit);
    assert_ne!(today.tokens, tomorrow.tokens);
}

#[test]
fn an_answer_to_a_call_that_nobody_made_is_refused() {
    let answer = |call_id: &str| Message::Tool { call_id: call_id.into(), content: "x".into() };
    let call = ToolCall { id: "c".into(), name: "f".into(), arguments: "{}".into(), kind: CallKind::Function };
    let called = Message::Assistant { content: None, reasoning: None, tool_calls: vec![call] };
    let builder = builder(1 << 20);
    let build = |messages| builder.build(&Conversation { messages, ..Conversation::default() }, &KeyParameters::default(), "");
    assert!(build(vec![user("a"), called.clone(), answer("c")]).is_ok());
    for messages in
        [vec![Message::System { content: "s".into() }, answer("c")], vec![user("a"), answer("c")], vec![called, answer("d")]]
    {
        let call_id = if messages.len() == 2 && matches!(messages[0], Message::Assistant { .. }) { "d" } else { "c" };
        let error = build(messages).unwrap_err();
        assert_eq!(error, PromptError::UnknownCall { index: 1, call_id: call_id.into() });
        assert!(error.to_string().starts_with("messages[1] answers the tool call"));
    }
    assert_eq!(builder.counts().cache_size, 1, "what is refused is not kept");
}

#[test]
fn a_forced_call_starts_the_parser_behind_its_header() {
    let conversation = Conversation { forced_tool: Some("f".into()), ..Conversation::default() };
    let builder = builder(1 << 20);
    for _ in 0..2 {
        assert_eq!(build(&builder, &conversation).parser_start, ParserStart::CallText { name: "f".into() });
    }
}

#[test]
fn versions_have_names() {
    for version in [PromptVersion::V0, PromptVersion::V1, PromptVersion::V2] {
        assert_eq!(PromptVersion::from_name(version.name()), Some(version));
    }
    assert_eq!(PromptVersion::from_name("SYS/v9"), None);
}

#[test]
fn threads_share_a_builder() {
    let builder = builder(100_000);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let builder = &builder;
            scope.spawn(move || {
                for index in 0..50 {
                    let messages = vec![user(&((index * (thread + 1)) % 10).to_string())];
                    let _ = build(builder, &Conversation { messages, ..Conversation::default() });
                }
            });
        }
    });
    let counts = builder.counts();
    assert_eq!(counts.cache_hits + counts.cache_misses, 200);
    assert!(counts.cache_bytes <= 100_000);
}

#[test]
fn an_answer_cut_in_its_reasoning_goes_on() {
    let cut = |content: Option<&str>| {
        let answer =
            Message::Assistant { content: content.map(str::to_owned), reasoning: Some("hm".into()), tool_calls: vec![] };
        Conversation { messages: vec![user("a"), answer, user("go on")], ..Conversation::default() }
    };
    let builder = builder(0);
    assert_eq!(build(&builder, &cut(Some(""))).tokens, build(&builder, &cut(None)).tokens);
    assert!(build(&builder, &cut(Some("b"))).tokens != build(&builder, &cut(None)).tokens);
}

#[test]
fn the_model_is_told_of_the_answer_s_schema() {
    let builder = builder(0);
    let schema = json!({"type": "object", "properties": {"z": {"type": "string"}, "a": {}}});
    let named = NamedSchema { name: "city".into(), description: Some("where\nand what".into()), schema };
    let conversation = Conversation { messages: vec![user("hi")], schema: Some(named), ..Conversation::default() };
    let text = builder.tokenizer.decode(&build(&builder, &conversation).tokens);
    let section = "\n\n# Response Formats\n\n## city\n\n// where\n// and what\n\
                   {\"type\":\"object\",\"properties\":{\"z\":{\"type\":\"string\"},\"a\":{}}}<|end|><|start|>user";
    assert!(text.contains(section), "{text}");
}
