//! Custom tools as OpenAI has them: a name, and a text for an input, of any kind or of a grammar.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::http::wire::error::WireError;
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::tools::new_name;
use crate::prompt::conversation::{AnswerForm, CustomInput, Tool};

const FORMATS: &str = "\"text\" or \"grammar\"";
const SYNTAXES: &str = "\"lark\" or \"regex\"";

/// A custom tool that is offered, whose name is none of `names`.
pub(in crate::http) fn custom_tool(custom: &mut RequestFields, names: &mut HashSet<String>) -> Result<Tool, WireError> {
    let name = new_name(custom, names)?;
    let description = custom.text("description")?;
    let input = match custom.object("format")? {
        None => CustomInput::Text,
        Some(format) => input(format)?,
    };
    Ok(Tool { name, description, parameters: None, strict: false, custom: Some(input) })
}

/// `format`; a grammar stands in an object of that name, as in chats, or beside the type.
fn input(mut format: RequestFields) -> Result<CustomInput, WireError> {
    let path = format.path_of("type");
    let kind = text(format.required("type", FORMATS)?, &path)?;
    match kind.as_str() {
        "text" => return Ok(CustomInput::Text),
        "grammar" => {}
        _ => return Err(unfit(&path, &Value::String(kind), FORMATS)),
    }
    let mut grammar = match format.object("grammar")? {
        Some(inside) => inside,
        None => format,
    };
    let path = grammar.path_of("syntax");
    let syntax = text(grammar.required("syntax", SYNTAXES)?, &path)?;
    let definition_path = grammar.path_of("definition");
    let definition = text(grammar.required("definition", "a grammar, as a text")?, &definition_path)?;
    match syntax.as_str() {
        "lark" => Ok(CustomInput::Form(AnswerForm::Grammar(definition))),
        "regex" => Ok(CustomInput::Form(AnswerForm::Regex(definition))),
        _ => Err(unfit(&path, &Value::String(syntax), SYNTAXES)),
    }
}

/// `format` of a custom tool in the Responses API's form.
pub(in crate::http) fn told_format(input: &CustomInput) -> Value {
    match input {
        CustomInput::Form(AnswerForm::Regex(definition)) => {
            json!({"type": "grammar", "syntax": "regex", "definition": definition})
        }
        CustomInput::Form(AnswerForm::Grammar(definition)) => {
            json!({"type": "grammar", "syntax": "lark", "definition": definition})
        }
        CustomInput::Form(AnswerForm::Json(_) | AnswerForm::Choice(_)) | CustomInput::Text => json!({"type": "text"}),
    }
}
