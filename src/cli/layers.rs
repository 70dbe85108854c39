//! Where each setting's value comes from: flag, environment, file, profile, default, in this order.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::file::FileValue;
use super::settings::{API_KEY_VARIABLE, CONFIG_VARIABLE, PREFIX, SETTINGS, Setting};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The command line.
    Flag(String),
    /// An environment variable.
    Environment(String),
    /// The settings' file.
    File(PathBuf, usize),
    /// The profile.
    Profile(String),
    /// Nowhere: the default holds.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag --{flag}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::Default => write!(f, "default"),
        }
    }
}

/// A value, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is `{value}`; expected {expected}; given by {origin}")]
pub(super) struct SettingError {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) expected: String,
    pub(super) origin: Origin,
}

/// What was given, by setting; settings that were not given are not in it.
#[derive(Debug, Default)]
pub(super) struct Layers {
    given: BTreeMap<&'static str, Given>,
}

impl Layers {
    /// Puts the layers over each other.
    pub(super) fn new(
        flags: &BTreeMap<&'static str, String>,
        variable: &dyn Fn(&str) -> Option<String>,
        file: &BTreeMap<&'static str, FileValue>,
    ) -> Self {
        let given = |setting: &'static Setting| {
            if let Some(text) = flags.get(setting.name) {
                return Some(Given { text: text.clone(), origin: Origin::Flag(setting.flag()) });
            }
            // An empty variable is how many tools say "not set".
            if let Some(text) = variable(&setting.variable()).filter(|text| !text.is_empty()) {
                return Some(Given { text, origin: Origin::Environment(setting.variable()) });
            }
            let value = file.get(setting.name)?;
            Some(Given { text: value.text.clone(), origin: Origin::File(value.path.clone(), value.line) })
        };
        Self { given: SETTINGS.iter().filter_map(|setting| Some((setting.name, given(setting)?))).collect() }
    }

    /// With a value of our own for a setting that was not given.
    pub(super) fn or(mut self, name: &'static str, text: &str) -> Self {
        self.given.entry(name).or_insert_with(|| Given { text: text.to_owned(), origin: Origin::Default });
        self
    }

    /// The value of a setting, if it was given.
    pub(super) fn given(&self, setting: &Setting) -> Option<&Given> {
        self.given.get(setting.name)
    }

    /// The value of a setting of no profile.
    ///
    /// # Panics
    /// If there is no such setting: the names are constants of this room.
    pub(super) fn value(&self, name: &str) -> Given {
        let setting = Setting::named(name).expect("a setting of the table");
        self.given(setting).cloned().unwrap_or_else(|| Given { text: setting.default.to_owned(), origin: Origin::Default })
    }

    /// The value of a setting as `read` understands it.
    pub(super) fn read<T>(
        &self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingError> {
        let Given { text, origin } = self.value(name);
        let value = read(text.trim());
        value.ok_or_else(|| SettingError { name, value: text, expected: expected.to_owned(), origin })
    }

    /// The values of a list.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let text = self.value(name).text;
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }
}

/// Variables that begin as settings do but are none: most likely misspelt.
pub(super) fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let known = |name: &str| {
        [API_KEY_VARIABLE, CONFIG_VARIABLE].contains(&name) || SETTINGS.iter().any(|setting| setting.variable() == name)
    };
    names.filter(|name| name.starts_with(PREFIX) && !known(name)).collect()
}
