use crate::http::chat::messages::*;
use crate::http::wire::samples::{blame, value};

fn parse(json: &str) -> Result<Vec<Message>, WireError> {
    let Value::Array(list) = value(json) else { panic!("{json} is no array") };
    read(list, "messages")
}

#[test]
fn every_role_is_read() {
    let messages = parse(
        r#"[{"role":"system","content":"s"},{"role":"developer","content":[{"type":"text","text":"d"},{"text":"e"}]},
            {"role":"user","content":"u","name":"n"},
            {"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[
                {"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"c1","content":"t"},
            {"role":"assistant","content":"a","reasoning":"new","reasoning_content":"old"}]"#,
    );
    let call = ToolCall { id: "c1".into(), name: "f".into(), arguments: "{}".into(), kind: CallKind::Function };
    assert_eq!(
        messages.unwrap(),
        [
            Message::System { content: "s".into() },
            Message::Developer { content: "de".into() },
            Message::User { content: "u".into() },
            Message::Assistant { content: None, reasoning: Some("r".into()), tool_calls: vec![call] },
            Message::Tool { call_id: "c1".into(), content: "t".into() },
            Message::Assistant { content: Some("a".into()), reasoning: Some("new".into()), tool_calls: vec![] },
        ]
    );
}

#[test]
fn calls_and_results_of_the_older_form_are_calls_and_results() {
    let messages = parse(
        r#"[{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{\"a\":1}"}},
            {"role":"function","name":"f","content":"4"},
            {"role":"assistant","function_call":{"name":"g","arguments":"{}"},"tool_calls":[]},
            {"role":"function","name":"g","content":null},{"role":"user","content":"u"}]"#,
    )
    .unwrap();
    let call = |name: &str, arguments: &str| ToolCall {
        id: format!("function_call {name}"),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
        kind: CallKind::Function,
    };
    let said = |call| Message::Assistant { content: None, reasoning: None, tool_calls: vec![call] };
    let result =
        |name: &str, content: &str| Message::Tool { call_id: format!("function_call {name}"), content: content.to_owned() };
    let expected = [said(call("f", "{\"a\":1}")), result("f", "4"), said(call("g", "{}")), result("g", "")];
    assert_eq!(messages[..4], expected);
}

#[test]
fn complaints_name_the_place() {
    for (json, param, code) in [
        ("[]", "messages", "invalid_value"),
        ("[7]", "messages[0]", "invalid_value"),
        (r#"[{"content":"x"}]"#, "messages[0].role", "missing_required_parameter"),
        (r#"[{"role":"user","content":"x"},{"role":"robot","content":"x"}]"#, "messages[1].role", "invalid_value"),
        (r#"[{"role":"user"}]"#, "messages[0].content", "missing_required_parameter"),
        (r#"[{"role":"user","content":7}]"#, "messages[0].content", "invalid_value"),
        (r#"[{"role":"user","content":[]}]"#, "messages[0].content", "invalid_value"),
        (
            r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#,
            "messages[0].content[0].type",
            "unsupported_value",
        ),
        (
            r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text"}]}]"#,
            "messages[0].content[1].text",
            "missing_required_parameter",
        ),
        (
            r#"[{"role":"user","content":[{"type":"refusal","refusal":"No."}]}]"#,
            "messages[0].content[0].type",
            "unsupported_value",
        ),
        (
            r#"[{"role":"assistant","content":[{"type":"refusal","text":"No."}]}]"#,
            "messages[0].content[0].refusal",
            "missing_required_parameter",
        ),
        (r#"[{"role":"tool","content":"x"}]"#, "messages[0].tool_call_id", "missing_required_parameter"),
        (r#"[{"role":"tool","tool_call_id":"c9","content":"x"}]"#, "messages[0].tool_call_id", "invalid_value"),
        (
            r#"[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f<|channel|>","arguments":""}}]}]"#,
            "messages[0].tool_calls[0].function.name",
            "invalid_value",
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":[]}}]}]"#,
            "messages[0].tool_calls[0].function.arguments",
            "invalid_value",
        ),
    ] {
        assert_eq!(blame(parse(json)), (param.into(), code), "{json}");
    }
}

#[test]
fn complaints_about_older_and_custom_calls_name_the_place() {
    for (json, param, code) in [
        (r#"[{"role":"function","content":"x"}]"#, "messages[0].name", "missing_required_parameter"),
        (r#"[{"role":"function","name":"f","content":"x"}]"#, "messages[0].name", "invalid_value"),
        (
            r#"[{"role":"assistant","function_call":{"name":"f"}}]"#,
            "messages[0].function_call.arguments",
            "missing_required_parameter",
        ),
        (
            r#"[{"role":"assistant","function_call":{"name":"f","arguments":""},
                "tool_calls":[{"id":"c","function":{"name":"f","arguments":""}}]}]"#,
            "messages[0].function_call",
            "conflicting_parameters",
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"id":"c","type":"custom"}]}]"#,
            "messages[0].tool_calls[0].custom",
            "missing_required_parameter",
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"id":"c","type":"custom","custom":{"name":"f"}}]}]"#,
            "messages[0].tool_calls[0].custom.input",
            "missing_required_parameter",
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"id":"c","type":"shell"}]}]"#,
            "messages[0].tool_calls[0].type",
            "unsupported_value",
        ),
    ] {
        assert_eq!(blame(parse(json)), (param.into(), code), "{json}");
    }
}

#[test]
fn what_other_servers_take_is_taken() {
    let messages = parse(
        r#"[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":{"a":[1,"b"]}}},
            {"id":"d","function":{"name":"f","arguments":{}}}]},
            {"role":"tool","tool_call_id":"c","content":null},{"role":"tool","tool_call_id":"d"}]"#,
    )
    .unwrap();
    let Message::Assistant { tool_calls, .. } = &messages[0] else { panic!("{messages:?}") };
    assert_eq!([&tool_calls[0].arguments, &tool_calls[1].arguments], [r#"{"a":[1,"b"]}"#, "{}"]);
    let nothing = |id: &str| Message::Tool { call_id: id.to_owned(), content: String::new() };
    assert_eq!(messages[1..], [nothing("c"), nothing("d")]);
}

#[test]
fn the_name_that_is_not_empty_counts() {
    for (fields, content, reasoning) in [
        (r#""content":"a","reasoning":"","reasoning_content":"r""#, "a", "r"),
        (r#""content":"a","reasoning":"r","reasoning_content":"""#, "a", "r"),
        (r#""content":null,"refusal":"No.","reasoning":"r""#, "No.", "r"),
        (r#""content":"","refusal":"No.","reasoning":"r""#, "No.", "r"),
        (r#""content":"a","refusal":"","reasoning":"r""#, "a", "r"),
        (r#""content":"a","refusal":null,"reasoning":"r","reasoning_content":null"#, "a", "r"),
        (r#""content":"a","refusal":"No.","reasoning":"r""#, "a\n\nNo.", "r"),
        (r#""content":[{"type":"refusal","refusal":"No."}],"reasoning":"r""#, "No.", "r"),
        (r#""content":[{"type":"text","text":"Well. "},{"type":"refusal","refusal":"No."}],"reasoning":"r""#, "Well. No.", "r"),
    ] {
        let expected =
            Message::Assistant { content: Some(content.into()), reasoning: Some(reasoning.into()), tool_calls: vec![] };
        assert_eq!(parse(&format!(r#"[{{"role":"assistant",{fields}}}]"#)).unwrap(), [expected], "{fields}");
    }
}
