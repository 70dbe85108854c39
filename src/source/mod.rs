//! Where a model's files come from: the binary itself, a directory, or the Hugging Face hub and its
//! cache.
//!
//! Owns: the meaning of `--model`, the embedded model, the hub's cache on disk. Promises: what
//! [`resolve`] returns has a config, a tokenizer and weights, all of one revision; a download that
//! was cut off goes on where it stopped; every failure is one message that names what was looked
//! for and where. Absent on purpose: what is inside the files.

mod directory;
mod download;
mod embedded;
mod fetch;
mod heads;
mod hub;
mod progress;

use std::path::{Path, PathBuf};

pub use download::{DownloadStage, Transfer};
pub use heads::{FetchedHead, ModelHeads};
pub use hub::HubSettings;
pub use progress::TerminalProgress;

/// What `--model` may be, for messages.
const EXPECTED: &str = "tiny, 20b, 120b, a directory, or org/name on the hub";

/// A model's files, found and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The full name: `openai/gpt-oss-20b`, the directory's name, or `tiny`.
    pub name: String,
    /// The name in answers, labels and cache keys: `gpt-oss-20b`.
    pub model_id: String,
    /// `20b`, `120b`, `tiny`; `custom` if the name does not say.
    pub model_size: String,
    /// The files.
    pub content: ModelContent,
}

/// Where the files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelContent {
    /// In the binary; each aligned to 64 bytes.
    Embedded(&'static [EmbeddedFile]),
    /// In this directory.
    Directory(PathBuf),
}

/// A file in the binary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedFile {
    /// Its name, without a directory.
    pub name: &'static str,
    /// What it holds.
    pub bytes: &'static [u8],
}

impl std::fmt::Debug for EmbeddedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}

/// Why there are no files to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nothing is called so.
    #[error("no model `{model}`; expected {EXPECTED}")]
    Unknown {
        /// What was asked for.
        model: String,
    },
    /// A path that is something else than a directory.
    #[error("{} is not a directory; expected the directory that holds config.json, tokenizer.json and the weights", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A file that must be there is not.
    #[error("{} has no {file}; expected {expected}", path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// The file.
        file: String,
        /// What a model's directory holds.
        expected: &'static str,
    },
    /// A file or directory that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The index of the shards does not say which files there are.
    #[error("{}: {message}; expected a weight_map from tensor names to safetensors files of the same directory", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The settings of the hub make no sense.
    #[error("{variable}={value}; expected {expected}")]
    Setting {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The revision is none, or the model has none.
    #[error("revision `{revision}`; expected {expected}")]
    Revision {
        /// What was asked for.
        revision: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The cache has no complete copy, and nothing may be downloaded.
    #[error("{model} is not complete in {} ({file} is missing) and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; expected a complete copy", cache.display())]
    Offline {
        /// The model.
        model: String,
        /// The cache.
        cache: PathBuf,
        /// The first file that is missing.
        file: String,
    },
    /// The hub has no such model, or does not show it to us.
    #[error("{endpoint} refuses {model} with status {status}; {advice}")]
    Refused {
        /// The model.
        model: String,
        /// The hub.
        endpoint: String,
        /// HTTP's status.
        status: u16,
        /// What to do about it.
        advice: &'static str,
    },
    /// The hub's repository lacks a file that a model needs.
    #[error("{model} on {endpoint} has no {file}; expected a checkpoint in Hugging Face's form with safetensors weights")]
    NotACheckpoint {
        /// The model.
        model: String,
        /// The hub.
        endpoint: String,
        /// The file.
        file: String,
    },
    /// The download broke off, again and again.
    #[error(
        "downloading {file} of {model} from {endpoint} failed: {message}; what is there is kept, starting again goes on with it"
    )]
    Network {
        /// The model.
        model: String,
        /// The file, or what else was asked for.
        file: String,
        /// The hub.
        endpoint: String,
        /// What went wrong.
        message: String,
    },
    /// No room for the files.
    #[error("no space left in {} while downloading {file}; expected {needed_bytes} bytes for {model} (HF_HOME may point elsewhere)", cache.display())]
    DiskFull {
        /// The model.
        model: String,
        /// The file.
        file: String,
        /// The cache.
        cache: PathBuf,
        /// Bytes of all its files.
        needed_bytes: u64,
    },
}

