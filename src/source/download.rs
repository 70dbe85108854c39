//! Downloads what a cache lacks of a model, into the layout that Hugging Face's own tools share.
//!
//! Promises: a file stands in a snapshot only after its size, and its SHA-256 or git's hash where
//! the hub names one, were checked. What was cut off goes on where it stopped, here or in Hugging
//! Face's tools. Two processes do not write one file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::directory::{CONFIG, INDEX, TOKENIZER, WEIGHTS, shards};
use super::fetch::{FetchError, Hub, Remote};
use super::{HubSettings, SourceError};

/// Attempts in a row that brought nothing; one that brought bytes starts the count again.
const FRUITLESS_ATTEMPTS_MAX: u32 = 5;
const BUFFER_BYTES: usize = 1 << 16;

/// What is being done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadStage {
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
    pub stage: DownloadStage,
    /// Bytes that are there, of all files.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// A repository as the hub lists it.
#[derive(Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub(super) sha: String,
    siblings: Vec<Listed>,
}

impl Listing {
    /// What is said of a file; `None` if there is none.
    pub(super) fn file(&self, name: &str) -> Option<&Listed> {
        self.siblings.iter().find(|listed| listed.rfilename == name)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    rfilename: String,
    /// Its length; a mirror may not say it.
    #[serde(default)]
    pub(super) size: Option<u64>,
    /// Git's hash.
    #[serde(default)]
    blob_id: Option<String>,
    /// Where the file is a large one.
    #[serde(default)]
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
}

impl Listed {
    /// What the listing says of the file, if it says enough; a mirror may not.
    pub(super) fn remote(&self) -> Option<Remote> {
        let git_hash = if self.lfs.is_some() { None } else { self.blob_id.clone() };
        let etag = self.lfs.as_ref().map(|large| &large.sha256).or(git_hash.as_ref())?;
        Some(Remote { etag: etag.clone(), size: self.size?, git_hash })
    }
}

/// One download of one model.
struct Download<'a> {
    model: &'a str,
    settings: &'a HubSettings,
    watch: &'a mut dyn FnMut(Transfer<'_>),
    hub: Hub,
    /// The cache's folder of this model.
    repository: &'a Path,
    /// The folder of this revision.
    snapshot: PathBuf,
    listing: Listing,
    done_bytes: u64,
    total_bytes: u64,
}

/// Completes the newest commit of the wanted revision of `model` in the cache, and returns its
/// directory.
pub(super) fn snapshot(
    model: &str,
    repository: &Path,
    settings: &HubSettings,
    watch: &mut dyn FnMut(Transfer<'_>),
) -> Result<PathBuf, SourceError> {
    fs::create_dir_all(repository).map_err(|source| disk(repository, &source))?;
    let said = |error: FetchError| refusal(model, "the list of files", settings, &error);
    let hub = Hub::new(&settings.endpoint, settings.token.clone()).map_err(said)?;
    let listing = list(&hub, model, settings).map_err(said)?;
    // All files from one commit: asked for by its hash, so that a push in the middle cannot mix
    // two.
    let snapshot = repository.join("snapshots").join(&listing.sha);
    let mut download = Download { model, settings, watch, hub, repository, snapshot, listing, done_bytes: 0, total_bytes: 0 };
    download.everything()?;
    let named = repository.join("refs").join(&settings.revision);
    if settings.revision != download.listing.sha {
        write_whole(&named, download.listing.sha.as_bytes()).map_err(|source| disk(&named, &source))?;
    }
    Ok(download.snapshot)
}

/// What the hub says that the repository holds.
pub(super) fn list(hub: &Hub, model: &str, settings: &HubSettings) -> Result<Listing, FetchError> {
    let revision = settings.revision.replace('/', "%2F");
    let text = hub.text(&format!("/api/models/{model}/revision/{revision}?blobs=true"))?;
    let odd = |message: String| FetchError::Network(message);
    let listing: Listing = serde_json::from_str(&text).map_err(|error| odd(format!("it sent no list: {error}")))?;
    if listing.sha.len() < 7 || !listing.sha.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(odd(format!("`{}` is no commit", listing.sha)));
    }
    Ok(listing)
}

