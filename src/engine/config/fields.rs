//! Reading a JSON object key by key, so that every error names file, key, value and expectation.

use crate::engine::checkpoint::CheckpointError;
use serde_json::{Map, Value};

/// Longest piece of a value that an error shows.
const SHOWN_CHARS_MAX: usize = 60;

/// One JSON object of a checkpoint's file. `null` counts as absent, as it does for transformers,
/// except where a method says so.
#[derive(Clone, Copy)]
pub(super) struct ConfigFields<'a> {
    file: &'a str,
    above: Option<&'a str>,
    object: &'a Map<String, Value>,
}

impl<'a> ConfigFields<'a> {
    /// The top object of `file`.
    pub(super) fn new(file: &'a str, value: &'a Value) -> Result<Self, CheckpointError> {
        let object = value.as_object().ok_or_else(|| CheckpointError::FileRefused {
            file: file.to_owned(),
            problem: format!("the file holds {}, expected a JSON object", shown(value)),
        })?;
        Ok(Self { file, above: None, object })
    }

    /// The object under `key`, if there is one.
    pub(super) fn object(&self, key: &'a str) -> Result<Option<ConfigFields<'a>>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        Ok(Some(ConfigFields { file: self.file, above: Some(key), object }))
    }

    /// The value under `key`, unless absent or `null`.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, be it with `null`.
    pub(super) fn is_present(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// Whether the object has no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// The error about the value under `key`.
    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>) -> CheckpointError {
        let found = self.object.get(key).map_or_else(|| "absent".to_owned(), shown);
        CheckpointError::Value { file: self.file.to_owned(), key: self.path(key), found, expected: expected.into() }
    }

    /// A whole number from 1 to `max` that must be there.
    pub(super) fn count(&self, key: &str, max: usize) -> Result<usize, CheckpointError> {
        let expected = format!("a whole number from 1 to {max}");
        match self.get(key) {
            Some(_) => self.count_or(key, 1, max),
            None => Err(CheckpointError::KeyMissing { file: self.file.to_owned(), key: self.path(key), expected }),
        }
    }

    /// A whole number from 1 to `max`, or `default` if absent.
    pub(super) fn count_or(&self, key: &str, default: usize, max: usize) -> Result<usize, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value
            .as_u64()
            .and_then(|found| usize::try_from(found).ok())
            .filter(|found| (1..=max).contains(found))
            .ok_or_else(|| self.wrong(key, format!("a whole number from 1 to {max}")))
    }

    /// A number that `accepts` takes, or `None` if absent.
    pub(super) fn number(
        &self,
        key: &str,
        expected: &str,
        accepts: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = value.as_f64().filter(|found| accepts(*found));
        found.map(Some).ok_or_else(|| self.wrong(key, expected))
    }

    /// `true` or `false`, or `default` if absent.
    pub(super) fn flag_or(&self, key: &str, default: bool) -> Result<bool, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// A string, or `None` if absent.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string"))
    }

    /// The key with the keys above it.
    fn path(&self, key: &str) -> String {
        self.above.map_or_else(|| key.to_owned(), |above| format!("{above}.{key}"))
    }
}

/// A value as JSON, cut to a length that fits a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
