use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::{EventKind, ParsedEvent, Parser, ParserRules, ParserStart};
use crate::batch::TokenId;
use crate::prompt::harmony::recovery::Recovery;
use crate::prompt::tokenizer::Tokenizer;

fn tokenizer() -> Arc<Tokenizer> {
    static LOADED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let json = include_bytes!("../../../tests/goldens/g1/tokenizer.json");
        Arc::new(Tokenizer::from_json("g1/tokenizer.json", json, 640).unwrap())
    });
    Arc::clone(&LOADED)
}

/// What the requests of these tests offer.
fn rules() -> ParserRules {
    let functions = ["f", "get_weather", "a", "b-2"].map(str::to_owned);
    ParserRules { functions: functions.into(), ..ParserRules::default() }
}

/// The events of `tokens`; checks what holds for any sequence of tokens.
fn events(
    tokenizer: &Arc<Tokenizer>,
    start: ParserStart,
    rules: ParserRules,
    tokens: &[TokenId],
) -> (Vec<ParsedEvent>, Parser) {
    let mut parser = Parser::new(Arc::clone(tokenizer), start, rules);
    let mut events = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        parser.push(*token, &mut events);
        let counted: usize = events.iter().map(|event| event.tokens).sum();
        assert!(counted <= index + 1, "an event counts tokens that have not come");
    }
    parser.finish(&mut events);
    assert!(events.iter().map(|event| event.tokens).sum::<usize>() <= tokens.len());
    let mut calls = 0;
    assert!(events.iter().all(|event| event.text_tokens <= event.tokens));
    for event in &events {
        match &event.kind {
            EventKind::Reasoning(text) | EventKind::Content(text) | EventKind::ToolCallArguments(text) => {
                assert!(!text.is_empty());
            }
            EventKind::ToolCallStart { .. } => calls += 1,
            EventKind::MessageEnd | EventKind::ResponseEnd => {}
        }
    }
    assert_eq!(parser.tool_calls_count(), calls);
    (events, parser)
}

/// The same output as tokens of a byte each.
fn by_byte(tokenizer: &Tokenizer, tokens: &[TokenId]) -> Vec<TokenId> {
    let of_byte = |byte: u8| {
        let is_it = |id: &u32| !tokenizer.is_control(TokenId(*id)) && tokenizer.bytes_of(TokenId(*id)) == [byte];
        TokenId((0..640).find(is_it).expect("every byte is a token"))
    };
    let cut = |token: &TokenId| match tokenizer.is_control(*token) {
        true => vec![*token],
        false => tokenizer.bytes_of(*token).iter().map(|byte| of_byte(*byte)).collect(),
    };
    tokens.iter().flat_map(cut).collect()
}

/// What came of `output`, pieces of one kind joined, in a short notation; then the recoveries. It
/// is the same however the output is cut into tokens.
fn parsed_by(rules: &ParserRules, start: &ParserStart, output: &str) -> (String, Vec<(Recovery, u32)>) {
    let tokenizer = tokenizer();
    let whole = tokenizer.encode_with_control(output);
    let [words, bytes] = [&whole, &by_byte(&tokenizer, &whole)].map(|tokens| {
        let (events, parser) = events(&tokenizer, start.clone(), rules.clone(), tokens);
        (shown(events), parser.recoveries().iter().collect())
    });
    assert_eq!(words, bytes, "{output}");
    words
}

fn shown(events: Vec<ParsedEvent>) -> String {
    let mut shown = String::new();
    let mut last = "";
    for event in events {
        let (name, text) = match event.kind {
            EventKind::Reasoning(text) => ("reasoning", text),
            EventKind::Content(text) => ("content", text),
            EventKind::ToolCallStart { name } => ("call", name),
            EventKind::ToolCallArguments(text) => ("arguments", text),
            EventKind::MessageEnd => ("end", String::new()),
            EventKind::ResponseEnd => ("response end", String::new()),
        };
        if name != last || name == "call" {
            shown += &format!("[{name}]");
            last = name;
        }
        shown += &text;
    }
    shown
}

fn parsed(output: &str) -> (String, Vec<(Recovery, u32)>) {
    parsed_by(&rules(), &ParserStart::AssistantHeader, output)
}

fn clean(output: &str, expected: &str) {
    assert_eq!(parsed(output), (expected.to_owned(), Vec::new()), "{output}");
}

