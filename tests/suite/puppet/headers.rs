//! What no model can say while headers are held to what harmony allows, and how long it may think.

use serde_json::{Value, json};

use super::{Puppet, tool};

/// How often something had to be overlooked in what the model said.
fn recoveries(puppet: &Puppet) -> String {
    let metrics = puppet.server.ask("GET", "/metrics", "");
    let counted = |line: &&str| line.starts_with("antiphon_parser_recoveries_total{") && !line.ends_with(" 0");
    metrics.lines().filter(counted).collect()
}

/// Each case of the goldens, said by a model that cannot: whatever it says instead is harmony.
#[test]
fn no_damage_of_the_goldens_is_left_to_be_mended() {
    let golden: Value = serde_json::from_str(include_str!("../../goldens/harmony/damaged.json")).expect("JSON");
    for case in golden["cases"].as_array().expect("a list") {
        let (name, text) = (case["name"].as_str().expect("a name"), case["text"].as_str().expect("a text"));
        let names: Vec<&str> =
            case["tools"].as_array().expect("a list").iter().map(|name| name.as_str().expect("a name")).collect();
        let puppet = Puppet::chat(text);
        let said = puppet.ask(&json!({"tools": names.iter().map(|name| tool(name)).collect::<Vec<_>>()}));
        assert!(["stop", "tool_calls", "length"].iter().any(|finish| said["finish_reason"] == *finish), "{name}: {said}");
        assert_eq!(recoveries(&puppet), "", "{name}: {said}");
        for call in said["tool_calls"].as_array().into_iter().flatten() {
            assert!(names.iter().any(|name| call[0] == *name), "{name}: {said}");
        }
    }
}

#[test]
fn a_message_begins_as_harmony_says_and_in_the_model_s_name() {
    let thought =
        "<|channel|>analysis<|message|>First thought.<|end|><|start|>assistant<|channel|>analysis<|message|>Second one.<|end|>";
    let last = "<|start|>assistant<|channel|>final<|message|>Done.";
    for end in [
        format!("{last}<|return|>"),
        // It would go on as the user, or behind its answer.
        format!("{last}<|end|><|start|>user<|message|>It is 7.<|end|>"),
        format!("{last}<|end|><|start|>assistant<|channel|>commentary<|message|>What now?<|end|>"),
    ] {
        let puppet = Puppet::chat(&format!("{thought}{end}"));
        let said = puppet.ask(&json!({}));
        assert_eq!((&said["reasoning"], &said["content"]), (&json!("First thought.\n\nSecond one."), &json!("Done.")), "{end}");
        assert_eq!(said["finish_reason"], "stop", "{end}");
        assert_eq!(recoveries(&puppet), "", "{end}");
    }
}

