//! `functions` and `function_call`, the names that OpenAI gave tools before.

use serde_json::{Value, json};

use super::{ASKED, Puppet, extend};

const CALL: &str = "<|channel|>analysis<|message|>A place.<|end|><|start|>assistant<|channel|>commentary to=functions.get_time \
                    <|constrain|>json<|message|>{\"city\": \"Bergen\"}<|call|>";

fn functions() -> Value {
    json!([{"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}, {"name": "now"}])
}

#[test]
fn a_call_goes_out_in_the_form_in_which_functions_came() {
    let puppet = Puppet::chat(CALL);
    for choice in [Value::Null, json!("auto")] {
        let said = puppet.ask(&json!({"functions": functions(), "function_call": choice}));
        assert_eq!((&said["function"], &said["arguments"]), (&json!("get_time"), &json!("{\"city\": \"Bergen\"}")), "{said}");
        assert_eq!((&said["finish_reason"], &said["reasoning"]), (&json!("function_call"), &json!("A place.")));
        assert_eq!((said.get("tool_calls"), said.get("content")), (None, None), "{said}");
    }
    // What is not called is not told; another function is forced, whatever the model would say.
    let none = puppet.ask(&json!({"functions": functions(), "function_call": "none", "max_tokens": 40}));
    assert!(none.get("function").is_none() && none["finish_reason"] != "function_call", "{none}");
    let forced = puppet.ask(&json!({"functions": functions(), "function_call": {"name": "now"}, "max_tokens": 60}));
    assert_eq!(forced["function"], "now", "{forced}");
}

/// The same prompt as that of tools, the history too.
#[test]
fn functions_and_their_results_come_back_as_tools_do() {
    let puppet = Puppet::chat(CALL);
    let prompt = |fields: Value, call: Value, result: Value| {
        let mut messages = vec![json!({"role": "user", "content": ASKED})];
        for (mut message, fields) in [(json!({"role": "assistant", "content": null}), call), (json!({"content": "7"}), result)]
        {
            extend(&mut message, &fields);
            messages.push(message);
        }
        let mut body = json!({"messages": messages});
        extend(&mut body, &fields);
        let answer = puppet.server.ask("POST", "/apply-template", &body.to_string());
        serde_json::from_str::<Value>(&answer).expect("JSON")["prompt"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    };
    let function = json!({"name": "get_time", "arguments": "{\"city\":1}"});
    let older = prompt(
        json!({"functions": functions()}),
        json!({"function_call": function}),
        json!({"role": "function", "name": "get_time"}),
    );
    let tools: Vec<Value> = functions()
        .as_array()
        .expect("a list")
        .iter()
        .map(|function| json!({"type": "function", "function": function}))
        .collect();
    let newer = prompt(
        json!({"tools": tools}),
        json!({"tool_calls": [{"id": "c", "type": "function", "function": function}]}),
        json!({"role": "tool", "tool_call_id": "c"}),
    );
    assert_eq!(older, newer);
    assert!(older.contains("{\"city\":1}<|call|>") && older.contains("<|start|>functions.get_time to=assistant"), "{older}");
}
