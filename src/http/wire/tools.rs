//! `tools` and `tool_choice`: the functions that the model may call.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::http::wire::custom::custom_tool;
use crate::http::wire::error::{WireError, clip};
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::functions;
use crate::http::wire::parts::check_kind;
use crate::prompt::conversation::{CallKind, Conversation, Tool};

/// Most tools that a request offers.
pub(super) const TOOLS_MAX: usize = 128;
const CHOICES: &str = "auto, none, required, or an object that names a function or allowed_tools";

/// How an API writes a function.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct FunctionForm {
    /// The field of its parameters.
    pub(in crate::http) parameters: &'static str,
    /// A function without that field is refused.
    pub(in crate::http) needs_parameters: bool,
    /// Longest name, in bytes.
    pub(in crate::http) name_max_bytes: usize,
    /// The same in words.
    pub(in crate::http) name_expected: &'static str,
}

/// As OpenAI has it.
const OPENAI: FunctionForm = FunctionForm {
    parameters: "parameters",
    needs_parameters: false,
    name_max_bytes: 64,
    name_expected: "1 to 64 characters of A-Z a-z 0-9 _ -",
};

/// The functions that the model may call, and what it must.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tools {
    /// The model knows of them.
    pub(crate) tools: Vec<Tool>,
    /// May be called in this turn; `None` is all.
    pub(crate) callable: Option<Vec<String>>,
    /// Must be called.
    pub(crate) forced: Option<String>,
    /// One of them must be called.
    pub(crate) must_call: bool,
    /// One call at most: `parallel_tool_calls: false`.
    pub(crate) single_call: bool,
    /// They came as `functions`, and calls go out as `function_call`.
    pub(crate) as_functions: bool,
}

impl Tools {
    /// Reads the fields as a chat has them, by their names of now or before.
    pub(crate) fn read(fields: &mut RequestFields) -> Result<Self, WireError> {
        if let Some(older) = functions::read(fields)? {
            return Ok(older);
        }
        let tools = tools(fields)?;
        Self::chosen(tools, fields)
    }

    /// Reads which of `tools` may be called, and which must. With `tool_choice: none` the model
    /// does not learn of the tools, and no call of one is read.
    pub(crate) fn chosen(tools: Vec<Tool>, fields: &mut RequestFields) -> Result<Self, WireError> {
        let single_call = fields.flag("parallel_tool_calls")? == Some(false);
        let path = fields.path_of("tool_choice");
        let chosen = match fields.take("tool_choice") {
            None => Self { tools, ..Self::default() },
            Some(Value::String(choice)) => match choice.as_str() {
                "auto" => Self { tools, ..Self::default() },
                "none" => Self::default(),
                "required" => Self::required(tools, path, "required")?,
                _ => return Err(unfit(&path, &Value::String(choice), CHOICES)),
            },
            Some(object @ Value::Object(_)) => match object["type"].as_str() {
                Some("allowed_tools") => allowed(tools, RequestFields::of(object, &path)?)?,
                _ => named(tools, RequestFields::of(object, &path)?)?,
            },
            Some(other) => return Err(unfit(&path, &other, CHOICES)),
        };
        Ok(Self { single_call, ..chosen })
    }

    /// `conversation`, in which they are offered.
    pub(in crate::http) fn offered_in(self, conversation: Conversation) -> Conversation {
        let Self { tools, callable, forced, must_call, single_call, as_functions: _ } = self;
        Conversation { tools, callable, forced_tool: forced, must_call, single_call, ..conversation }
    }

    /// One of the functions must be called, as the choice `said` at `path` has it. Of a single one
    /// the call is forced, by ending the prompt behind its header.
    pub(in crate::http) fn required(tools: Vec<Tool>, path: String, said: &str) -> Result<Self, WireError> {
        match tools.as_slice() {
            [] => Err(WireError::Conflict { param: path, message: format!("{said:?} needs a tool in tools") }),
            [only] => Ok(Self { forced: Some(only.name.clone()), tools, ..Self::default() }),
            _ => Ok(Self { must_call: true, tools, ..Self::default() }),
        }
    }
}

