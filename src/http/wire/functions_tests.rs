use crate::http::wire::error::WireError;
use crate::http::wire::fields::RequestFields;
use crate::http::wire::functions;
use crate::http::wire::samples::{blame, value};
use crate::http::wire::tools::Tools;

const TOOLS: &str = r#""tools":[{"type":"function","function":{"name":"t"}}]"#;
const FUNCTIONS: &str = r#""functions":[{"name":"f","description":"d","parameters":{"type":"object","a":1}},{"name":"g"}]"#;

fn fields(json: &str) -> RequestFields {
    RequestFields::of(value(&format!("{{{json}}}")), "").unwrap()
}

fn read(json: &str) -> Result<Tools, WireError> {
    Tools::read(&mut fields(json))
}

#[test]
fn functions_are_tools_of_which_one_is_called_at_most() {
    let tools = read(FUNCTIONS).unwrap();
    assert_eq!((tools.tools.len(), tools.single_call, tools.as_functions, tools.forced), (2, true, true, None));
    assert_eq!((tools.tools[0].name.as_str(), tools.tools[0].description.as_deref()), ("f", Some("d")));
    assert_eq!(tools.tools[0].parameters.as_ref().unwrap().to_string(), r#"{"type":"object","a":1}"#);
    let chosen = |choice: &str| read(&format!("{FUNCTIONS},\"function_call\":{choice}")).unwrap();
    assert_eq!(chosen(r#""auto""#), chosen("null"));
    assert_eq!(chosen(r#""none""#).tools, []);
    assert_eq!(chosen(r#"{"name":"g"}"#).forced.as_deref(), Some("g"));
}

#[test]
fn without_functions_the_older_names_ask_for_nothing() {
    for json in [
        r#""functions":[]"#,
        r#""function_call":null"#,
        r#""function_call":"auto""#,
        r#""function_call":"none""#,
        r#""functions":[],"function_call":"auto""#,
    ] {
        assert_eq!(read(json).unwrap(), Tools::default(), "{json}");
        assert!(functions::refuse(&mut fields(json)).is_ok(), "{json}");
    }
    assert_eq!(read(&format!(r#"{TOOLS},"function_call":"auto""#)).unwrap().tools.len(), 1);
}

#[test]
fn contradictions_and_what_cannot_be_are_blamed_by_their_place() {
    let conflict = "conflicting_parameters";
    for (json, param, code) in [
        (format!("{FUNCTIONS},{TOOLS}"), "functions", conflict),
        (format!(r#"{FUNCTIONS},"tool_choice":"auto""#), "tool_choice", conflict),
        (format!(r#"{FUNCTIONS},"tool_choice":{{"type":"function","function":{{"name":"f"}}}}"#), "tool_choice", conflict),
        (format!(r#"{TOOLS},"function_call":"none""#), "function_call", conflict),
        (format!(r#"{TOOLS},"function_call":{{"name":"t"}}"#), "function_call", conflict),
        (r#""function_call":{"name":"f"}"#.to_owned(), "function_call", conflict),
        (r#""function_call":"f""#.to_owned(), "function_call", "invalid_value"),
        (r#""function_call":7"#.to_owned(), "function_call", "invalid_value"),
        (format!(r#"{FUNCTIONS},"function_call":"required""#), "function_call", "invalid_value"),
        (format!(r#"{FUNCTIONS},"function_call":{{"name":"h"}}"#), "function_call.name", "invalid_value"),
        (format!(r#"{FUNCTIONS},"function_call":{{}}"#), "function_call.name", "missing_required_parameter"),
        (r#""functions":7"#.to_owned(), "functions", "invalid_value"),
        (r#""functions":[7]"#.to_owned(), "functions[0]", "invalid_value"),
        (r#""functions":[{"description":"d"}]"#.to_owned(), "functions[0].name", "missing_required_parameter"),
        (r#""functions":[{"name":"f"},{"name":"f"}]"#.to_owned(), "functions[1].name", conflict),
        (r#""functions":[{"name":"f","parameters":[]}]"#.to_owned(), "functions[0].parameters", "invalid_value"),
    ] {
        assert_eq!(blame(read(&json)), (param.to_owned(), code), "{json}");
    }
    let many: Vec<String> = (0..129).map(|index| format!(r#"{{"name":"f{index}"}}"#)).collect();
    assert_eq!(blame(read(&format!(r#""functions":[{}]"#, many.join(",")))).0, "functions");
}

#[test]
fn routes_that_never_had_them_refuse_them() {
    for (json, param) in [
        (FUNCTIONS.to_owned(), "functions"),
        (format!(r#"{FUNCTIONS},"function_call":"auto""#), "functions"),
        (format!(r#"{FUNCTIONS},"function_call":{{"name":"f"}}"#), "function_call"),
        (format!(r#"{TOOLS},"function_call":"none""#), "function_call"),
        (r#""function_call":"f""#.to_owned(), "function_call"),
    ] {
        assert_eq!(blame(functions::refuse(&mut fields(&json))), (param.to_owned(), "unsupported_value"), "{json}");
    }
    assert!(functions::refuse(&mut fields(&format!(r#"{FUNCTIONS},"function_call":"none""#))).is_ok(), "none is called");
}
