//! Functions as a TypeScript namespace, which is how harmony tells the model about them.
//!
//! Promises: the text that `openai-harmony` 0.0.8 makes of the same JSON schemas
//! (`template_tools_section`), its oddities included, for the model was trained on that text. What
//! the schema says beyond that is not told.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use crate::prompt::conversation::{AnswerForm, CustomInput, Tool};

/// The section of a developer message that lists `tools`.
pub(super) fn tools_section(tools: &[Tool]) -> String {
    let mut out = String::from("# Tools\n\n## functions\n\nnamespace functions {\n\n");
    for tool in tools {
        for line in tool.description.as_deref().unwrap_or_default().lines() {
            line_to(&mut out, format_args!("// {line}"));
        }
        if let Some(input) = &tool.custom {
            custom(&mut out, &tool.name, input);
            continue;
        }
        match &tool.parameters {
            Some(schema) => {
                let parameters = type_of(schema, "");
                line_to(&mut out, format_args!("type {} = (_: {parameters}) => any;\n", tool.name));
            }
            None => line_to(&mut out, format_args!("type {} = () => any;\n", tool.name)),
        }
    }
    out.push_str("} // namespace functions");
    out
}

/// A custom tool, which harmony does not know: a function of a text, which stands in its call as it
/// is. ADR 58 says why.
fn custom(out: &mut String, name: &str, input: &CustomInput) {
    line_to(out, format_args!("// Its input is the whole text of the call's message as it is, and no JSON."));
    let form = match input {
        CustomInput::Form(AnswerForm::Regex(expression)) => Some(("this regular expression", expression)),
        CustomInput::Form(AnswerForm::Grammar(grammar)) => Some(("this grammar", grammar)),
        CustomInput::Form(AnswerForm::Json(_) | AnswerForm::Choice(_)) | CustomInput::Text => None,
    };
    if let Some((what, text)) = form {
        line_to(out, format_args!("// It is what {what} takes:"));
        text.lines().for_each(|line| line_to(out, format_args!("// {line}")));
    }
    line_to(out, format_args!("type {name} = (_: string) => any;\n"));
}

/// The TypeScript type of `schema`; its lines but the first begin with `indent`.
fn type_of(schema: &Value, indent: &str) -> String {
    if let Some(variants) = schema["oneOf"].as_array() {
        return union_of(variants, indent);
    }
    if let Some(types) = schema["type"].as_array() {
        let names: Vec<&str> =
            types.iter().filter_map(Value::as_str).map(|name| if name == "integer" { "number" } else { name }).collect();
        if !names.is_empty() {
            return names.join(" | ");
        }
    }
    match schema["type"].as_str() {
        Some("object") => object(schema, indent),
        Some("string") => {
            let values = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let values: Vec<String> = values.map(|value| format!("\"{value}\"")).collect();
            if values.is_empty() { "string".into() } else { values.join(" | ") }
        }
        Some("number" | "integer") => "number".into(),
        Some("boolean") => "boolean".into(),
        Some("array") => match schema.get("items") {
            Some(items) => type_of(items, indent) + "[]",
            None => "Array<any>".into(),
        },
        _ => "any".into(),
    }
}

/// `oneOf` where no property's name stands before it.
fn union_of(variants: &[Value], indent: &str) -> String {
    let mut out = String::new();
    for variant in variants {
        append(&mut out, format_args!("\n{indent} | {}", nullable_type(variant, &format!("{indent}   "))));
        let default = variant.get("default").map(|default| match default.as_str() {
            Some(text) if !is_enum(variant) => format!("default: \"{text}\""),
            _ => format!("default: {}", json(default)),
        });
        trailing_comment(&mut out, variant["description"].as_str(), default.as_deref());
    }
    out
}

fn object(schema: &Value, indent: &str) -> String {
    let mut out = String::new();
    if let Some(description) = schema["description"].as_str() {
        line_to(&mut out, format_args!("{indent}// {description}"));
    }
    out.push_str("{\n");
    let required: HashSet<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let mark = if required.contains(key.as_str()) { "" } else { "?" };
        property(&mut out, &format!("{key}{mark}"), value, indent);
    }
    out + indent + "}"
}