fn recovered(output: &str, expected: &str, recoveries: &[Recovery]) {
    let counted: Vec<(Recovery, u32)> = recoveries.iter().map(|recovery| (*recovery, 1)).collect();
    assert_eq!(parsed(output), (expected.to_owned(), counted), "{output}");
}

#[path = "damage_tests.rs"]
mod damage;

#[test]
fn reasoning_then_answer() {
    clean(
        "<|channel|>analysis<|message|>Think.\n<|end|><|start|>assistant<|channel|>final<|message|>안녕 👋<|return|>",
        "[reasoning]Think.\n[end][content]안녕 👋[end][response end]",
    );
}

#[test]
fn calls_with_the_recipient_before_or_after_the_channel() {
    for header in [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json",
        "<|channel|>commentary to=functions.get_weather",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json",
        " to=functions.get_weather<|channel|>commentary json",
        " to=functions.get_weather<|channel|>commentary",
        " to=functions.get_weather",
        "<|channel|>analysis to=functions.get_weather code",
        "<|channel|>commentary<|constrain|>json to=functions.get_weather",
    ] {
        clean(
            &format!("{header}<|message|>{{\"city\": \"Paris\"}}<|call|>"),
            "[call]get_weather[arguments]{\"city\": \"Paris\"}[end][response end]",
        );
    }
}

#[test]
fn a_preamble_is_content_and_calls_follow_one_another() {
    clean(
        "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant<|channel|>commentary to=functions.a \
         <|constrain|>json<|message|>{}<|end|><|start|>assistant<|channel|>commentary to=functions.b-2<|message|><|call|>",
        "[content]I will look.[end][call]a[arguments]{}[end][call]b-2[arguments]{}[end][response end]",
    );
}

#[test]
fn recipients_for_all_are_none() {
    clean("<|channel|>final to=user<|message|>x", "[content]x[end]");
    clean(" to=all<|channel|>analysis<|message|>x", "[reasoning]x[end]");
}

#[test]
fn what_is_not_harmony_is_delivered_and_counted() {
    recovered("Hello there", "[content]Hello there[end]", &[Recovery::UnfinishedHeader]);
    recovered("Hello\nthere<|return|>", "[content]Hello\nthere[end][response end]", &[Recovery::UnfinishedHeader]);
    recovered("<|message|>x<|end|>", "[content]x[end]", &[Recovery::MissingChannel]);
    recovered("<|channel|>side<|message|>x", "[content]x[end]", &[Recovery::UnknownChannel]);
    recovered("<|channel|>commentary to=browser.search<|message|>x", "[reasoning]x[end]", &[Recovery::UnknownRecipient]);
    recovered("<|channel|>commentary to=functions.<|message|>x", "[reasoning]x[end]", &[Recovery::UnknownRecipient]);
    recovered("<|channel|>commentary to=functions.a/b<|message|>x", "[reasoning]x[end]", &[Recovery::UnknownRecipient]);
    recovered("<|start|>user<|channel|>final<|message|>x", "[end]", &[Recovery::UnknownRole, Recovery::UnfinishedHeader]);
    recovered("<|channel|>final answer is 42<|end|>", "[content]answer is 42[end]", &[Recovery::UnfinishedHeader]);
}

#[test]
fn messages_without_their_marks_are_told_apart() {
    recovered(
        "<|channel|>analysis<|message|>x<|channel|>final<|message|>y<|return|>",
        "[reasoning]x[end][content]y[end][response end]",
        &[Recovery::MissingEnd],
    );
    recovered(
        "<|channel|>analysis<|message|>x<|start|>assistant<|channel|>final<|message|>y<|return|>",
        "[reasoning]x[end][content]y[end][response end]",
        &[Recovery::MissingEnd],
    );
    recovered(
        "<|channel|>analysis<|message|>x<|end|><|channel|>final<|message|>y<|return|>",
        "[reasoning]x[end][content]y[end][response end]",
        &[Recovery::MissingStart],
    );
    recovered("<|channel|>analysis<|message|>x<|end|>y<|end|>", "[reasoning]x[end][content]y[end]", &[Recovery::MissingStart]);
    recovered("<|channel|>final<|message|>x<|message|>yz", "[content]xyz[end]", &[Recovery::StrayControl]);
    recovered("<|channel|>final<|message|>xy<|constrain|>z", "[content]xyz[end]", &[Recovery::StrayControl]);
}

