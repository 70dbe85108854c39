//! Responses and conversations that clients asked to be kept: records of bytes by id, in one file
//! or in memory.
//!
//! Owns: the file, and the key that reasoning is sealed with. Promises: what is kept is bounded by
//! age and by size, least recently used first. A record is found as soon as it is put, and reaches
//! the disk within 0.2 s, or by [`ResponseStore::flush`]. A file that is damaged, or another
//! program's, is moved aside at the start; one that cannot be written, or is removed while it is
//! open, is opened again every 5 s. Every call may wait for the disk: callers are no threads that
//! serve connections. Absent on purpose: what a record says, and the clock.

mod file;
mod flusher;
mod seal;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use file::DatabaseSlot;
use flusher::Flusher;
pub use seal::Seal;

/// A record by its id: its owner, when it was last used in seconds since 1970, and what it says.
const RECORDS: TableDefinition<&str, (&[u8], u64, &[u8])> = TableDefinition::new("responses");
/// The records by their last use, each with its size in bytes.
const BY_USE: TableDefinition<(u64, &str), u64> = TableDefinition::new("by_use");
/// What the file is, and the key.
const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("antiphon");
/// How large all records are.
const TOTALS: TableDefinition<&str, u64> = TableDefinition::new("totals");

const FORMAT: &[u8] = b"responses, 1";
const BYTES: &str = "bytes";
/// What a record takes besides what it says: its id twice, its place in two trees.
const RECORD_BYTES: u64 = 256;
/// Pages that are kept in memory besides a store in memory, whose pages are there already.
const MEMORY_CACHE_BYTES: usize = 1 << 20;
/// When a record was last used that is to be put again before it counts as used: it is the last one
/// to make room.
const UNDER_WAY: u64 = u64::MAX;
/// A record counts as used again no sooner than this after its last use.
const USED_AGAIN_SECONDS: u64 = 3_600;

/// How long a file that failed is left alone before it is opened again.
const RETRY: Duration = Duration::from_secs(5);

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Bytes of all records; the file is somewhat larger.
    pub bytes_max: u64,
    /// How long after its last use a record is kept.
    pub age_max_seconds: u64,
}

impl Default for StoreLimits {
    /// 64 MiB, and 30 days, as long as OpenAI keeps them.
    fn default() -> Self {
        Self { bytes_max: 64 << 20, age_max_seconds: 30 * 24 * 3_600 }
    }
}

