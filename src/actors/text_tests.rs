//! Tokens to parts: harmony's channels, stop strings, log-probabilities, and any tokens at all.

use proptest::prelude::*;

use super::*;
use crate::actors::fixtures::{VOCAB_SIZE, tokenizer};
use crate::actors::messages::Coalescing;
use crate::prompt::harmony::parser::{ParserRules, ParserStart};
use crate::prompt::stop::StopSet;

fn rules(reading: TextForm, stop_strings: &[&str], coalescing: Coalescing) -> TextRules {
    let stop_strings: Vec<String> = stop_strings.iter().map(|string| (*string).to_owned()).collect();
    TextRules {
        tokenizer: tokenizer(),
        reading,
        stop: Arc::new(StopSet::new(&stop_strings)),
        coalescing,
        thinking: ThinkingBounds::free(),
        options: AnswerOptions::default(),
    }
}

const AT_ONCE: Coalescing = Coalescing { max_ms: 0, max_chars: 0 };

/// The answer of a model that was offered two functions.
fn chat(single_call: bool) -> TextForm {
    let functions = ["a", "b"].map(str::to_owned);
    let rules = ParserRules { functions: functions.into(), single_call, ..ParserRules::default() };
    TextForm::Harmony(ParserStart::AssistantHeader, rules)
}

fn harmony(stop_strings: &[&str], coalescing: Coalescing) -> TextRules {
    rules(chat(false), stop_strings, coalescing)
}

fn logprobs(token: TokenId) -> PositionLogprobs {
    PositionLogprobs { chosen: TokenLogprob { token, logprob: -1.0, rank: 1 }, top: Vec::new() }
}

/// The parts of `tokens`, a millisecond apart, of which the last ends the sequence if it is a
/// control token that can.
fn parts_of(rules: &TextRules, tokens: &[TokenId]) -> Vec<Part> {
    let mut choice = ChoiceText::new(0, rules);
    let mut out = Vec::new();
    let mut now = Micros(0);
    for (index, token) in tokens.iter().enumerate() {
        now = now.plus(1_000);
        let report = logprobs(*token);
        if index + 1 == tokens.len() && rules.tokenizer.control().ends_response(*token) {
            choice.finish(TextEnd::Finished(FinishReason::Stop(*token)), Some(&report), now, &mut out);
        } else if choice.take(*token, Some(&report), now, &mut out) == AfterToken::Stopped {
            break;
        }
        choice.flush_due(now, &mut out);
    }
    choice.finish(TextEnd::Finished(FinishReason::Length), None, now, &mut out);
    out
}

fn parts(rules: &TextRules, output: &str) -> Vec<Part> {
    parts_of(rules, &tokenizer().encode_with_control(output))
}

/// What came of an output, in a short notation.
fn shown(parts: &[Part]) -> String {
    let mut shown = String::new();
    let mut last = "";
    for part in parts {
        let (name, text) = match &part.kind {
            PartKind::Prompt => ("prompt", ""),
            PartKind::Reasoning(text) => ("reasoning", text.as_str()),
            PartKind::Content(text) => ("content", text.as_str()),
            PartKind::ToolCallStart { index, id, name, .. } => {
                assert!(id.starts_with("call_") && id.len() == 29);
                shown += &format!("[call {index} {name}]");
                last = "call";
                continue;
            }
            PartKind::ToolCallArguments { text, .. } => ("arguments", text.as_str()),
            PartKind::Finished(finish) => {
                shown += &format!("[{:?}]", finish.kind);
                continue;
            }
        };
        if name != last {
            shown += &format!("[{name}]");
            last = name;
        }
        shown += text;
    }
    shown
}

const ANSWER: &str = "<|channel|>analysis<|message|>Let me think. 안녕<|end|><|start|>assistant<|channel|>final<|message|>\
                      Hello, 세상!\n<|return|>";
const CALLS: &str = "<|channel|>analysis<|message|>Two calls.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.\
                     <|end|><|start|>assistant<|channel|>commentary to=functions.a <|constrain|>json<|message|>{\"x\": 1}<|call|>";

#[test]
fn channels_become_parts() {
    let rules = harmony(&[], AT_ONCE);
    assert_eq!(shown(&parts(&rules, ANSWER)), "[reasoning]Let me think. 안녕[content]Hello, 세상!\n[Stop { matched: None }]");
    let calls = "[reasoning]Two calls.[content]I look.[call 0 a][arguments]{\"x\": 1}[ToolCalls]";
    assert_eq!(shown(&parts(&rules, CALLS)), calls);
}

