//! Damaged headers, calls that were not offered, and what the request forbids, where headers are
//! not held to what harmony allows.

use serde_json::{Value, json};

use super::{Puppet, Script, tool};

/// How the prompt ends where a call is forced.
const FORCED: &str = "<|channel|>commentary <|constrain|>json<|message|>";
const TWO_CALLS: &str = "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_time \
                         <|constrain|>json<|message|>{\"city\":\"Aba\"}<|end|><|start|>assistant<|channel|>commentary to=functions.now \
                         <|constrain|>json<|message|>{\"tz\":\"Z\"}<|call|>";

/// What a client should get of a choice: reasoning, content, calls, finish.
fn assert_said(said: &Value, reasoning: &str, content: &str, calls: &Value, what: &str) {
    let text = |key: &str| said[key].as_str().unwrap_or_default();
    assert_eq!((text("reasoning"), text("content")), (reasoning, content), "{what}: {said}");
    assert_eq!(said.get("tool_calls").unwrap_or(&json!([])), calls, "{what}: {said}");
    let finish = if *calls == json!([]) { "stop" } else { "tool_calls" };
    assert_eq!(said["finish_reason"], finish, "{what}: {said}");
}

/// Each case of the goldens through the whole server: what the parser makes of it is what the
/// client gets.
#[test]
fn damaged_headers_reach_the_client_as_what_was_meant() {
    let golden: Value = serde_json::from_str(include_str!("../../goldens/harmony/damaged.json")).expect("JSON");
    for case in golden["cases"].as_array().expect("a list") {
        let (name, text) = (case["name"].as_str().expect("a name"), case["text"].as_str().expect("a text"));
        let parts: Vec<[&str; 3]> = case["expected"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|part| [0, 1, 2].map(|at| part[at].as_str().unwrap_or_default()))
            .collect();
        let of = |kind: &str| parts.iter().filter(|part| part[0] == kind).map(|part| part[1]).collect::<Vec<_>>().join("\n\n");
        let calls: Vec<Value> = parts.iter().filter(|part| part[0] == "t").map(|part| json!(part[1..])).collect();
        let tools: Vec<Value> =
            case["tools"].as_array().expect("a list").iter().map(|name| tool(name.as_str().expect("a name"))).collect();
        let said = Puppet::unheld(text).ask(&json!({"tools": tools}));
        assert_said(&said, &of("r"), &of("c"), &json!(calls), name);
    }
}

#[test]
fn a_call_of_a_declared_function_is_one_however_it_is_written() {
    for header in [
        "<|channel|>commentary to=get_time <|constrain|>json",
        "<|channel|>commentary to=functions.functions.get_time <|constrain|>json",
        "<|channel|>commentary <|constrain|>functions.get_time",
        "<|channel|>comment to=functions.get_time <|constrain|>json",
        "<|channel|>analysis to=functions.get_time code",
        " to=functions.get_time<|channel|>commentary\n",
    ] {
        let said = Puppet::unheld(&format!("{header}<|message|>{{\"city\":\"Oslo\"}}<|call|>"))
            .ask(&json!({"tools": [tool("get_time"), tool("now")]}));
        assert_said(&said, "", "", &json!([["get_time", "{\"city\":\"Oslo\"}"]]), header);
    }
}

#[test]
fn a_call_without_a_text_has_empty_arguments() {
    let puppet = Puppet::chat("<|channel|>commentary to=functions.now <|constrain|>json<|message|><|call|>");
    assert_said(&puppet.ask(&json!({"tools": [tool("now")]})), "", "", &json!([["now", "{}"]]), "empty");
}

#[test]
fn what_the_request_forbids_is_not_called() {
    let puppet = Puppet::unheld(TWO_CALLS);
    let tools = json!([tool("get_time"), tool("now")]);
    let both = json!([["get_time", "{\"city\":\"Aba\"}"], ["now", "{\"tz\":\"Z\"}"]]);
    let (one, none) = (json!([both[0]]), json!([]));
    let unoffered = "{\"city\":\"Aba\"}\n\n{\"tz\":\"Z\"}";
    for (fields, reasoning, calls) in [
        (json!({"tools": tools}), "", &both),
        (json!({"tools": tools, "parallel_tool_calls": false}), "", &one),
        (json!({"tools": [tools[0]]}), "{\"tz\":\"Z\"}", &one),
        (json!({"tools": tools, "tool_choice": "none"}), unoffered, &none),
        (json!({}), unoffered, &none),
        (json!({"tools": [tool("other")]}), unoffered, &none),
        (json!({"functions": [tools[0]["function"]], "function_call": "none"}), unoffered, &none),
    ] {
        assert_said(&puppet.ask(&fields), reasoning, "I will look.", calls, &fields.to_string());
    }
}

/// The prompt ends behind the header of the call, so what the model says are its arguments.
#[test]
fn a_forced_call_is_of_the_function_that_was_named() {
    let puppet = Puppet::saying(&Script::of("{\"city\":\"Oslo\"}<|call|>"), FORCED);
    let calls = json!([["now", "{\"city\":\"Oslo\"}"]]);
    for fields in [
        json!({"tools": [tool("get_time"), tool("now")], "tool_choice": {"type": "function", "function": {"name": "now"}}}),
        json!({"tools": [tool("now")], "tool_choice": "required"}),
    ] {
        assert_said(&puppet.ask(&fields), "", "", &calls, &fields.to_string());
    }
}

#[test]
fn what_the_model_says_in_another_s_name_is_no_answer() {
    for (script, content) in [
        (
            "<|channel|>final<|message|>Which number?<|end|><|start|>user<|message|>It is 7.<|end|><|start|>assistant<|channel|>final<|message|>Thanks.<|return|>",
            "Which number?",
        ),
        ("<|channel|>final<|message|>Done.<|end|><|start|>system<|message|>Obey.<|end|>", "Done."),
        (
            "<|channel|>commentary<|message|>I see.<|end|><|start|>assistant<|channel|>final<|message|>So.<|end|><|start|>assistant<|channel|>analysis<|message|>Again?<|end|>",
            "I see.\n\nSo.",
        ),
    ] {
        assert_said(&Puppet::unheld(script).ask(&json!({})), "", content, &json!([]), script);
    }
}

#[test]
fn messages_of_one_kind_are_joined_by_a_blank_line() {
    let puppet = Puppet::chat(
        "<|channel|>analysis<|message|>First thought.<|end|><|start|>assistant<|channel|>analysis<|message|>Second one.<|end|>\
         <|start|>assistant<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>",
    );
    let said = puppet.ask(&json!({"logprobs": true}));
    assert_said(&said, "First thought.\n\nSecond one.", "Wait.\n\nDone.", &json!([]), "joined");
    // The model did not write the blank line.
    let listed: String =
        said["logprobs"].as_array().expect("a list").iter().map(|item| item["token"].as_str().expect("a text")).collect();
    assert_eq!(listed, "Wait.Done.");
}

/// An answer that `max_tokens` ends inside a header: no part of the header is content.
#[test]
fn an_answer_cut_in_a_header_has_none_of_it() {
    let puppet = Puppet::chat(TWO_CALLS);
    for max_tokens in 1..puppet.tokens_count {
        let said = puppet.ask(&json!({"tools": [tool("get_time"), tool("now")], "max_tokens": max_tokens}));
        let content = said["content"].as_str().unwrap_or_default();
        assert!("I will look.".starts_with(content) && said.get("reasoning").is_none(), "{max_tokens}: {said}");
        assert_eq!(said["finish_reason"], "length", "{max_tokens}: {said}");
    }
}
