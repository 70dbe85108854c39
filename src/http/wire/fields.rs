//! Typed reads from an object that know where they are.
//!
//! Each read takes its field out, so what is left at the end is not known. Null is as good as
//! absent.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::http::wire::document::join;
use crate::http::wire::error::{WireError, clip, quoted};
use crate::http::wire::noted::{NotedKind, note};

/// Integers beyond this are not exact as floats, and a float beyond it was perhaps another integer
/// in the text.
const EXACT_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;

/// Most names of unknown fields in one line of the log.
const NAMED_UNKNOWN_MAX: usize = 16;

/// An object of a request, with its path.
#[derive(Debug)]
pub(crate) struct RequestFields {
    path: String,
    map: Map<String, Value>,
}

impl RequestFields {
    /// The object at `path`; the body's own path is empty.
    ///
    /// # Errors
    /// [`WireError::Unfit`] for what is no object.
    pub(crate) fn of(value: Value, path: &str) -> Result<Self, WireError> {
        match value {
            Value::Object(map) => Ok(Self { path: path.to_owned(), map }),
            other => Err(unfit(path, &other, "an object")),
        }
    }

    /// The path of the field `name`.
    pub(crate) fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// Takes a field out, whatever it holds; `None` if it is absent or null.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.take_for(name, || NotedKind::Any)
    }

    /// Takes a field out that is known and not served.
    pub(crate) fn take_refused(&mut self, name: &str) -> Option<Value> {
        self.take_for(name, || NotedKind::Refused)
    }

    fn take_for(&mut self, name: &str, kind: impl FnOnce() -> NotedKind) -> Option<Value> {
        note(&self.path, name, kind);
        self.map.swap_remove(name).filter(|value| !value.is_null())
    }

    /// Looks at a field and leaves it where it is.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// Like [`RequestFields::take`], for a field that must be there.
    pub(crate) fn required(&mut self, name: &str, expected: &'static str) -> Result<Value, WireError> {
        self.take(name).ok_or_else(|| WireError::Missing { param: self.path_of(name), expected })
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, WireError> {
        self.take_for(name, || NotedKind::Text).map(|value| text(value, &self.path_of(name))).transpose()
    }

    /// True or false.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, WireError> {
        match self.take_for(name, || NotedKind::Flag) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(unfit(&self.path_of(name), &other, "true or false")),
        }
    }

    /// An integer in `range`.
    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, WireError> {
        let taken = self.take_for(name, || NotedKind::Integer(*range.start(), *range.end()));
        taken.map(|value| integer(&value, &self.path_of(name), range)).transpose()
    }

    /// A count in `range`, which is one of `u32`.
    pub(crate) fn count(&mut self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, WireError> {
        let wide = i64::from(*range.start())..=i64::from(*range.end());
        Ok(self.integer(name, wide)?.map(|number| u32::try_from(number).expect("the range is one of u32")))
    }

    /// A number that `accepts`, as `expected` says in words. What is too large for f32 is infinite
    /// there: `accepts` sees it.
    pub(crate) fn number(
        &mut self,
        name: &str,
        expected: &str,
        accepts: impl Fn(f32) -> bool,
    ) -> Result<Option<f32>, WireError> {
        Ok(self.written_number(name, expected, accepts)?.map(|number| number as f32))
    }

    /// The same as the request writes it; `accepts` sees the f32.
    pub(crate) fn written_number(
        &mut self,
        name: &str,
        expected: &str,
        accepts: impl Fn(f32) -> bool,
    ) -> Result<Option<f64>, WireError> {
        let taken = self.take_for(name, || NotedKind::Number(expected.to_owned()));
        taken.map(|value| number(&value, &self.path_of(name), expected, accepts)).transpose()
    }

    /// A list.
    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, WireError> {
        match self.take_for(name, || NotedKind::List) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(unfit(&self.path_of(name), &other, "an array")),
        }
    }

    /// An object inside this one.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<RequestFields>, WireError> {
        let taken = self.take_for(name, || NotedKind::Object);
        taken.map(|value| RequestFields::of(value, &self.path_of(name))).transpose()
    }

    /// What was not taken: the fields that this server does not know, and the nulls among those
    /// that it does.
    pub(crate) fn into_rest(self) -> Map<String, Value> {
        self.map
    }
}

/// A text at `path`.
pub(crate) fn text(value: Value, path: &str) -> Result<String, WireError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(unfit(path, &other, "a string")),
    }
}

/// An integer at `path`, in `range`. `3.0` is as good as `3`: languages without integers write it
/// so.
pub(crate) fn integer(value: &Value, path: &str, range: RangeInclusive<i64>) -> Result<i64, WireError> {
    let whole = match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            // A u64 beyond i64 is out of every range; only floats are left to look at.
            let float = number.as_f64().filter(|_| number.is_f64())?;
            (float.fract() == 0.0 && float.abs() <= EXACT_FLOAT_MAX).then_some(float as i64)
        }),
        _ => None,
    };
    match whole {
        Some(number) if range.contains(&number) => Ok(number),
        _ => Err(unfit(path, value, &format!("an integer from {} to {}", range.start(), range.end()))),
    }
}

/// A number at `path` whose f32 `accepts`.
pub(crate) fn number(value: &Value, path: &str, expected: &str, accepts: impl Fn(f32) -> bool) -> Result<f64, WireError> {
    match value.as_f64() {
        Some(number) if accepts(number as f32) => Ok(number),
        _ => Err(unfit(path, value, expected)),
    }
}

/// The complaint that the field at `path` holds `found` instead of `expected`.
pub(crate) fn unfit(path: &str, found: &Value, expected: &str) -> WireError {
    WireError::Unfit { param: path.to_owned(), found: describe(found), expected: expected.to_owned() }
}

/// What a value is, in words.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.is_empty() => "an empty string".to_owned(),
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Array(list) if list.is_empty() => "an empty array".to_owned(),
        Value::Array(list) => format!("an array of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Names the fields that were not read, so that a misspelt one can be found.
pub(crate) fn note_unknown(fields: RequestFields) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let rest = fields.into_rest();
    let names: Vec<&String> = rest.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name).collect();
    if !names.is_empty() {
        let unknown: Vec<String> = names.iter().take(NAMED_UNKNOWN_MAX).map(|name| clip(name)).collect();
        tracing::debug!(count = names.len(), ?unknown, "fields that this server does not know");
    }
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
