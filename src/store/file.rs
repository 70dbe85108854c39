//! The file of a store: opened with care, and opened again once it can be written.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableHandle};

use super::{BY_USE, FACTS, FORMAT, RECORDS, Seal, StoreError, TOTALS, storage};

/// Pages of the file that are kept in memory.
const CACHE_BYTES: usize = 16 << 20;
/// The database of a store, and what it is opened from again after its file failed.
///
/// A database of redb's takes no more changes once a write of its file has failed, so a disk that
/// was full for a moment would end keeping until the next start.
#[derive(Debug)]
pub(super) struct DatabaseSlot {
    /// `None` of a store in memory, which never fails.
    path: Option<PathBuf>,
    /// How long a file that failed is left alone before it is opened again: the disk may be full.
    retry: Duration,
    /// The key of the seal, for a file that begins anew.
    key: [u8; 32],
    state: Mutex<SlotState>,
    /// Why nothing can be kept; apart from the state, so that a probe need not wait for a disk.
    problem: Mutex<Option<String>>,
    /// The file was opened again, and no change has been made since.
    is_reopened: AtomicBool,
}

#[derive(Debug)]
enum SlotState {
    /// With the file that it is.
    Open(Arc<Database>, Option<FileIdentity>),
    Failed {
        again: Instant,
    },
}

/// A file whatever its name is: its device and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity(u64, u64);

fn identity(path: &Path) -> Option<FileIdentity> {
    path.metadata().ok().map(|found| FileIdentity(found.dev(), found.ino()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DatabaseSlot {
    /// A database that was opened, from the file at `path` if there is one.
    pub(super) fn new(database: Database, path: Option<&Path>, retry: Duration) -> Result<Self, StoreError> {
        let key = read_key(&database, None)?;
        let state = Mutex::new(SlotState::Open(Arc::new(database), path.and_then(identity)));
        Ok(Self {
            path: path.map(Path::to_owned),
            retry,
            key,
            state,
            problem: Mutex::default(),
            is_reopened: AtomicBool::new(false),
        })
    }

    /// What reasoning is sealed with.
    pub(super) fn seal(&self) -> Seal {
        Seal::new(self.key)
    }

    /// Why nothing can be kept at this moment.
    pub(super) fn problem(&self) -> Option<String> {
        locked(&self.problem).clone()
    }

    /// The database; one that failed is opened again, but not too soon.
    ///
    /// # Errors
    /// [`StoreError::Failed`] while it cannot be used.
    pub(super) fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut state = locked(&self.state);
        let again = match &*state {
            SlotState::Open(database, _) => return Ok(Arc::clone(database)),
            SlotState::Failed { again } => *again,
        };
        let now = Instant::now();
        if now >= again {
            match self.opened_again() {
                Ok(database) => {
                    let database = Arc::new(database);
                    *state = SlotState::Open(Arc::clone(&database), self.path.as_deref().and_then(identity));
                    *locked(&self.problem) = None;
                    self.is_reopened.store(true, Ordering::SeqCst);
                    tracing::warn!("the response store is written again; what was put while it failed is lost");
                    return Ok(database);
                }
                Err(reason) => {
                    *state = SlotState::Failed { again: now + self.retry };
                    *locked(&self.problem) = Some(reason);
                }
            }
        }
        Err(StoreError::Failed(self.problem().unwrap_or_default()))
    }

    /// Whether this is the first call since the file was opened again.
    pub(super) fn take_reopened(&self) -> bool {
        self.is_reopened.swap(false, Ordering::SeqCst)
    }

    fn opened_again(&self) -> Result<Database, String> {
        let path = self.path.as_deref().ok_or("it is in memory")?;
        let database = opened(path).map_err(|error| error.to_string())??;
        read_key(&database, Some(self.key)).map_err(|error| error.to_string())?;
        Ok(database)
    }

    /// Brings to the disk what was put. A commit that waits for the disk takes those before it
    /// along. A file that lies there no more is made anew by the next change.
    pub(super) fn flush(&self) {
        // A file that failed has nothing to be written; opening it again may bring it back.
        let Ok(database) = self.database() else { return };
        let written = database.begin_write().map_err(storage).and_then(|write| write.commit().map_err(storage));
        drop(database);
        if self.checked(written).is_ok() {
            let opened = match &*locked(&self.state) {
                SlotState::Open(_, opened) => *opened,
                SlotState::Failed { .. } => return,
            };
            if self.path.as_deref().and_then(identity) != opened {
                self.failed("its file was removed or replaced", Duration::ZERO);
            }
        }
    }

    /// Closes the database, which failed so, until it is opened again; the log tells it once.
    fn failed(&self, reason: &str, pause: Duration) {
        let mut state = locked(&self.state);
        if self.path.is_some() && matches!(&*state, SlotState::Open(..)) {
            *state = SlotState::Failed { again: Instant::now() + pause };
            *locked(&self.problem) = Some(reason.to_owned());
            tracing::error!(reason, "responses are not kept until the response store can be written again");
        }
    }

    /// The result of work with the database, which an error closes.
    pub(super) fn checked<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Storage(error)) = &result {
            self.failed(&error.to_string(), self.retry);
        }
        result
    }
}

