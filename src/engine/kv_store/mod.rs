//! Where KV blocks are kept that had to leave KV memory: the host's memory, or a file that outlives
//! the process.
//!
//! Owns: the blocks' bytes, and the thread that writes and reads them. Promises: what is read is
//! what was written, bit for bit, or nothing; no step waits for a disk. A block that would have to
//! wait in a full queue is dropped; a disk that is full costs the blocks that it cannot take, and a
//! line in the log. Absent on purpose: which block is worth keeping, which is the scheduler's.

mod file;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use self::file::{StoreFile, StoreFileError};
use super::Engine;
use crate::batch::{KvGroup, StoredBlock};

/// Bytes that may wait to be written: a tenth of a second of a fast disk.
const QUEUE_BYTES_MAX: usize = 256 << 20;

/// Where a store keeps its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvStorePlace {
    /// In the host's memory, and gone with the process.
    Memory,
    /// In this file.
    File(PathBuf),
}

/// What a store is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvStoreOptions {
    /// Where it is.
    pub place: KvStorePlace,
    /// Most bytes that it takes.
    pub bytes_max: u64,
}

/// What the blocks of a store are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoreShape {
    /// [`Engine::kv_form`].
    form: String,
    block_tokens: usize,
    global_block_bytes: usize,
    sliding_block_bytes: usize,
}

impl StoreShape {
    fn bytes_of(&self, group: KvGroup) -> usize {
        match group {
            KvGroup::Global => self.global_block_bytes,
            KvGroup::Sliding => self.sliding_block_bytes,
        }
    }

    /// Bytes of a place, which takes a block of either group: gpt-oss has as many layers in both.
    fn place_bytes(&self) -> usize {
        self.global_block_bytes.max(self.sliding_block_bytes)
    }

    /// How many places there are in so many bytes, with so many besides each block.
    fn places_in(&self, bytes: u64, besides: usize) -> usize {
        let places = bytes / (self.place_bytes() + besides).max(1) as u64;
        // The core counts them in 32 bits, and keeps some 300 bytes for each.
        usize::try_from(places.min(1 << 24)).unwrap_or(0)
    }
}

/// What came of a store since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvStoreCounts {
    /// Blocks that were written.
    pub written_total: u64,
    /// Their bytes.
    pub written_bytes_total: u64,
    /// Bytes that were read back.
    pub read_bytes_total: u64,
    /// Blocks that were dropped, because too many waited or the disk took no more.
    pub dropped_total: u64,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    written_bytes: AtomicU64,
    read_bytes: AtomicU64,
    dropped: AtomicU64,
}

/// A block's bytes that were read; `None` if they are not there.
pub type ReadBlock = Option<Vec<u8>>;

type ReadReply = Box<dyn FnOnce(Vec<ReadBlock>) + Send>;

enum Write {
    Block { block: StoredBlock, stamp: u64, bytes: Vec<u8> },
    Forget,
}

#[derive(Default)]
struct WriteQueue {
    writes: VecDeque<Write>,
    /// Of the writes that wait.
    bytes: usize,
    reads: VecDeque<(Vec<StoredBlock>, ReadReply)>,
    next_stamp: u64,
    /// The thread ends when all is written, or then.
    ends: Option<Instant>,
}

/// What the thread and its callers share.
struct Shared {
    queue: Mutex<WriteQueue>,
    changed: Condvar,
    counters: Counters,
    /// Whether the last write failed, which is told once.
    is_failing: AtomicBool,
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, WriteQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Backing {
    Memory(Vec<Option<(StoredBlock, Vec<u8>)>>),
    File(StoreFile),
}

impl Backing {
    fn read(&self, block: &StoredBlock) -> ReadBlock {
        match self {
            Self::Memory(places) => {
                let held = places.get(block.place as usize)?.as_ref();
                held.filter(|(held, _)| held == block).map(|(_, bytes)| bytes.clone())
            }
            Self::File(file) => file.read(block),
        }
    }

    fn write(&mut self, block: StoredBlock, stamp: u64, bytes: Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::Memory(places) => {
                let place = block.place as usize;
                places[place] = Some((block, bytes));
                Ok(())
            }
            Self::File(file) => file.write(&block, stamp, &bytes),
        }
    }

    fn forget(&mut self) -> std::io::Result<()> {
        match self {
            Self::Memory(places) => {
                places.fill(None);
                Ok(())
            }
            Self::File(file) => file.begin(),
        }
    }
}

