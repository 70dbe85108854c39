//! The file of a KV store.
//!
//! ```text
//! 4096 bytes      what the file is: magic, places, sizes, the key of the hashes, the form of the
//!                 blocks in words, a checksum
//! places entries  what each place holds: when it was written, group, hashes, salt, tokens, the
//!                 checksum of its bytes, a checksum of the entry
//! places blocks   the bytes, from a multiple of 4096 on
//! ```
//!
//! Numbers are in 64 bits, lowest byte first. A block is written before its entry, and a reader
//! compares the entry with what it asks for and the bytes with their checksum. So whatever was cut
//! short, or fell on another block, is not found.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::StoreShape;
use crate::batch::{KvGroup, StoredBlock, TokenId};
use crate::engine::checksum::checksum;

/// A process that ends, or one that is just being started by another, keeps a lock for a moment
/// more: half a second's tries tell it from a server.
const LOCK_TRIES_MAX: usize = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

const MAGIC: &[u8; 16] = b"antiphon kv  1\n\0";
const HEAD_BYTES: usize = 4096;
/// Where the form begins in the head; before it stand its length and five other numbers.
const FORM_FROM: usize = 16 + 8 * 6;
/// An entry's bytes besides its tokens.
const ENTRY_BYTES: usize = 8 * 10;
const WORD: usize = 8;

/// Why a file does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreFileError {
    /// The lock is another's.
    #[error("{path} is in use by another process", path = .0.display())]
    InUse(PathBuf),
    /// The system refused.
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It could hold no block.
    #[error("{bytes_max} bytes hold no block of {block_bytes} bytes; expected --kv-store-bytes of more")]
    TooSmall { bytes_max: u64, block_bytes: usize },
}

/// A file that is open and locked.
#[derive(Debug)]
pub(super) struct StoreFile {
    file: File,
    shape: StoreShape,
    places: usize,
    key: [u64; 2],
}

impl StoreFile {
    /// Opens the file at `path`, or begins one there, of at most `bytes_max` bytes. One of another
    /// form, or that is damaged, is moved aside. `key` is that of a new file.
    pub(super) fn open(path: &Path, bytes_max: u64, shape: StoreShape, key: [u64; 2]) -> Result<Self, StoreFileError> {
        let failed = |source| StoreFileError::Io { path: path.to_owned(), source };
        let places = shape.places_in(bytes_max.saturating_sub(2 * HEAD_BYTES as u64), entry_bytes(&shape));
        if places == 0 {
            return Err(StoreFileError::TooSmall { bytes_max, block_bytes: shape.place_bytes() });
        }
        let file = locked(path)?;
        let mut store = Self { file, shape, places, key };
        if store.file.metadata().map_err(failed)?.len() == 0 {
            store.begin().map_err(failed)?;
            return Ok(store);
        }
        match store.read_head() {
            Ok((found, key)) if found == places => store.key = key,
            Ok((found, key)) => {
                tracing::warn!(path = %path.display(), found, places, "the KV store begins anew in another size");
                store.key = key;
                store.begin().map_err(failed)?;
            }
            Err(reason) => {
                let aside = PathBuf::from(format!("{}.aside", path.display()));
                std::fs::rename(path, &aside).map_err(failed)?;
                tracing::warn!(path = %path.display(), moved_to = %aside.display(), reason, "the KV store begins anew");
                store.file = locked(path)?;
                store.begin().map_err(failed)?;
            }
        }
        Ok(store)
    }

    pub(super) fn places(&self) -> usize {
        self.places
    }

    pub(super) fn key(&self) -> [u64; 2] {
        self.key
    }

    /// All entries that are whole, the one written first before the others, and a number above all
    /// of theirs.
    pub(super) fn scan(&self) -> io::Result<(Vec<StoredBlock>, u64)> {
        let mut table = vec![0; self.places * entry_bytes(&self.shape)];
        self.file.read_exact_at(&mut table, HEAD_BYTES as u64)?;
        let entries = table.chunks_exact(entry_bytes(&self.shape)).zip(0..);
        let mut found: Vec<StoredEntry> =
            entries.filter_map(|(bytes, place)| StoredEntry::read(bytes, place, self.shape.block_tokens)).collect();
        found.sort_by_key(|entry| entry.stamp);
        let next = found.last().map_or(1, |entry| entry.stamp + 1);
        Ok((found.into_iter().map(|entry| entry.block).collect(), next))
    }

    /// Writes a block to its place; `stamp`: later than those of the blocks that are worth less.
    pub(super) fn write(&self, block: &StoredBlock, stamp: u64, bytes: &[u8]) -> io::Result<()> {
        let entry = StoredEntry { stamp, block: block.clone(), bytes_checksum: checksum(bytes) };
        self.file.write_all_at(bytes, self.block_from(block.place))?;
        self.file.write_all_at(&entry.bytes(), self.entry_from(block.place))
    }

    /// The bytes of a block; `None` if its place holds another one, or is damaged.
    pub(super) fn read(&self, block: &StoredBlock) -> Option<Vec<u8>> {
        let mut entry = vec![0; entry_bytes(&self.shape)];
        self.file.read_exact_at(&mut entry, self.entry_from(block.place)).ok()?;
        let entry = StoredEntry::read(&entry, block.place, self.shape.block_tokens).filter(|entry| entry.block == *block)?;
        let mut bytes = vec![0; self.shape.bytes_of(block.group)];
        self.file.read_exact_at(&mut bytes, self.block_from(block.place)).ok()?;
        (checksum(&bytes) == entry.bytes_checksum).then_some(bytes)
    }

