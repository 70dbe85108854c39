//! What no model can say while headers are held to what harmony allows.

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