/// The file at `path` as a database of this server's; what is wrong with it, if it is to be moved
/// aside.
pub(super) fn opened(path: &Path) -> Result<Result<Database, String>, StoreError> {
    let io_error = |source| StoreError::Open { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error)?;
    }
    // What users said is for the server's own account, in a file that was there before too.
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io_error)?;
    if file.metadata().map_err(io_error)?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(io_error)?;
    }
    let database = match guarded_open(file) {
        Ok(Ok(database)) => database,
        Ok(Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            return Err(StoreError::InUse { path: path.to_owned() });
        }
        // A file that is too short ends while it is read.
        Ok(Err(DatabaseError::Storage(StorageError::Io(source))))
            if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            return Err(io_error(source));
        }
        Ok(Err(error)) => return Ok(Err(error.to_string())),
        Err(message) => return Ok(Err(message)),
    };
    Ok(check(database))
}

/// A database with pages that are damaged may end in a panic of its library; this server goes on.
fn guarded_open(file: File) -> Result<Result<Database, DatabaseError>, String> {
    let open = || {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        builder.create_with_backend(FileBackend::new(file)?)
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).map_err(|_| "its pages contradict each other".to_owned())
}

/// `database`, if it is new or of this server's format.
fn check(database: Database) -> Result<Database, String> {
    let read = database.begin_read().map_err(|error| error.to_string())?;
    let names: Vec<String> = match read.list_tables() {
        Ok(tables) => tables.map(|table| table.name().to_owned()).collect(),
        Err(error) => return Err(error.to_string()),
    };
    if names.is_empty() {
        return Ok(database);
    }
    let format = read.open_table(FACTS).map_err(|_| "it is another program's database".to_owned())?;
    let format = format.get("format").map_err(|error| error.to_string())?.map(|format| format.value().to_vec());
    drop(read);
    match format.as_deref() {
        Some(FORMAT) => Ok(database),
        Some(_) => Err("it was written by another version of this server".to_owned()),
        None => Err("it is another program's database".to_owned()),
    }
}

/// The key of the database, which a new one gets with its tables: `wanted`, or one that is drawn.
fn read_key(database: &Database, wanted: Option<[u8; 32]>) -> Result<[u8; 32], StoreError> {
    let write = database.begin_write().map_err(storage)?;
    let key = {
        write.open_table(RECORDS).map_err(storage)?;
        write.open_table(BY_USE).map_err(storage)?;
        write.open_table(TOTALS).map_err(storage)?;
        let mut facts = write.open_table(FACTS).map_err(storage)?;
        facts.insert("format", FORMAT).map_err(storage)?;
        let kept = facts.get("key").map_err(storage)?.and_then(|key| <[u8; 32]>::try_from(key.value()).ok());
        let key = kept.or(wanted).unwrap_or_else(Seal::draw_key);
        facts.insert("key", key.as_slice()).map_err(storage)?;
        key
    };
    write.commit().map_err(storage)?;
    Ok(key)
}