#[test]
fn a_call_that_is_cut_off_ends_by_length() {
    let tokens = tokenizer().encode_with_control(CALLS);
    let shown = shown(&parts_of(&harmony(&[], AT_ONCE), &tokens[..tokens.len() - 1]));
    assert!(shown.ends_with("[arguments]{\"x\": 1}[Length]"), "{shown}");
}

#[test]
fn gathering_keeps_channels_apart_and_delays_no_end() {
    let slow = Coalescing { max_ms: 1_000, max_chars: 0 };
    for output in [ANSWER, CALLS] {
        let gathered = parts(&harmony(&[], slow), output);
        assert_eq!(shown(&gathered), shown(&parts(&harmony(&[], AT_ONCE), output)));
        assert!(gathered.len() < 8, "{gathered:?}");
    }
}

#[test]
fn stop_strings_look_at_the_answer_alone() {
    let stopped = "[reasoning]Let me think. 안녕[content]Hello, [Stop { matched: Some(\"세상\") }]";
    assert_eq!(shown(&parts(&harmony(&["세상", "think"], AT_ONCE), ANSWER)), stopped);
    let whole = shown(&parts(&harmony(&[], AT_ONCE), CALLS));
    assert_eq!(shown(&parts(&harmony(&["{\"x", "Two"], AT_ONCE), CALLS)), whole);
}

#[test]
fn what_was_held_back_for_a_stop_string_is_sent_at_the_end_of_its_message() {
    let output = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>";
    assert_eq!(shown(&parts(&harmony(&["look.Hi"], AT_ONCE), output)), "[content]I look.\n\nHi[Stop { matched: None }]");
}

/// A message of analysis, a preamble or an answer, as the model writes it.
fn message(channel: &str, text: &str) -> String {
    format!("<|start|>assistant<|channel|>{channel}<|message|>{text}<|end|>")
}

#[test]
fn messages_of_one_kind_are_joined_by_a_blank_line() {
    let [one, two] = ["One.", "Two."].map(|text| message("analysis", text));
    let [look, last] = [message("commentary", "I look."), message("final", "Done.")];
    let call = message("commentary to=functions.a <|constrain|>json", "{}");
    let slow = Coalescing { max_ms: 1_000, max_chars: 0 };
    for (output, expected) in [
        (format!("{one}{two}{last}"), "[reasoning]One.\n\nTwo.[content]Done.[Length]"),
        (format!("{look}{last}"), "[content]I look.\n\nDone.[Length]"),
        (format!("{one}{look}{two}{last}"), "[reasoning]One.[content]I look.[reasoning]\n\nTwo.[content]\n\nDone.[Length]"),
        (format!("{look}{call}{last}"), "[content]I look.[call 0 a][arguments]{}[content]\n\nDone.[Length]"),
        (format!("{one}{}{last}", message("analysis", "")), "[reasoning]One.[content]Done.[Length]"),
        (format!("{look}{}", message("final", "")), "[content]I look.[Length]"),
        (format!("Let me see.{last}"), "[content]Let me see.\n\nDone.[Length]"),
    ] {
        for coalescing in [AT_ONCE, slow] {
            assert_eq!(shown(&parts(&harmony(&[], coalescing), &output)), expected, "{output}");
        }
    }
    // The model did not write the blank line, and none is left before a stop string.
    let stopped = |stop: &str| shown(&parts(&harmony(&[stop], AT_ONCE), &format!("{look}{last}")));
    assert_eq!(stopped("\n"), "[content]I look.\n\nDone.[Length]");
    assert_eq!(stopped("Done"), "[content]I look.[Stop { matched: Some(\"Done\") }]");
}

