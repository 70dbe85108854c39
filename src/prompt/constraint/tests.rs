use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::*;
use crate::batch::{Allowed, TokenId};
use crate::prompt::conversation::{AnswerForm, CallKind};
use crate::prompt::harmony::parser::{EventKind, ParsedEvent, Parser, ParserRules, ParserStart};
use crate::prompt::tokenizer::Tokenizer;

fn grammars() -> &'static Arc<Grammars> {
    static LOADED: LazyLock<Arc<Grammars>> = LazyLock::new(|| {
        let json = include_bytes!("../../../models/tiny/tokenizer.json");
        Arc::new(Grammars::new(Arc::new(Tokenizer::from_json("tokenizer.json", json, 2_048).unwrap())))
    });
    &LOADED
}

fn compiled(form: &AnswerForm) -> Arc<Grammar> {
    grammars().compile(form).unwrap_or_else(|error| panic!("{form:?}: {} {error}", error.path))
}

fn object(properties: &Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// What a model without any idea says: tokens at random out of those allowed, till the end; late in
/// the text those that close JSON.
fn said_at_random(rules: &Arc<AnswerRules>, seed: u64) -> Vec<TokenId> {
    said_closing(rules, seed, &[])
}

/// The same; late in the text the first of `closing` that may stand there, if there are some.
fn said_closing(rules: &Arc<AnswerRules>, seed: u64, closing: &[&[u8]]) -> Vec<TokenId> {
    let tokenizer = grammars().tokenizer();
    let mut answer = rules.begin();
    let (mut tokens, mut state) = (Vec::new(), seed);
    loop {
        let Allowed::Only(words) = answer.allowed().expect("the text can go on") else { return tokens };
        let ids = (0..).map(TokenId).take(tokenizer.vocab_size());
        let ids: Vec<TokenId> = ids.filter(|token| Allowed::Only(Arc::clone(&words)).has(*token)).collect();
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let closes = |token: &TokenId| {
            tokenizer.is_control(*token)
                || matches!(tokenizer.bytes_of(*token), b"\"" | b"}" | b"]" | b"," | b":" | b"0" | b"1")
        };
        let first = |bytes: &&[u8]| ids.iter().copied().find(|token| tokenizer.bytes_of(*token) == *bytes);
        let late: Vec<TokenId> = match ids.iter().copied().find(|token| tokenizer.is_control(*token)) {
            Some(control) if !closing.is_empty() => vec![control],
            None if !closing.is_empty() => closing.iter().find_map(first).into_iter().collect(),
            _ => ids.iter().copied().filter(closes).collect(),
        };
        let ids = if tokens.len() > 40 && !late.is_empty() { late } else { ids };
        let token = ids[(state >> 33) as usize % ids.len()];
        answer.take(token).unwrap();
        tokens.push(token);
        assert!(tokens.len() < 2_000, "it comes to an end: {:?}", tokenizer.decode(&tokens));
    }
}

/// The text before the control token at its end.
fn text_of(tokens: &[TokenId]) -> String {
    let tokenizer = grammars().tokenizer();
    let (end, text) = tokens.split_last().unwrap();
    assert!(tokenizer.control().ends_response(*end), "{end:?}");
    assert!(text.iter().all(|token| !tokenizer.is_control(*token)), "a grammar reaches no control token");
    tokenizer.decode(text)
}

/// What a value of a schema is.
type Check<'a> = &'a dyn Fn(&Value) -> bool;

#[test]
fn whatever_is_said_is_of_the_form() {
    let is_word = |value: &Value| value.as_str().is_some_and(|text| ["a", "b\"", "한국"].contains(&text));
    let tree = json!({"type": "object", "properties": {"v": {"type": "integer"}, "of": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["v"], "additionalProperties": false});
    fn is_tree(value: &Value) -> bool {
        let of = value.get("of").map_or(Some(&[][..]), |of| of.as_array().map(Vec::as_slice));
        value["v"].is_i64() && of.is_some_and(|of| of.iter().all(is_tree))
    }
    let person = object(
        &json!({"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 3, "maximum": 40}}),
        &["name", "age"],
    );
    let cases: [(Value, Check<'_>); 5] = [
        (json!({"enum": ["a", "b\"", "한국"]}), &is_word),
        (person, &|value| {
            let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
            keys == ["name", "age"]
                && value["name"].as_str().is_some_and(|name| name.chars().count() <= 5)
                && value["age"].as_i64().is_some_and(|age| (3..=40).contains(&age))
        }),
        (json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}), &|value| {
            value.as_array().is_some_and(|list| (2..=4).contains(&list.len()) && list.iter().all(Value::is_boolean))
        }),
        (json!({"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[0-9]{2}-[a-c]+$"}]}), &|value| {
            value.is_null() || value.as_str().is_some_and(|text| text.as_bytes()[2] == b'-' && text.len() > 3)
        }),
        (tree, &is_tree),
    ];
    for (schema, is_valid) in cases {
        let rules = Arc::new(AnswerRules::of_text(grammars(), compiled(&AnswerForm::Json(schema.clone()))));
        for seed in 0..12 {
            let text = text_of(&said_at_random(&rules, seed));
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{schema}: {text:?}: {error}"));
            assert!(is_valid(&value), "{schema}: {text}");
        }
    }
    for schema in [json!(true), json!({"type": "object"})] {
        let anything = Arc::new(AnswerRules::of_text(grammars(), compiled(&AnswerForm::Json(schema.clone()))));
        for seed in 0..12 {
            // Not into values: 1e400 is JSON and no f64.
            let text = text_of(&said_at_random(&anything, seed));
            assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{text}");
            assert!(schema.is_boolean() || text.trim_start().starts_with('{'), "{text}");
        }
    }
    let texts = ["yes", "no", "\"may\nbe\"", "안녕"];
    let choice = AnswerForm::Choice(texts.map(str::to_owned).to_vec());
    let regex = AnswerForm::Regex("^(ab|c){2}\\d$".to_owned());
    let lark = AnswerForm::Grammar("start: \"<\" pair \">\"\npair: \"x\" | \"(\" pair \",\" pair \")\"".to_owned());
    let mut seen = Vec::new();
    for seed in 0..40 {
        let said = |form| text_of(&said_at_random(&Arc::new(AnswerRules::of_text(grammars(), compiled(form))), seed));
        seen.push(said(&choice));
        assert!(texts.contains(&said(&choice).as_str()));
        let text = said(&regex);
        assert!(text.ends_with(|last: char| last.is_ascii_digit()) && text.starts_with(['a', 'c']), "{text}");
    }
    assert!(texts.iter().all(|text| seen.iter().any(|said| said == text)), "each of them can be said: {seen:?}");
    let text = text_of(&said_at_random(&Arc::new(AnswerRules::of_text(grammars(), compiled(&lark))), 4));
    assert!(text.starts_with('<') && text.ends_with('>'), "{text}");
}

fn function(name: &str, grammar: Option<&Arc<Grammar>>) -> OfferedCall {
    OfferedCall { name: name.to_owned(), kind: CallKind::Function, grammar: grammar.cloned() }
}

/// The events of a chat's answer; its texts by kind, joined.
fn read(start: &ParserStart, tokens: &[TokenId], functions: &[&str]) -> (String, String, Vec<(String, String)>) {
    let functions = functions.iter().map(|name| (*name).to_owned()).collect();
    let rules = ParserRules { functions, ..ParserRules::default() };
    let mut parser = Parser::new(Arc::clone(grammars().tokenizer()), start.clone(), rules);
    let mut events = Vec::new();
    tokens.iter().for_each(|token| parser.push(*token, &mut events));
    parser.finish(&mut events);
    assert_eq!(*parser.recoveries(), Default::default(), "nothing has to be overlooked");
    let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for ParsedEvent { kind, .. } in events {
        match kind {
            EventKind::Content(text) => content.push_str(&text),
            EventKind::Reasoning(text) => reasoning.push_str(&text),
            EventKind::ToolCallStart { name } => calls.push((name, String::new())),
            EventKind::ToolCallArguments(text) => calls.last_mut().unwrap().1.push_str(&text),
            EventKind::MessageEnd | EventKind::ResponseEnd => {}
        }
    }
    (content, reasoning, calls)
}

#[test]
fn a_chat_s_content_is_of_the_form_and_nothing_else_is_said_to_the_reader() {
    let start = ParserStart::AssistantHeader;
    let grammar = compiled(&AnswerForm::Json(object(&json!({"a": {"type": "boolean"}}), &["a"])));
    let calls = [function("f", None), function("g", Some(&grammar))];
    let mut kinds = [0; 3];
    for seed in 0..60 {
        let rules = Arc::new(AnswerRules::of_chat(grammars(), &start, Some(Arc::clone(&grammar)), &calls, false));
        let (content, reasoning, calls) = read(&start, &said_at_random(&rules, seed), &["f", "g"]);
        match calls.as_slice() {
            [] => assert!(serde_json::from_str::<Value>(&content).unwrap()["a"].is_boolean(), "{content}"),
            [(name, arguments)] if name == "g" => {
                assert!(serde_json::from_str::<Value>(arguments).unwrap()["a"].is_boolean(), "{arguments}");
                assert_eq!(content, "");
            }
            [(name, _)] => assert_eq!((name.as_str(), content.as_str()), ("f", "")),
            several => panic!("{several:?}"),
        }
        kinds[calls.first().map_or(0, |(name, _)| if name == "f" { 1 } else { 2 })] += 1;
        kinds[0] += usize::from(reasoning.is_empty());
    }
    assert!(kinds.iter().all(|count| *count > 0), "answers, calls of both: {kinds:?}");
}

#[test]
fn an_answer_that_must_call_calls_one_of_the_functions() {
    let start = ParserStart::AssistantHeader;
    let grammar = compiled(&AnswerForm::Json(object(&json!({"city": {"type": "string"}}), &["city"])));
    let calls = ["look", "look_up"].map(|name| function(name, Some(&grammar)));
    let mut called = Vec::new();
    for seed in 0..30 {
        let rules = Arc::new(AnswerRules::of_chat(grammars(), &start, None, &calls, true));
        let (content, _, said) = read(&start, &said_at_random(&rules, seed), &["look", "look_up"]);
        let [(name, arguments)] = said.as_slice() else { panic!("{said:?} {content:?}") };
        assert!(serde_json::from_str::<Value>(arguments).unwrap()["city"].is_string(), "{arguments}");
        assert_eq!(content, "");
        called.push(name.clone());
    }
    assert!(["look", "look_up"].iter().all(|name| called.iter().any(|said| said == name)), "{called:?}");
    // A call whose header the prompt holds.
    let start = ParserStart::CallText { name: "look".to_owned() };
    let rules = Arc::new(AnswerRules::of_chat(grammars(), &start, None, &calls, true));
    let (_, _, said) = read(&start, &said_at_random(&rules, 1), &["look"]);
    assert!(serde_json::from_str::<Value>(&said[0].1).unwrap()["city"].is_string(), "{said:?}");
}

/// Codex's grammar of a patch, as it sends it.
const PATCH: &str = include_str!("../../../tests/clients/apply_patch.lark");

#[test]
fn a_custom_tool_s_input_is_a_text_of_its_grammar_behind_a_header_without_a_type() {
    let grammar = compiled(&AnswerForm::Grammar(PATCH.to_owned()));
    let patch = OfferedCall { name: "apply_patch".to_owned(), kind: CallKind::Custom, grammar: Some(grammar) };
    let calls = [patch, function("look", None)];
    let constrain = grammars().tokenizer().control().constrain;
    let mut patches = 0;
    for seed in 0..40 {
        let start = match seed % 2 {
            0 => ParserStart::AssistantHeader,
            _ => ParserStart::CallText { name: "apply_patch".to_owned() },
        };
        let rules = Arc::new(AnswerRules::of_chat(grammars(), &start, None, &calls, true));
        let tokens = said_closing(&rules, seed, &[b"\n", b"*"]);
        let (_, _, said) = read(&start, &tokens, &["apply_patch", "look"]);
        let [(name, input)] = said.as_slice() else { panic!("{said:?}") };
        if name == "apply_patch" {
            let lines: Vec<&str> = input.lines().collect();
            assert_eq!(lines.first(), Some(&"*** Begin Patch"), "{input}");
            assert_eq!(lines.last(), Some(&"*** End Patch"), "{input}");
            assert!(lines[1].starts_with("*** "), "{input}");
            assert!(!tokens.contains(&constrain), "the header has no type");
            patches += 1;
        }
    }
    assert!(patches >= 20, "{patches}");
}

#[test]
fn what_cannot_be_kept_is_refused_and_says_where() {
    let deep = (0..80).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let a = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
    let items = a(json!({"type": "array", "items": {"type": "integer"}, "maxItems": 4_294_967_296_u64}));
    for (schema, path) in [
        (json!("string"), ""),
        (json!({"type": "strong"}), "type"),
        (json!({"type": []}), "type"),
        (items, "properties.a.maxItems"),
        (a(json!({"minLength": -1})), "properties.a.minLength"),
        (a(json!({"minItems": 3, "maxItems": 2})), "properties.a.minItems"),
        (a(json!({"not": {"type": "null"}})), "properties.a.not"),
        (a(json!({"type": "array", "uniqueItems": true})), "properties.a.uniqueItems"),
        (a(json!({"$ref": "#/$defs/b"})), "properties.a.$ref"),
        (a(json!({"$ref": "https://example.com/schema.json"})), "properties.a.$ref"),
        (a(json!({"$ref": 7})), "properties.a.$ref"),
        (json!({"$ref": "#/$defs/b", "$defs": {"b": {"$ref": "#/$defs/c"}, "c": {"$ref": "#/$defs/b"}}}), "$ref"),
        (json!({"anyOf": [{"type": "null"}, {"enum": []}]}), "anyOf[1].enum"),
        (json!({"anyOf": {}}), "anyOf"),
        (json!({"properties": []}), "properties"),
        (json!({"required": "a"}), "required"),
        (a(json!(7)), "properties.a"),
        (a(json!({"pattern": "x".repeat(20_000)})), "properties.a.pattern"),
        (a(json!({"type": "string", "pattern": "^[\\x00-\\x1f]$"})), "properties.a.pattern"),
        (a(json!({"type": "string", "pattern": "\u{7}"})), "properties.a.pattern"),
        (a(json!({"allOf": [{"pattern": "a"}, {"pattern": "b"}]})), "properties.a.allOf"),
        (a(json!({"pattern": "a", "allOf": [{"pattern": "b"}]})), "properties.a.allOf"),
        (a(json!({"$id": "http://x/a"})), "properties.a.$id"),
        (a(json!({"type": "integer", "minimum": i64::MIN})), "properties.a.minimum"),
        (a(json!({"enum": [1, 1e30]})), "properties.a.enum"),
        // A name that comes twice would count twice.
        (json!({"patternProperties": {"^x$": {}}, "minProperties": 2}), "minProperties"),
        (
            json!({"patternProperties": (0..17).map(|at| (format!("^k{at}$"), json!({}))).collect::<Value>()}),
            "patternProperties",
        ),
        (a(json!({"type": "string", "pattern": "("})), ""),
        (a(json!({"type": "string", "format": "no such format"})), ""),
        // No end: nothing can be said that has one.
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}), ""),
        (json!(false), ""),
    ] {
        let error = grammars().compile(&AnswerForm::Json(schema.clone())).expect_err(&schema.to_string());
        assert_eq!(error.path, path, "{schema}: {error}");
        assert!(error.message.len() < 500, "{error}");
    }
    let error = grammars().compile(&AnswerForm::Json(deep)).expect_err("too deep");
    assert!(error.message.contains("64"), "{error}");
    let many = json!({"enum": vec![7; 60_000]});
    assert!(grammars().compile(&AnswerForm::Json(many)).expect_err("too many").message.contains("20000"));
}