impl Download<'_> {
    /// The small files, then the weights: one file, or the index and what it names.
    fn everything(&mut self) -> Result<(), SourceError> {
        for file in [CONFIG, TOKENIZER] {
            if self.listed(file).is_none() {
                return Err(self.not_a_checkpoint(file));
            }
        }
        let small = ["generation_config.json", "tokenizer_config.json"].into_iter().filter(|file| self.listed(file).is_some());
        let mut wanted: Vec<String> = [CONFIG, TOKENIZER].into_iter().chain(small).map(str::to_owned).collect();
        // A single file goes before an index beside it, as when the checkpoint is opened.
        if self.listed(WEIGHTS).is_none() && self.listed(INDEX).is_some() {
            self.file(INDEX)?;
            wanted.extend(shards(&self.snapshot.join(INDEX))?);
        } else {
            wanted.push(WEIGHTS.to_owned());
        }
        if let Some(absent) = wanted.iter().find(|file| self.listed(file).is_none()) {
            return Err(self.not_a_checkpoint(absent));
        }
        let sizes = self.listing.siblings.iter().filter(|file| wanted.contains(&file.rfilename));
        self.total_bytes = sizes.filter_map(|file| file.size).sum();
        self.done_bytes = 0;
        wanted.iter().try_for_each(|file| self.file(file))
    }

    fn listed(&self, file: &str) -> Option<&Listed> {
        self.listing.file(file)
    }

    fn not_a_checkpoint(&self, file: &str) -> SourceError {
        not_a_checkpoint(self.model, self.settings, file)
    }

    /// Brings one file into the snapshot, unless it is there.
    fn file(&mut self, file: &str) -> Result<(), SourceError> {
        if let Ok(present) = fs::metadata(self.snapshot.join(file)) {
            self.done_bytes += present.len();
            return Ok(());
        }
        let (mut fruitless, mut pause) = (0, self.settings.retry_pause);
        loop {
            let mut arrived_bytes = 0;
            let Err(error) = self.attempt(file, &mut arrived_bytes) else { return Ok(()) };
            // Wrong bytes are as fruitless as none.
            let is_progress = arrived_bytes > 0 && !matches!(error, FetchError::Corrupt(_));
            fruitless = if is_progress { 1 } else { fruitless + 1 };
            if !error.is_worth_retrying() || fruitless >= FRUITLESS_ATTEMPTS_MAX {
                return Err(self.failure(file, &error));
            }
            tracing::warn!(file, %error, "the download broke off; trying again");
            thread::sleep(pause);
            pause *= 2;
        }
    }

    /// One attempt; counts what it brought in `arrived_bytes`, also if it fails.
    fn attempt(&mut self, file: &str, arrived_bytes: &mut u64) -> Result<(), FetchError> {
        let path = format!("/{}/resolve/{}/{file}", self.model, self.listing.sha);
        let remote = match self.listed(file).and_then(Listed::remote) {
            Some(remote) => remote,
            None => self.hub.look(&path)?,
        };
        if remote.etag.len() < 7 || !remote.etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(FetchError::Network(format!("`{}` is no ETag of a hub", remote.etag)));
        }
        let blob = self.repository.join("blobs").join(&remote.etag);
        let _lock = self.lock(&remote.etag)?;
        if !blob.exists() {
            let part = blob.with_extension("incomplete");
            self.fetch(file, &path, &remote, &part, arrived_bytes)?;
            self.tell(file, DownloadStage::Verify, remote.size, remote.size);
            if let Err(error) = verify(&part, &remote) {
                fs::remove_file(&part)?;
                return Err(error);
            }
            fs::rename(&part, &blob)?;
        }
        self.link(file, &remote.etag)?;
        self.done_bytes += remote.size;
        Ok(())
    }

    /// Completes `part`.
    fn fetch(&mut self, file: &str, path: &str, remote: &Remote, part: &Path, arrived: &mut u64) -> Result<(), FetchError> {
        fs::create_dir_all(part.parent().expect("a part lies among the blobs"))?;
        let mut out = OpenOptions::new().create(true).append(true).open(part)?;
        let mut there = out.metadata()?.len();
        if there > remote.size {
            out.set_len(0)?;
            there = 0;
        }
        if there == remote.size {
            return Ok(());
        }
        let mut body = match self.hub.body(path, there) {
            Err(FetchError::Status(416)) => {
                out.set_len(0)?;
                return Err(FetchError::Status(416));
            }
            body => body?,
        };
        if body.from != there {
            // The server sends the whole file whatever part is asked for.
            out.set_len(0)?;
            there = 0;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        while there < remote.size {
            let count = match body.reader.read(&mut buffer) {
                Ok(0) => return Err(FetchError::Network(format!("it ended after {there} of {} bytes", remote.size))),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(FetchError::Network(error.to_string())),
            };
            out.write_all(&buffer[..count])?;
            there += count as u64;
            *arrived += count as u64;
            self.tell(file, DownloadStage::Fetch, there, remote.size);
        }
        Ok(out.sync_all()?)
    }

    fn tell(&mut self, file: &str, stage: DownloadStage, file_bytes: u64, size: u64) {
        (self.watch)(Transfer {
            model: self.model,
            file,
            stage,
            done_bytes: self.done_bytes + file_bytes,
            total_bytes: self.total_bytes.max(self.done_bytes + size.max(file_bytes)),
        });
    }

    /// The lock of a blob, where Hugging Face's tools look for it; held until the file is dropped.
    fn lock(&self, etag: &str) -> Result<File, FetchError> {
        let folder = self.repository.file_name().expect("a repository's folder has a name");
        let path = self.settings.cache.join(".locks").join(folder).join(format!("{etag}.lock"));
        fs::create_dir_all(path.parent().expect("a lock lies in a folder"))?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(FetchError::Locked(path)),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Puts the blob into the snapshot under the file's name.
    fn link(&self, file: &str, etag: &str) -> io::Result<()> {
        fs::create_dir_all(&self.snapshot)?;
        let link = self.snapshot.join(file);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        #[cfg(unix)]
        return std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), link);
        #[cfg(not(unix))]
        return fs::copy(self.repository.join("blobs").join(etag), link).map(drop);
    }

    fn failure(&self, file: &str, error: &FetchError) -> SourceError {
        match error {
            FetchError::Disk(source) if source.kind() == io::ErrorKind::StorageFull => SourceError::DiskFull {
                model: self.model.to_owned(),
                file: file.to_owned(),
                cache: self.settings.cache.clone(),
                needed_bytes: self.total_bytes,
            },
            FetchError::Disk(source) => disk(self.repository, source),
            error => refusal(self.model, file, self.settings, error),
        }
    }
}

