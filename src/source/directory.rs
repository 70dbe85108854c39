//! A model in a directory: what must lie in it, and what it is called.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ModelContent, ModelFiles, SourceError, id_and_size};
use crate::text_file;

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Longest index; that of the largest released model has 0.1 MB.
pub(super) const INDEX_MAX_BYTES: u64 = 1 << 26;
const EXPECTED: &str = "config.json, tokenizer.json and model.safetensors or model.safetensors.index.json with its shards";

/// The files of the model in `path`.
pub(super) fn model_files(path: &Path) -> Result<ModelFiles, SourceError> {
    if !path.is_dir() {
        return Err(SourceError::NotADirectory { path: path.to_owned() });
    }
    let path = fs::canonicalize(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
    if let Some(file) = first_missing(&path)? {
        return Err(SourceError::Incomplete { path, file, expected: EXPECTED });
    }
    let name = model_name(&path);
    let (model_id, model_size) = id_and_size(&name);
    Ok(ModelFiles { name, model_id, model_size, content: ModelContent::Directory(path) })
}

/// The first file that a model needs and `path` does not have.
pub(super) fn first_missing(path: &Path) -> Result<Option<String>, SourceError> {
    let missing = |file: &str| !path.join(file).is_file();
    for file in [CONFIG, TOKENIZER] {
        if missing(file) {
            return Ok(Some(file.to_owned()));
        }
    }
    // A single file goes before an index beside it, as when the checkpoint is opened.
    if missing(WEIGHTS) && !missing(INDEX) {
        return Ok(shards(&path.join(INDEX))?.into_iter().find(|shard| missing(shard)));
    }
    Ok(missing(WEIGHTS).then(|| WEIGHTS.to_owned()))
}

#[derive(Deserialize)]
struct FileIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// The shards that an index names, each once, in order.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, SourceError> {
    let text = text_file::read(index, INDEX_MAX_BYTES).map_err(|source| SourceError::Io { path: index.to_owned(), source })?;
    shards_in(&text, index)
}

/// The shards that the text of an index names; `index` is its place, for messages.
pub(super) fn shards_in(text: &str, index: &Path) -> Result<BTreeSet<String>, SourceError> {
    let wrong = |message: String| SourceError::Index { path: index.to_owned(), message };
    let read: FileIndex = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let shards: BTreeSet<String> = read.weight_map.into_values().collect();
    // A name that leads elsewhere would make a download write, and a server read, outside the
    // model's directory.
    let is_plain = |name: &&String| {
        let known = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        known && !name.starts_with('.') && name.ends_with(".safetensors")
    };
    match shards.iter().find(|name| !is_plain(name)) {
        Some(name) => Err(wrong(format!("`{name}` is not the name of a shard"))),
        None if shards.is_empty() => Err(wrong("it names no shard".to_owned())),
        None => Ok(shards),
    }
}

/// The directory's name; in a cache of the hub (`models--org--name/snapshots/commit`) the model's.
fn model_name(path: &Path) -> String {
    let named = |path: Option<&Path>| path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let (parent, grandparent): (Option<&Path>, Option<PathBuf>) =
        (path.parent(), path.parent().and_then(Path::parent).map(Path::to_owned));
    if named(parent).as_deref() == Some("snapshots") {
        let repository = named(grandparent.as_deref()).unwrap_or_default();
        if let Some(name) = repository.strip_prefix("models--") {
            return name.replacen("--", "/", 1);
        }
    }
    named(Some(path)).unwrap_or_else(|| "model".to_owned())
}