#[test]
fn what_is_no_grammar_is_refused() {
    for form in [
        AnswerForm::Regex("[".to_owned()),
        AnswerForm::Regex("(?=a)b".to_owned()),
        AnswerForm::Regex(String::new()),
        AnswerForm::Choice(Vec::new()),
        AnswerForm::Choice(vec![String::new()]),
        AnswerForm::Choice(vec!["a".to_owned(); 5_000]),
        AnswerForm::Grammar("root ::= a".to_owned()),
        AnswerForm::Grammar("a ::= \"b\"".to_owned()),
        AnswerForm::Grammar("root ::= \"b".to_owned()),
        AnswerForm::Grammar("root ::= [a-".to_owned()),
        AnswerForm::Grammar("root ::= \"a\"{9,b}".to_owned()),
        AnswerForm::Grammar("root ::= \"a\" root ::= \"b\"".to_owned()),
        AnswerForm::Grammar("::= \"a\"".to_owned()),
        AnswerForm::Grammar("start: start".to_owned()),
        AnswerForm::Grammar("start: missing".to_owned()),
        AnswerForm::Grammar("start: %json {\"not\": {}}".to_owned()),
        AnswerForm::Grammar("x".repeat(300_000)),
    ] {
        let error = grammars().compile(&form).expect_err(&format!("{form:?}"));
        assert!(error.path.is_empty() && error.message.len() < 500, "{error}");
    }
}