/// Why the store does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{} is in use by another process; give each server a file of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("{} cannot be opened as a response store: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be read or written.
    #[error("the response store cannot be used: {0}")]
    Storage(#[from] Box<redb::Error>),
    /// It could not be written or opened a moment ago, and was not tried again.
    #[error("the response store cannot be used for the moment: {0}")]
    Failed(String),
    /// A record that is larger than all records may be.
    #[error("a response of {bytes} bytes is larger than the response store, which holds {bytes_max}")]
    TooLarge {
        /// How large it is.
        bytes: u64,
        /// How large the store may be.
        bytes_max: u64,
    },
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Whose it is, as it was put.
    pub owner: Vec<u8>,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// The store; cheap to clone.
#[derive(Debug, Clone)]
pub struct ResponseStore(Arc<StoreShared>);

#[derive(Debug)]
struct StoreShared {
    /// `None` keeps nothing.
    slot: Option<Arc<DatabaseSlot>>,
    limits: StoreLimits,
    seal: Seal,
    flusher: Option<Flusher>,
}

/// Whatever redb complains of, as one kind.
fn storage<E: Into<redb::Error>>(error: E) -> StoreError {
    StoreError::Storage(Box::new(error.into()))
}

impl ResponseStore {
    /// A store that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(Arc::new(StoreShared { slot: None, limits: StoreLimits::default(), seal: Seal::drawn(), flusher: None }))
    }

    /// A store that is gone with the process.
    #[must_use]
    pub fn in_memory(limits: StoreLimits) -> Self {
        let mut builder = Builder::new();
        let database = builder.set_cache_size(MEMORY_CACHE_BYTES).create_with_backend(InMemoryBackend::new()).map_err(storage);
        let opened = database.and_then(|database| Self::of(database, limits, None, RETRY));
        opened.expect("memory takes what is written to it")
    }

    /// The store in the file at `path`, which is made if it is not there. A file that is damaged,
    /// or none of this server's, is moved aside to a name that ends in `now_seconds`.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Open`], or what the disk says to a new file.
    pub fn open(path: &Path, limits: StoreLimits, now_seconds: u64) -> Result<Self, StoreError> {
        let database = match file::opened(path)? {
            Ok(database) => database,
            Err(reason) => {
                let aside = path.with_extension(format!("damaged-{now_seconds}"));
                std::fs::rename(path, &aside).map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
                tracing::warn!(path = %path.display(), moved_to = %aside.display(), reason, "the response store begins anew");
                file::opened(path)?.map_err(|reason| {
                    let source = io::Error::other(format!("a new file cannot be used: {reason}"));
                    StoreError::Open { path: path.to_owned(), source }
                })?
            }
        };
        let store = Self::of(database, limits, Some(path), RETRY)?;
        store.begin_anew(now_seconds)?;
        Ok(store)
    }

    fn of(database: Database, limits: StoreLimits, path: Option<&Path>, retry: Duration) -> Result<Self, StoreError> {
        let slot = Arc::new(DatabaseSlot::new(database, path, retry)?);
        let flusher = path.is_some().then(|| Flusher::start(Arc::clone(&slot), retry));
        Ok(Self(Arc::new(StoreShared { seal: slot.seal(), slot: Some(slot), limits, flusher })))
    }

    /// Whether it keeps anything.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.slot.is_some()
    }

    /// Why what is put at this moment is not kept, if it is not. Waits for nothing.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.0.slot.as_ref().and_then(|slot| slot.problem())
    }

    /// What reasoning is sealed with.
    #[must_use]
    pub fn seal(&self) -> &Seal {
        &self.0.seal
    }

    /// Keeps a record, in place of one with the same id; others make room.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Storage`].
    pub fn put(&self, id: &str, owner: &[u8], bytes: &[u8], now_seconds: u64) -> Result<(), StoreError> {
        self.put_used(id, owner, bytes, now_seconds, now_seconds)
    }

    /// Keeps a record that is to be put again once it is whole; until then it makes room for others
    /// last, and is of any age.
    ///
    /// # Errors
    /// As [`ResponseStore::put`].
    pub fn put_under_way(&self, id: &str, owner: &[u8], bytes: &[u8], now_seconds: u64) -> Result<(), StoreError> {
        self.put_used(id, owner, bytes, UNDER_WAY, now_seconds)
    }

    fn put_used(&self, id: &str, owner: &[u8], bytes: &[u8], used: u64, now_seconds: u64) -> Result<(), StoreError> {
        let (size, bytes_max) = (size_of(owner, bytes), self.0.limits.bytes_max);
        if size > bytes_max {
            return Err(StoreError::TooLarge { bytes: size, bytes_max });
        }
        self.change(|tables| {
            // What was under way when the file failed has perhaps ended since.
            if self.0.slot.as_ref().is_some_and(|slot| slot.take_reopened()) {
                tables.settle(now_seconds)?;
            }
            tables.remove(id)?;
            tables.insert(id, owner, used, bytes)?;
            tables.evict(self.0.limits, now_seconds)
        })
    }

    /// Puts in a record's place what `work` makes of it, if anything; false if there is none.
    ///
    /// # Errors
    /// As [`ResponseStore::put`]; then the record stays.
    pub fn update(
        &self,
        id: &str,
        now_seconds: u64,
        work: impl FnOnce(&StoredRecord) -> Option<Vec<u8>>,
    ) -> Result<bool, StoreError> {
        let (limits, mut is_there) = (self.0.limits, false);
        let oldest = now_seconds.saturating_sub(limits.age_max_seconds);
        self.change(|tables| {
            let Some((used, found)) = tables.find(id)?.filter(|(used, _)| *used >= oldest) else { return Ok(()) };
            is_there = true;
            let Some(bytes) = work(&found) else { return Ok(()) };
            let size = size_of(&found.owner, &bytes);
            if size > limits.bytes_max {
                return Err(StoreError::TooLarge { bytes: size, bytes_max: limits.bytes_max });
            }
            tables.remove(id)?;
            tables.insert(id, &found.owner, used.max(now_seconds), &bytes)?;
            tables.evict(limits, now_seconds)
        })?;
        Ok(is_there)
    }

    /// Brings to the disk what was put; nothing for a store in memory.
    pub fn flush(&self) {
        if let Some(flusher) = &self.0.flusher {
            flusher.flush();
        }
    }

    /// The record with this id, unless it is too old.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub fn get(&self, id: &str, now_seconds: u64) -> Result<Option<StoredRecord>, StoreError> {
        let oldest = now_seconds.saturating_sub(self.0.limits.age_max_seconds);
        let found = self.read(|read| {
            let table = read.open_table(RECORDS).map_err(storage)?;
            let found = table.get(id).map_err(storage)?;
            Ok(found.and_then(|record| {
                let (owner, used, bytes) = record.value();
                (used >= oldest).then(|| StoredRecord { owner: owner.to_vec(), bytes: bytes.to_vec() })
            }))
        })?;
        Ok(found.flatten())
    }

    /// How much is kept.
    #[must_use]
    pub fn limits(&self) -> StoreLimits {
        self.0.limits
    }

    /// Shows `look` each record whose id begins with `prefix`, by id: its id, its owner, what it
    /// says. Records that are too old are left out.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub fn visit(&self, prefix: &str, now_seconds: u64, mut look: impl FnMut(&str, &[u8], &[u8])) -> Result<(), StoreError> {
        let oldest = now_seconds.saturating_sub(self.0.limits.age_max_seconds);
        self.read(|read| {
            let table = read.open_table(RECORDS).map_err(storage)?;
            for entry in table.range(prefix..).map_err(storage)? {
                let (id, record) = entry.map_err(storage)?;
                let (owner, used, bytes) = record.value();
                if !id.value().starts_with(prefix) {
                    break;
                }
                if used >= oldest {
                    look(id.value(), owner, bytes);
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Counts records as used now, so that a conversation that goes on keeps its beginning.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub fn touch(&self, ids: &[String], now_seconds: u64) -> Result<(), StoreError> {
        let mut due = Vec::new();
        self.read(|read| {
            let table = read.open_table(RECORDS).map_err(storage)?;
            for id in ids {
                let used = table.get(id.as_str()).map_err(storage)?.map(|record| record.value().1);
                if used.is_some_and(|used| used.saturating_add(USED_AGAIN_SECONDS) < now_seconds) {
                    due.push(id);
                }
            }
            Ok(())
        })?;
        if due.is_empty() {
            return Ok(());
        }
        self.change(|tables| {
            for id in due {
                if let Some(StoredRecord { owner, bytes }) = tables.remove(id)? {
                    tables.insert(id, &owner, now_seconds, &bytes)?;
                }
            }
            Ok(())
        })
    }

    /// Forgets a record; true if it was there.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub fn delete(&self, id: &str) -> Result<bool, StoreError> {
        let mut found = false;
        self.change(|tables| {
            found = tables.remove(id)?.is_some();
            Ok(())
        })?;
        Ok(found)
    }

    /// Forgets all records whose ids begin with `prefix`.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub fn delete_all(&self, prefix: &str) -> Result<(), StoreError> {
        let mut ids = Vec::new();
        self.visit(prefix, 0, |id, _, _| ids.push(id.to_owned()))?;
        self.change(|tables| ids.iter().try_for_each(|id| tables.remove(id).map(drop)))
    }

    /// Forgets what is too old or too much. What was under way when the server before stopped
    /// counts as used now.
    fn begin_anew(&self, now_seconds: u64) -> Result<(), StoreError> {
        self.change(|tables| {
            tables.settle(now_seconds)?;
            tables.evict(self.0.limits, now_seconds)
        })
    }

    /// How large all records are.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub fn bytes(&self) -> Result<u64, StoreError> {
        let total = self.read(|read| {
            let table = read.open_table(TOTALS).map_err(storage)?;
            Ok(table.get(BYTES).map_err(storage)?.map_or(0, |total| total.value()))
        })?;
        Ok(total.unwrap_or(0))
    }

    /// What is read at one moment; `None` from a store that keeps nothing.
    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        let Some(slot) = &self.0.slot else { return Ok(None) };
        let read = slot.database()?.begin_read().map_err(storage);
        slot.checked(read.and_then(|read| work(&read))).map(Some)
    }

    /// One change, seen by all or by none.
    fn change(&self, work: impl FnOnce(&mut RecordTables<'_>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let Some(slot) = &self.0.slot else { return Ok(()) };
        slot.checked(changed(&*slot.database()?, work))?;
        if let Some(flusher) = &self.0.flusher {
            flusher.wake();
        }
        Ok(())
    }
}