#[test]
fn what_is_no_part_of_the_answer_ends_it() {
    let call = |name: &str| message(&format!("commentary to=functions.{name} <|constrain|>json"), "{}");
    for (single_call, output, expected) in [
        (
            false,
            format!("{}<|start|>user<|message|>No.<|end|>", message("final", "Yes.")),
            "[content]Yes.[Stop { matched: None }]",
        ),
        (false, message("final", "Yes.").repeat(2), "[content]Yes.[Stop { matched: None }]"),
        (false, format!("{}<|start|>functions.a to=assistant<|message|>4", call("a")), "[call 0 a][arguments]{}[ToolCalls]"),
        (true, format!("{}{}", call("a"), call("b")), "[call 0 a][arguments]{}[ToolCalls]"),
        (false, format!("{}{}", call("a"), call("b")), "[call 0 a][arguments]{}[call 1 b][arguments]{}[Length]"),
    ] {
        let rules = rules(chat(single_call), &[], AT_ONCE);
        let tokens = tokenizer().encode_with_control(&output);
        let parts = parts_of(&rules, &tokens);
        assert_eq!(shown(&parts), expected, "{output}");
        let taken = parts.iter().map(|part| part.tokens.len()).sum::<usize>();
        assert_eq!(parts.last().unwrap().completion_tokens as usize, taken);
        if !expected.ends_with("[Length]") {
            assert!(taken < tokens.len(), "the sequence is cancelled");
        }
    }
}

#[test]
fn log_probabilities_of_a_damaged_answer_are_those_of_its_text() {
    let output = "<|channel|>analysis I think.<|end|>assistantfinal<|message|>Hello, <|message|>세상!<|return|>";
    let parts = parts(&harmony(&[], AT_ONCE), output);
    assert_eq!(shown(&parts), "[reasoning]I think.[content]Hello, 세상![Stop { matched: None }]");
    let of = |wanted: fn(&PartKind) -> bool| {
        let texts = parts.iter().filter(|part| wanted(&part.kind)).flat_map(|part| &part.logprobs);
        String::from_utf8(texts.flat_map(|text| text.bytes.clone()).collect()).unwrap()
    };
    assert_eq!(of(|kind| matches!(kind, PartKind::Reasoning(_))).trim_start(), "I think.");
    assert_eq!(of(|kind| matches!(kind, PartKind::Content(_))), "Hello, 세상!");
}

#[test]
fn log_probabilities_are_those_of_the_text() {
    let text = |parts: &[Part], wanted: fn(&PartKind) -> bool| {
        let bytes = parts.iter().filter(|part| wanted(&part.kind)).flat_map(|part| &part.logprobs).flat_map(|text| &text.bytes);
        String::from_utf8(bytes.copied().collect()).unwrap()
    };
    let parts = parts(&harmony(&[], AT_ONCE), ANSWER);
    assert_eq!(text(&parts, |kind| matches!(kind, PartKind::Reasoning(_))), "Let me think. 안녕");
    assert_eq!(text(&parts, |kind| matches!(kind, PartKind::Content(_))), "Hello, 세상!\n");
    assert_eq!(text(&parts, |kind| matches!(kind, PartKind::Finished(_))), "<|return|>");
}

/// The bytes of the tokens whose log-probabilities parts of content, or the end, bring.
fn logged(parts: &[Part]) -> Vec<Vec<u8>> {
    let wanted = |part: &&Part| matches!(part.kind, PartKind::Content(_) | PartKind::Finished(_));
    let texts = parts.iter().filter(wanted).flat_map(|part| &part.logprobs);
    texts.map(|text| text.bytes.clone()).collect()
}

#[test]
fn a_stop_string_cuts_log_probabilities_where_it_cuts_the_text() {
    let slow = Coalescing { max_ms: 1_000, max_chars: 0 };
    for stop in ["세상", "상", "lo, ", "Hello", "\n", "o", "Hello, 세상!\n"] {
        for coalescing in [AT_ONCE, slow] {
            let parts = parts(&harmony(&[stop], coalescing), ANSWER);
            let text: String = "Hello, 세상!\n".split(stop).next().unwrap().to_owned();
            assert_eq!(logged(&parts).concat(), text.as_bytes(), "{stop:?}");
            // Every token but the last is whole.
            let tokens = tokenizer().encode_text("Hello, 세상!\n");
            let whole: Vec<_> = tokens.iter().map(|token| tokenizer().bytes_of(*token).to_vec()).collect();
            let (last, rest) =
                logged(&parts).split_last().map_or((Vec::new(), Vec::new()), |(last, rest)| (last.clone(), rest.to_vec()));
            assert_eq!(rest, whole[..rest.len()], "{stop:?}");
            assert!(whole[rest.len()].starts_with(&last), "{stop:?}");
        }
    }
}

