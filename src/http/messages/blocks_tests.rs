use crate::http::messages::blocks::*;
use crate::http::wire::history::history;
use crate::http::wire::samples::{blame, value};

fn messages(json: &str) -> Result<Vec<Message>, WireError> {
    let Value::Array(list) = value(json) else { panic!("{json} is no list") };
    history(None, read(list, "messages")?, &CALLS, |sealed| sealed.strip_prefix("sealed ").map(str::to_owned))
}

fn user(content: &str) -> Message {
    Message::User { content: content.to_owned() }
}

fn said(content: Option<&str>, reasoning: Option<&str>, calls: &[(&str, &str)]) -> Message {
    let call = |(id, arguments): &(&str, &str)| ToolCall {
        id: (*id).to_owned(),
        name: "f".to_owned(),
        arguments: (*arguments).to_owned(),
        kind: CallKind::Function,
    };
    Message::Assistant {
        content: content.map(str::to_owned),
        reasoning: reasoning.map(str::to_owned),
        tool_calls: calls.iter().map(call).collect(),
    }
}

fn result(call_id: &str, content: &str) -> Message {
    Message::Tool { call_id: call_id.to_owned(), content: content.to_owned() }
}

#[test]
fn texts_in_both_forms_and_every_role() {
    let json = r#"[{"role":"user","content":"a"},{"role":"user","content":[{"type":"text","text":"b","cache_control":{"type":"ephemeral"}},{"text":"c"}]},
        {"role":"assistant","content":"x"},{"role":"assistant","content":[{"type":"text","text":"y","citations":null}]},
        {"role":"system","content":"s"},{"role":"assistant","content":[]},{"role":"user","content":""}]"#;
    let expected = [
        user("a"),
        user("bc"),
        said(Some("x"), None, &[]),
        said(Some("y"), None, &[]),
        Message::System { content: "s".into() },
        said(Some(""), None, &[]),
        user(""),
    ];
    assert_eq!(messages(json).unwrap(), expected);
}