fn tools(fields: &mut RequestFields) -> Result<Vec<Tool>, WireError> {
    let mut names = HashSet::new();
    let mut tools = Vec::new();
    for mut fields in listed(fields)? {
        let kind = call_kind(&mut fields)?;
        let field = field_of(kind);
        let mut inside = RequestFields::of(fields.required(field, "an object with a name")?, &fields.path_of(field))?;
        tools.push(match kind {
            CallKind::Function => tool(&mut inside, &mut names)?,
            CallKind::Custom => custom_tool(&mut inside, &mut names)?,
        });
    }
    Ok(tools)
}

/// `type` of a tool, a call or a choice; a function's if it is left out.
pub(in crate::http) fn call_kind(fields: &mut RequestFields) -> Result<CallKind, WireError> {
    let kinds = [("function", CallKind::Function), ("custom", CallKind::Custom)];
    let (kind, _) = check_kind(fields, &kinds.map(|(name, _)| (name, "")))?;
    Ok(kinds.into_iter().find(|(name, _)| *name == kind).map_or(CallKind::Function, |(_, kind)| kind))
}

/// The field in which what is called stands, which is its type too.
fn field_of(kind: CallKind) -> &'static str {
    match kind {
        CallKind::Function => "function",
        CallKind::Custom => "custom",
    }
}

/// The objects in `tools`.
pub(in crate::http) fn listed(fields: &mut RequestFields) -> Result<Vec<RequestFields>, WireError> {
    let path = fields.path_of("tools");
    let list = fields.list("tools")?.unwrap_or_default();
    if list.len() > TOOLS_MAX {
        return Err(unfit(&path, &Value::Array(list), &format!("at most {TOOLS_MAX} tools")));
    }
    list.into_iter().enumerate().map(|(index, value)| RequestFields::of(value, &format!("{path}[{index}]"))).collect()
}

/// Says once that a type of tool is offered to no model here.
pub(in crate::http) fn note_tool(kind: &'static str) {
    static NOTED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if NOTED.lock().unwrap_or_else(PoisonError::into_inner).insert(kind) {
        tracing::info!(kind, "requests offer a type of tool that is not served: the model is not told of it");
    }
}

/// Where a tool stands in the request that `param` names as `tools[0].function…`, or `.custom…`,
/// among those that are served, of which `places` tells the places; and the rest of the path.
pub(in crate::http) fn place_of<'a>(param: &'a str, places: &[usize]) -> Option<(usize, &'a str)> {
    let (index, rest) = param.strip_prefix("tools[")?.split_once("].")?;
    let rest = ["function", "custom"].iter().find_map(|field| rest.strip_prefix(field))?;
    Some((*places.get(index.parse::<usize>().ok()?)?, rest))
}

/// A function that is offered, whose name is none of `names`.
pub(in crate::http) fn tool(function: &mut RequestFields, names: &mut HashSet<String>) -> Result<Tool, WireError> {
    tool_as(&OPENAI, function, names)
}

/// The same, written in another form.
pub(in crate::http) fn tool_as(
    form: &FunctionForm,
    function: &mut RequestFields,
    names: &mut HashSet<String>,
) -> Result<Tool, WireError> {
    let name = new_name_as(form, function, names)?;
    let description = function.text("description")?;
    let strict = function.flag("strict")?.unwrap_or(false);
    let parameters = function.object(form.parameters)?.map(|schema| Value::Object(schema.into_rest()));
    if parameters.is_none() && form.needs_parameters {
        return Err(WireError::Missing { param: function.path_of(form.parameters), expected: "a JSON schema, as an object" });
    }
    Ok(Tool { name, description, parameters, strict, custom: None })
}

/// `name` of a tool, which is none of `names`.
pub(in crate::http) fn new_name(tool: &mut RequestFields, names: &mut HashSet<String>) -> Result<String, WireError> {
    new_name_as(&OPENAI, tool, names)
}

