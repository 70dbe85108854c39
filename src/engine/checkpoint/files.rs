//! Where a checkpoint's bytes come from: a directory that is mapped into memory, or bytes within
//! this binary.
//!
//! Promises: only regular files of the checkpoint itself are opened, whatever an index or a link
//! says.

use super::error::CheckpointError;
use antiphon_kernels::mmap::MappedFile;
use std::borrow::Cow;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest JSON file that is read; the index of the largest released model has 0.1 MB, its
/// tokenizer 28 MB.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// Where links in a checkpoint's directory may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkPolicy {
    /// To files of the checkpoint itself, and to the blobs of the cache that it lies in: its maker
    /// may be a stranger.
    #[default]
    Inside,
    /// To any regular file: the operator made them.
    Anywhere,
}

/// The files of a checkpoint, by name.
#[derive(Debug, Clone)]
pub struct CheckpointFiles(FileSource);

#[derive(Debug, Clone)]
enum FileSource {
    /// `root`: where the files lie; `bounds`: links lead into one of these folders; empty for links
    /// that may lead anywhere.
    Directory {
        root: PathBuf,
        bounds: Vec<PathBuf>,
    },
    Embedded(Vec<(&'static str, &'static [u8])>),
    Heads(Vec<FileHead>),
}

/// The beginning of a file that lies elsewhere; of a JSON file all of it.
#[derive(Debug, Clone)]
pub struct FileHead {
    /// Its name, without a directory.
    pub name: String,
    /// Its first bytes; of a safetensors file up to the end of the header.
    pub bytes: Arc<[u8]>,
    /// How many bytes the whole file has.
    pub file_bytes: usize,
}

/// The bytes of a file, without a copy; cheap to clone.
#[derive(Debug, Clone)]
pub enum FileBytes {
    /// Within this binary.
    Embedded(&'static [u8]),
    /// Mapped from disk.
    Mapped(Arc<MappedFile>),
    /// Converted from what a file holds.
    Converted(Arc<[u8]>),
    /// The first bytes of a file that has more.
    Head(FileHead),
}

impl FileBytes {
    /// How many bytes the file has.
    pub(super) fn file_bytes(&self) -> usize {
        match self {
            Self::Head(head) => head.file_bytes,
            whole => whole.len(),
        }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Embedded(bytes) => bytes,
            Self::Mapped(file) => file.bytes(),
            Self::Converted(bytes) => bytes,
            Self::Head(head) => &head.bytes,
        }
    }
}

impl CheckpointFiles {
    /// The files in `directory`, whose links lead inside.
    ///
    /// # Errors
    /// As [`Self::directory_with`].
    pub fn directory(directory: &Path) -> Result<Self, CheckpointError> {
        Self::directory_with(directory, LinkPolicy::Inside)
    }