/// A store; its thread ends when it is closed or dropped.
pub struct KvStore {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    places: usize,
    key: [u64; 2],
    is_file: bool,
}

impl std::fmt::Debug for KvStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvStore").field("places", &self.places).field("is_file", &self.is_file).finish_non_exhaustive()
    }
}

/// A store that was opened, and the blocks that it holds, the one written first before the others.
#[derive(Debug)]
pub struct OpenedStore {
    /// The store.
    pub store: Arc<KvStore>,
    /// What it holds.
    pub blocks: Vec<StoredBlock>,
}

impl KvStore {
    /// Opens a store for the blocks of `engine`; `key` is that of the hashes if it is new. `None`,
    /// with a line in the log, if there can be none: then the server goes on without.
    #[must_use]
    pub fn open(options: &KvStoreOptions, engine: &dyn Engine, key: [u64; 2]) -> Option<OpenedStore> {
        let limits = engine.limits();
        let Some(form) = engine.kv_form() else {
            tracing::warn!("this device cannot copy its KV blocks: the server goes on without a KV store");
            return None;
        };
        let shape = StoreShape {
            form,
            block_tokens: limits.block_tokens,
            global_block_bytes: limits.global_block_bytes,
            sliding_block_bytes: limits.sliding_block_bytes,
        };
        match Self::of(options, shape, key) {
            Ok(opened) => Some(opened),
            Err(error) => {
                tracing::warn!(%error, "the server goes on without a KV store");
                None
            }
        }
    }

    fn of(options: &KvStoreOptions, shape: StoreShape, key: [u64; 2]) -> Result<OpenedStore, StoreFileError> {
        let KvStoreOptions { place, bytes_max } = options;
        let (backing, places, key, (blocks, next_stamp)) = match place {
            KvStorePlace::Memory => {
                let places = shape.places_in(*bytes_max, 0);
                if places == 0 {
                    return Err(StoreFileError::TooSmall { bytes_max: *bytes_max, block_bytes: shape.place_bytes() });
                }
                (Backing::Memory(vec![None; places]), places, key, (Vec::new(), 1))
            }
            KvStorePlace::File(path) => {
                let failed = |source| StoreFileError::Io { path: path.clone(), source };
                let file = StoreFile::open(path, *bytes_max, shape, key)?;
                let found = file.scan().map_err(failed)?;
                let blocks_count = found.0.len();
                tracing::info!(path = %path.display(), places = file.places(), blocks_count, "opened the KV store");
                let (places, key) = (file.places(), file.key());
                (Backing::File(file), places, key, found)
            }
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(WriteQueue { next_stamp, ..WriteQueue::default() }),
            changed: Condvar::new(),
            counters: Counters::default(),
            is_failing: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("kv-store".to_owned()).spawn(move || run(&own, backing));
        let thread = thread.map_err(|source| StoreFileError::Io { path: PathBuf::from("a thread"), source })?;
        let is_file = matches!(place, KvStorePlace::File(_));
        let store = Self { shared, thread: Mutex::new(Some(thread)), places, key, is_file };
        Ok(OpenedStore { store: Arc::new(store), blocks })
    }

    /// How many blocks it takes.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places
    }

    /// The key of the hashes under which its blocks are found.
    #[must_use]
    pub fn key(&self) -> [u64; 2] {
        self.key
    }

    /// Whether what it holds outlives the process.
    #[must_use]
    pub fn outlives(&self) -> bool {
        self.is_file
    }