fn changed(database: &Database, work: impl FnOnce(&mut RecordTables<'_>) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let mut write = database.begin_write().map_err(storage)?;
    write.set_durability(Durability::None).map_err(storage)?;
    {
        let mut tables = RecordTables {
            records: write.open_table(RECORDS).map_err(storage)?,
            by_use: write.open_table(BY_USE).map_err(storage)?,
            totals: write.open_table(TOTALS).map_err(storage)?,
        };
        work(&mut tables)?;
    }
    write.commit().map_err(storage)
}

/// The tables of a change under way.
struct RecordTables<'a> {
    records: redb::Table<'a, &'static str, (&'static [u8], u64, &'static [u8])>,
    by_use: redb::Table<'a, (u64, &'static str), u64>,
    totals: redb::Table<'a, &'static str, u64>,
}

impl RecordTables<'_> {
    fn insert(&mut self, id: &str, owner: &[u8], used: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let size = size_of(owner, bytes);
        self.records.insert(id, (owner, used, bytes)).map_err(storage)?;
        self.by_use.insert((used, id), size).map_err(storage)?;
        let total = self.total()? + size;
        self.totals.insert(BYTES, total).map_err(storage)?;
        Ok(())
    }

    /// When a record was last used, and the record.
    fn find(&self, id: &str) -> Result<Option<(u64, StoredRecord)>, StoreError> {
        Ok(self.records.get(id).map_err(storage)?.map(|record| {
            let (owner, used, bytes) = record.value();
            (used, StoredRecord { owner: owner.to_vec(), bytes: bytes.to_vec() })
        }))
    }

    fn remove(&mut self, id: &str) -> Result<Option<StoredRecord>, StoreError> {
        let Some((used, StoredRecord { owner, bytes })) = self.find(id)? else { return Ok(None) };
        self.records.remove(id).map_err(storage)?;
        self.by_use.remove((used, id)).map_err(storage)?;
        let total = self.total()?.saturating_sub(size_of(&owner, &bytes));
        self.totals.insert(BYTES, total).map_err(storage)?;
        Ok(Some(StoredRecord { owner, bytes }))
    }

    /// Counts what is under way as used now: it has an age from now on.
    fn settle(&mut self, now_seconds: u64) -> Result<(), StoreError> {
        let found = self.by_use.range((UNDER_WAY, "")..).map_err(storage)?;
        let ids: Result<Vec<String>, StoreError> =
            found.map(|entry| Ok(entry.map_err(storage)?.0.value().1.to_owned())).collect();
        for id in ids? {
            if let Some(StoredRecord { owner, bytes }) = self.remove(&id)? {
                self.insert(&id, &owner, now_seconds, &bytes)?;
            }
        }
        Ok(())
    }

    fn total(&self) -> Result<u64, StoreError> {
        Ok(self.totals.get(BYTES).map_err(storage)?.map_or(0, |total| total.value()))
    }

    /// Removes the least recently used records while they are too old or too many.
    fn evict(&mut self, limits: StoreLimits, now_seconds: u64) -> Result<(), StoreError> {
        let oldest = now_seconds.saturating_sub(limits.age_max_seconds);
        loop {
            let first = self.by_use.first().map_err(storage)?.map(|(key, _)| {
                let (used, id) = key.value();
                (used, id.to_owned())
            });
            match first {
                Some((used, id)) if used < oldest || self.total()? > limits.bytes_max => self.remove(&id)?,
                _ => return Ok(()),
            };
        }
    }
}

fn size_of(owner: &[u8], bytes: &[u8]) -> u64 {
    RECORD_BYTES + (owner.len() + bytes.len()) as u64
}

#[cfg(test)]
mod tests;