#[test]
fn plain_text_has_a_log_probability_a_token() {
    let tokens = tokenizer().encode_with_control("One<|channel|>two<|end|><|return|>");
    let plain = rules(TextForm::Plain, &[], AT_ONCE);
    let parts = parts_of(&plain, &tokens);
    assert_eq!(logged(&parts).concat(), b"One<|channel|>two<|end|><|return|>");
    assert_eq!(logged(&parts).len(), tokens.len());
    assert_eq!(logged(&parts_of(&plain, &tokens[..tokens.len() - 1])).concat(), b"One<|channel|>two<|end|>", "cut by length");
    let stopped = parts_of(&rules(TextForm::Plain, &["two"], AT_ONCE), &tokens);
    assert_eq!(shown(&stopped), "[content]One[Stop { matched: Some(\"two\") }]");
    assert_eq!(logged(&stopped).concat(), b"One");
}

#[test]
fn a_character_that_is_cut_off_is_a_replacement_character() {
    let mut cut = tokenizer().encode_text("a👋");
    cut.pop();
    for reading in [TextForm::Plain, chat(false)] {
        let header = match reading {
            TextForm::Plain => Vec::new(),
            _ => tokenizer().encode_with_control("<|channel|>final<|message|>"),
        };
        let parts = parts_of(&rules(reading, &[], AT_ONCE), &[header, cut.clone()].concat());
        assert_eq!(shown(&parts), "[content]a\u{fffd}[Length]");
        assert_eq!(logged(&parts).len(), cut.len());
    }
}

#[test]
fn a_stop_token_of_the_client_s_is_no_text() {
    let mut choice = ChoiceText::new(0, &harmony(&[], AT_ONCE));
    let tokens = tokenizer().encode_with_control("<|channel|>final<|message|>Hello");
    let mut out = Vec::new();
    for token in &tokens {
        choice.take(*token, None, Micros(0), &mut out);
    }
    let comma = tokenizer().encode_text(",")[0];
    choice.finish(TextEnd::Finished(FinishReason::Stop(comma)), None, Micros(0), &mut out);
    assert_eq!(shown(&out), "[content]Hello[Stop { matched: None }]");
    assert_eq!(out.last().unwrap().tokens.last(), Some(&comma));
}

#[test]
fn after_the_end_nothing_comes() {
    let mut choice = ChoiceText::new(0, &rules(TextForm::Plain, &["b"], AT_ONCE));
    let mut out = Vec::new();
    let mut progress = Vec::new();
    for token in tokenizer().encode_text("a b c d") {
        progress.push(choice.take(token, None, Micros(0), &mut out));
    }
    choice.finish(TextEnd::Finished(FinishReason::Length), None, Micros(0), &mut out);
    choice.flush_due(Micros(1_000_000), &mut out);
    assert_eq!(shown(&out), "[content]a [Stop { matched: Some(\"b\") }]");
    assert_eq!(progress.iter().filter(|progress| **progress == AfterToken::Stopped).count(), 1);
}

proptest! {
    #[test]
    fn any_tokens_give_the_same_text_however_they_are_gathered(
        tokens in prop::collection::vec(0..VOCAB_SIZE as u32, 0..120),
        is_harmony in any::<bool>(),
        max_ms in 1_u64..40,
        max_chars in 0_usize..30,
        stop in prop::collection::vec("[a-e ]{1,3}", 0..3),
    ) {
        let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
        let reading = if is_harmony { chat(true) } else { TextForm::Plain };
        let stop: Vec<&str> = stop.iter().map(String::as_str).collect();
        let at_once = parts_of(&rules(reading.clone(), &stop, AT_ONCE), &tokens);
        let gathered = parts_of(&rules(reading, &stop, Coalescing { max_ms, max_chars }), &tokens);
        prop_assert_eq!(shown(&at_once), shown(&gathered));
        for parts in [&at_once, &gathered] {
            let sent: Vec<TokenId> = parts.iter().flat_map(|part| &part.tokens).copied().collect();
            prop_assert!(tokens.starts_with(&sent));
            let last = parts.last().unwrap();
            prop_assert_eq!(last.completion_tokens as usize, sent.len());
            let finishes = parts.iter().filter(|part| matches!(part.kind, PartKind::Finished(_))).count();
            prop_assert_eq!(finishes, 1);
            prop_assert!(matches!(last.kind, PartKind::Finished(_)));
            // Ended by a stop string, or in front of what is no part of the answer.
            let stopped = matches!(&last.kind, PartKind::Finished(Finish { kind, .. }) if *kind != FinishKind::Length);
            prop_assert!(stopped || sent == tokens);
        }
    }
}