fn new_name_as(form: &FunctionForm, tool: &mut RequestFields, names: &mut HashSet<String>) -> Result<String, WireError> {
    let name_path = tool.path_of("name");
    let name = name_as(form, tool)?;
    match names.insert(name.clone()) {
        true => Ok(name),
        false => {
            let message = format!("{name:?} is the name of an earlier tool");
            Err(WireError::Conflict { param: name_path, message })
        }
    }
}

/// `name`: plain characters only, so that no name can hold harmony's control text.
pub(in crate::http) fn function_name(function: &mut RequestFields) -> Result<String, WireError> {
    name_as(&OPENAI, function)
}

/// The same, as long as the form allows.
pub(in crate::http) fn name_as(form: &FunctionForm, function: &mut RequestFields) -> Result<String, WireError> {
    let path = function.path_of("name");
    let name = text(function.required("name", form.name_expected)?, &path)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > form.name_max_bytes || !name.bytes().all(plain) {
        return Err(unfit(&path, &Value::String(name), form.name_expected));
    }
    Ok(name)
}

fn named(tools: Vec<Tool>, mut choice: RequestFields) -> Result<Tools, WireError> {
    if ["type", "name", "function", "custom"].iter().all(|name| choice.peek(name).is_none_or(Value::is_null)) {
        let expected = "\"function\", \"custom\" or \"allowed_tools\"";
        return Err(WireError::Missing { param: choice.path_of("type"), expected });
    }
    let name = known_name(&tools, &mut choice)?;
    Ok(Tools { tools, forced: Some(name), ..Tools::default() })
}

/// `allowed_tools`: the model knows of all, and may call some of them. Its mode and its list stand
/// in an object of that name, or beside the type, as in the Responses API.
fn allowed(tools: Vec<Tool>, mut choice: RequestFields) -> Result<Tools, WireError> {
    let mut allowed = match choice.object("allowed_tools")? {
        Some(inside) => inside,
        None => choice,
    };
    let path = allowed.path_of("mode");
    let must_call = match allowed.text("mode")?.as_deref() {
        None | Some("auto") => false,
        Some("required") => true,
        Some(other) => return Err(unfit(&path, &Value::String(other.to_owned()), "auto or required")),
    };
    let path = allowed.path_of("tools");
    let list = allowed.list("tools")?.unwrap_or_default();
    if list.is_empty() || list.len() > TOOLS_MAX {
        return Err(unfit(&path, &Value::Array(list), &format!("an array of 1 to {TOOLS_MAX} functions")));
    }
    let name_in = |(index, value)| {
        let mut choice = RequestFields::of(value, &format!("{path}[{index}]"))?;
        known_name(&tools, &mut choice)
    };
    let callable: Vec<String> = list.into_iter().enumerate().map(name_in).collect::<Result<_, _>>()?;
    match callable.as_slice() {
        [only] if must_call => Ok(Tools { forced: Some(only.clone()), tools, ..Tools::default() }),
        _ => Ok(Tools { callable: Some(callable), must_call, tools, ..Tools::default() }),
    }
}

/// The name of one of `tools`, within a field named as its type or beside the type.
fn known_name(tools: &[Tool], choice: &mut RequestFields) -> Result<String, WireError> {
    let kind = call_kind(choice)?;
    let field = field_of(kind);
    let value = match choice.take("name") {
        Some(name) => (name, choice.path_of("name")),
        None => {
            let expected = "an object with a name";
            let mut inside = RequestFields::of(choice.required(field, expected)?, &choice.path_of(field))?;
            (inside.required("name", "the name of a tool")?, inside.path_of("name"))
        }
    };
    known(tools, kind, text(value.0, &value.1)?, &value.1, "tools")
}

/// `name`, given at `path`, which is that of one of `tools` that is of `kind`; they stand in
/// `field`.
pub(in crate::http) fn known(
    tools: &[Tool],
    kind: CallKind,
    name: String,
    path: &str,
    field: &str,
) -> Result<String, WireError> {
    let what = if kind == CallKind::Custom { "custom tool" } else { "function" };
    match tools.iter().any(|tool| tool.name == name && tool.kind() == kind) {
        true => Ok(name),
        false => Err(unfit(path, &Value::String(clip(&name)), &format!("the name of a {what} in {field}"))),
    }
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;
