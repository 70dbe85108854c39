//! Files as bytes in memory, without reading them.
//!
//! Owns: the mapping of one file. Promises: only regular files are mapped; the bytes are those of
//! the file that was opened, however its name is used later. Absent: what the bytes mean.
//!
//! # A file that shrinks
//!
//! The kernel answers the read of a mapped page that the file no longer has with SIGBUS, which ends
//! a process. Downloads replace checkpoints by renaming, which leaves the mapped file alone, and
//! the mapping holds a shared lock, so that a writer that asks for the exclusive one waits. If the
//! file is cut all the same, `guard` puts zeros where it was, and [`MappedFile::check_unchanged`]
//! tells: asked before and after a computation it says whether its result is worth anything.

mod guard;

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use guard::Guard;

/// A file that cannot be mapped, or must not be used any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The system refused.
    #[error("cannot map {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, a pipe, a socket or a device.
    #[error("cannot map {path}: it is a {kind}, not a regular file", path = path.display())]
    NotAFile {
        /// What was found.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Another process holds the exclusive lock.
    #[error("cannot map {path}: another process has locked it for writing", path = path.display())]
    BeingWritten {
        /// The file.
        path: PathBuf,
    },
    /// The file was written to, or cut, since it was mapped.
    #[error("{path} has changed since it was opened: it had {before} bytes and has {after}", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Bytes when it was mapped.
        before: u64,
        /// Bytes now.
        after: u64,
    },
    /// A page could not be read: the file was cut, or its disk failed.
    #[error("{path} could not be read any more: it was cut, or its disk failed", path = path.display())]
    Lost {
        /// The file.
        path: PathBuf,
    },
}

/// A regular file, mapped for reading.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    // Also holds the shared lock.
    file: File,
    // Before the mapping: fields are dropped in this order.
    guard: Guard,
    map: memmap2::Mmap,
    modified: Option<SystemTime>,
}

impl MappedFile {
    /// Maps the file at `path`; a symbolic link is followed. An empty file has no bytes, which is
    /// not an error.
    ///
    /// # Errors
    /// [`MapError`] names the path: not there, not readable, not a regular file, or locked for
    /// writing.
    pub fn open(path: &Path) -> Result<Self, MapError> {
        let failed = |source| MapError::Io { path: path.to_owned(), source };
        // Asked before opening as well: to open a pipe without a writer is to wait for ever.
        check_regular(path, &std::fs::metadata(path).map_err(failed)?)?;
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        check_regular(path, &metadata)?;
        match file.try_lock_shared() {
            // A file system without locks protects nothing, but serves as well as it ever did.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => return Err(MapError::BeingWritten { path: path.to_owned() }),
        }
        // SAFETY: the file is a regular one and mapped read-only; nothing in this process writes to
        // it. If another process cuts it meanwhile, the guard below keeps the reads of it going,
        // and `check_unchanged` tells.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        let guard = Guard::new(&map).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, guard, map, modified: metadata.modified().ok() })
    }

    /// The file's bytes, at the start of a memory page.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the file is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Seconds and nanoseconds of the last change of its bytes or its entry, which no program can
    /// set; `None` where the system does not tell.
    #[must_use]
    pub fn changed(&self) -> Option<(i64, i64)> {
        #[cfg(unix)]
        return {
            use std::os::unix::fs::MetadataExt as _;
            self.file.metadata().ok().map(|metadata| (metadata.ctime(), metadata.ctime_nsec()))
        };
        #[cfg(not(unix))]
        None
    }

    /// Lets the system take back the memory of a part of the file that will hardly be read again; a
    /// read still finds it on disk.
    ///
    /// # Panics
    /// If the file has no such part.
    pub fn release(&self, range: std::ops::Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.map.len(), "bytes {range:?} of {}", self.map.len());
        #[cfg(target_os = "linux")]
        // SAFETY: the mapping is read-only and of a file, so that a page which was dropped comes
        // back with the same bytes. Nothing depends on it: where the system refuses, the memory
        // stays.
        let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    }

    /// Checks that the file was not written to since it was mapped.
    ///
    /// # Errors
    /// [`MapError::Changed`] if its length or time of modification is another, [`MapError::Lost`]
    /// if a page of it could not be read, [`MapError::Io`] if the system cannot say.
    pub fn check_unchanged(&self) -> Result<(), MapError> {
        let metadata = self.file.metadata().map_err(|source| MapError::Io { path: self.path.clone(), source })?;
        let before = self.map.len() as u64;
        if metadata.len() == before && metadata.modified().ok() == self.modified {
            let lost = || MapError::Lost { path: self.path.clone() };
            return if self.guard.is_lost() { Err(lost()) } else { Ok(()) };
        }
        Err(MapError::Changed { path: self.path.clone(), before, after: metadata.len() })
    }
}

fn check_regular(path: &Path, metadata: &Metadata) -> Result<(), MapError> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(MapError::NotAFile { path: path.to_owned(), kind: kind(metadata) })
}

#[cfg(unix)]
fn kind(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "directory",
        () if kind.is_fifo() => "pipe",
        () if kind.is_socket() => "socket",
        () => "device",
    }
}

#[cfg(not(unix))]
fn kind(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() { "directory" } else { "device" }
}

#[cfg(test)]
mod tests;