/// Each takes a compiler for ever that unrolls, or a matcher that tries every way one after
/// another.
#[test]
fn what_looks_costly_is_not() {
    let nested = (0..20)
        .fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner, "minItems": 2, "maxItems": 1000}));
    let doubled = |of: &dyn Fn(Value) -> Value| {
        let mut definitions: serde_json::Map<String, Value> =
            (0..40).map(|at| (format!("d{at}"), of(json!({"$ref": format!("#/$defs/d{}", at + 1)})))).collect();
        definitions.insert("d40".to_owned(), json!({"type": "string"}));
        json!({"$ref": "#/$defs/d0", "$defs": definitions})
    };
    let many: serde_json::Map<String, Value> = (0..1000).map(|at| (format!("p{at}"), json!({"type": "string"}))).collect();
    let forms = [
        AnswerForm::Json(nested),
        AnswerForm::Json(doubled(&|next| json!({"type": "array", "prefixItems": [next, next], "minItems": 2}))),
        AnswerForm::Json(doubled(&|next| json!({"allOf": [next, next]}))),
        AnswerForm::Json(doubled(&|next| json!({"anyOf": [next, {"type": "array", "items": next}]}))),
        AnswerForm::Json(json!({"type": "array", "items": {"type": "integer"}, "minItems": 100_000})),
        AnswerForm::Json(json!({"type": "string", "minLength": 100_000, "maxLength": 100_000})),
        AnswerForm::Json(json!({"type": "object", "properties": many})),
        AnswerForm::Json(json!({"type": "string", "pattern": "^(x+x+)+y$"})),
        AnswerForm::Regex("(a{1,1000}){1,1000}".to_owned()),
        AnswerForm::Regex("((((a{1,100}){1,100}){1,100}){1,100}){1,100}".to_owned()),
        AnswerForm::Regex("(.*a){30}".to_owned()),
        AnswerForm::Regex("(a|a)*b".to_owned()),
        AnswerForm::Regex("(a?){200}a{200}".to_owned()),
        AnswerForm::Regex(".*a.{40}".to_owned()),
        AnswerForm::Regex("(\\p{L}{1,500}){1,500}".to_owned()),
        AnswerForm::Choice((0..4096).map(|at| format!("choice number {at}")).collect()),
    ];
    for form in forms {
        let mut answer = Arc::new(AnswerRules::of_text(grammars(), compiled(&form))).begin();
        for step in 0..100_u32 {
            let allowed = answer.allowed().unwrap_or_else(|error| panic!("{form:?} after {step}: {error}"));
            if allowed == Allowed::All {
                break;
            }
            let ids: Vec<TokenId> = (0..2048).map(TokenId).filter(|token| allowed.has(*token)).collect();
            answer.take(ids[(step.wrapping_mul(0x9e37_79b9) >> 7) as usize % ids.len()]).unwrap();
        }
    }
}