    /// Empties the file, and gives it its head and an empty table.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len((HEAD_BYTES + self.places * entry_bytes(&self.shape)) as u64)?;
        let form = self.shape.form.as_bytes();
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        let numbers = [self.places as u64, self.shape.place_bytes() as u64, self.shape.block_tokens as u64];
        let numbers = numbers.into_iter().chain(self.key).chain([form.len() as u64]);
        numbers.for_each(|number| head.extend_from_slice(&number.to_le_bytes()));
        head.extend_from_slice(form);
        head.resize(HEAD_BYTES - WORD, 0);
        head.extend_from_slice(&checksum(&head).to_le_bytes());
        self.file.write_all_at(&head, 0)
    }

    /// The same file through a handle that cannot write.
    #[cfg(test)]
    pub(super) fn read_only(self, path: &Path) -> Self {
        Self { file: File::open(path).expect("the file is there"), ..self }
    }

    /// How many places the file says that it has, and its key; or why it does not serve.
    fn read_head(&self) -> Result<(usize, [u64; 2]), String> {
        let mut head = vec![0; HEAD_BYTES];
        let read = self.file.read_exact_at(&mut head, 0);
        if !head.starts_with(MAGIC) {
            return Err("it is no KV store of this version".to_owned());
        }
        read.map_err(|error| format!("its head cannot be read: {error}"))?;
        let (content, sum) = head.split_at(HEAD_BYTES - WORD);
        if checksum(content) != number(sum) {
            return Err("its head is damaged".to_owned());
        }
        let at = |index: usize| number(&content[16 + WORD * index..]);
        let form = usize::try_from(at(5)).ok().and_then(|len| content.get(FORM_FROM..)?.get(..len));
        let own = &self.shape;
        if form != Some(own.form.as_bytes()) {
            let found = String::from_utf8_lossy(form.unwrap_or_default());
            return Err(format!("it is of another model or another arithmetic: {found}; expected {}", own.form));
        }
        if [at(1), at(2)] != [own.place_bytes() as u64, own.block_tokens as u64] {
            return Err("its blocks have another size".to_owned());
        }
        let table = (HEAD_BYTES as u64).saturating_add(at(0).saturating_mul(entry_bytes(own) as u64));
        let len = self.file.metadata().map_err(|error| error.to_string())?.len();
        if len < table {
            return Err(format!("it has {len} bytes, and its table ends at {table}: it was cut"));
        }
        Ok((usize::try_from(at(0)).unwrap_or(0), [at(3), at(4)]))
    }

    fn entry_from(&self, place: u32) -> u64 {
        (HEAD_BYTES + place as usize * entry_bytes(&self.shape)) as u64
    }

    fn block_from(&self, place: u32) -> u64 {
        let table = (HEAD_BYTES + self.places * entry_bytes(&self.shape)).next_multiple_of(HEAD_BYTES);
        (table + place as usize * self.shape.place_bytes()) as u64
    }
}

/// The file at `path`, for this process alone: what clients have sent is read from keys and values,
/// and their tokens stand in it.
fn locked(path: &Path) -> Result<File, StoreFileError> {
    let failed = |source| StoreFileError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    // Asked before it is opened: to open a pipe would be to wait.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    let mut tries = 0;
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::Error(source) => return Err(failed(source)),
            TryLockError::WouldBlock if tries == LOCK_TRIES_MAX => return Err(StoreFileError::InUse(path.to_owned())),
            TryLockError::WouldBlock => std::thread::sleep(LOCK_PAUSE),
        }
        tries += 1;
    }
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(file)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<WORD>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn entry_bytes(shape: &StoreShape) -> usize {
    // Tokens in whole words, so that all numbers are.
    ENTRY_BYTES + (4 * shape.block_tokens).next_multiple_of(WORD)
}

/// What a place holds.
#[derive(Debug)]
struct StoredEntry {
    /// Zero of an empty place.
    stamp: u64,
    block: StoredBlock,
    bytes_checksum: u64,
}

impl StoredEntry {
    fn bytes(&self) -> Vec<u8> {
        let StoredBlock { group, hash, before, salt, tokens, .. } = &self.block;
        let numbers = [self.stamp, u64::from(*group == KvGroup::Sliding)].into_iter();
        let numbers = numbers.chain(*hash).chain(*before).chain(*salt).chain([self.bytes_checksum]);
        let mut bytes: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        bytes.extend(tokens.iter().flat_map(|token| token.0.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(WORD), 0);
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes
    }

    /// `None` of an empty place, and of an entry that is damaged.
    fn read(bytes: &[u8], place: u32, block_tokens: usize) -> Option<Self> {
        let (content, sum) = bytes.split_at(bytes.len() - WORD);
        let at = |index: usize| number(&content[WORD * index..]);
        if at(0) == 0 || checksum(content) != number(sum) {
            return None;
        }
        let group = if at(1) == 0 { KvGroup::Global } else { KvGroup::Sliding };
        let (tokens, _) = content[WORD * 9..].as_chunks::<4>();
        let tokens = tokens.iter().take(block_tokens).map(|bytes| TokenId(u32::from_le_bytes(*bytes))).collect();
        let (hash, before, salt) = ([at(2), at(3)], [at(4), at(5)], [at(6), at(7)]);
        let block = StoredBlock { place, group, hash, before, salt, tokens };
        Some(Self { stamp: at(0), block, bytes_checksum: at(8) })
    }
}