/// Finds the files of the model that `--model` names; without a name, those of the embedded one.
///
/// A name of the hub is looked up in its cache first; only what is missing there is downloaded, and
/// `watch` is told of it.
///
/// # Errors
/// [`SourceError`]; nothing of an incomplete model is returned.
pub fn resolve(model: Option<&str>, hub: &HubSettings, watch: &mut dyn FnMut(Transfer<'_>)) -> Result<ModelFiles, SourceError> {
    match named(model.unwrap_or("tiny"), hub)? {
        Named::Embedded => Ok(embedded::model_files()),
        Named::Hub(name) => hub::find(name, hub, watch),
        Named::Directory(path) => directory::model_files(path),
    }
}

/// What can be told of a model without its weights.
#[derive(Debug)]
pub enum Glance {
    /// It is here, whole.
    Here(ModelFiles),
    /// It would be downloaded.
    Away(ModelHeads),
}

/// As [`resolve`], but of a model that would be downloaded the small files and the headers of the
/// weights are brought into memory; nothing is stored.
///
/// # Errors
/// As [`resolve`].
pub fn glance(model: Option<&str>, hub: &HubSettings) -> Result<Glance, SourceError> {
    match named(model.unwrap_or("tiny"), hub)? {
        Named::Hub(name) => match hub::cached(name, hub)? {
            Some(files) => Ok(Glance::Here(files)),
            None => heads::of(name, hub).map(Glance::Away),
        },
        Named::Embedded => Ok(Glance::Here(embedded::model_files())),
        Named::Directory(path) => directory::model_files(path).map(Glance::Here),
    }
}

/// What a model's name stands for.
enum Named<'a> {
    Embedded,
    /// `org/name`.
    Hub(&'a str),
    Directory(&'a Path),
}

fn named<'a>(model: &'a str, hub: &HubSettings) -> Result<Named<'a>, SourceError> {
    let is_hub = matches!(model, "20b" | "120b") || (!Path::new(model).exists() && is_hub_name(model));
    if !is_hub && hub.revision != hub::MAIN {
        let expected = "none beside a model that is no repository of a hub";
        return Err(SourceError::Revision { revision: hub.revision.clone(), expected });
    }
    match model {
        "tiny" => Ok(Named::Embedded),
        "20b" => Ok(Named::Hub("openai/gpt-oss-20b")),
        "120b" => Ok(Named::Hub("openai/gpt-oss-120b")),
        _ if Path::new(model).exists() => Ok(Named::Directory(Path::new(model))),
        _ if is_hub_name(model) => Ok(Named::Hub(model)),
        _ => Err(SourceError::Unknown { model: model.to_owned() }),
    }
}

/// Whether the text is `org/name` as the hub allows it.
fn is_hub_name(text: &str) -> bool {
    let part = |part: &str| {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        plain && !part.is_empty() && !part.starts_with('.') && !part.contains("..")
    };
    text.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// A model's short name and size, from its full name.
fn id_and_size(name: &str) -> (String, String) {
    let id = name.rsplit('/').next().unwrap_or(name).to_owned();
    let lower = id.to_lowercase();
    let size = ["120b", "20b", "tiny"].into_iter().find(|size| lower.contains(size)).unwrap_or("custom");
    (id, size.to_owned())
}

/// Every name of a model under which clients may know it: what `--model` said, its full name, and
/// the name on the hub of a copy of OpenAI's models.
#[must_use]
pub fn names(given: &str, full: &str) -> Vec<String> {
    let (id, _) = id_and_size(full);
    let mut names = vec![given.to_owned(), full.to_owned(), id.clone()];
    if let Some(size) = id.strip_prefix("gpt-oss-").filter(|size| ["20b", "120b"].contains(size)) {
        names.extend([format!("openai/{id}"), size.to_owned()]);
    }
    names
}

#[cfg(test)]
mod tests;