#[test]
fn a_function_that_is_not_offered_cannot_be_named() {
    let script = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{\"tz\":\"Z\"}<|call|>";
    let puppet = Puppet::chat(script);
    let said = puppet.ask(&json!({"tools": [tool("now")]}));
    assert_eq!(said["tool_calls"], json!([["now", "{\"tz\":\"Z\"}"]]), "{said}");
    let said = puppet.ask(&json!({"tools": [tool("get_time")], "max_tokens": 40}));
    assert!(said["tool_calls"].as_array().into_iter().flatten().all(|call| call[0] == "get_time"), "{said}");
    let said = puppet.ask(&json!({"max_tokens": 40}));
    assert!(said.get("tool_calls").is_none(), "{said}");
    assert_eq!(recoveries(&puppet), "");
    assert!(recoveries_of_unheld(script).contains("unknown_recipient"), "without the grammar it names it");
}

fn recoveries_of_unheld(script: &str) -> String {
    let puppet = Puppet::unheld(script);
    puppet.ask(&json!({"tools": [tool("get_time")]}));
    recoveries(&puppet)
}

/// A long analysis, and then an answer, which is JSON.
const LONG: &str = "<|channel|>analysis<|message|>One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen \
                    sixteen seventeen eighteen nineteen twenty<|end|><|start|>assistant<|channel|>final<|message|>{\"a\":1}<|return|>";

/// The choice of an answer: content, reasoning's tokens, finish and what ended the analysis.
fn thought(puppet: &Puppet, fields: &Value) -> (String, u64, Value, Value) {
    let mut body = json!({"messages": [{"role": "user", "content": super::ASKED}], "max_tokens": 200, "temperature": 0});
    super::extend(&mut body, fields);
    let whole: Value =
        serde_json::from_str(&puppet.server.ask("POST", "/v1/chat/completions", &body.to_string())).expect("JSON");
    let choice = &whole["choices"][0];
    let content = choice["message"]["content"].as_str().unwrap_or_else(|| panic!("{whole}")).to_owned();
    let reasoning_tokens = whole["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().expect("a count");
    (content, reasoning_tokens, choice["finish_reason"].clone(), choice["finish_details"]["reasoning_stopped_by"].clone())
}

#[test]
fn an_analysis_ends_in_time_and_the_answer_is_opened() {
    let (puppet, unheld) = (Puppet::chat(LONG), Puppet::unheld(LONG));
    let answer = "{\"a\":1}".to_owned();
    let all = thought(&puppet, &json!({})).1;
    assert!(all > 12, "{all}");
    let cases = [
        (json!({}), (answer.clone(), all, json!("stop"), Value::Null)),
        (json!({"thinking_token_budget": 5}), (answer.clone(), 5, json!("stop"), json!("thinking_token_budget"))),
        (json!({"reasoning": {"max_tokens": 1}}), (answer.clone(), 1, json!("stop"), json!("thinking_token_budget"))),
        (json!({"thinking_token_budget": all + 1}), (answer.clone(), all, json!("stop"), Value::Null)),
        (json!({"reasoning_effort": "none"}), (answer.clone(), 0, json!("stop"), Value::Null)),
    ];
    for (fields, expected) in &cases {
        // A bound that was asked for is kept by either.
        for puppet in [&puppet, &unheld] {
            assert_eq!(thought(puppet, fields), *expected, "{fields}");
        }
        // An answer in a form thinks within the same bounds.
        let mut fields = fields.clone();
        super::extend(&mut fields, &json!({"response_format": {"type": "json_object"}}));
        assert_eq!(thought(&puppet, &fields), *expected, "{fields}");
    }
    // Three tokens of a header, then ten of analysis, seven to open the answer, and twenty for it.
    for more in [json!({}), json!({"response_format": {"type": "json_object"}})] {
        let mut fields = json!({"max_tokens": 40, "reserve_answer_tokens": 20});
        super::extend(&mut fields, &more);
        let cut = thought(&puppet, &fields);
        assert_eq!(cut, (answer.clone(), 10, json!("stop"), json!("reserve_answer_tokens")), "{fields}");
        fields["reserve_answer_tokens"] = json!(0);
        fields["max_tokens"] = json!(all);
        let cut = thought(&puppet, &fields);
        assert_eq!((cut.0.as_str(), &cut.2, &cut.3), ("", &json!("length"), &Value::Null), "it may use up all: {fields}");
    }
    // Unasked, a quarter of the answer is kept.
    assert_ne!(thought(&puppet, &json!({"max_tokens": all})).0, "");
    assert_eq!(thought(&unheld, &json!({"max_tokens": all})).0, "", "nothing is held that was not asked for");
    // A stream says the same of its end.
    let body = json!({"messages": [{"role": "user", "content": super::ASKED}], "temperature": 0, "max_tokens": 200,
        "thinking_token_budget": 5, "stream": true});
    let stream = puppet.server.ask("POST", "/v1/chat/completions", &body.to_string());
    let told = super::events(&stream).filter(|chunk| !chunk["choices"][0]["finish_details"].is_null()).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{stream}");
    assert_eq!(told[0]["choices"][0]["finish_details"]["reasoning_stopped_by"], "thinking_token_budget");
}
