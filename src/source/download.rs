//! Downloads what a cache lacks of a model, through hf-hub.
//!
//! hf-hub resumes a file where it was cut off but neither checks what it got nor tries again by itself without fault (its own
//! retries may append a part twice). So it is asked for one attempt at a time, and its result is checked here: by size, and by
//! SHA-256 where the hub names it.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::directory::{CONFIG, INDEX, TOKENIZER, WEIGHTS, shards};
use super::{HubSettings, SourceError};

/// Attempts in a row that brought nothing; one that brought bytes starts the count again.
const FRUITLESS_ATTEMPTS_MAX: u32 = 5;

/// What is being done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is being downloaded.
    Fetch,
    /// It is there and is being compared with the hub's checksum.
    Verify,
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// The model.
    pub model: &'a str,
    /// The file.
    pub file: &'a str,
    /// What is being done to it.
    pub stage: Stage,
    /// Bytes that are there, of all files.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// A repository as the hub lists it.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
}

/// One download of one model.
struct Download<'a> {
    model: &'a str,
    settings: &'a HubSettings,
    watch: &'a mut dyn FnMut(Transfer<'_>),
    repo: ApiRepo,
    /// The cache's folder of this model.
    repository: &'a Path,
    /// The folder of this revision.
    snapshot: PathBuf,
    files: Vec<Listed>,
    done_bytes: u64,
    total_bytes: u64,
}

/// Completes the newest revision of `model` in the cache, and returns its directory.
pub(super) fn snapshot(
    model: &str,
    repository: &Path,
    settings: &HubSettings,
    watch: &mut dyn FnMut(Transfer<'_>),
) -> Result<PathBuf, SourceError> {
    fs::create_dir_all(repository).map_err(|source| SourceError::Io { path: repository.to_owned(), source })?;
    let cache = Cache::new(settings.cache.clone());
    let api = ApiBuilder::from_cache(cache.clone())
        .with_endpoint(settings.endpoint.clone())
        .with_token(settings.token.clone())
        .with_progress(false)
        .with_retries(0)
        .with_user_agent("antiphon", env!("CARGO_PKG_VERSION"))
        .build()
        .map_err(|error| refusal(model, "the list of files", settings, &error))?;
    let main = Repo::model(model.to_owned());
    let listing = list(&api.repo(main.clone()), model, settings)?;
    // All files from one commit: asked for by its hash, so that a push in the middle cannot mix two.
    let pinned = Repo::with_revision(model.to_owned(), RepoType::Model, listing.sha.clone());
    let mut download = Download {
        model,
        settings,
        watch,
        repo: api.repo(pinned),
        repository,
        snapshot: repository.join("snapshots").join(&listing.sha),
        files: listing.siblings,
        done_bytes: 0,
        total_bytes: 0,
    };
    download.everything()?;
    let path = download.snapshot;
    cache
        .repo(main)
        .create_ref(&listing.sha)
        .map_err(|source| SourceError::Io { path: repository.join("refs/main"), source })?;
    Ok(path)
}

/// What the hub says that the repository holds.
fn list(repo: &ApiRepo, model: &str, settings: &HubSettings) -> Result<Listing, SourceError> {
    let what = "the list of files";
    let network = |message: String| SourceError::Network {
        model: model.to_owned(),
        file: what.to_owned(),
        endpoint: settings.endpoint.clone(),
        message,
    };
    let response = repo.info_request().query("blobs", "true").call();
    let response = response.map_err(|error| refusal(model, what, settings, &ApiError::RequestError(Box::new(error))))?;
    let text = response.into_string().map_err(|error| network(error.to_string()))?;
    let listing: Listing = serde_json::from_str(&text).map_err(|error| network(format!("it sent no list: {error}")))?;
    if listing.sha.len() < 7 || !listing.sha.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(network(format!("`{}` is no commit", listing.sha)));
    }
    Ok(listing)
}

