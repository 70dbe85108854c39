//! The form that an answer must have: `response_format`, and what other servers call it.

use serde_json::Value;

use crate::actors::messages::AskedForm;
use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::fields::{RequestFields, text, unfit};
use crate::http::wire::foreign::is_void;
use crate::http::wire::tools::function_name;
use crate::prompt::conversation::{AnswerForm, NamedSchema};

const KINDS: &str = "\"text\", \"json_object\" or \"json_schema\"";
/// What the model knows a schema by that has no name.
const UNNAMED: &str = "answer";

/// What a field holds that asks for a form.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A schema, as an object or as text.
    Schema,
    /// true: any object.
    Object,
    Regex,
    /// A list of texts.
    Choice,
    /// A text in Lark's notation or in llama.cpp's.
    Grammar,
}

/// The names of vLLM before its `structured_outputs`, of llama.cpp and of SGLang.
const NAMES: [(&str, Kind); 9] = [
    ("guided_json", Kind::Schema),
    ("guided_json_object", Kind::Object),
    ("guided_regex", Kind::Regex),
    ("guided_choice", Kind::Choice),
    ("guided_grammar", Kind::Grammar),
    ("json_schema", Kind::Schema),
    ("grammar", Kind::Grammar),
    ("regex", Kind::Regex),
    ("ebnf", Kind::Grammar),
];
/// Those within vLLM's `structured_outputs`.
const INNER_NAMES: [(&str, Kind); 5] = [
    ("json", Kind::Schema),
    ("json_object", Kind::Object),
    ("regex", Kind::Regex),
    ("choice", Kind::Choice),
    ("grammar", Kind::Grammar),
];

/// What a request says of the answer's form.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct FormRequest {
    /// The form; `None` is any text.
    pub(crate) form: Option<AskedForm>,
    /// The schema by its name, for the model to read.
    pub(crate) schema: Option<NamedSchema>,
}

impl FormRequest {
    /// Reads `response_format` and its other names, of which one may ask for a form.
    pub(crate) fn read(fields: &mut RequestFields) -> Result<Self, WireError> {
        let asked = match fields.object("response_format")? {
            Some(format) => Self::format(format, fields.path_of("response_format"), false)?,
            None => Self::default(),
        };
        asked.or_by_other_names(fields)
    }

    /// Reads `text.format`, which is the same in the Responses API, where a schema stands beside
    /// its name; and the other names. The answer repeats the format, so it holds what OpenAI's
    /// types do: a name, and a schema that is an object.
    pub(crate) fn read_text(fields: &mut RequestFields) -> Result<Self, WireError> {
        let mut asked = Self::default();
        if let Some(mut text) = fields.object("text")?
            && let Some(format) = text.object("format")?
        {
            asked = Self::format(format, text.path_of("format"), true)?;
        }
        asked.or_by_other_names(fields)
    }

    /// Reads `format` of `config`, Anthropic's `output_config`, or its older name `output_format`:
    /// a schema without a name. The model is told of it under one.
    pub(crate) fn read_unnamed(config: Option<RequestFields>, fields: &mut RequestFields) -> Result<Self, WireError> {
        let newer = config.map(|mut config| config.object("format")).transpose()?.flatten();
        let older = fields.object("output_format")?;
        if newer.is_some() && older.is_some() {
            let message = "asks for a form, and so does output_config.format; give one of them".to_owned();
            return Err(WireError::Conflict { param: fields.path_of("output_format"), message });
        }
        let asked = newer.or(older).map(unnamed).transpose()?.unwrap_or_default();
        asked.or_by_other_names(fields)
    }

    fn or_by_other_names(mut self, fields: &mut RequestFields) -> Result<Self, WireError> {
        for form in by_other_names(fields)? {
            if let Some(before) = &self.form {
                let message = format!("asks for a form, and so does {}; give one of them", before.param);
                return Err(WireError::Conflict { param: form.param, message });
            }
            self.form = Some(form);
        }
        Ok(self)
    }

    /// The object at `param` that names a form; `is_flat`: a schema's name stands beside it.
    fn format(mut format: RequestFields, param: String, is_flat: bool) -> Result<Self, WireError> {
        let path = format.path_of("type");
        let kind = text(format.required("type", KINDS)?, &path)?;
        match kind.as_str() {
            "text" => Ok(Self::default()),
            // llama.cpp takes a schema beside either.
            "json_object" => match format.take("schema") {
                Some(schema) => {
                    check_schema(&schema, &format.path_of("schema"), is_flat)?;
                    Ok(Self::of(format.path_of("schema"), schema, None))
                }
                None => {
                    let form = AnswerForm::object();
                    Ok(Self { form: Some(AskedForm { form, param }), schema: None })
                }
            },
            "json_schema" if is_flat => named(&mut format, true),
            "json_schema" => match format.take("schema") {
                Some(schema) => Ok(Self::of(format.path_of("schema"), schema, None)),
                None => {
                    let expected = "an object with a name and a schema";
                    let path = format.path_of("json_schema");
                    named(&mut RequestFields::of(format.required("json_schema", expected)?, &path)?, false)
                }
            },
            _ => {
                let message = format!("{} is not supported; expected {KINDS}", quoted(&kind));
                Err(WireError::Unsupported { param: path, message })
            }
        }
    }