#[test]
fn a_grammar_is_compiled_once_and_its_sequences_share_nothing() {
    let form = AnswerForm::Json(object(&json!({"only_here": {"type": "integer"}}), &["only_here"]));
    let grammar = compiled(&form);
    assert!(Arc::ptr_eq(&grammar, &compiled(&form)));
    // Another order of the properties is another text.
    let ab = compiled(&AnswerForm::Json(json!({"type": "object", "properties": {"a": {}, "b": {}}})));
    let ba = compiled(&AnswerForm::Json(json!({"type": "object", "properties": {"b": {}, "a": {}}})));
    assert!(!Arc::ptr_eq(&ab, &ba));
    let rules = Arc::new(AnswerRules::of_text(grammars(), grammar));
    let (mut one, mut other) = (rules.begin(), rules.begin());
    let first = other.allowed().unwrap();
    for token in grammars().tokenizer().encode_text("{\"only_here\"") {
        assert!(one.allowed().unwrap().has(token));
        one.take(token).unwrap();
    }
    assert_eq!(other.allowed().unwrap(), first, "where one is does not move the other");
    assert_ne!(one.allowed().unwrap(), first);
}

/// llama.cpp's notation: whatever is said is what is read by hand.
#[test]
fn a_grammar_in_llama_cpp_s_notation_is_kept() {
    let grammar = r##"# A list of items.
root ::= "<" item ("," ws-p item){0,3} ">" Tail?
item ::= [a-c]{2,3} | "\"" [^"\x00-\x1f\]\[]{1,4} "\""   # quoted
       | "-/" [0-9-]
ws-p ::= " "
Tail ::= "\n\u00e9" ."##;
    let rules = Arc::new(AnswerRules::of_text(grammars(), compiled(&AnswerForm::Grammar(grammar.to_owned()))));
    let mut ways = [0; 4];
    for seed in 0..60 {
        let text = text_of(&said_at_random(&rules, seed));
        let (list, tail) = text.split_once(">\n\u{e9}").unwrap_or_else(|| (text.strip_suffix('>').unwrap_or("?"), ""));
        assert!(tail.chars().count() <= 1, "{text:?}");
        ways[3] += tail.chars().count();
        let mut rest = list.strip_prefix('<').unwrap_or_else(|| panic!("{text:?}"));
        loop {
            let taken = match (rest.strip_prefix('"').and_then(|inner| inner.split_once('"')), rest.strip_prefix("-/")) {
                (Some((inner, _)), _) => {
                    ways[0] += 1;
                    assert!((1..=4).contains(&inner.chars().count()) && !inner.contains(['[', ']', '\n']), "{text:?}");
                    inner.len() + 2
                }
                (None, Some(digit)) => {
                    ways[1] += 1;
                    assert!(digit.starts_with(|digit: char| digit.is_ascii_digit() || digit == '-'), "{text:?}");
                    3
                }
                (None, None) => {
                    ways[2] += 1;
                    let letters = rest.bytes().take_while(|byte| (b'a'..=b'c').contains(byte)).count();
                    assert!((2..=3).contains(&letters), "{text:?}");
                    letters
                }
            };
            rest = &rest[taken..];
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(", ").unwrap_or_else(|| panic!("{text:?}"));
        }
    }
    assert!(ways.iter().all(|count| *count > 0), "every way is gone: {ways:?}");
}

#[test]
fn a_sequence_begins_with_no_more_memory_than_is_reserved_for_it() {
    let many: serde_json::Map<String, Value> = (0..300).map(|at| (format!("p{at}"), json!({"type": "string"}))).collect();
    for form in [
        AnswerForm::object(),
        AnswerForm::Json(object(&json!({"name": {"type": "string"}, "age": {"type": "integer"}}), &["name", "age"])),
        AnswerForm::Json(json!({"type": "object", "properties": many})),
        AnswerForm::Regex(".*a.{40}".to_owned()),
        AnswerForm::Choice((0..4096).map(|at| format!("choice number {at}")).collect()),
    ] {
        let rules = Arc::new(AnswerRules::of_text(grammars(), compiled(&form)));
        let mut answer = None;
        let taken = allocation_counter::measure(|| answer = Some(rules.begin()));
        assert!(taken.bytes_current > 0 && taken.bytes_max <= rules.sequence_bytes(), "{form:.80?}: {}", taken.bytes_max);
    }
}

/// What no text can be is refused; where the end of the road shows on the way only, it is said
/// there.
#[test]
fn a_dead_end_is_an_error() {
    let nothing = AnswerForm::Grammar("start: X\nX: /ab/ & /ac/\n".to_owned());
    assert!(grammars().compile(&nothing).is_err());
    let dead_end = AnswerForm::Grammar("start: \"a\" X\nX: /b/ & /c/\n".to_owned());
    let mut answer = Arc::new(AnswerRules::of_text(grammars(), compiled(&dead_end))).begin();
    let [a] = grammars().tokenizer().encode_text("a")[..] else { panic!("a letter is a token") };
    assert!(answer.allowed().unwrap().has(a));
    answer.take(a).unwrap();
    assert!(answer.allowed().is_err());
}
