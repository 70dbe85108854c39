use crate::http::wire::samples::{blame, value};
use crate::http::wire::tools::*;

const F: &str =
    r#"{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","a":1},"strict":true}}"#;
const G: &str = r#"{"type":"function","function":{"name":"g"}}"#;

fn read(tools: &str, rest: &str) -> Result<Tools, WireError> {
    Tools::read(&mut RequestFields::of(value(&format!(r#"{{"tools":[{tools}]{rest}}}"#)), "").unwrap())
}

#[test]
fn tools_are_read_with_their_key_order() {
    let tools = read(&format!("{F},{G}"), r#","parallel_tool_calls":true"#).unwrap();
    assert_eq!((tools.forced, tools.single_call), (None, false));
    assert_eq!(tools.tools[0].parameters.as_ref().unwrap().to_string(), r#"{"type":"object","a":1}"#);
    assert_eq!(tools.tools[1], Tool { name: "g".into(), description: None, parameters: None, strict: false, custom: None });
}

#[test]
fn a_choice_is_honoured_or_refused() {
    let forced = |name: &str| Some(name.to_owned());
    assert_eq!(read(F, r#","tool_choice":"auto""#).unwrap().forced, None);
    assert_eq!(read(F, r#","tool_choice":"none""#).unwrap(), Tools::default());
    assert_eq!(read(F, r#","tool_choice":"required""#).unwrap().forced, forced("f"));
    let named = r#","tool_choice":{"type":"function","function":{"name":"g"}}"#;
    assert_eq!(read(&format!("{F},{G}"), named).unwrap().forced, forced("g"));
    assert_eq!(blame(read(F, named)), ("tool_choice.function.name".into(), "invalid_value"));
    let several = read(&format!("{F},{G}"), r#","tool_choice":"required""#).unwrap();
    assert_eq!((several.forced, several.must_call, several.callable), (None, true, None));
    assert_eq!(blame(read("", r#","tool_choice":"required""#)), ("tool_choice".into(), "conflicting_parameters"));
    assert_eq!(blame(read(F, r#","tool_choice":"f""#)), ("tool_choice".into(), "invalid_value"));
}

#[test]
fn one_call_at_most_is_read_with_every_choice() {
    for (rest, single_call) in [
        ("", false),
        (r#","parallel_tool_calls":null"#, false),
        (r#","parallel_tool_calls":false"#, true),
        (r#","parallel_tool_calls":false,"tool_choice":"auto""#, true),
        (r#","parallel_tool_calls":false,"tool_choice":"required""#, true),
        (r#","parallel_tool_calls":false,"tool_choice":{"type":"function","function":{"name":"f"}}"#, true),
    ] {
        assert_eq!(read(F, rest).unwrap().single_call, single_call, "{rest}");
    }
    assert_eq!(blame(read(F, r#","parallel_tool_calls":"no""#)), ("parallel_tool_calls".into(), "invalid_value"));
}

#[test]
fn bad_tools_are_refused_by_place() {
    for (tool, param) in [
        (r#"{"type":"function"}"#, "tools[1].function"),
        (r#"{"type":"web_search"}"#, "tools[1].type"),
        (r#"{"function":{"name":""}}"#, "tools[1].function.name"),
        (r#"{"function":{"name":"x<|channel|>final"}}"#, "tools[1].function.name"),
        (r#"{"function":{"name":"f"}}"#, "tools[1].function.name"),
        (r#"{"function":{"name":"h","parameters":[]}}"#, "tools[1].function.parameters"),
    ] {
        assert_eq!(blame(read(&format!("{F},{tool}"), "")).0, param, "{tool}");
    }
    let many: Vec<String> = (0..129).map(|index| format!(r#"{{"function":{{"name":"f{index}"}}}}"#)).collect();
    assert_eq!(blame(read(&many.join(","), "")).0, "tools");
}

#[test]
fn some_tools_may_be_allowed_and_the_model_knows_of_all() {
    let read = |choice: &str| read(&format!("{F},{G}"), &format!(r#","tool_choice":{choice}"#));
    let g = r#"[{"type":"function","function":{"name":"g"}}]"#;
    let both = r#"[{"type":"function","name":"g"},{"type":"function","name":"f"}]"#;
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    for (choice, callable, forced, must_call) in [
        (format!(r#"{{"type":"allowed_tools","allowed_tools":{{"mode":"auto","tools":{g}}}}}"#), names(&["g"]), None, false),
        (format!(r#"{{"type":"allowed_tools","allowed_tools":{{"mode":"required","tools":{g}}}}}"#), None, Some("g"), false),
        (format!(r#"{{"type":"allowed_tools","mode":"required","tools":{both}}}"#), names(&["g", "f"]), None, true),
        (format!(r#"{{"type":"allowed_tools","tools":{both}}}"#), names(&["g", "f"]), None, false),
    ] {
        let tools = read(&choice).unwrap();
        assert_eq!((tools.callable, tools.forced.as_deref(), tools.must_call), (callable, forced, must_call), "{choice}");
        assert_eq!(tools.tools.len(), 2, "{choice}");
    }
    for (choice, param) in [
        (r#"{"type":"allowed_tools"}"#, "tool_choice.tools"),
        (r#"{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[]}}"#, "tool_choice.allowed_tools.tools"),
        (r#"{"type":"allowed_tools","mode":"any","tools":[]}"#, "tool_choice.mode"),
        (r#"{"type":"allowed_tools","tools":[{"type":"function","name":"h"}]}"#, "tool_choice.tools[0].name"),
        (r#"{"type":"allowed_tools","tools":[{"function":{"name":"h"}}]}"#, "tool_choice.tools[0].function.name"),
        (r#"{"type":"allowed_tools","tools":[{"type":"web_search"}]}"#, "tool_choice.tools[0].type"),
        (r#"{"type":"function"}"#, "tool_choice.function"),
    ] {
        assert_eq!(blame(read(choice)).0, param, "{choice}");
    }
}
