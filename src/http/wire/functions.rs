//! `functions` and `function_call`: the names that OpenAI gave tools before.

use std::collections::HashSet;

use serde_json::Value;

use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::tools::{TOOLS_MAX, Tools, known, tool};
use crate::prompt::conversation::CallKind;

const CHOICES: &str = "auto, none, or an object with the name of a function";

/// Reads the fields; nothing if they offer no function. What goes out in this form has one call at
/// most.
///
/// # Errors
/// [`WireError::Conflict`] beside `tools` or `tool_choice`, and for a choice without functions.
pub(super) fn read(fields: &mut RequestFields) -> Result<Option<Tools>, WireError> {
    let path = fields.path_of("functions");
    let functions = fields.list("functions")?.unwrap_or_default();
    let choice = fields.take("function_call");
    let choice_path = fields.path_of("function_call");
    if functions.is_empty() {
        return match choice {
            // It says nothing of tools, and yet means them, it seems.
            Some(choice) if choice == "none" && offers(fields, "tools") => Err(meant(choice_path, "tool_choice")),
            None | Some(Value::String(_)) if choice.as_ref().is_none_or(|choice| choice == "auto" || choice == "none") => {
                Ok(None)
            }
            Some(Value::Object(_)) if offers(fields, "tools") => Err(meant(choice_path, "tool_choice")),
            Some(Value::Object(_)) => {
                Err(WireError::Conflict { param: choice_path, message: "needs a function in functions".to_owned() })
            }
            other => Err(unfit(&choice_path, &other.unwrap_or_default(), CHOICES)),
        };
    }
    if offers(fields, "tools") {
        let message = "is the older name of tools, which are given too; give one of them".to_owned();
        return Err(WireError::Conflict { param: path, message });
    }
    if fields.take("tool_choice").is_some() {
        return Err(meant(fields.path_of("tool_choice"), "function_call"));
    }
    fields.flag("parallel_tool_calls")?;
    if functions.len() > TOOLS_MAX {
        return Err(unfit(&path, &Value::Array(functions), &format!("at most {TOOLS_MAX} functions")));
    }
    let mut names = HashSet::new();
    let read = |(index, value)| tool(&mut RequestFields::of(value, &format!("{path}[{index}]"))?, &mut names);
    let tools = functions.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let offered = Tools { tools, single_call: true, as_functions: true, ..Tools::default() };
    match choice {
        None => Ok(Some(offered)),
        Some(Value::String(choice)) if choice == "auto" => Ok(Some(offered)),
        Some(Value::String(choice)) if choice == "none" => Ok(Some(Tools { tools: Vec::new(), ..offered })),
        Some(Value::Object(choice)) => {
            let mut choice = RequestFields::of(Value::Object(choice), &choice_path)?;
            let path = choice.path_of("name");
            let name = text(choice.required("name", "the name of a function")?, &path)?;
            let forced = known(&offered.tools, CallKind::Function, name, &path, "functions")?;
            Ok(Some(Tools { forced: Some(forced), ..offered }))
        }
        Some(other) => Err(unfit(&choice_path, &other, CHOICES)),
    }
}

/// Refuses the fields on a route whose API never had them, unless they ask for nothing.
pub(in crate::http) fn refuse(fields: &mut RequestFields) -> Result<(), WireError> {
    let is_none = fields.peek("function_call").is_some_and(|choice| choice == "none");
    let says_nothing = is_none || fields.peek("function_call").is_none_or(|choice| choice.is_null() || choice == "auto");
    let refused = match (says_nothing, is_none) {
        (false, _) => Some(("function_call", "tool_choice")),
        (true, true) if offers(fields, "tools") => Some(("function_call", "tool_choice")),
        (true, false) if offers(fields, "functions") => Some(("functions", "tools")),
        (true, _) => None,
    };
    ["functions", "function_call"].iter().for_each(|name| drop(fields.take(name)));
    match refused {
        None => Ok(()),
        Some((older, newer)) => {
            let message = format!("the older name is not supported here; use {newer}");
            Err(WireError::Unsupported { param: fields.path_of(older), message })
        }
    }
}

/// Whether a list is there and not empty, or something that is no list.
fn offers(fields: &RequestFields, name: &str) -> bool {
    fields.peek(name).is_some_and(|value| !value.is_null() && !value.as_array().is_some_and(Vec::is_empty))
}

fn meant(param: String, newer: &str) -> WireError {
    WireError::Conflict { param, message: format!("does not go with these fields; {newer} is meant") }
}

#[cfg(test)]
#[path = "functions_tests.rs"]
mod tests;