/// Compares what was downloaded with what the hub says of it.
fn verify(path: &Path, remote: &Remote) -> Result<(), FetchError> {
    let found = fs::metadata(path)?.len();
    if found != remote.size {
        return Err(FetchError::Corrupt(format!("{found} bytes arrived, expected {}", remote.size)));
    }
    // Large files are named by the SHA-256 of their content, small ones by git's hash.
    let is_sha256 = remote.etag.len() == 64 && remote.etag.chars().all(|c| c.is_ascii_hexdigit());
    if is_sha256 && digest(path, Sha256::new())? != remote.etag.to_lowercase() {
        return Err(FetchError::Corrupt(format!("what arrived has not the SHA-256 {}", remote.etag)));
    }
    if let Some(git_hash) = &remote.git_hash {
        let begun = Sha1::new_with_prefix(format!("blob {found}\0"));
        if digest(path, begun)? != git_hash.to_lowercase() {
            return Err(FetchError::Corrupt(format!("what arrived has not git's hash {git_hash}")));
        }
    }
    Ok(())
}

/// The hexadecimal digits of a hash that goes on with the content of a file.
fn digest(path: &Path, mut hash: impl Digest) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Writes a small file that no reader sees half.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().expect("it lies in a folder"))?;
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes)?;
    fs::rename(draft, path)
}

/// A failure of the disk, with its place.
fn disk(path: &Path, source: &io::Error) -> SourceError {
    SourceError::Io { path: path.to_owned(), source: io::Error::new(source.kind(), source.to_string()) }
}

/// The error of a repository that lacks a file which every checkpoint has.
pub(super) fn not_a_checkpoint(model: &str, settings: &HubSettings, file: &str) -> SourceError {
    SourceError::NotACheckpoint { model: model.to_owned(), endpoint: settings.endpoint.clone(), file: file.to_owned() }
}

/// The error of a request, with what to do about it.
pub(super) fn refusal(model: &str, file: &str, settings: &HubSettings, error: &FetchError) -> SourceError {
    let (model, endpoint) = (model.to_owned(), settings.endpoint.clone());
    let advice = match error {
        FetchError::Status(401 | 403) => "set HF_TOKEN to a token that may read it",
        FetchError::Status(404) => "expected the name of a model that is there, and a revision that it has",
        FetchError::Status(429) => "it asks to come back later",
        _ => "",
    };
    match error {
        FetchError::Status(status) if !advice.is_empty() => SourceError::Refused { model, endpoint, status: *status, advice },
        error => SourceError::Network { model, file: file.to_owned(), endpoint, message: error.to_string() },
    }
}
