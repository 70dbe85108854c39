//! The form that an answer must have: `response_format`.

use serde_json::{Value, json};

use crate::actors::messages::AskedForm;
use crate::prompt::conversation::{AnswerForm, NamedSchema};

use super::error::{WireError, quoted};
use super::fields::{Fields, text};

const KINDS: &str = "\"text\", \"json_object\" or \"json_schema\"";

/// What a request says of the answer's form.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Asked {
    /// The form; `None` is any text.
    pub(crate) form: Option<AskedForm>,
    /// The schema by its name, for the model to read.
    pub(crate) schema: Option<NamedSchema>,
}

impl Asked {
    /// Reads `response_format`.
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, WireError> {
        let param = fields.at("response_format");
        let Some(mut format) = fields.object("response_format")? else { return Ok(Self::default()) };
        let path = format.at("type");
        let kind = text(format.required("type", KINDS)?, &path)?;
        match kind.as_str() {
            "text" => Ok(Self::default()),
            // llama.cpp takes a schema beside either.
            "json_object" => match format.take("schema") {
                Some(schema) => Ok(Self::of(format.at("schema"), schema, None)),
                None => {
                    let form = AnswerForm::Json(json!({"type": "object"}));
                    Ok(Self { form: Some(AskedForm { form, param }), schema: None })
                }
            },
            "json_schema" => match format.take("schema") {
                Some(schema) => Ok(Self::of(format.at("schema"), schema, None)),
                None => named(&mut format),
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

/// `json_schema`, as OpenAI has it. With `strict: false` a schema is kept all the same.
fn named(format: &mut Fields) -> Result<Asked, WireError> {
    let expected = "an object with a name and a schema";
    let mut named = Fields::of(format.required("json_schema", expected)?, &format.at("json_schema"))?;
    let name = named.text("name")?.unwrap_or_else(|| "answer".to_owned());
    let description = named.text("description")?;
    named.flag("strict")?;
    let schema = named.required("schema", "a JSON schema")?;
    Ok(Asked::of(named.at("schema"), schema, Some((name, description))))
}