#[test]
fn a_cut_header_is_no_answer() {
    clean("", "");
    clean("<|channel|>", "");
    clean("<|channel|>anal", "");
    clean("<|channel|>commentary to=functions.get_wea", "");
    clean("<|channel|>analysis<|message|>x<|end|><|start|>assis", "[reasoning]x[end]");
}

#[test]
fn tokens_after_the_end_are_parsed_on_if_the_client_wants_them() {
    let goes_on = ParserRules { goes_on: true, ..rules() };
    let by = |rules: &ParserRules, output: &str| parsed_by(rules, &ParserStart::AssistantHeader, output).0;
    let output = "<|channel|>final<|message|>x<|return|><|start|>assistant<|channel|>final<|message|>y<|endoftext|>\
                  <|start|>user<|message|>z<|end|>";
    assert_eq!(by(&goes_on, output), "[content]x[end][response end][content]y[end][response end][content]z[end]");
    assert_eq!(by(&rules(), output), "[content]x[end][response end]");
}

#[test]
fn a_forced_call_is_a_call_whatever_comes() {
    let forced = |output: &str| {
        let rules = ParserRules { functions: ["f".to_owned()].into(), ..ParserRules::default() };
        parsed_by(&rules, &ParserStart::CallText { name: "f".into() }, output)
    };
    for (output, arguments) in [
        ("{\"a\":\n1}<|call|>", "{\"a\":\n1}"),
        ("{}<|call|>", "{}"),
        ("<|call|>", "{}"),
        (" \n<|call|>", " \n{}"),
        ("to=functions.other {}<|call|>", "to=functions.other {}"),
    ] {
        let expected = (format!("[call]f[arguments]{arguments}[end][response end]"), Vec::new());
        assert_eq!(forced(output), expected, "{output}");
    }
    assert_eq!(forced("{\"a\":1}"), ("[call]f[arguments]{\"a\":1}[end]".into(), Vec::new()));
    assert_eq!(forced(""), (String::new(), Vec::new()));
    let other = forced("{}<|end|><|start|>assistant<|channel|>commentary to=functions.a<|message|>{}<|call|>").0;
    assert_eq!(other, "[call]f[arguments]{}[end][reasoning]{}[end][response end]", "another function was not asked for");
    let again = forced("{}<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>");
    assert_eq!(again, ("[call]f[arguments]{}[end][content]x[end][response end]".into(), Vec::new()));
}

#[test]
fn every_token_counts_to_one_event() {
    let tokenizer = tokenizer();
    let tokens = tokenizer
        .encode_with_control("<|channel|>analysis<|message|>안<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>");
    let (events, parser) = events(&tokenizer, ParserStart::AssistantHeader, rules(), &tokens);
    assert_eq!(events.iter().map(|event| event.tokens).sum::<usize>(), tokens.len());
    let header = tokenizer.encode_with_control("<|channel|>analysis<|message|>").len();
    let character = tokenizer.encode_text("안").len();
    assert!(character > 1, "the test needs a character of several tokens");
    assert_eq!(
        events[0],
        ParsedEvent { kind: EventKind::Reasoning("안".into()), tokens: header + character, text_tokens: character }
    );
    assert_eq!(events[1], ParsedEvent { kind: EventKind::MessageEnd, tokens: 1, text_tokens: 0 });
    assert_eq!(events.last().unwrap(), &ParsedEvent { kind: EventKind::ResponseEnd, tokens: 0, text_tokens: 0 });
    assert_eq!(parser.reasoning_tokens() as usize, character);
}

#[test]
fn an_unfinished_character_ends_with_its_message() {
    let tokenizer = tokenizer();
    let mut tokens = tokenizer.encode_with_control("<|channel|>final<|message|>x안<|end|>");
    let last = tokens.len() - 2;
    tokens.remove(last);
    let (events, _) = events(&tokenizer, ParserStart::AssistantHeader, rules(), &tokens);
    let kinds: Vec<EventKind> = events.into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Content("x".into()), EventKind::Content("\u{fffd}".into()), EventKind::MessageEnd]);
}

