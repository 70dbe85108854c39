//! The settings' file: TOML with the settings' names, a profile's in its tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::settings::{SETTINGS, Setting};
use crate::text_file;

/// Longest file of settings; one with every setting has 4 KB.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// A value as the file gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileValue {
    pub(super) text: String,
    pub(super) path: PathBuf,
    pub(super) line: usize,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It cannot be read.
    #[error("{}: {source}; expected a TOML file with settings", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// It says something that is no setting.
    #[error("{}, line {line}: {message}", path.display())]
    Invalid { path: PathBuf, line: usize, message: String },
}

/// Reads the settings of a file.
pub(super) fn read(path: &Path) -> Result<BTreeMap<&'static str, FileValue>, FileError> {
    let text =
        text_file::read(path, FILE_MAX_BYTES).map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Reads the settings in `text`, the content of `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<BTreeMap<&'static str, FileValue>, FileError> {
    let line_of = |offset: usize| text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
    let invalid = |offset: usize, message: String| FileError::Invalid { path: path.to_owned(), line: line_of(offset), message };
    let table =
        DeTable::parse(text).map_err(|error| invalid(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
    let mut values = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let at = key.span().start;
        match value.get_ref() {
            DeValue::Table(inner) if is_section(key.get_ref()) => {
                for (inner_key, value) in inner {
                    let setting = setting_of(Some(key.get_ref()), inner_key)
                        .map_err(|message| invalid(inner_key.span().start, message))?;
                    let text = text_of(setting, value).map_err(|message| invalid(value.span().start, message))?;
                    let line = line_of(inner_key.span().start);
                    values.insert(setting.name, FileValue { text, path: path.to_owned(), line });
                }
            }
            found => {
                let setting = setting_of(None, key).map_err(|message| invalid(at, message))?;
                let text = text_of(setting, value).map_err(|message| invalid(at, message))?;
                debug_assert!(!found.is_table(), "no setting takes a table");
                values.insert(setting.name, FileValue { text, path: path.to_owned(), line: line_of(at) });
            }
        }
    }
    Ok(values)
}

fn is_section(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.section == Some(name))
}

fn setting_of(section: Option<&str>, key: &Spanned<DeString<'_>>) -> Result<&'static Setting, String> {
    let name: &str = key.get_ref();
    let found = SETTINGS.iter().find(|setting| setting.name == name);
    match found {
        Some(setting) if setting.section == section => Ok(setting),
        Some(Setting { section: Some(other), .. }) => {
            Err(format!("`{name}` stands in the wrong place; expected it in [{other}]"))
        }
        Some(_) => Err(format!("`{name}` stands in the wrong place; expected it before the first table")),
        None => Err(format!("unknown setting `{name}`; expected one that `antiphon serve --print-config` shows")),
    }
}

/// A value as the text that a flag would give.
fn text_of(setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    let single = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Datetime(time) => Some(time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    };
    let text = match value.get_ref() {
        DeValue::Array(parts) if setting.is_list => {
            let parts: Option<Vec<String>> = parts.iter().map(|part| single(part.get_ref())).collect();
            parts.map(|parts| parts.join(","))
        }
        value => single(value),
    };
    let expected = if setting.is_list { "a text or an array of texts" } else { "a single value" };
    text.ok_or_else(|| format!("{} is of type {}; expected {expected}", setting.name, value.get_ref().type_str()))
}
