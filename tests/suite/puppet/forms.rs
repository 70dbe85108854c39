//! Answers that must have a form, of a model that wants to say something else.

use serde_json::{Value, json};

use super::Puppet;

const PROSE: &str =
    "<|channel|>analysis<|message|>A call?<|end|><|start|>assistant<|channel|>final<|message|>I would rather not.<|return|>";

/// A function whose argument is one flag.
fn switch(name: &str, strict: bool) -> Value {
    let parameters = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
        "additionalProperties": false});
    json!({"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}})
}

/// The only call of an answer, checked.
fn called(said: &Value) -> &str {
    assert_eq!((&said["finish_reason"], said.get("content")), (&json!("tool_calls"), None), "{said}");
    let calls = said["tool_calls"].as_array().expect("calls");
    assert_eq!(calls.len(), 1, "{said}");
    let arguments: Value = serde_json::from_str(calls[0][1].as_str().expect("a text")).expect("JSON");
    assert!(arguments["on"].is_boolean() && arguments.as_object().is_some_and(|object| object.len() == 1), "{said}");
    calls[0][0].as_str().expect("a name")
}

#[test]
fn a_call_that_is_required_comes_whatever_the_model_would_say() {
    let puppet = Puppet::chat(PROSE);
    let three = json!([switch("lamp", false), switch("fan", false), switch("fan_2", true)]);
    let name = |choice: Value| {
        let said = puppet.ask(&json!({"tools": three, "tool_choice": choice, "max_tokens": 400}));
        called(&said).to_owned()
    };
    assert!(["lamp", "fan", "fan_2"].contains(&name(json!("required")).as_str()));
    assert_eq!(name(json!({"type": "function", "function": {"name": "fan"}})), "fan");
    let allowed = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect();
        json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": list}})
    };
    assert_eq!(name(allowed(&["fan_2"])), "fan_2");
    assert!(["lamp", "fan_2"].contains(&name(allowed(&["lamp", "fan_2"])).as_str()));
    // Where nothing is required it says what it wants.
    let said = puppet.ask(&json!({"tools": three, "max_tokens": 400}));
    assert_eq!(said["content"], "I would rather not.");
}

#[test]
fn a_strict_function_s_arguments_are_of_its_schema_and_another_s_are_the_model_s() {
    let puppet = Puppet::chat("<|channel|>commentary to=functions.lamp <|constrain|>json<|message|>quickly!<|call|>");
    let ask = |strict| puppet.ask(&json!({"tools": [switch("lamp", strict), switch("fan", false)], "max_tokens": 400}));
    assert_eq!(called(&ask(true)), "lamp");
    assert_eq!(ask(false)["tool_calls"], json!([["lamp", "quickly!"]]));
    // Not among those that are allowed now.
    let other = json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "fan"}]});
    let said = puppet.ask(&json!({"tools": [switch("lamp", false), switch("fan", true)], "tool_choice": other}));
    let calls = said["tool_calls"].as_array().cloned().unwrap_or_default();
    assert!(calls.iter().all(|call| call[0] == "fan"), "{said}");
}

#[test]
fn the_answer_is_of_the_form_by_every_name() {
    let puppet = Puppet::chat(
        "<|channel|>analysis<|message|>Which one?<|end|><|start|>assistant<|channel|>final<|message|>Hard to say.<|return|>",
    );
    let schema = json!({"enum": ["left", "right"]});
    for fields in [
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "side", "schema": schema}}}),
        json!({"guided_json": schema}),
        json!({"json_schema": schema.to_string()}),
        json!({"structured_outputs": {"json": schema}}),
        json!({"guided_choice": ["\"left\"", "\"right\""]}),
        json!({"structured_outputs": {"choice": ["\"left\"", "\"right\""]}}),
        json!({"guided_regex": "^\"(left|right)\"$"}),
        json!({"structured_outputs": {"regex": "\"(left|right)\""}}),
        json!({"guided_grammar": "start: \"\\\"\" side \"\\\"\"\nside: \"left\" | \"right\""}),
        json!({"grammar": "root ::= \"\\\"\" side \"\\\"\"\nside ::= \"left\" | \"right\""}),
    ] {
        let said = puppet.ask(&fields);
        let content = said["content"].as_str().unwrap_or_default();
        assert!(["\"left\"", "\"right\""].contains(&content.trim()), "{fields}: {said}");
        assert_eq!((&said["reasoning"], &said["finish_reason"]), (&json!("Which one?"), &json!("stop")), "{fields}");
    }
}

#[test]
fn a_completion_is_of_the_form_from_its_first_token() {
    let puppet = Puppet::saying(&super::Script::of("onc¦e up¦on a¦ time"), "Count to three: ");
    for fields in [
        json!({"guided_regex": "[1-3](, [1-3]){2}"}),
        json!({"structured_outputs": {"grammar": "start: D \", \" D \", \" D\nD: /[1-3]/"}}),
        json!({"grammar": "root ::= d (\", \" d){2}\nd ::= [1-3]"}),
    ] {
        let mut fields = fields;
        fields["max_tokens"] = json!(40);
        let said = &puppet.complete("Count to three: ", &fields)[0];
        let text = said["text"].as_str().expect("a text");
        let numbers: Vec<&str> = text.split(", ").collect();
        assert_eq!((numbers.len(), &said["finish_reason"]), (3, &json!("stop")), "{said}");
        assert!(numbers.iter().all(|number| ["1", "2", "3"].contains(number)), "{said}");
    }
    // A stop token that the form would not allow yet waits for it, and one that it needs is not held
    // back by min_tokens.
    let said = &puppet.complete("Count to three: ", &json!({"guided_choice": ["a", "b"], "min_tokens": 5, "max_tokens": 9}))[0];
    assert_eq!((said["text"].as_str().map(str::len), &said["finish_reason"]), (Some(1), &json!("stop")), "{said}");
}