    /// What came of it so far.
    #[must_use]
    pub fn counts(&self) -> KvStoreCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { written, written_bytes, read_bytes, dropped } = &self.shared.counters;
        KvStoreCounts {
            written_total: of(written),
            written_bytes_total: of(written_bytes),
            read_bytes_total: of(read_bytes),
            dropped_total: of(dropped),
        }
    }

    /// Has a block written, unless too many wait.
    pub fn offer(&self, block: StoredBlock, bytes: Vec<u8>) {
        let mut queue = self.shared.locked();
        if queue.bytes + bytes.len() > QUEUE_BYTES_MAX {
            self.shared.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let stamp = queue.stamp(1);
        queue.push(block, stamp, bytes);
        self.shared.changed.notify_all();
    }

    /// Has blocks written, each as `bytes_of` gives it, the most valuable first; waits for the
    /// thread where too many wait. How many of them were taken till `until`.
    pub fn keep(
        &self,
        blocks: impl ExactSizeIterator<Item = StoredBlock>,
        until: Instant,
        mut bytes_of: impl FnMut(&StoredBlock) -> Option<Vec<u8>>,
    ) -> usize {
        let count = blocks.len();
        let first_stamp = self.shared.locked().stamp(count as u64);
        for (at, block) in blocks.enumerate() {
            let Some(bytes) = bytes_of(&block) else { return at };
            let full = |queue: &mut WriteQueue| queue.bytes + bytes.len() > QUEUE_BYTES_MAX;
            let left = until.saturating_duration_since(Instant::now());
            let waited = self.shared.changed.wait_timeout_while(self.shared.locked(), left, full);
            let (mut queue, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() || left.is_zero() {
                return at;
            }
            queue.push(block, first_stamp + (count - 1 - at) as u64, bytes);
            self.shared.changed.notify_all();
        }
        count
    }

    /// Reads blocks, and hands them to `reply`, in their order, on the store's own thread. What
    /// waits to be written is read too.
    pub fn fetch(&self, blocks: Vec<StoredBlock>, reply: impl FnOnce(Vec<ReadBlock>) + Send + 'static) {
        self.shared.locked().reads.push_back((blocks, Box::new(reply)));
        self.shared.changed.notify_all();
    }

    /// Forgets all blocks, and what waits to be written.
    pub fn forget(&self) {
        let mut queue = self.shared.locked();
        queue.writes.clear();
        queue.bytes = 0;
        queue.writes.push_back(Write::Forget);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, but no longer than till `until`, and ends the thread.
    pub fn close(&self, until: Instant) {
        self.shared.locked().ends = Some(until);
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It has no panics of its own.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for KvStore {
    fn drop(&mut self) {
        self.close(Instant::now());
    }
}

impl WriteQueue {
    fn stamp(&mut self, count: u64) -> u64 {
        let first = self.next_stamp;
        self.next_stamp += count;
        first
    }

    fn push(&mut self, block: StoredBlock, stamp: u64, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.writes.push_back(Write::Block { block, stamp, bytes });
    }

    /// The bytes of a block that waits to be written.
    fn waiting(&self, block: &StoredBlock) -> ReadBlock {
        self.writes.iter().rev().find_map(|write| match write {
            Write::Block { block: held, bytes, .. } if held == block => Some(bytes.clone()),
            _ => None,
        })
    }
}

/// Serves reads before writes, since a sequence waits for those; but what is to be forgotten is not
/// read.
fn run(shared: &Shared, mut backing: Backing) {
    loop {
        let idle = |queue: &mut WriteQueue| queue.reads.is_empty() && queue.writes.is_empty() && queue.ends.is_none();
        let waited = shared.changed.wait_while(shared.locked(), idle);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        let is_over = queue.ends.is_some_and(|ends| queue.writes.is_empty() || ends <= Instant::now());
        if is_over {
            return;
        }
        let forgets = matches!(queue.writes.front(), Some(Write::Forget));
        if let Some((blocks, reply)) = if forgets { None } else { queue.reads.pop_front() } {
            drop(queue);
            let read = |block: &StoredBlock| {
                let waiting = shared.locked().waiting(block);
                waiting.or_else(|| backing.read(block))
            };
            let read: Vec<ReadBlock> = blocks.iter().map(read).collect();
            let bytes: usize = read.iter().flatten().map(Vec::len).sum();
            shared.counters.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            reply(read);
            continue;
        }
        let Some(write) = queue.writes.pop_front() else { continue };
        if let Write::Block { bytes, .. } = &write {
            queue.bytes -= bytes.len();
        }
        drop(queue);
        shared.write(&mut backing, write);
        // Whatever waits for room in the queue.
        shared.changed.notify_all();
    }
}

impl Shared {
    fn write(&self, backing: &mut Backing, write: Write) {
        let Counters { written, written_bytes, dropped, .. } = &self.counters;
        let (result, len) = match write {
            Write::Block { block, stamp, bytes } => {
                let len = bytes.len();
                (backing.write(block, stamp, bytes), len)
            }
            Write::Forget => (backing.forget(), 0),
        };
        match result {
            Ok(()) => {
                written.fetch_add(u64::from(len > 0), Ordering::Relaxed);
                written_bytes.fetch_add(len as u64, Ordering::Relaxed);
                self.is_failing.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                dropped.fetch_add(1, Ordering::Relaxed);
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the KV store cannot be written: blocks are dropped until it can");
                }
            }
        }
    }
}