/// What one answer gave, block by block, is one message of the model again.
#[test]
fn the_blocks_of_a_turn_are_one_message() {
    let json = r#"[{"role":"assistant","content":[{"type":"thinking","thinking":"r","signature":"s"},{"type":"text","text":"p"},
        {"type":"tool_use","id":"a","name":"f","input":{"z":1,"b":[]}},{"type":"tool_use","id":"b","name":"f","input":{}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"b","content":"4"},
        {"type":"tool_result","tool_use_id":"a","content":[{"type":"text","text":"5"},{"type":"text","text":"6"}]},{"type":"text","text":"go on"}]},
        {"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":""},{"type":"text","text":"done"}]}]"#;
    let expected = [
        said(Some("p"), Some("r"), &[("a", r#"{"z":1,"b":[]}"#), ("b", "{}")]),
        result("b", "4"),
        result("a", "56"),
        user("go on"),
        said(Some("done"), Some("t"), &[]),
    ];
    assert_eq!(messages(json).unwrap(), expected);
}

#[test]
fn thinking_is_taken_as_it_is_opened_or_left_out() {
    let of = |block: &str| {
        let json = format!(r#"[{{"role":"assistant","content":[{block},{{"type":"text","text":"x"}}]}}]"#);
        messages(&json).unwrap()
    };
    assert_eq!(of(r#"{"type":"thinking","thinking":"r","signature":"sealed s"}"#), [said(Some("x"), Some("r"), &[])]);
    assert_eq!(of(r#"{"type":"thinking","thinking":"","signature":"sealed s"}"#), [said(Some("x"), Some("s"), &[])]);
    assert_eq!(of(r#"{"type":"redacted_thinking","data":"sealed s"}"#), [said(Some("x"), Some("s"), &[])]);
    for nothing in [
        r#"{"type":"thinking","thinking":"","signature":"another server's"}"#,
        r#"{"type":"thinking","thinking":"","signature":"sealed "}"#,
        r#"{"type":"thinking","thinking":""}"#,
        r#"{"type":"redacted_thinking","data":"another server's"}"#,
    ] {
        assert_eq!(of(nothing), [said(Some("x"), None, &[])], "{nothing}");
    }
}

#[test]
fn results_are_text_and_say_that_they_failed() {
    let of = |fields: &str| {
        let json = format!(
            r#"[{{"role":"assistant","content":[{{"type":"tool_use","id":"a","name":"f","input":{{"INVALID_JSON":"[1"}}}}]}},
            {{"role":"user","content":[{{"type":"tool_result","tool_use_id":"a"{fields}}}]}}]"#
        );
        let messages = messages(&json).unwrap();
        assert_eq!(messages[0], said(None, None, &[("a", "[1")]), "as the model said it");
        messages[1].clone()
    };
    for (fields, content) in [
        ("", ""),
        (r#","content":null"#, ""),
        (r#","content":[]"#, ""),
        (r#","content":"4","is_error":false"#, "4"),
        (r#","content":"no file","is_error":true"#, "Error: no file"),
        (r#","is_error":true"#, "Error: "),
    ] {
        assert_eq!(of(fields), result("a", content), "{fields}");
    }
}

#[test]
fn what_cannot_be_is_blamed_by_its_place() {
    let call = r#"{"type":"tool_use","id":"a","name":"f","input":{}}"#;
    let result = r#"{"type":"tool_result","tool_use_id":"a","content":"4"}"#;
    for (json, param, code) in [
        ("[]".to_owned(), "messages", "invalid_value"),
        ("[7]".to_owned(), "messages[0]", "invalid_value"),
        (r#"[{"content":"x"}]"#.to_owned(), "messages[0].role", "missing_required_parameter"),
        (r#"[{"role":"tool","content":"x"}]"#.to_owned(), "messages[0].role", "invalid_value"),
        (r#"[{"role":"user"}]"#.to_owned(), "messages[0].content", "missing_required_parameter"),
        (r#"[{"role":"user","content":[]}]"#.to_owned(), "messages[0].content", "invalid_value"),
        (r#"[{"role":"user","content":["x"]}]"#.to_owned(), "messages[0].content[0]", "invalid_value"),
        (
            r#"[{"role":"user","content":[{"type":"text"}]}]"#.to_owned(),
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        (
            r#"[{"role":"user","content":[{"type":"image","source":{}}]}]"#.to_owned(),
            "messages[0].content[0].type",
            "unsupported_value",
        ),
        (r#"[{"role":"user","content":[{"type":"document"}]}]"#.to_owned(), "messages[0].content[0].type", "unsupported_value"),
        (format!(r#"[{{"role":"user","content":[{call}]}}]"#), "messages[0].content[0].type", "unsupported_value"),
        (format!(r#"[{{"role":"assistant","content":[{result}]}}]"#), "messages[0].content[0].type", "unsupported_value"),
        (
            r#"[{"role":"assistant","content":[{"type":"server_tool_use"}]}]"#.to_owned(),
            "messages[0].content[0].type",
            "unsupported_value",
        ),
        (format!(r#"[{{"role":"user","content":[{result}]}}]"#), "messages[0].content[0].tool_use_id", "invalid_value"),
        (format!(r#"[{{"role":"assistant","content":[{call}]}}]"#), "messages[0].content[0].id", "conflicting_parameters"),
        (format!(r#"[{{"role":"assistant","content":[{call},{call}]}}]"#), "messages[0].content[1].id", "invalid_value"),
        (
            format!(
                r#"[{{"role":"assistant","content":[{call}]}},{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"a","content":[{{"type":"image"}}]}}]}}]"#
            ),
            "messages[1].content[0].content[0].type",
            "unsupported_value",
        ),
    ] {
        assert_eq!(blame(messages(&json)), (param.to_owned(), code), "{json}");
    }
    for (field, value) in [("id", "7"), ("id", "\"\""), ("name", "\"a b\""), ("input", "\"{}\""), ("input", "null")] {
        let mut block = value_of(call);
        block[field] = value_of(value);
        let json = format!(r#"[{{"role":"assistant","content":[{block}]}}]"#);
        assert_eq!(blame(messages(&json)).0, format!("messages[0].content[0].{field}"), "{value}");
    }
    let dangling = messages(&format!(r#"[{{"role":"assistant","content":[{call}]}}]"#)).unwrap_err().to_string();
    assert!(dangling.contains("`tool_use` ids were found without `tool_result` blocks immediately after: a."), "{dangling}");
}

/// Where Anthropic's results stand: behind their calls, once each, before anything else.
#[test]
fn results_stand_once_and_directly_behind_their_calls() {
    let call = |id: &str| format!(r#"{{"type":"tool_use","id":"{id}","name":"f","input":{{}}}}"#);
    let result = |id: &str| format!(r#"{{"type":"tool_result","tool_use_id":"{id}","content":"4"}}"#);
    let message = |role: &str, blocks: &[String]| format!(r#"{{"role":"{role}","content":[{}]}}"#, blocks.join(","));
    let text = r#"{"type":"text","text":"x"}"#.to_owned();
    let asked = |ids: &[&str]| message("assistant", &ids.iter().map(|id| call(id)).collect::<Vec<_>>());
    let read = |list: &[String]| messages(&format!("[{}]", list.join(",")));
    for taken in [
        vec![asked(&["a", "b"]), message("user", &[result("b"), result("a"), text.clone()])],
        // Messages of one role side by side are one turn.
        vec![asked(&["a"]), asked(&["b"]), message("user", &[result("a")]), message("user", &[result("b")])],
        vec![asked(&["a"]), message("user", &[result("a")]), asked(&["b"]), message("user", &[result("b")])],
    ] {
        assert!(read(&taken).is_ok(), "{taken:?}");
    }
    for (refused, param, code) in [
        (
            vec![asked(&["a"]), message("user", &[result("a"), result("a")])],
            "messages[1].content[1].tool_use_id",
            "conflicting_parameters",
        ),
        (
            vec![asked(&["a"]), message("user", &[result("a")]), message("user", &[result("a")])],
            "messages[2].content[0].tool_use_id",
            "conflicting_parameters",
        ),
        (
            vec![asked(&["a"]), message("user", &[text.clone(), result("a")])],
            "messages[1].content[1].tool_use_id",
            "conflicting_parameters",
        ),
        (
            vec![asked(&["a"]), r#"{"role":"user","content":"x"}"#.to_owned(), message("user", &[result("a")])],
            "messages[2].content[0].tool_use_id",
            "conflicting_parameters",
        ),
        (
            vec![asked(&["a"]), message("user", &[text]), asked(&["b"]), message("user", &[result("a"), result("b")])],
            "messages[0].content[0].id",
            "conflicting_parameters",
        ),
        (
            vec![asked(&["a"]), message("user", &[result("a")]), asked(&["b"]), message("user", &[result("a"), result("b")])],
            "messages[3].content[0].tool_use_id",
            "invalid_value",
        ),
    ] {
        assert_eq!(blame(read(&refused)), (param.to_owned(), code), "{refused:?}");
    }
}

fn value_of(json: &str) -> Value {
    value(json)
}

#[test]
fn the_line_for_anthropics_accounts_is_no_instruction() {
    const LINE: &str = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;";
    let read = |json: String| {
        let mut fields = RequestFields::of(value(&format!(r#"{{"system":{json}}}"#)), "").unwrap();
        system(&mut fields)
    };
    let text = |json: String| read(json).unwrap();
    assert_eq!(
        text(format!(r#"[{{"type":"text","text":"{LINE}"}},{{"type":"text","text":"Be "}},{{"text":"brief."}}]"#)).as_deref(),
        Some("Be brief.")
    );
    assert_eq!(text(format!(r#""{LINE}\nBe brief.""#)).as_deref(), Some("Be brief."));
    assert_eq!(text(r#""Be brief.""#.to_owned()).as_deref(), Some("Be brief."));
    for nothing in [
        format!(r#""{LINE}""#),
        format!(r#"[{{"type":"text","text":"{LINE}"}}]"#),
        "[]".to_owned(),
        "\"\"".to_owned(),
        "null".to_owned(),
    ] {
        assert_eq!(text(nothing.clone()), None, "{nothing}");
    }
    let quoted = format!(r#""What is {LINE}?""#);
    assert!(text(quoted).is_some_and(|text| text.contains(LINE)), "elsewhere it is text");
    assert_eq!(blame(read("7".to_owned())).0, "system");
    assert_eq!(blame(read(format!(r#"[{{"type":"text","text":"{LINE}"}},{{"type":"image"}}]"#))).0, "system[1].type");
}
