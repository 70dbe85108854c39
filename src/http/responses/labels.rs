//! Fields that say something about a response and change nothing of its answer. They come back in
//! it, and typed clients check them there, so they hold what OpenAI's types hold.

use serde_json::Value;

use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::fields::{RequestFields, unfit};

/// Texts that name a client's user or its requests.
const NAMES: [&str; 3] = ["safety_identifier", "prompt_cache_key", "user"];
/// Longest of those, in characters. Each event that holds the response repeats them.
const NAME_MAX_CHARS: usize = 64;
/// Most pairs of `metadata`.
const PAIRS_MAX: usize = 16;
/// Longest key of a pair, in characters.
const KEY_MAX_CHARS: usize = 64;
/// Longest value of a pair, in characters.
const VALUE_MAX_CHARS: usize = 512;

const VERBOSITIES: [&str; 3] = ["low", "medium", "high"];
const SUMMARIES: [&str; 3] = ["auto", "concise", "detailed"];

/// Looks at the fields before others read them.
pub(super) fn check(fields: &RequestFields) -> Result<(), WireError> {
    for name in NAMES {
        if let Some(value) = fields.peek(name) {
            check_length(value, &fields.path_of(name), NAME_MAX_CHARS)?;
        }
    }
    check_metadata(fields)?;
    check_word(fields, "text", "verbosity", VERBOSITIES)?;
    check_word(fields, "reasoning", "summary", SUMMARIES)?;
    check_word(fields, "reasoning", "generate_summary", SUMMARIES)?;
    match inner(fields, "stream_options", "include_obfuscation") {
        Some((path, value)) if !value.is_boolean() => Err(unfit(&path, value, "true or false")),
        _ => Ok(()),
    }
}

/// Reads those that no other room of this API reads.
pub(super) fn read(fields: &mut RequestFields) -> Result<(), WireError> {
    for name in ["safety_identifier", "prompt_cache_retention", "service_tier"] {
        fields.text(name)?;
    }
    // Counts calls of tools that the server runs: there are none.
    fields.count("max_tool_calls", 0..=u32::MAX)?;
    let path = fields.path_of("truncation");
    match fields.text("truncation")?.as_deref() {
        None | Some("auto" | "disabled") => Ok(()),
        Some(other) => Err(unfit(&path, &Value::String(other.to_owned()), "auto or disabled")),
    }
}

pub(in crate::http) fn check_metadata(fields: &RequestFields) -> Result<(), WireError> {
    let path = fields.path_of("metadata");
    let Some(Value::Object(map)) = fields.peek("metadata") else { return Ok(()) };
    if map.len() > PAIRS_MAX {
        let found = format!("an object of {}", map.len());
        return Err(WireError::Unfit { param: path, found, expected: format!("at most {PAIRS_MAX} pairs of texts") });
    }
    for (key, value) in map {
        if key.chars().nth(KEY_MAX_CHARS).is_some() {
            let found = format!("an object with the key {}", quoted(key));
            let expected = format!("keys of at most {KEY_MAX_CHARS} characters");
            return Err(WireError::Unfit { param: path, found, expected });
        }
        let path = format!("{path}.{key}");
        if !value.is_string() {
            return Err(unfit(&path, value, "a string"));
        }
        check_length(value, &path, VALUE_MAX_CHARS)?;
    }
    Ok(())
}

/// A text at `path` has no more characters than `most`; what is no text is another's complaint.
fn check_length(value: &Value, path: &str, most: usize) -> Result<(), WireError> {
    match value {
        Value::String(text) if text.chars().nth(most).is_some() => {
            let found = format!("a string of {} characters", text.chars().count());
            Err(WireError::Unfit { param: path.to_owned(), found, expected: format!("at most {most} characters") })
        }
        _ => Ok(()),
    }
}

/// The field `name` of the object `outer`, which is left where it is, with its path.
fn inner<'a>(fields: &'a RequestFields, outer: &str, name: &str) -> Option<(String, &'a Value)> {
    let value = fields.peek(outer)?.get(name).filter(|value| !value.is_null())?;
    Some((format!("{}.{name}", fields.path_of(outer)), value))
}

fn check_word(fields: &RequestFields, outer: &str, name: &str, words: [&str; 3]) -> Result<(), WireError> {
    match inner(fields, outer, name) {
        Some((path, value)) if !value.as_str().is_some_and(|word| words.contains(&word)) => {
            Err(unfit(&path, value, &format!("one of: {}", words.join(", "))))
        }
        _ => Ok(()),
    }
}