    /// The files in `directory`.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is no directory or cannot be read.
    pub fn directory_with(directory: &Path, links: LinkPolicy) -> Result<Self, CheckpointError> {
        let file = directory.display().to_string();
        let root = match directory.canonicalize() {
            Ok(root) => root,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CheckpointError::FileMissing { file, expected: "a directory with a checkpoint".to_owned() });
            }
            Err(source) => return Err(CheckpointError::Unreadable { file, source }),
        };
        if !root.is_dir() {
            let problem = "not a directory, expected one with a checkpoint".to_owned();
            return Err(CheckpointError::FileRefused { file, problem });
        }
        // The Hugging Face cache keeps `snapshots/REVISION/NAME` as links to `blobs/HASH` beside
        // `snapshots`.
        let snapshots = root.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
        let repository = snapshots.and_then(Path::parent);
        let mut bounds = vec![repository.map_or_else(|| root.clone(), Path::to_path_buf)];
        // `blobs` may be a link itself, to another disk: a repository cannot put one there.
        bounds.extend(repository.and_then(|repository| repository.join("blobs").canonicalize().ok()));
        if links == LinkPolicy::Anywhere {
            bounds.clear();
        }
        Ok(Self(FileSource::Directory { root, bounds }))
    }

    /// Files within this binary, as names and contents; at any alignment.
    #[must_use]
    pub fn embedded(files: impl IntoIterator<Item = (&'static str, &'static [u8])>) -> Self {
        Self(FileSource::Embedded(files.into_iter().collect()))
    }

    /// Files of which only the beginnings are here: enough for an [`super::Outline`].
    #[must_use]
    pub fn heads(heads: Vec<FileHead>) -> Self {
        Self(FileSource::Heads(heads))
    }

    /// The folder where the files lie, if they do.
    pub(super) fn root(&self) -> Option<&Path> {
        if let FileSource::Directory { root, .. } = &self.0 { Some(root) } else { None }
    }

    /// The bytes of a file, mapped if it lies on disk; `None` if there is no such file.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is there but cannot be read, is no regular file, or lies outside
    /// of the checkpoint.
    pub fn bytes(&self, file: &str) -> Result<Option<FileBytes>, CheckpointError> {
        let Some(found) = self.find(file)? else { return Ok(None) };
        let path = match found {
            FoundFile::Embedded(bytes) => return Ok(Some(FileBytes::Embedded(bytes))),
            FoundFile::Head(head) => return Ok(Some(FileBytes::Head(head))),
            FoundFile::Path(path) => path,
        };
        let mapped = MappedFile::open(&path);
        let mapped = mapped.map_err(|source| CheckpointError::Unmappable { file: file.to_owned(), source })?;
        Ok(Some(FileBytes::Mapped(Arc::new(mapped))))
    }

    /// The content of a JSON file, read into memory; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`Self::bytes`], and if it is longer than any JSON file of a checkpoint.
    pub fn text(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>, CheckpointError> {
        let Some(found) = self.find(file)? else { return Ok(None) };
        let path = match found {
            FoundFile::Embedded(bytes) => return Ok(Some(Cow::Borrowed(bytes))),
            FoundFile::Head(head) if head.bytes.len() == head.file_bytes => return Ok(Some(Cow::Owned(head.bytes.to_vec()))),
            FoundFile::Head(_) => return Err(only_a_head(file)),
            FoundFile::Path(path) => path,
        };
        let length = path.metadata().map_err(|source| unreadable(file, source))?.len();
        if length > TEXT_BYTES_MAX {
            let problem = format!("the file has {length} bytes, expected at most {TEXT_BYTES_MAX}");
            return Err(CheckpointError::FileRefused { file: file.to_owned(), problem });
        }
        let text = std::fs::read(&path).map_err(|source| unreadable(file, source))?;
        Ok(Some(Cow::Owned(text)))
    }

    /// Where the file is, if it may be opened. Looks before it opens: opening a pipe would wait for
    /// its writer.
    fn find(&self, file: &str) -> Result<Option<FoundFile>, CheckpointError> {
        let (root, bounds) = match &self.0 {
            FileSource::Embedded(files) => {
                return Ok(files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| FoundFile::Embedded(bytes)));
            }
            FileSource::Heads(heads) => return Ok(heads.iter().find(|head| head.name == file).cloned().map(FoundFile::Head)),
            FileSource::Directory { root, bounds } => (root, bounds),
        };
        let refused = |problem: &str| CheckpointError::FileRefused { file: file.to_owned(), problem: problem.to_owned() };
        if !is_plain_name(file) {
            return Err(refused("expected the plain name of a file beside config.json"));
        }
        let named = root.join(file);
        let path = match named.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.symlink_metadata().is_err() => return Ok(None),
            Err(source) => return Err(unreadable(file, source)),
        };
        if !bounds.is_empty() && !bounds.iter().any(|bound| path.starts_with(bound)) {
            return Err(refused(
                "a link that leads out of the checkpoint, expected a file within it (or --model-links anywhere, for links of your own)",
            ));
        }
        let metadata = path.metadata().map_err(|source| unreadable(file, source))?;
        if !metadata.is_file() {
            return Err(refused("not a regular file (a directory, a pipe or a device), expected a regular file"));
        }
        Ok(Some(FoundFile::Path(path)))
    }
}

enum FoundFile {
    Embedded(&'static [u8]),
    Head(FileHead),
    Path(PathBuf),
}

/// Whether `file` names something directly in the checkpoint, on every system.
pub(super) fn is_plain_name(file: &str) -> bool {
    !file.is_empty() && file != "." && file != ".." && !file.contains(['/', '\\', '\0', ':'])
}

/// The error about a file whose content is needed and is not here.
pub(super) fn only_a_head(file: &str) -> CheckpointError {
    let problem = "only its beginning is here, expected the whole file".to_owned();
    CheckpointError::FileRefused { file: file.to_owned(), problem }
}

fn unreadable(file: &str, source: io::Error) -> CheckpointError {
    CheckpointError::Unreadable { file: file.to_owned(), source }
}
