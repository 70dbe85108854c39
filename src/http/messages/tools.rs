//! `tools` and `tool_choice` as Anthropic's API has them.

use std::collections::HashSet;

use serde_json::Value;

use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::functions;
use crate::http::wire::tools::{FunctionForm, Tools, known, listed, note_tool, tool_as};
use crate::prompt::conversation::{CallKind, Tool};

/// How a function is written.
pub(super) const FORM: FunctionForm = FunctionForm {
    parameters: "input_schema",
    needs_parameters: true,
    name_max_bytes: 128,
    name_expected: "1 to 128 characters of A-Z a-z 0-9 _ -",
};
/// How the types of tools begin that are left out: agents offer them unasked, and the answer is the
/// same without them. A search for tools finds what the model is told of anyway, since all are.
const LEFT_OUT: [&str; 2] = ["tool_search_tool_", "advisor_"];
const CHOICES: &str = "auto, any, tool or none";

/// The functions in `tools`, each with its place there.
pub(super) fn served(fields: &mut RequestFields) -> Result<(Vec<Tool>, Vec<usize>), WireError> {
    functions::refuse(fields)?;
    let (mut tools, mut places, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    for (index, mut fields) in listed(fields)?.into_iter().enumerate() {
        let path = fields.path_of("type");
        match fields.text("type")?.as_deref() {
            None | Some("custom") => {
                tools.push(tool_as(&FORM, &mut fields, &mut names)?);
                places.push(index);
            }
            Some(kind) => match LEFT_OUT.iter().find(|known| kind.starts_with(**known)) {
                Some(known) => note_tool(known),
                None => {
                    let message = format!(
                        "{} is not served: this server runs no tools of its own; offer a function with a name and an \
                         input_schema",
                        quoted(kind)
                    );
                    return Err(WireError::Unsupported { param: path, message });
                }
            },
        }
    }
    Ok((tools, places))
}

/// Which of `tools` may be called, and which must.
pub(super) fn chosen(tools: Vec<Tool>, fields: &mut RequestFields) -> Result<Tools, WireError> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok(Tools { tools, ..Tools::default() }) };
    let single_call = choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    let path = choice.path_of("type");
    let kind = text(choice.required("type", CHOICES)?, &path)?;
    let chosen = match kind.as_str() {
        "auto" => Tools { tools, ..Tools::default() },
        "none" => Tools::default(),
        "any" => Tools::required(tools, path, "any")?,
        "tool" => {
            let path = choice.path_of("name");
            let name = known(
                &tools,
                CallKind::Function,
                text(choice.required("name", "the name of a tool")?, &path)?,
                &path,
                "tools",
            )?;
            Tools { tools, forced: Some(name), ..Tools::default() }
        }
        _ => return Err(unfit(&path, &Value::String(kind), CHOICES)),
    };
    Ok(Tools { single_call, ..chosen })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::wire::samples::{blame, value};

    const F: &str = r#"{"name":"f","description":"d","input_schema":{"type":"object","a":1},"strict":true,"cache_control":{"type":"ephemeral"}}"#;
    const G: &str = r#"{"type":"custom","name":"g","input_schema":{}}"#;
    const SEARCH: &str = r#"{"type":"tool_search_tool_regex_20251119","name":"tool_search"}"#;

    fn read(tools: &str, choice: &str) -> Result<(Tools, Vec<usize>), WireError> {
        let body = value(&format!(r#"{{"tools":[{tools}],"tool_choice":{choice}}}"#));
        let mut fields = RequestFields::of(body, "").unwrap();
        let (offered, places) = served(&mut fields)?;
        Ok((chosen(offered, &mut fields)?, places))
    }

    #[test]
    fn functions_are_read_and_what_is_left_out_keeps_their_places() {
        let (tools, places) = read(&format!("{SEARCH},{F},{G}"), "null").unwrap();
        assert_eq!(places, [1, 2]);
        let parameters = tools.tools[0].parameters.as_ref().unwrap().to_string();
        assert_eq!(parameters, r#"{"type":"object","a":1}"#);
        assert_eq!((tools.tools[0].description.as_deref(), tools.tools[0].strict), (Some("d"), true));
        assert_eq!((tools.tools[1].name.as_str(), tools.tools[1].strict), ("g", false));
        assert!(read(&format!(r#"{{"name":"{}","input_schema":{{}}}}"#, "n".repeat(128)), "null").is_ok());
    }

    #[test]
    fn each_choice_has_its_meaning() {
        let both = format!("{F},{G}");
        let choice = |json: &str| read(&both, json).unwrap().0;
        for json in ["null", r#"{"type":"auto"}"#] {
            let tools = choice(json);
            assert_eq!((tools.tools.len(), tools.forced, tools.must_call, tools.single_call), (2, None, false, false));
        }
        assert_eq!(choice(r#"{"type":"none"}"#), Tools::default());
        assert!(choice(r#"{"type":"any"}"#).must_call);
        assert_eq!(read(F, r#"{"type":"any"}"#).unwrap().0.forced.as_deref(), Some("f"));
        assert_eq!(choice(r#"{"type":"tool","name":"g"}"#).forced.as_deref(), Some("g"));
        for kind in [r#""auto""#, r#""any""#, r#""tool","name":"f""#] {
            assert!(choice(&format!(r#"{{"type":{kind},"disable_parallel_tool_use":true}}"#)).single_call, "{kind}");
        }
    }

    #[test]
    fn what_cannot_be_is_blamed_by_its_place() {
        for (tools, choice, param) in [
            (r#"{"name":"f"}"#, "null", "tools[0].input_schema"),
            (r#"{"name":"f","input_schema":7}"#, "null", "tools[0].input_schema"),
            (r#"{"input_schema":{}}"#, "null", "tools[0].name"),
            (r#"{"name":"a b","input_schema":{}}"#, "null", "tools[0].name"),
            (r#"{"name":"g","input_schema":{}},{"name":"g","input_schema":{}}"#, "null", "tools[1].name"),
            (r#"{"type":"web_search_20250305","name":"web_search"}"#, "null", "tools[0].type"),
            (r#"{"type":"bash_20250124","name":"bash"}"#, "null", "tools[0].type"),
            (r#"{"type":"function","function":{"name":"f"}}"#, "null", "tools[0].type"),
            ("7", "null", "tools[0]"),
            (F, r#""auto""#, "tool_choice"),
            (F, "{}", "tool_choice.type"),
            (F, r#"{"type":"required"}"#, "tool_choice.type"),
            (F, r#"{"type":"tool"}"#, "tool_choice.name"),
            (F, r#"{"type":"tool","name":"g"}"#, "tool_choice.name"),
            (SEARCH, r#"{"type":"any"}"#, "tool_choice.type"),
            (F, r#"{"type":"auto","disable_parallel_tool_use":1}"#, "tool_choice.disable_parallel_tool_use"),
        ] {
            assert_eq!(blame(read(tools, choice)).0, param, "{tools} {choice}");
        }
        let long = format!(r#"{{"name":"{}","input_schema":{{}}}}"#, "n".repeat(129));
        assert_eq!(blame(read(&long, "null")).0, "tools[0].name");
    }
}
