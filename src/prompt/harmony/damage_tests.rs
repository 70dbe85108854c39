//! Damaged answers: what a client gets of them. Each kind of damage in several words, roles and
//! places.

use super::*;

/// The parts of `output`: `r(…)` reasoning, `c(…)` content, `f(…)` a call of f. Messages without
/// text are left out.
fn parts_by(rules: &ParserRules, output: &str) -> String {
    let shown = parsed_by(rules, &ParserStart::AssistantHeader, output).0;
    let mut parts = Vec::new();
    for message in shown.split("[end]").map(|message| message.replace("[response end]", "")) {
        let named = |name: &str| message.strip_prefix(name).map(str::to_owned);
        if let Some(text) = named("[reasoning]") {
            parts.push(format!("r({text})"));
        } else if let Some(text) = named("[content]") {
            parts.push(format!("c({text})"));
        } else if let Some(call) = named("[call]") {
            parts.push(format!("{})", call.replace("[arguments]", "(")));
        } else {
            assert_eq!(message, "", "{shown}");
        }
    }
    parts.join(" ")
}

fn check(cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (output, expected) in cases {
        let got = parts_by(&rules(), output);
        if got != *expected {
            wrong.push(format!("{output:?}\n     got {got:?}\nexpected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

const T: &str = "<|channel|>analysis<|message|>t<|end|>";

#[test]
fn a_header_without_start_is_a_header() {
    check(&[
        (&format!("{T}commentary to=functions.a <|constrain|>json<|message|>{{}}<|call|>"), "r(t) a({})"),
        (&format!("{T}commentary to=get_weather<|message|>{{}}<|call|>"), "r(t) get_weather({})"),
        (&format!("{T}assistant to=functions.a<|channel|>commentary json<|message|>{{}}<|call|>"), "r(t) a({})"),
        (&format!("{T} to=functions.a<|channel|>commentary<|message|>{{}}<|call|>"), "r(t) a({})"),
        (&format!("{T}to=functions.a<|message|>{{}}<|call|>"), "r(t) a({})"),
        (&format!("{T}analysis<|message|>u<|end|>final<|message|>x<|return|>"), "r(t) r(u) c(x)"),
        (&format!("{T}assistantfinal<|message|>x<|return|>"), "r(t) c(x)"),
        (&format!("{T}assistantanalysis<|message|>x<|return|>"), "r(t) r(x)"),
        (&format!("{T}assistantcommentary to=functions.f<|message|>{{}}<|call|>"), "r(t) f({})"),
        (&format!("{T}assistant<|channel|>commentaryto=functions.f<|message|>{{}}<|call|>"), "r(t) f({})"),
        (&format!("{T}\n\n<|start|>assistant<|channel|>final<|message|>x<|return|>"), "r(t) c(x)"),
        (&format!("{T}\n<|channel|>final<|message|>x<|return|>"), "r(t) c(x)"),
        (&format!("{T}<|message|>x<|return|>"), "r(t) c(x)"),
        (&format!("{T}<|constrain|>functions.f<|message|>{{}}<|call|>"), "r(t) f({})"),
        (&format!("{T}<|end|><|return|>"), "r(t)"),
    ]);
}

#[test]
fn text_that_never_was_a_header_stays_what_it_was() {
    for text in [
        "The answer is 4.",
        "to be or not",
        "total: 3",
        "assist him",
        "assistant professors teach",
        "finally, 4",
        "final answer: 4",
        "commentaries differ",
        "code is law",
        "json",
        "users like it",
        "tool time",
        "functions.f returns 4",
        "goto=4",
        "\n\n4",
        "안녕",
        "{\"a\": 1}",
        "** bold **",
    ] {
        let content = format!("c({text})");
        check(&[
            (&format!("{text}<|return|>"), content.as_str()),
            (&format!("{T}{text}<|return|>"), &format!("r(t) {content}")),
            (&format!("<|channel|>final<|message|>x<|end|>{text}<|return|>"), &format!("c(x) {content}")),
        ]);
    }
}

#[test]
fn text_is_given_out_as_soon_as_it_can_be_no_header() {
    let tokenizer = tokenizer();
    for (output, before, after) in [
        ("Let", "", "Let"),
        ("fina", "", ""),
        ("finalis", "", "finalis"),
        ("to b", "", "to b"),
        ("<|channel|>analysis<|message|>x<|end|>The", "x", "The"),
        ("<|channel|>analysis<|message|>x<|end|>assistant ", "x", ""),
        ("<|channel|>analysis<|message|>x<|end|>assistant is", "x", "assistant is"),
    ] {
        let mut parser = Parser::new(Arc::clone(&tokenizer), ParserStart::AssistantHeader, rules());
        let mut events = Vec::new();
        tokenizer.encode_with_control(output).into_iter().for_each(|token| parser.push(token, &mut events));
        let text = |kind: EventKind| match kind {
            EventKind::Reasoning(text) | EventKind::Content(text) => text,
            _ => String::new(),
        };
        let got: String = events.into_iter().map(|event| text(event.kind)).collect();
        assert_eq!(got, format!("{before}{after}"), "{output}");
    }
}

#[test]
fn line_breaks_in_a_header_are_spaces() {
    check(&[
        ("<|channel|>\nfinal\n<|message|>x<|return|>", "c(x)"),
        ("<|channel|>commentary\nto=functions.f\n<|constrain|>json\n<|message|>{}<|call|>", "f({})"),
        ("\nto=functions.f\r\n<|channel|>commentary<|message|>{}<|call|>", "f({})"),
        (&format!("{T}<|start|>\nassistant\n\n<|channel|>final<|message|>x<|return|>"), "r(t) c(x)"),
        (&format!("{T}<|start|>assistant\n<|channel|>\n\tanalysis\n<|message|>u<|end|>"), "r(t) r(u)"),
    ]);
}

#[test]
fn a_header_without_message_has_the_rest_for_its_text() {
    check(&[
        ("<|channel|>analysis\nI must refuse.\nYes.<|end|>", "r(I must refuse.\nYes.)"),
        ("<|channel|>analysisI must<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>", "r(I must) c(x)"),
        ("<|channel|>analysiswe need<|end|>", "r(we need)"),
        ("<|channel|>analysis json is nice<|end|>", "r(json is nice)"),
        ("<|channel|>finalHello there<|return|>", "c(Hello there)"),
        ("<|channel|>final안녕<|return|>", "c(안녕)"),
        ("<|channel|>final **4**<|return|>", "c(**4**)"),
        ("<|channel|>commentary I will look.<|end|><|start|>assistant<|channel|>final x<|return|>", "c(I will look.) c(x)"),
        ("<|channel|>commentary to=functions.f <|constrain|>json{\"a\":1}<|call|>", "f({\"a\":1})"),
        ("<|channel|>commentary to=functions.f{\"a\":1}<|call|>", "f({\"a\":1})"),
        ("<|channel|>commentary to=functions.f <|constrain|>json {}<|call|>", "f({})"),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|call|>", "f({})"),
        (" to=functions.f code {}<|call|>", "f({})"),
        ("<|channel|>analysis to=python code print(1)<|call|>", "r(print(1))"),
        ("<|channel|>analysis I think so.<|channel|>final<|message|>x<|return|>", "r(I think so.) c(x)"),
        ("<|channel|>analysis I think so.<|start|>assistant<|channel|>final<|message|>x<|return|>", "r(I think so.) c(x)"),
        (&format!("{T}<|start|>assistant<|channel|>final Hello<|return|>"), "r(t) c(Hello)"),
        (&format!("{T}<|start|>assistant Hello<|return|>"), "r(t) c(Hello)"),
        (&format!("{T}<|start|>assistantfinal Hello<|return|>"), "r(t) c(Hello)"),
        (&format!("{T}<|start|>analysis Hmm.<|end|>"), "r(t) r(Hmm.)"),
        (&format!("{T}assistantfinalHello<|return|>"), "r(t) c(Hello)"),
        ("analysis I must refuse<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>", "r(I must refuse) c(x)"),
        ("<|channel|>final<|return|>", ""),
        ("<|channel|>commentary?<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>", "c(?) c(x)"),
    ]);
    let long = "I must think about it. ".repeat(20);
    check(&[(&format!("<|channel|>analysis {long}<|end|>"), &format!("r({long})"))]);
}

#[test]
fn spoiled_words_in_a_header_are_overlooked() {
    check(&[
        ("<|channel|>analysis ––commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", "f({})"),
        ("<|channel|>––commentary to=functions.f<|message|>{}<|call|>", "f({})"),
        ("<|channel|>Analysis<|message|>t<|end|><|start|>assistant<|channel|>FINAL<|message|>x<|return|>", "r(t) c(x)"),
        ("<|channel|>commentary?commentary?<|message|>x<|end|>", "c(x)"),
        ("<|channel|>commentary to=assistant<|channel|>commentary<|message|>x<|end|>", "c(x)"),
        ("<|channel|>analysis<|channel|>final<|message|>x<|return|>", "c(x)"),
        ("<|channel|>commentary to=functions.f <|constrain|>response<|message|>{}<|call|>", "f({})"),
        ("assistant<|channel|>final<|message|>x<|return|>", "c(x)"),
        ("<|start|>assistant<|channel|>final<|message|>x<|return|>", "c(x)"),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", "c({})"),
        ("<|channel|>final json<|message|>{}<|return|>", "c({})"),
    ]);
}

#[test]
fn a_channel_without_its_token_is_a_channel() {
    check(&[
        ("analysis<|message|>t<|end|><|start|>assistantfinal<|message|>x<|return|>", "r(t) c(x)"),
        ("final<|message|>x<|return|>", "c(x)"),
        ("commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", "f({})"),
        (" to=functions.f commentary<|message|>{}<|call|>", "f({})"),
        (&format!("{T}<|start|>assistant final<|message|>x<|return|>"), "r(t) c(x)"),
        (&format!("{T}<|start|>final<|message|>x<|return|>"), "r(t) c(x)"),
        (&format!("{T}<|start|>assistant analysis<|message|>u<|end|>"), "r(t) r(u)"),
    ]);
}

#[test]
fn what_sounds_like_analysis_is_no_content() {
    for channel in ["analysis", "analyze", "anal", "Analysis", "thoughts", "thinking", "reasoning"] {
        check(&[
            (&format!("<|channel|>{channel}<|message|>x<|end|>"), "r(x)"),
            (&format!("{T}<|start|>assistant<|channel|>{channel}<|message|>x<|end|>"), "r(t) r(x)"),
        ]);
    }
}

#[test]
fn every_name_of_an_offered_function_calls_it() {
    for recipient in [
        "to=functions.get_weather",
        "to=get_weather",
        "to=functions.functions.get_weather",
        "to=functions.functions.functions.get_weather",
        "functions.get_weather",
        "functions.functions.get_weather",
        "to=functions.get_weatherjson",
    ] {
        for header in [
            format!("<|channel|>commentary {recipient} <|constrain|>json"),
            format!("<|channel|>commentary {recipient}"),
            format!("<|channel|>commentary\n{recipient} code"),
            format!("<|channel|>analysis {recipient}"),
            format!("<|channel|>comment {recipient} json"),
            format!(" {recipient}<|channel|>commentary <|constrain|>json"),
            format!("<|channel|>commentary <|constrain|>json {recipient}"),
        ] {
            let body = "<|message|>{\"a\":1}<|call|>";
            check(&[
                (&format!("{header}{body}"), "get_weather({\"a\":1})"),
                (&format!("{T}<|start|>assistant{header}{body}"), "r(t) get_weather({\"a\":1})"),
            ]);
        }
    }
    check(&[
        ("<|channel|>commentary <|constrain|>functions.f<|message|>{}<|call|>", "f({})"),
        ("<|channel|>commentary <|constrain|>functions.functions.f<|message|>{}<|call|>", "f({})"),
        ("<|channel|>commentary<|constrain|>functions.f json<|message|>{}<|call|>", "f({})"),
        ("<|channel|>commentary <|constrain|>get_weather<|message|>{}<|call|>", "get_weather({})"),
    ]);
}

#[test]
fn a_recipient_that_was_not_offered_is_reasoning() {
    for recipient in
        ["python", "browser.search", "shell.run", "functions.nope", "functions.", "nope", "functions.F", "container"]
    {
        for header in [
            format!("<|channel|>commentary to={recipient} code"),
            format!("<|channel|>commentary to={recipient} <|constrain|>json"),
            format!("<|channel|>analysis to={recipient}"),
            format!("<|channel|>final to={recipient}"),
            format!(" to={recipient}<|channel|>commentary"),
            format!(" to={recipient}"),
            format!("<|channel|>comment to={recipient}"),
        ] {
            check(&[
                (&format!("{header}<|message|>x y<|call|>"), "r(x y)"),
                (&format!("{T}<|start|>assistant{header}<|message|>x y<|end|>"), "r(t) r(x y)"),
            ]);
        }
    }
    let none = ParserRules::default();
    let calls = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f \
                 <|constrain|>json<|message|>{}<|call|>";
    assert_eq!(parts_by(&none, calls), "c(I look.) r({})", "nothing was offered");
    assert_eq!(parts_by(&rules(), calls), "c(I look.) f({})");
}

#[test]
fn a_stray_token_changes_no_message() {
    check(&[
        ("<|channel|>final<|message|>a <|start|>b c<|return|>", "c(a ) c(b c)"),
        ("<|channel|>analysis<|message|>a <|start|>user wants it<|end|>", "r(a ) r(user wants it)"),
        ("<|channel|>analysis<|message|>a <|start|>assistant is my role<|end|>", "r(a ) r(assistant is my role)"),
        ("<|channel|>analysis<|message|>a <|start|><|start|>b<|end|>", "r(a ) r(b)"),
        ("<|channel|>analysis<|message|>a <|start|>b<|channel|>final<|message|>x<|return|>", "r(a ) r(b) c(x)"),
        ("<|channel|>analysis<|message|>a <|start|>b<|message|>c<|end|>", "r(a ) r(bc)"),
        ("<|channel|>analysis<|message|>a <|channel|>b c<|end|>", "r(a ) r(b c)"),
        ("<|channel|>analysis<|message|>a <|channel|>b<|message|>c<|end|>", "r(a ) r(bc)"),
        ("<|channel|>analysis<|message|>a <|channel|>final answer, I say<|end|>", "r(a ) r(final answer, I say)"),
        ("<|channel|>commentary<|message|>a <|start|>b<|end|>", "c(a ) c(b)"),
        ("<|channel|>commentary to=functions.f<|message|>{\"a\":<|start|>1}<|call|>", "f({\"a\":1})"),
        ("<|channel|>commentary to=functions.f<|message|>{\"a\":<|channel|>1}<|call|>", "f({\"a\":1})"),
        ("<|channel|>commentary to=functions.f<|message|>{\"a\":<|constrain|>1}<|message|><|call|>", "f({\"a\":1})"),
        (
            "<|channel|>analysis<|message|>a<|start|><|end|><|start|>assistant<|channel|>final<|message|>x<|return|>",
            "r(a) c(x)",
        ),
        (
            "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>commentary to=functions.f<|message|>{}<|call|>",
            "r(a) f({})",
        ),
    ]);
}

#[test]
fn text_before_the_first_control_token_is_content() {
    check(&[
        ("Let me see. <|channel|>final<|message|>x<|return|>", "c(Let me see. ) c(x)"),
        (
            "Let me see. <|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>",
            "c(Let me see. ) r(t) c(x)",
        ),
        ("Sure<|channel|>commentary to=functions.f<|message|>{}<|call|>", "c(Sure) f({})"),
        ("Well.\n\n<|start|>assistant<|channel|>final<|message|>x<|return|>", "c(Well.\n\n) c(x)"),
        ("Let me see. <|message|>x<|return|>", "c(Let me see. x)"),
        ("Yes.<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>", "c(Yes.) c(x)"),
        ("\n<|channel|>final<|message|>x<|return|>", "c(x)"),
    ]);
}

#[test]
fn a_message_in_another_s_name_is_no_part_of_the_answer() {
    let call = "<|channel|>commentary to=functions.f<|message|>{}<|end|>";
    let answer = "<|channel|>final<|message|>Which?<|end|>";
    let thought = "<|channel|>analysis to=python<|message|>p<|end|>";
    let rest = "<|start|>assistant<|channel|>final<|message|>x<|return|>";
    for other in [
        "<|start|>user<|message|>It is 7.<|end|>",
        "<|start|>system<|channel|>final<|message|>It is 7.<|end|>",
        "<|start|>developer<|message|>It is 7.<|end|>",
        "<|start|>tool<|message|>It is 7.<|end|>",
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>7<|end|>",
        "<|start|>functions.f<|channel|>commentary<|message|>7<|end|>",
        "<|start|>functions.f to=functions.f<|message|>7<|end|>",
        "<|start|>functions.get_weather to=assistant<|message|>7<|end|>",
        "<|start|>python to=assistant<|channel|>analysis<|message|>7<|end|>",
        "<|start|>browser.search<|message|>7<|end|>",
        "<|start|>human<|message|>7<|end|>",
        "<|start|>user\n<|message|>7<|end|>",
        "<|start|>user It is 7.<|end|>",
        "user<|message|>It is 7.<|end|>",
        "functions.f to=assistant<|channel|>commentary<|message|>7<|end|>",
    ] {
        check(&[
            (&format!("{answer}{other}{rest}"), "c(Which?)"),
            (&format!("{call}{other}{rest}"), "f({})"),
            (&format!("{T}{other}{rest}"), "r(t) c(x)"),
            (&format!("{thought}{other}{rest}"), "r(p) c(x)"),
        ]);
        let cuts = other.match_indices('>').map(|(at, _)| at + 1).chain(other.find(' ').into_iter().chain(other.find('\n')));
        for cut in cuts {
            check(&[(&format!("{answer}{}", &other[..cut]), "c(Which?)"), (&format!("{call}{}", &other[..cut]), "f({})")]);
        }
    }
    let open = "<|channel|>final<|message|>Which?<|start|>user<|message|>It is 7.<|end|>";
    check(&[(open, "c(Which?)")]);
    let counted = parsed(&format!("{answer}<|start|>user<|message|>It is 7.<|end|>")).1;
    assert_eq!(counted, [(Recovery::UnknownRole, 1)]);
}

#[test]
fn after_the_answer_only_a_call_goes_on() {
    let answer = "<|channel|>final<|message|>Which?<|end|>";
    check(&[
        (&format!("{answer}<|start|>assistant<|channel|>analysis<|message|>again<|end|>"), "c(Which?)"),
        (&format!("{answer}<|start|>assistant<|channel|>final<|message|>Which?<|return|>"), "c(Which?)"),
        (&format!("{answer}<|start|>assistant<|channel|>commentary<|message|>Which?<|end|>"), "c(Which?)"),
        (&format!("{answer}<|start|>assistant<|message|>Which?<|return|>"), "c(Which?)"),
        (&format!("{answer}<|channel|>final<|message|>Which?<|return|>"), "c(Which?)"),
        (&format!("{answer}final<|message|>Which?<|return|>"), "c(Which?)"),
        (&format!("{answer}<|channel|>final Which?<|return|>"), "c(Which?)"),
        (&format!("{answer}<|start|>assistant<|channel|>commentary to=nope<|message|>x<|call|>"), "c(Which?)"),
        (&format!("{answer}<|start|>assistant<|channel|>commentary to=functions.f<|message|>{{}}<|call|>"), "c(Which?) f({})"),
        (&format!("{answer}commentary to=f<|message|>{{}}<|call|>"), "c(Which?) f({})"),
        ("<|channel|>final<|message|>Which?<|start|>assistant<|channel|>final<|message|>Which?<|return|>", "c(Which?)"),
        (
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>",
            "c(I look.) c(x)",
        ),
        ("<|channel|>final<|message|><|end|><|start|>assistant<|channel|>final<|message|>x<|return|>", "c(x)"),
        ("<|channel|>final<|message|>x<|end|><|return|>", "c(x)"),
    ]);
    let output = format!("{answer}<|start|>assistant<|channel|>final<|message|>Which?<|return|>");
    assert_eq!(parsed(&output).1, [(Recovery::PastAnswer, 1)]);
}

#[test]
fn one_call_at_most_is_one_call() {
    let single = ParserRules { single_call: true, ..rules() };
    let call = |name: &str, body: &str| format!("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{body}");
    let first = call("f", "{\"a\":1}<|end|>");
    for second in [
        format!("<|start|>assistant{}<|call|>", call("get_weather", "{}")),
        format!("<|start|>assistant{}<|call|>", call("f", "{\"a\":1}")),
        format!("{}<|call|>", call("a", "{}")),
        "<|start|>assistant to=a<|message|>{}<|call|>".to_owned(),
        "<|start|>assistant<|channel|>commentary to=a {}<|call|>".to_owned(),
    ] {
        let output = format!("{first}{second}");
        assert_eq!(parts_by(&single, &output), "f({\"a\":1})", "{output}");
        assert!(parts_by(&rules(), &output).matches("({").count() == 2, "{output}");
        let goes_on = ParserRules { goes_on: true, ..single.clone() };
        assert!(parts_by(&goes_on, &output).starts_with("f({\"a\":1}) r({"), "{output}");
    }
    let output = format!("{first}<|start|>assistant<|channel|>final<|message|>x<|return|>");
    assert_eq!(parts_by(&single, &output), "f({\"a\":1}) c(x)");
}

#[test]
fn a_call_without_a_text_has_an_empty_object_for_arguments() {
    let call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>";
    check(&[
        (&format!("{call}<|call|>"), "f({})"),
        (&format!("{call}<|end|><|start|>assistant<|channel|>commentary to=a<|message|><|call|>"), "f({}) a({})"),
        (&format!("{call}<|start|>assistant<|channel|>commentary to=a<|message|>{{}}<|call|>"), "f({}) a({})"),
        (&format!("{call}\n<|call|>"), "f(\n{})"),
        (&format!("{call}<|return|>"), "f({})"),
    ]);
    let cut = parsed(call).0;
    assert_eq!(cut, "[call]f[end]", "what its arguments would have been is not known");
}

/// A header that never ends holds little back, and little memory; nor does it take longer the
/// longer it gets.
#[test]
fn a_header_that_never_ends_is_bounded() {
    let tokenizer = tokenizer();
    for (header, unit) in [
        ("<|channel|>", "a"),
        ("<|channel|>commentary to=", "a"),
        ("<|channel|>commentary", " "),
        ("<|channel|>analysis", " I"),
        ("<|start|>", "b"),
        ("", " "),
        (" to=", "f"),
        ("<|channel|>analysis<|message|>t<|end|>", "\n"),
        ("", "<|channel|>"),
        ("", "<|constrain|>"),
        ("<|channel|>analysis<|message|>", "<|start|>"),
    ] {
        let mut parser = Parser::new(Arc::clone(&tokenizer), ParserStart::AssistantHeader, rules());
        let mut events = Vec::new();
        let count = 20_000;
        for token in tokenizer.encode_with_control(&format!("{header}{}", unit.repeat(count))) {
            parser.push(token, &mut events);
            if let super::super::ParserState::Header(header) = &parser.state {
                assert!(!header.is_text(), "{header:?}");
            }
        }
        let text = |event: &ParsedEvent| match &event.kind {
            EventKind::Reasoning(text) | EventKind::Content(text) => text.len(),
            _ => 0,
        };
        let given: usize = events.iter().map(text).sum();
        if !unit.starts_with("<|") && unit.trim() != "" {
            assert!(given + 200 > count * unit.len(), "{header}{unit}: {given}");
        }
    }
}