impl Download<'_> {
    /// The small files, then the index, then what it names.
    fn everything(&mut self) -> Result<(), SourceError> {
        for file in [CONFIG, TOKENIZER] {
            if !self.is_listed(file) {
                return Err(self.not_a_checkpoint(file));
            }
        }
        let small = ["generation_config.json", "tokenizer_config.json"].into_iter().filter(|file| self.is_listed(file));
        let mut wanted: Vec<String> = [CONFIG, TOKENIZER].into_iter().chain(small).map(str::to_owned).collect();
        if self.is_listed(INDEX) {
            self.file(INDEX)?;
            wanted.extend(shards(&self.snapshot.join(INDEX))?);
        } else {
            wanted.push(WEIGHTS.to_owned());
        }
        if let Some(absent) = wanted.iter().find(|file| !self.is_listed(file)) {
            return Err(self.not_a_checkpoint(absent));
        }
        let sizes = self.files.iter().filter(|file| wanted.contains(&file.rfilename));
        self.total_bytes = sizes.filter_map(|file| file.size).sum();
        self.done_bytes = 0;
        wanted.iter().try_for_each(|file| self.file(file))
    }

    fn is_listed(&self, file: &str) -> bool {
        self.files.iter().any(|listed| listed.rfilename == file)
    }

    fn not_a_checkpoint(&self, file: &str) -> SourceError {
        SourceError::NotACheckpoint {
            model: self.model.to_owned(),
            endpoint: self.settings.endpoint.clone(),
            file: file.to_owned(),
        }
    }

    /// Brings one file into the snapshot, unless it is there.
    fn file(&mut self, file: &str) -> Result<(), SourceError> {
        let path = self.snapshot.join(file);
        if let Ok(present) = fs::metadata(&path) {
            self.done_bytes += present.len();
            return Ok(());
        }
        let (mut fruitless, mut pause) = (0, self.settings.retry_pause);
        loop {
            let (bytes, error) = match self.attempt(file) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            fruitless = if bytes > 0 { 1 } else { fruitless + 1 };
            if !is_worth_retrying(&error) || fruitless >= FRUITLESS_ATTEMPTS_MAX {
                return Err(self.failure(file, &error));
            }
            tracing::warn!(file, %error, "the download broke off; trying again");
            thread::sleep(pause);
            pause *= 2;
        }
    }

    /// One attempt. An error comes with the bytes that were brought all the same.
    fn attempt(&mut self, file: &str) -> Result<(), (u64, ApiError)> {
        let (size, seen) = (Cell::new(0), Cell::new(0));
        let meter = Meter {
            report: &mut |bytes| {
                (self.watch)(Transfer {
                    model: self.model,
                    file,
                    stage: Stage::Fetch,
                    done_bytes: self.done_bytes + bytes,
                    total_bytes: self.total_bytes.max(self.done_bytes + size.get()),
                });
            },
            size: &size,
            seen: &seen,
            resumed: None,
        };
        let path = self.repo.download_with_progress(file, meter).map_err(|error| {
            self.drop_full_parts(&error, size.get());
            (seen.get(), error)
        })?;
        (self.watch)(Transfer {
            model: self.model,
            file,
            stage: Stage::Verify,
            done_bytes: self.done_bytes + size.get(),
            total_bytes: self.total_bytes.max(self.done_bytes + size.get()),
        });
        verify(&path, size.get()).map_err(|error| (0, error))?;
        self.done_bytes += size.get();
        Ok(())
    }

    /// A part as long as the file or longer cannot be resumed: the hub answers 416 for ever. It is dropped and fetched anew.
    fn drop_full_parts(&self, error: &ApiError, size: u64) {
        if !is_unresumable(error) {
            return;
        }
        let Ok(blobs) = fs::read_dir(self.repository.join("blobs")) else { return };
        for path in blobs.filter_map(Result::ok).map(|entry| entry.path()) {
            let is_part = path.extension().is_some_and(|extension| extension == "part");
            if is_part && fs::metadata(&path).is_ok_and(|part| part.len() >= size) {
                // If it cannot be removed, the next attempt fails the same way and says so.
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn failure(&self, file: &str, error: &ApiError) -> SourceError {
        match error {
            ApiError::IoError(source) if source.kind() == io::ErrorKind::StorageFull => SourceError::DiskFull {
                model: self.model.to_owned(),
                file: file.to_owned(),
                cache: self.settings.cache.clone(),
                needed_bytes: self.total_bytes,
            },
            ApiError::IoError(source) if is_local(source) => {
                SourceError::Io { path: self.repository.to_owned(), source: source.kind().into() }
            }
            error => refusal(self.model, file, self.settings, error),
        }
    }
}

/// Counts what hf-hub reports, and passes it on.
struct Meter<'a> {
    report: &'a mut dyn FnMut(u64),
    /// The file's size, as the hub says.
    size: &'a Cell<u64>,
    /// Bytes that came over the network.
    seen: &'a Cell<u64>,
    /// Bytes that were there before; hf-hub's first update tells them.
    resumed: Option<u64>,
}

impl Progress for Meter<'_> {
    fn init(&mut self, size: usize, _file: &str) {
        self.size.set(size as u64);
    }

    fn update(&mut self, bytes: usize) {
        match self.resumed {
            None => self.resumed = Some(bytes as u64),
            Some(_) => self.seen.set(self.seen.get() + bytes as u64),
        }
        (self.report)(self.resumed.unwrap_or(0) + self.seen.get());
    }

    fn finish(&mut self) {}
}

