//! The Hugging Face hub's cache: `models--org--name/{refs,blobs,snapshots}`, shared with Hugging
//! Face's own tools.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::directory::first_missing;
use super::download::{self, Transfer};
use super::{ModelContent, ModelFiles, SourceError, id_and_size};
use crate::text_file;

/// Longest file with a token or a commit in it.
const LINE_MAX_BYTES: u64 = 1 << 12;

/// The revision that a repository is known by.
pub(super) const MAIN: &str = "main";

/// Where the hub and its cache are; the environment variables are those of Hugging Face's own
/// tools.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// `HF_HUB_CACHE` (or `HUGGINGFACE_HUB_CACHE`), else `HF_HOME/hub`, else
    /// `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN` (or `HUGGING_FACE_HUB_TOKEN`), else what the file `HF_TOKEN_PATH` or
    /// `HF_HOME/token` holds. Only the endpoint sees it.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`: nothing is downloaded.
    pub offline: bool,
    /// A branch, a tag or a commit of the model's repository; no variable sets it.
    pub revision: String,
    /// How long to wait before a download that broke off is taken up again; doubles each time.
    pub retry_pause: Duration,
}

impl std::fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "(secret)");
        f.debug_struct("HubSettings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .field("offline", &self.offline)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl HubSettings {
    /// The settings of this process's environment.
    ///
    /// # Errors
    /// [`SourceError::Setting`] if a variable makes no sense.
    pub fn from_environment() -> Result<Self, SourceError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The settings that `variable` tells, a look-up of environment variables.
    ///
    /// # Errors
    /// As [`HubSettings::from_environment`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SourceError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        // Without HOME (a bare container) the cache is a folder of the temporary one.
        let user = set("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = |name: &str| {
            set(name).map(|value| value.strip_prefix("~/").map_or_else(|| PathBuf::from(&value), |rest| user.join(rest)))
        };
        let user_cache = path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache"));
        let home = path("HF_HOME").unwrap_or_else(|| user_cache.join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| text_file::read(&token_file, LINE_MAX_BYTES).ok());
        let offline = |variable: &'static str| match set(variable).map(|value| value.to_lowercase()).as_deref() {
            Some("1" | "true" | "yes" | "on") => Ok(true),
            None | Some("0" | "false" | "no" | "off") => Ok(false),
            Some(value) => Err(SourceError::Setting { variable, value: value.to_owned(), expected: "1 or 0" }),
        };
        let offline = offline("HF_HUB_OFFLINE")? || offline("TRANSFORMERS_OFFLINE")?;
        Ok(Self {
            cache,
            endpoint: checked_endpoint(&endpoint)?,
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline,
            revision: MAIN.to_owned(),
            retry_pause: Duration::from_secs(1),
        })
    }
}

/// The endpoint without a slash at its end, if it is the address of a server.
fn checked_endpoint(endpoint: &str) -> Result<String, SourceError> {
    let trimmed = endpoint.trim().trim_end_matches('/');
    let host = trimmed.strip_prefix("https://").or_else(|| trimmed.strip_prefix("http://")).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/[]@".contains(c);
    if host.is_empty() || host.starts_with(['/', ':']) || !host.chars().all(plain) {
        return Err(SourceError::Setting {
            variable: "HF_ENDPOINT",
            value: endpoint.to_owned(),
            expected: "an address like https://huggingface.co",
        });
    }
    Ok(trimmed.to_owned())
}

/// The files of `model` (`org/name`), from the cache or, where it lacks some, from the hub.
pub(super) fn find(
    model: &str,
    settings: &HubSettings,
    watch: &mut dyn FnMut(Transfer<'_>),
) -> Result<ModelFiles, SourceError> {
    match cached(model, settings)? {
        Some(files) => Ok(files),
        None => Ok(model_files(model, download::snapshot(model, &repository(model, settings), settings, watch)?)),
    }
}

fn model_files(model: &str, path: PathBuf) -> ModelFiles {
    let (model_id, model_size) = id_and_size(model);
    ModelFiles { name: model.to_owned(), model_id, model_size, content: ModelContent::Directory(path) }
}

/// The cache's folder of a model.
fn repository(model: &str, settings: &HubSettings) -> PathBuf {
    settings.cache.join(format!("models--{}", model.replace('/', "--")))
}

/// The files of `model` if the cache has them all; `None` if the hub is to be asked, which is an
/// error where that is forbidden.
pub(super) fn cached(model: &str, settings: &HubSettings) -> Result<Option<ModelFiles>, SourceError> {
    let repository = repository(model, settings);
    let revision = settings.revision.as_str();
    if !is_revision(revision) {
        return Err(SourceError::Revision { revision: revision.to_owned(), expected: "a branch, a tag or a commit" });
    }
    let snapshot = cached_snapshot(&repository, revision);
    let missing = match &snapshot {
        Some(snapshot) => first_missing(snapshot)?,
        // A cache that was copied without its refs holds files, but not which of them the revision
        // is.
        None if repository.join("snapshots").is_dir() => Some(format!("refs/{revision}")),
        None => Some(super::directory::CONFIG.to_owned()),
    };
    match (snapshot, missing) {
        (Some(snapshot), None) => Ok(Some(model_files(model, snapshot))),
        (_, Some(file)) if settings.offline => {
            Err(SourceError::Offline { model: model.to_owned(), cache: settings.cache.clone(), file })
        }
        _ => Ok(None),
    }
}

/// The directory of a revision in the cache: of the commit that its name stands for, or of the
/// commit itself.
fn cached_snapshot(repository: &Path, revision: &str) -> Option<PathBuf> {
    let named = text_file::read(&repository.join("refs").join(revision), LINE_MAX_BYTES).ok();
    let commit = named.as_deref().map_or(revision, str::trim);
    let snapshot = repository.join("snapshots").join(commit);
    snapshot.is_dir().then_some(snapshot)
}

/// Whether the text may name a revision: it becomes a part of paths.
fn is_revision(text: &str) -> bool {
    let part = |part: &str| {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        plain && !part.is_empty() && !part.starts_with('.')
    };
    text.len() <= 128 && text.split('/').all(part)
}
