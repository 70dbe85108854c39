//! Packed weights in a file beside the checkpoint, so that a later start maps what the first one
//! packed.
//!
//! Owns: the file's form. Promises: only a whole file is used, of this checkpoint, in this form, of
//! which every byte was verified; a file appears under its name once it is whole. Absent: the order
//! in which matrices are packed, which is the order in which they are taken.
//!
//! The file: a page of [`Header`], the matrices, each from a page of its own on, a checksum of
//! eight bytes for every [`CHUNK`] bytes of them.

use crate::engine::checkpoint::Checkpoint;
use crate::engine::checksum::checksum;
use antiphon_kernels::cpu::{Format, Packed};
use antiphon_kernels::mmap::MappedFile;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The file's name in the checkpoint's folder, and what it is called when it is not to be used.
pub(super) const FILE: &str = "antiphon-packed.bin";
const ASIDE: &str = "antiphon-packed.bin.unusable";

/// What a file begins with; its last number changes with the order of packed bytes.
const MAGIC: &[u8; 16] = b"antiphon packed1";
/// Where matrices begin, and the size of the header.
const PAGE: usize = 4096;
/// Bytes for which there is a checksum.
const CHUNK: usize = 1 << 20;

/// What the file is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// The key of a checkpoint whose dense weights are kept as `dense`.
    pub(super) fn of(checkpoint: &Checkpoint, dense: Format) -> Self {
        Self(checkpoint.fingerprint(dense.name()).bytes())
    }
}

/// The first page: [`MAGIC`], the key, the bytes of the matrices, a checksum of the checksums.
struct Header {
    key: Key,
    body_bytes: u64,
    sums: u64,
}

impl Header {
    fn page(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..16].copy_from_slice(MAGIC);
        page[16..48].copy_from_slice(&self.key.0);
        page[48..56].copy_from_slice(&self.body_bytes.to_le_bytes());
        page[56..64].copy_from_slice(&self.sums.to_le_bytes());
        page
    }

    /// Of a file that begins as one.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.get(..PAGE)?.split_first_chunk::<16>()?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (body_bytes, rest) = rest.split_first_chunk::<8>()?;
        let (sums, _) = rest.split_first_chunk::<8>()?;
        let [body_bytes, sums] = [body_bytes, sums].map(|number| u64::from_le_bytes(*number));
        (magic == MAGIC).then_some(Self { key: Key(*key), body_bytes, sums })
    }
}

/// Packed matrices in a file, which are taken in the order in which they were written.
#[derive(Debug)]
pub(super) struct PackedFile {
    file: Arc<MappedFile>,
    next: usize,
}

impl PackedFile {
    /// Opens the file in `folder` and verifies all of it with `threads` threads; `None` if there is
    /// none. A file that is of something else or damaged is moved aside, with a line in the log.
    pub(super) fn open(folder: &Path, key: Key, body_bytes: usize, threads: usize) -> Option<Self> {
        let path = folder.join(FILE);
        let metadata = fs::symlink_metadata(&path).ok()?;
        let opened = if metadata.is_file() {
            MappedFile::open(&path).map_err(|error| error.to_string()).and_then(|file| {
                verify(&file, key, body_bytes, threads)?;
                Ok(file)
            })
        } else {
            Err("it is no regular file".to_owned())
        };
        match opened {
            Ok(file) => Some(Self { file: Arc::new(file), next: PAGE }),
            Err(problem) => {
                let aside = fs::rename(&path, folder.join(ASIDE));
                let path = path.display();
                let moved = aside.map_or_else(|error| format!("it stays: {error}"), |()| format!("it is {ASIDE} now"));
                tracing::warn!("{path} is not used, and weights are packed anew: {problem}; {moved}");
                None
            }
        }
    }

