use crate::http::responses::items::*;
use crate::http::wire::history::history;
use crate::http::wire::samples::{blame, value};

fn messages(json: &str) -> Result<Vec<Message>, WireError> {
    history(None, read(value(json), "input")?, &CALLS, |sealed| sealed.strip_prefix("sealed ").map(str::to_owned))
}

fn user(content: &str) -> Message {
    Message::User { content: content.to_owned() }
}

fn said(content: Option<&str>, reasoning: Option<&str>, calls: &[&str]) -> Message {
    let call = |id: &&str| ToolCall {
        id: (*id).to_owned(),
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
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
fn a_text_is_a_users_message_and_instructions_come_first() {
    assert_eq!(messages(r#""hi""#).unwrap(), [user("hi")]);
    let behind = history(Some("Be brief.".to_owned()), read(value(r#""hi""#), "input").unwrap(), &CALLS, |_| None).unwrap();
    assert_eq!(behind, [Message::Developer { content: "Be brief.".to_owned() }, user("hi")]);
}

#[test]
fn messages_of_every_role_in_both_forms() {
    let json = r#"[{"role":"system","content":"s"},{"type":"message","role":"developer","content":[{"type":"input_text","text":"d"}]},
        {"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
        {"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"x","annotations":[]}]},
        {"type":"message","role":"assistant","content":[{"type":"refusal","refusal":"no"}]},
        {"type":"message","role":"assistant","content":[]}]"#;
    let expected = [
        Message::System { content: "s".into() },
        Message::Developer { content: "d".into() },
        user("ab"),
        said(Some("x"), None, &[]),
        said(Some("no"), None, &[]),
        said(Some(""), None, &[]),
    ];
    assert_eq!(messages(json).unwrap(), expected);
}

/// What one answer gave, item by item, is one message of the model again.
#[test]
fn items_of_a_turn_are_one_message() {
    let thought = |text: &str| {
        format!(r#"{{"type":"reasoning","id":"rs_1","summary":[],"content":[{{"type":"reasoning_text","text":"{text}"}}]}}"#)
    };
    let call = |id: &str| {
        format!(r#"{{"type":"function_call","id":"fc_1","call_id":"{id}","name":"f","arguments":"{{}}","status":"completed"}}"#)
    };
    let output = |id: &str| format!(r#"{{"type":"function_call_output","call_id":"{id}","output":"4"}}"#);
    let answer = |text: &str| format!(r#"{{"role":"assistant","content":"{text}"}}"#);
    let read = |items: &[String]| messages(&format!("[{}]", items.join(","))).unwrap();
    // Two calls at once, their results, and the answer behind more reasoning.
    let turn = [thought("r"), call("a"), call("b"), output("a"), output("b"), thought("s"), answer("done")];
    let expected = [said(None, Some("r"), &["a", "b"]), result("a", "4"), result("b", "4"), said(Some("done"), Some("s"), &[])];
    assert_eq!(read(&turn), expected);
    // One call after another.
    let turn = [call("a"), output("a"), call("b"), output("b")];
    assert_eq!(read(&turn), [said(None, None, &["a"]), result("a", "4"), said(None, None, &["b"]), result("b", "4")]);
    // A preamble, before and behind the reasoning.
    let called = |turn: &[String]| {
        let mut read = read(&[turn, &[call("a"), output("a")]].concat());
        assert_eq!(read.pop(), Some(result("a", "4")));
        read
    };
    assert_eq!(called(&[thought("r"), answer("p")]), [said(Some("p"), Some("r"), &["a"])]);
    assert_eq!(called(&[thought("r"), answer("p"), thought("s")]), [said(Some("p"), Some("r\n\ns"), &["a"])]);
    assert_eq!(called(&[answer("p"), thought("s")]), [said(Some("p"), Some("s"), &["a"])]);
    // Two answers are two messages; so is reasoning behind an answer.
    assert_eq!(read(&[answer("x"), answer("y")]), [said(Some("x"), None, &[]), said(Some("y"), None, &[])]);
    assert_eq!(read(&[answer("x"), thought("r"), answer("y")]), [said(Some("x"), None, &[]), said(Some("y"), Some("r"), &[])]);
    assert_eq!(read(&[thought("r"), thought("s"), answer("y")]), [said(Some("y"), Some("r\n\ns"), &[])]);
}

#[test]
fn what_has_no_text_is_no_item_and_a_summary_stands_for_what_is_not_there() {
    let json = r#"[{"type":"reasoning","summary":[]},{"type":"reasoning","summary":[{"type":"summary_text","text":"short"}],"content":null},
        {"role":"assistant","content":"x"}]"#;
    assert_eq!(messages(json).unwrap(), [said(Some("x"), Some("short"), &[])]);
    let sealed = |content: &str| {
        format!(r#"[{{"type":"reasoning","summary":[],"encrypted_content":"{content}"}},{{"role":"assistant","content":"x"}}]"#)
    };
    assert_eq!(messages(&sealed("sealed r")).unwrap(), [said(Some("x"), Some("r"), &[])]);
    assert_eq!(messages(&sealed("by another")).unwrap(), [said(Some("x"), None, &[])]);
    let json = r#"[{"type":"function_call","call_id":"a","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"a","output":[]},
        {"type":"function_call_output","call_id":"a","output":[{"type":"input_text","text":"t"}]}]"#;
    assert_eq!(messages(json).unwrap(), [said(None, None, &["a"]), result("a", ""), result("a", "t")]);
}

#[test]
fn complaints_name_the_place() {
    for (json, param, code) in [
        ("7", "input", "invalid_value"),
        ("[7]", "input[0]", "invalid_value"),
        (r#"[{"content":"x"}]"#, "input[0].role", "missing_required_parameter"),
        (r#"[{"role":"tool","content":"x"}]"#, "input[0].role", "invalid_value"),
        (r#"[{"role":"user"}]"#, "input[0].content", "missing_required_parameter"),
        (r#"[{"role":"user","content":[]}]"#, "input[0].content", "invalid_value"),
        (
            r#"[{"role":"user","content":[{"type":"input_image","image_url":"x"}]}]"#,
            "input[0].content[0].type",
            "unsupported_value",
        ),
        (r#"[{"role":"user","content":[{"type":"input_text"}]}]"#, "input[0].content[0].text", "missing_required_parameter"),
        (r#"[{"type":"web_search_call","id":"x"}]"#, "input[0].type", "unsupported_value"),
        (r#"[{"type":"reasoning","content":7}]"#, "input[0].content", "invalid_value"),
        (r#"[{"type":"function_call","name":"f","arguments":"{}"}]"#, "input[0].call_id", "missing_required_parameter"),
        (r#"[{"type":"function_call","call_id":"a","name":"a b","arguments":"{}"}]"#, "input[0].name", "invalid_value"),
        (r#"[{"type":"function_call","call_id":"a","name":"f","arguments":7}]"#, "input[0].arguments", "invalid_value"),
        (r#"["x"]"#, "input[0]", "invalid_value"),
        (r#"[{"type":"item_reference","id":"msg_1"}]"#, "input[0].id", "invalid_value"),
        (r#"[{"type":"item_reference"}]"#, "input[0].id", "missing_required_parameter"),
        (
            r#"[{"role":"user","content":"x"},{"type":"function_call_output","call_id":"a","output":"x"}]"#,
            "input[1].call_id",
            "invalid_value",
        ),
        (r#"[{"type":"function_call_output","output":"x"}]"#, "input[0].call_id", "missing_required_parameter"),
        (r#"[{"type":"function_call_output","call_id":"","output":"x"}]"#, "input[0].call_id", "invalid_value"),
        (r#"[{"type":"function_call_output","call_id":"a"}]"#, "input[0].output", "missing_required_parameter"),
        (r#"[{"type":"function_call_output","call_id":"a","output":null}]"#, "input[0].output", "missing_required_parameter"),
        (r#"[{"type":"function_call","call_id":"","name":"f","arguments":"{}"}]"#, "input[0].call_id", "invalid_value"),
        (r#"[{"role":"user","content":"x","id":7}]"#, "input[0].id", "invalid_value"),
        (r#"[{"role":"user","content":"x","status":{}}]"#, "input[0].status", "invalid_value"),
        (r#"[{"type":"reasoning","summary":[],"id":[]}]"#, "input[0].id", "invalid_value"),
        (r#"[{"type":"item_reference","id":"msg_1","status":7}]"#, "input[0].status", "invalid_value"),
        (r#"[{"role":"assistant","content":"x","phase":7}]"#, "input[0].phase", "invalid_value"),
        (
            r#"[{"role":"assistant","content":[{"type":"input_text","text":"x"}]}]"#,
            "input[0].content[0].type",
            "unsupported_value",
        ),
        (r#"[{"role":"user","content":[{"type":"output_text","text":"x"}]}]"#, "input[0].content[0].type", "unsupported_value"),
        (
            r#"[{"role":"developer","content":[{"type":"refusal","refusal":"x"}]}]"#,
            "input[0].content[0].type",
            "unsupported_value",
        ),
    ] {
        assert_eq!(blame(messages(json)), (param.to_owned(), code), "{json}");
    }
}

/// A call is told with its output, as the model saw them: no id twice, and none without an output.
#[test]
fn every_call_has_one_id_and_an_output() {
    let call = |id: &str| format!(r#"{{"type":"function_call","call_id":"{id}","name":"f","arguments":"{{}}"}}"#);
    let output = |id: &str| format!(r#"{{"type":"function_call_output","call_id":"{id}","output":"4"}}"#);
    let read = |items: &[String]| messages(&format!("[{}]", items.join(",")));
    assert!(read(&[call("a"), call("b"), output("b"), output("a")]).is_ok());
    let twice = [call("a"), output("a"), call("a"), output("a")];
    assert_eq!(blame(read(&twice)), ("input[2].call_id".to_owned(), "invalid_value"));
    let user = r#"{"role":"user","content":"x"}"#.to_owned();
    for lonely in [vec![call("a")], vec![call("b"), output("b"), call("a"), user], vec![call("b"), call("a"), output("b")]] {
        let error = read(&lonely).unwrap_err();
        assert_eq!(error.param().as_deref(), Some("input"));
        assert!(error.to_string().ends_with("No tool output found for function call a."), "{error}");
    }
}

/// The phase of a message is taken; what stands behind it says what it was.
#[test]
fn a_phase_changes_nothing() {
    let json = r#"[{"role":"assistant","content":"p","phase":"commentary"},{"role":"assistant","content":"x","phase":"final_answer"}]"#;
    assert_eq!(messages(json).unwrap(), [said(Some("p"), None, &[]), said(Some("x"), None, &[])]);
}