/// A small generator of numbers, so that a hundred thousand sequences take a second.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// A sequence of tokens: control tokens, words that headers are made of, ordinary text, bytes that
/// are no text, unknown ids.
fn random_tokens(numbers: &mut Numbers, tokenizer: &Tokenizer) -> Vec<TokenId> {
    let words = ["assistant", "analysis", "final", "commentary", " to=functions.f", " to=x", " json", "\n", "plain text", "안"];
    let mut tokens = Vec::new();
    for _ in 0..numbers.below(30) {
        match numbers.below(10) {
            0..=4 => tokens.push(TokenId(u32::try_from(631 + numbers.below(9)).unwrap())),
            5..=7 => tokens.extend(tokenizer.encode_text(words[numbers.below(words.len())])),
            8 => tokens.push(TokenId(u32::try_from(numbers.below(640)).unwrap())),
            _ => tokens.push(TokenId(u32::try_from(numbers.below(700)).unwrap())),
        }
    }
    tokens
}

/// The bytes that certainly belong to a message: those after `<|message|>`, up to a control token
/// that ends it.
fn certain_texts(tokenizer: &Tokenizer, tokens: &[TokenId]) -> Vec<String> {
    let control = *tokenizer.control();
    let mut texts = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for token in tokens {
        let ends =
            *token == control.start || *token == control.end || *token == control.channel || control.ends_response(*token);
        if ends {
            texts.extend(open.take());
        } else if *token == control.message {
            open = open.or_else(|| Some(Vec::new()));
        } else if let Some(open) = open.as_mut().filter(|_| !tokenizer.is_control(*token)) {
            open.extend_from_slice(tokenizer.bytes_of(*token));
        }
    }
    texts.extend(open);
    texts.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty()).collect()
}

#[test]
fn any_tokens_parse_and_no_message_loses_text() {
    let tokenizer = tokenizer();
    let mut numbers = Numbers(0x5eed);
    for round in 0..120_000 {
        let tokens = random_tokens(&mut numbers, &tokenizer);
        let start = match round % 5 {
            0 => ParserStart::CallText { name: "forced".into() },
            _ => ParserStart::AssistantHeader,
        };
        // Nothing in another's name is dropped, and nothing ends the response.
        let rules = ParserRules { goes_on: true, single_call: round % 2 == 0, ..rules() };
        let (events, _) = events(&tokenizer, start, rules, &tokens);
        let mut given = String::new();
        for event in events {
            match event.kind {
                EventKind::Reasoning(text) | EventKind::Content(text) | EventKind::ToolCallArguments(text) => given += &text,
                EventKind::MessageEnd => given.push('\0'),
                EventKind::ToolCallStart { .. } | EventKind::ResponseEnd => {}
            }
        }
        let mut rest = given.as_str();
        for text in certain_texts(&tokenizer, &tokens) {
            // The first bytes may complete what the message begins with: text that was taken for a
            // header first.
            let text = text.trim_start_matches(|character: char| !character.is_ascii());
            let at = rest.find(text).unwrap_or_else(|| panic!("round {round}: {text:?} is lost from {tokens:?}"));
            rest = &rest[at + text.len()..];
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn well_formed_messages_come_out_as_they_went_in(
        messages in prop::collection::vec((0_usize..4, "\\PC{0,20}"), 1..5),
    ) {
        let mut output = String::new();
        let mut expected = String::new();
        for (index, (kind, text)) in messages.iter().enumerate() {
            let (header, shown) = [
                ("<|channel|>analysis", "[reasoning]"),
                ("<|channel|>final", "[content]"),
                ("<|channel|>commentary", "[content]"),
                ("<|channel|>commentary to=functions.f <|constrain|>json", "[arguments]"),
            ][*kind];
            let text = text.replace("<|", "<");
            output += &format!("{}{header}<|message|>{text}<|end|>", if index > 0 { "<|start|>assistant" } else { "" });
            expected += if *kind == 3 { "[call]f" } else { "" };
            // A call has an object for arguments, whatever the model wrote.
            let text = if *kind == 3 && text.trim_ascii().is_empty() { text + "{}" } else { text };
            expected += &if text.is_empty() { String::new() } else { format!("{shown}{text}") };
            // The notation shows ends that follow one another once.
            expected += if expected.ends_with("[end]") { "" } else { "[end]" };
        }
        // Several answers, one after another.
        let rules = ParserRules { goes_on: true, ..rules() };
        let (shown, recoveries) = parsed_by(&rules, &ParserStart::AssistantHeader, &output);
        prop_assert_eq!(shown, expected);
        prop_assert_eq!(recoveries, Vec::new());
    }
}