    /// The next matrix.
    pub(super) fn take(&mut self, format: Format, rows: usize, cols: usize) -> Packed {
        let start = self.next;
        self.next += format.bytes(rows, cols).next_multiple_of(PAGE);
        Packed::in_file(format, rows, cols, &self.file, start)
    }

    /// The file, to be asked whether it has changed.
    pub(super) fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }
}

/// Bytes that matrices take in a file.
pub(super) fn body_bytes(matrices: impl Iterator<Item = usize>) -> usize {
    matrices.map(|bytes| bytes.next_multiple_of(PAGE)).sum()
}

/// Checks that the file is of `key` and whole.
fn verify(file: &MappedFile, key: Key, body_bytes: usize, threads: usize) -> Result<(), String> {
    let bytes = file.bytes();
    let header = Header::read(bytes).ok_or_else(|| format!("expected a file that begins with `{}`", MAGIC.escape_ascii()))?;
    if header.key != key {
        return Err("it is of another checkpoint, or in another form".to_owned());
    }
    let wanted = PAGE + body_bytes + 8 * body_bytes.div_ceil(CHUNK);
    if header.body_bytes != body_bytes as u64 || bytes.len() != wanted {
        return Err(format!("it has {} bytes, expected {wanted}", bytes.len()));
    }
    let (body, sums) = bytes[PAGE..].split_at(body_bytes);
    if checksum(sums) != header.sums {
        return Err("its checksums are damaged".to_owned());
    }
    let (next, damaged) = (AtomicUsize::new(0), AtomicBool::new(false));
    let chunks: Vec<(&[u8], &[u8; 8])> = body.chunks(CHUNK).zip(sums.as_chunks().0).collect();
    let check = || {
        while let Some((chunk, sum)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if checksum(chunk) != u64::from_le_bytes(**sum) {
                damaged.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| _ = scope.spawn(check));
        check();
    });
    if damaged.into_inner() {
        return Err("its weights are damaged".to_owned());
    }
    file.check_unchanged().map_err(|error| error.to_string())
}

/// Writes the matrices into the file in `folder`.
///
/// # Errors
/// What the system says; nothing is left behind then.
pub(super) fn write<'a>(folder: &Path, key: Key, matrices: impl Iterator<Item = &'a Packed> + Clone) -> io::Result<()> {
    let partial = folder.join(format!("{FILE}.partial-{}", std::process::id()));
    let written = write_to(&partial, key, matrices).and_then(|()| fs::rename(&partial, folder.join(FILE)));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

fn write_to<'a>(path: &Path, key: Key, matrices: impl Iterator<Item = &'a Packed> + Clone) -> io::Result<()> {
    let body_bytes = body_bytes(matrices.clone().map(|packed| packed.groups_bytes().len()));
    let mut file = Summed { file: BufWriter::with_capacity(CHUNK, File::create(path)?), chunk: Vec::new(), sums: Vec::new() };
    file.file.write_all(&[0; PAGE])?;
    for packed in matrices {
        let bytes = packed.groups_bytes();
        file.add(bytes)?;
        file.add(&[0; PAGE][..bytes.len().next_multiple_of(PAGE) - bytes.len()])?;
    }
    let (mut file, sums) = file.finish()?;
    file.write_all(&sums)?;
    let header = Header { key, body_bytes: body_bytes as u64, sums: checksum(&sums) };
    let mut file = file.into_inner()?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
    file.write_all(&header.page())?;
    file.sync_all()
}

/// A file whose bytes are summed chunk by chunk while they are written.
struct Summed {
    file: BufWriter<File>,
    chunk: Vec<u8>,
    sums: Vec<u8>,
}

impl Summed {
    fn add(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sums.extend(checksum(&self.chunk).to_le_bytes());
        self.file.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<(BufWriter<File>, Vec<u8>)> {
        if !self.chunk.is_empty() {
            self.flush()?;
        }
        Ok((self.file, self.sums))
    }
}

#[cfg(test)]
#[path = "packed_file_tests.rs"]
mod tests;