/// Compares a downloaded file with what the hub says of it, and removes it if it is another.
fn verify(path: &Path, size: u64) -> Result<(), ApiError> {
    let blob = fs::canonicalize(path)?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found = fs::metadata(&blob)?.len();
    // Large files are named by the SHA-256 of their content, small ones by git's hash.
    let is_sha256 = name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit());
    let message = if found != size {
        format!("{found} bytes arrived, expected {size}")
    } else if is_sha256 && sha256(&blob)? != name.to_lowercase() {
        format!("what arrived has not the SHA-256 {name}")
    } else {
        return Ok(());
    };
    fs::remove_file(path)?;
    fs::remove_file(&blob)?;
    Err(ApiError::IoError(io::Error::new(io::ErrorKind::InvalidData, message)))
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(request) => match request.as_ref() {
            ureq::Error::Status(status, _) => Some(*status),
            ureq::Error::Transport(_) => None,
        },
        _ => None,
    }
}

fn is_unresumable(error: &ApiError) -> bool {
    matches!(error, ApiError::InvalidResume) || status(error) == Some(416)
}

/// Whether the same request may go better a moment later.
fn is_worth_retrying(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(_) => status(error).is_none_or(|status| status == 416 || status == 429 || status >= 500),
        ApiError::IoError(source) => !is_local(source) && source.kind() != io::ErrorKind::StorageFull,
        ApiError::InvalidResume => true,
        _ => false,
    }
}

/// Whether the cache's disk is at fault, not the network.
fn is_local(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | NotADirectory | IsADirectory | NotFound)
}

/// The error of a request, with what to do about it.
fn refusal(model: &str, file: &str, settings: &HubSettings, error: &ApiError) -> SourceError {
    let (model, endpoint) = (model.to_owned(), settings.endpoint.clone());
    let advice = match status(error) {
        Some(401 | 403) => "set HF_TOKEN to a token that may read it",
        Some(404) => "expected the name of a model that is there",
        Some(429) => "it asks to come back later",
        _ => "",
    };
    match status(error) {
        Some(status) if !advice.is_empty() => SourceError::Refused { model, endpoint, status, advice },
        _ => {
            let message = match error {
                ApiError::LockAcquisition(lock) => format!("another process is downloading it ({})", lock.display()),
                ApiError::IoError(source) => source.to_string(),
                ApiError::RequestError(request) => request.to_string(),
                error => error.to_string(),
            };
            SourceError::Network { model, file: file.to_owned(), endpoint, message }
        }
    }
}
