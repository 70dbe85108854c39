//! Objects with a `type`, and texts that may come in parts.

use serde_json::Value;

use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::fields::{RequestFields, text, unfit};

/// `type`, which must be one of `kinds`; the first of them if it is left out.
pub(in crate::http) fn check_kind<'a>(
    fields: &mut RequestFields,
    kinds: &[(&'a str, &'a str)],
) -> Result<(&'a str, &'a str), WireError> {
    let path = fields.path_of("type");
    let Some(kind) = fields.text("type")? else { return Ok(kinds[0]) };
    kinds.iter().find(|(known, _)| *known == kind).copied().ok_or_else(|| {
        let known: Vec<String> = kinds.iter().map(|(kind, _)| format!("{kind:?}")).collect();
        let message = format!("{} is not supported; only {} is", quoted(&kind), known.join(" or "));
        WireError::Unsupported { param: path, message }
    })
}

/// A text, or parts of one of `kinds`, the first of which is the default: a type, and the field
/// that holds the text. Parts are joined as they are.
pub(in crate::http) fn text_of(value: Value, path: &str, kinds: &[(&str, &str)]) -> Result<String, WireError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(parts) if !parts.is_empty() => parts
            .into_iter()
            .enumerate()
            .map(|(index, part)| {
                let mut part = RequestFields::of(part, &format!("{path}[{index}]"))?;
                let (_, field) = check_kind(&mut part, kinds)?;
                let text_path = part.path_of(field);
                text(part.required(field, "a string")?, &text_path)
            })
            .collect(),
        other => Err(unfit(path, &other, "a string, or an array of text parts")),
    }
}

/// The answer is text: what asks for another kind is refused rather than answered with text.
pub(in crate::http) fn check_modalities(fields: &mut RequestFields) -> Result<(), WireError> {
    let path = fields.path_of("modalities");
    for (index, kind) in fields.list("modalities")?.unwrap_or_default().iter().enumerate() {
        if kind != "text" {
            let message = "only \"text\" is supported".to_owned();
            return Err(WireError::Unsupported { param: format!("{path}[{index}]"), message });
        }
    }
    Ok(())
}
