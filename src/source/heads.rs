//! What a model of the hub is, before it is downloaded: its config, its index, and the headers of
//! its weights.
//!
//! Promises: nothing is stored; of a file with weights no byte is asked for but its header's.
//! Absent on purpose: what headers say.

use std::path::Path;
use std::thread;

use super::directory::{CONFIG, INDEX, INDEX_MAX_BYTES, TOKENIZER, WEIGHTS, shards_in};
use super::download::{Listing, list, not_a_checkpoint, refusal};
use super::fetch::{FetchError, Hub};
use super::{HubSettings, SourceError, id_and_size};

const GENERATION: &str = "generation_config.json";
/// Bytes before a safetensors header that hold its length.
const LENGTH_BYTES: u64 = 8;
/// Longest header that is fetched; a shard of the largest released model has one of 0.1 MB.
const HEADER_MAX_BYTES: u64 = 1 << 26;
/// How often a request is made, at most.
const ATTEMPTS_MAX: u32 = 5;

/// A model on the hub, its weights not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelHeads {
    /// The full name: `openai/gpt-oss-20b`.
    pub name: String,
    /// The name in answers, labels and cache keys: `gpt-oss-20b`.
    pub model_id: String,
    /// `20b`, `120b`; `custom` if the name does not say.
    pub model_size: String,
    /// The commit that the revision stands for.
    pub commit: String,
    /// The JSON files, whole, and the beginnings of the files with weights.
    pub files: Vec<FetchedHead>,
    /// Bytes that a download would bring, the tokenizer's included.
    pub download_bytes: u64,
}

/// The beginning of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedHead {
    /// Its name, without a directory.
    pub name: String,
    /// The first bytes, or all.
    pub bytes: Vec<u8>,
    /// The length of the whole file.
    pub file_bytes: u64,
}

/// Asks the hub for what there is to know of `model` (`org/name`).
pub(super) fn of(model: &str, settings: &HubSettings) -> Result<ModelHeads, SourceError> {
    let failed = |file: &str, error: &FetchError| refusal(model, file, settings, error);
    let hub = Hub::new(&settings.endpoint, settings.token.clone()).map_err(|error| failed("the list of files", &error))?;
    let listing = patiently(settings, || list(&hub, model, settings)).map_err(|error| failed("the list of files", &error))?;
    let reader = CommitReader { model, settings, hub, listing };
    let tokenizer_bytes = reader.length(TOKENIZER)?;
    let mut files = vec![reader.whole(CONFIG)?];
    if reader.listing.file(GENERATION).is_some() {
        files.push(reader.whole(GENERATION)?);
    }
    let mut weights = vec![WEIGHTS.to_owned()];
    // A single file goes before an index beside it, as when the checkpoint is opened.
    if reader.listing.file(WEIGHTS).is_none() && reader.listing.file(INDEX).is_some() {
        let index = reader.whole(INDEX)?;
        let place = Path::new(model).join(INDEX);
        weights = shards_in(&String::from_utf8_lossy(&index.bytes), &place)?.into_iter().collect();
        files.push(index);
    }
    for file in &weights {
        files.push(reader.head(file)?);
    }
    let (model_id, model_size) = id_and_size(model);
    let download_bytes = tokenizer_bytes + files.iter().map(|file| file.file_bytes).sum::<u64>();
    Ok(ModelHeads { name: model.to_owned(), model_id, model_size, commit: reader.listing.sha, files, download_bytes })
}

/// Asks again where that may help.
fn patiently<T>(settings: &HubSettings, ask: impl Fn() -> Result<T, FetchError>) -> Result<T, FetchError> {
    let mut pause = settings.retry_pause;
    for _ in 1..ATTEMPTS_MAX {
        match ask() {
            Err(error) if error.is_worth_retrying() => thread::sleep(pause),
            answer => return answer,
        }
        pause *= 2;
    }
    ask()
}

/// Reads one commit of a repository.
struct CommitReader<'a> {
    model: &'a str,
    settings: &'a HubSettings,
    hub: Hub,
    listing: Listing,
}

impl CommitReader<'_> {
    fn path(&self, file: &str) -> String {
        format!("/{}/resolve/{}/{file}", self.model, self.listing.sha)
    }

    /// Asks about a file.
    fn ask<T>(&self, file: &str, ask: impl Fn(&str) -> Result<T, FetchError>) -> Result<T, SourceError> {
        let path = self.path(file);
        patiently(self.settings, || ask(&path)).map_err(|error| refusal(self.model, file, self.settings, &error))
    }

    /// The length of a file that must be there.
    fn length(&self, file: &str) -> Result<u64, SourceError> {
        let listed = self.listing.file(file).ok_or_else(|| not_a_checkpoint(self.model, self.settings, file))?;
        listed.size.map_or_else(|| self.ask(file, |path| Ok(self.hub.look(path)?.size)), Ok)
    }

    /// All of a small file.
    fn whole(&self, file: &str) -> Result<FetchedHead, SourceError> {
        let file_bytes = self.length(file)?;
        self.bounded(file, file_bytes, INDEX_MAX_BYTES)?;
        let bytes = if file_bytes == 0 { Vec::new() } else { self.ask(file, |path| self.hub.part(path, 0, file_bytes))? };
        Ok(FetchedHead { name: file.to_owned(), bytes, file_bytes })
    }

    /// A safetensors file up to the end of its header.
    fn head(&self, file: &str) -> Result<FetchedHead, SourceError> {
        let file_bytes = self.length(file)?;
        self.bounded(file, LENGTH_BYTES, file_bytes)?;
        let mut bytes = self.ask(file, |path| self.hub.part(path, 0, LENGTH_BYTES))?;
        let length = u64::from_le_bytes(bytes[..].try_into().expect("as many as were asked for"));
        self.bounded(file, length, HEADER_MAX_BYTES.min(file_bytes - LENGTH_BYTES))?;
        if length > 0 {
            bytes.extend(self.ask(file, |path| self.hub.part(path, LENGTH_BYTES, length))?);
        }
        Ok(FetchedHead { name: file.to_owned(), bytes, file_bytes })
    }

    /// Refuses to fetch more than `most` bytes.
    fn bounded(&self, file: &str, bytes: u64, most: u64) -> Result<(), SourceError> {
        if bytes <= most {
            return Ok(());
        }
        let error = FetchError::Network(format!("it or its header has {bytes} bytes, expected at most {most}"));
        Err(refusal(self.model, file, self.settings, &error))
    }
}