    fn of(param: String, schema: Value, named: Option<(String, Option<String>)>) -> Self {
        let shown = named.map(|(name, description)| NamedSchema { name, description, schema: schema.clone() });
        Self { form: Some(AskedForm { form: AnswerForm::Json(schema), param }), schema: shown }
    }
}

/// A schema with its name, as OpenAI has it; `is_flat`: as the Responses API has it. With
/// `strict: false` a schema is kept all the same.
fn named(named: &mut RequestFields, is_flat: bool) -> Result<FormRequest, WireError> {
    let name = match is_flat {
        true => function_name(named)?,
        false => named.text("name")?.unwrap_or_else(|| UNNAMED.to_owned()),
    };
    let description = named.text("description")?;
    named.flag("strict")?;
    let schema = named.required("schema", "a JSON schema")?;
    check_schema(&schema, &named.path_of("schema"), is_flat)?;
    Ok(FormRequest::of(named.path_of("schema"), schema, Some((name, description))))
}

/// A schema without a name, as Anthropic has it.
fn unnamed(mut format: RequestFields) -> Result<FormRequest, WireError> {
    let path = format.path_of("type");
    let kind = text(format.required("type", "\"json_schema\"")?, &path)?;
    if kind != "json_schema" {
        let message = format!("{} is not supported; only \"json_schema\" is", quoted(&kind));
        return Err(WireError::Unsupported { param: path, message });
    }
    let schema = format.required("schema", "a JSON schema, as an object")?;
    let path = format.path_of("schema");
    check_schema(&schema, &path, true)?;
    Ok(FormRequest::of(path, schema, Some((UNNAMED.to_owned(), None))))
}

/// A schema may be `true` or `false` too, for which typed clients have no place.
fn check_schema(schema: &Value, path: &str, is_flat: bool) -> Result<(), WireError> {
    if is_flat && !schema.is_object() { Err(unfit(path, schema, "a JSON schema, as an object")) } else { Ok(()) }
}

fn by_other_names(fields: &mut RequestFields) -> Result<Vec<AskedForm>, WireError> {
    let mut forms = Vec::new();
    for (name, kind) in NAMES {
        forms.extend(form(fields, name, kind)?);
    }
    if let Some(mut inner) = fields.object("structured_outputs")? {
        for (name, kind) in INNER_NAMES {
            forms.extend(form(&mut inner, name, kind)?);
        }
        for name in ["structural_tag", "whitespace_pattern"] {
            if inner.take(name).is_some_and(|value| !is_void(&value)) {
                let message = "this server does not do that; leave it out".to_owned();
                return Err(WireError::Unsupported { param: inner.path_of(name), message });
            }
        }
    }
    Ok(forms)
}

/// The form that the field `name` asks for.
fn form(fields: &mut RequestFields, name: &str, kind: Kind) -> Result<Option<AskedForm>, WireError> {
    let param = fields.path_of(name);
    let Some(value) = fields.take(name).filter(|value| !is_void(value)) else { return Ok(None) };
    let form = match (kind, value) {
        (Kind::Schema, Value::String(json)) => match serde_json::from_str(&json) {
            Ok(schema) => AnswerForm::Json(schema),
            Err(_) => return Err(unfit(&param, &Value::String(json), "a JSON schema, as an object or as its text")),
        },
        (Kind::Schema, schema @ Value::Object(_)) => AnswerForm::Json(schema),
        (Kind::Schema, other) => return Err(unfit(&param, &other, "a JSON schema, as an object or as its text")),
        (Kind::Object, Value::Bool(_)) => AnswerForm::object(),
        (Kind::Object, other) => return Err(unfit(&param, &other, "true or false")),
        (Kind::Regex, value) => AnswerForm::Regex(text(value, &param)?),
        (Kind::Grammar, value) => AnswerForm::Grammar(text(value, &param)?),
        (Kind::Choice, Value::Array(list)) => {
            let text_at = |(index, value)| text(value, &format!("{param}[{index}]"));
            AnswerForm::Choice(list.into_iter().enumerate().map(text_at).collect::<Result<_, _>>()?)
        }
        (Kind::Choice, other) => return Err(unfit(&param, &other, "an array of texts")),
    };
    Ok(Some(AskedForm { form, param }))
}