/// A property of an object: comments, name and type.
fn property(out: &mut String, name: &str, schema: &Value, indent: &str) {
    if let Some(title) = schema["title"].as_str() {
        line_to(out, format_args!("{indent}// {title}\n{indent}//"));
    }
    let description = schema["description"].as_str();
    let is_union = schema.get("oneOf").is_some();
    if let Some(description) = description.filter(|_| !is_union) {
        line_to(out, format_args!("{indent}// {description}"));
    }
    if let Some(examples) = schema["examples"].as_array().filter(|examples| !examples.is_empty()) {
        line_to(out, format_args!("{indent}// Examples:"));
        for example in examples.iter().filter_map(Value::as_str) {
            line_to(out, format_args!("{indent}// - \"{example}\""));
        }
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        return union_property(out, name, schema, variants, indent);
    }
    append(out, format_args!("{indent}{name}: {},", nullable_type(schema, &format!("{indent}    "))));
    if let Some(default) = default_of(schema).filter(|_| !is_union) {
        append(out, format_args!(" // {default}"));
    }
    out.push('\n');
}

/// A property whose type is `oneOf`: each variant on a line of its own.
fn union_property(out: &mut String, name: &str, schema: &Value, variants: &[Value], indent: &str) {
    let description = schema["description"].as_str();
    let first = variants.first().and_then(|variant| variant["description"].as_str());
    let above = description.filter(|description| first != Some(description));
    if let Some(description) = above {
        line_to(out, format_args!("{indent}// {description}"));
    }
    if let Some(default) = default_of(schema) {
        line_to(out, format_args!("{indent}// {default}"));
    }
    line_to(out, format_args!("{indent}{name}:"));
    for (index, variant) in variants.iter().enumerate() {
        append(out, format_args!("{indent} | {}", nullable_type(variant, &format!("{indent}   "))));
        let of_variant = variant["description"].as_str().filter(|_| index > 0 || above.is_none());
        trailing_comment(out, of_variant.filter(|text| description != Some(text)), default_of(variant).as_deref());
        out.push('\n');
    }
    line_to(out, format_args!("{indent},"));
}

/// The type of `schema`, with `| null` if it says `nullable`.
fn nullable_type(schema: &Value, indent: &str) -> String {
    let name = type_of(schema, indent);
    if schema["nullable"] == true && !name.contains("null") { name + " | null" } else { name }
}

/// What a comment says about the default of `schema`: an enum's value stands without quotes.
fn default_of(schema: &Value) -> Option<String> {
    schema.get("default").map(|default| match default.as_str() {
        Some(text) if is_enum(schema) => format!("default: {text}"),
        Some(text) => format!("default: \"{text}\""),
        None => format!("default: {}", json(default)),
    })
}

/// `value` as the library writes it.
fn json(value: &Value) -> String {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, LibraryNumbers)).expect("a Vec takes everything");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// JSON without spaces, and floats as the library writes them: an exponent below 1e-5 and from 1e16
/// on, without a plus. Later versions of serde_json write `1e+16`, and the standard library `1e-5`.
struct LibraryNumbers;

impl Formatter for LibraryNumbers {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(ryu::Buffer::new().format_finite(value).as_bytes())
    }
}

fn is_enum(schema: &Value) -> bool {
    schema["enum"].as_array().is_some_and(|values| !values.is_empty())
}

fn trailing_comment(out: &mut String, description: Option<&str>, default: Option<&str>) {
    let parts: Vec<&str> = description.into_iter().chain(default).collect();
    if !parts.is_empty() {
        append(out, format_args!(" // {}", parts.join(" ")));
    }
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

fn line_to(out: &mut String, text: std::fmt::Arguments<'_>) {
    append(out, text);
    out.push('\n');
}
