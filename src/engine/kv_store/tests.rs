use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::file::StoreFileError;
use super::*;
use crate::batch::TokenId;

const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 77];

fn shape(form: &str) -> StoreShape {
    StoreShape { form: form.to_owned(), block_tokens: 3, global_block_bytes: 1_000, sliding_block_bytes: 600 }
}

fn at(path: &Path) -> KvStoreOptions {
    KvStoreOptions { place: KvStorePlace::File(path.to_owned()), bytes_max: 100_000 }
}

fn open(path: &Path) -> OpenedStore {
    KvStore::of(&at(path), shape("one"), KEY).expect("the file serves")
}

/// A block that is told from others, and its bytes.
fn block(place: u32) -> (StoredBlock, Vec<u8>) {
    let group = if place.is_multiple_of(3) { KvGroup::Sliding } else { KvGroup::Global };
    let number = u64::from(place) + 1;
    let tokens = [place, place + 1, 9].map(TokenId).into();
    let stored = StoredBlock { place, group, hash: [number; 2], before: [number - 1; 2], salt: [5, 6], tokens };
    let bytes = (0..shape("").bytes_of(group)).map(|at| (at * 7 + place as usize) as u8).collect();
    (stored, bytes)
}

fn read(store: &KvStore, blocks: &[StoredBlock]) -> Vec<ReadBlock> {
    let (told, waiting) = mpsc::channel();
    store.fetch(blocks.to_vec(), move |read| told.send(read).expect("the test waits"));
    waiting.recv_timeout(Duration::from_secs(60)).expect("an answer")
}

fn stored(count: u32) -> Vec<StoredBlock> {
    (0..count).map(|place| block(place).0).collect()
}

fn bytes(count: u32) -> Vec<ReadBlock> {
    (0..count).map(|place| Some(block(place).1)).collect()
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A file with so many blocks, closed.
fn filled(path: &Path, count: u32) {
    let OpenedStore { store, .. } = open(path);
    (0..count).map(block).for_each(|(stored, bytes)| store.offer(stored, bytes));
    store.close(later());
}

#[test]
fn what_was_written_is_read_in_this_process_and_in_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept/kv");
    let OpenedStore { store, blocks } = open(&path);
    assert_eq!((blocks, store.key(), store.outlives()), (Vec::new(), KEY, true));
    assert_eq!(read(&store, &stored(2)), [None, None]);
    (0..9).map(block).for_each(|(stored, bytes)| store.offer(stored, bytes));
    assert_eq!(read(&store, &stored(9)), bytes(9), "written or waiting");
    store.close(later());
    assert_eq!(store.counts().written_total, 9);
    let len = fs::metadata(&path).unwrap();
    assert!(len.len() <= 100_000 && len.permissions().mode() & 0o777 == 0o600, "{len:?}");
    drop(store);

    let other_key = KvStore::of(&at(&path), shape("one"), [1, 2]).unwrap();
    assert_eq!((other_key.store.key(), other_key.blocks), (KEY, stored(9)));
    // What lies at a place now is another block, or the same of another client.
    let (mut other, _) = block(4);
    other.salt = [5, 7];
    assert_eq!(read(&other_key.store, &[other, block(5).0]), [None, Some(block(5).1)]);
}

#[test]
fn what_is_kept_at_the_end_comes_back_the_most_valuable_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let OpenedStore { store, .. } = open(&path);
    let kept = store.keep(stored(5).into_iter(), later(), |stored| Some(block(stored.place).1));
    assert_eq!(kept, 5);
    store.offer(block(7).0, block(7).1);
    assert_eq!(store.keep(stored(5).into_iter(), Instant::now(), |_| Some(Vec::new())), 0, "there is no time left");
    store.close(later());
    drop(store);
    let places: Vec<u32> = open(&path).blocks.iter().map(|block| block.place).collect();
    assert_eq!(places, [4, 3, 2, 1, 0, 7]);
}

/// A byte that changes anywhere: what is read is what was written, or nothing, and what is not
/// touched is read.
#[test]
fn a_byte_that_changes_costs_one_block_or_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    filled(&path, 6);
    let whole = fs::read(&path).unwrap();
    let (mut begun_anew, mut lost_one) = (0, 0);
    for at in (0..whole.len()).step_by(37) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, damaged).unwrap();
        let OpenedStore { store, blocks } = open(&path);
        let good = bytes(6);
        let found = read(&store, &stored(6));
        assert!(found.iter().zip(&good).all(|(found, good)| found.is_none() || found == good), "byte {at}");
        match found.iter().filter(|found| found.is_none()).count() {
            0 => {}
            1 => lost_one += 1,
            6 => {
                begun_anew += 1;
                assert!(blocks.is_empty() && folder.path().join("kv.aside").is_file(), "byte {at}");
            }
            more => panic!("byte {at} costs {more} blocks"),
        }
    }
    assert!(begun_anew > 50 && lost_one > 50, "{begun_anew} of the head, {lost_one} of entries and blocks");
}

#[test]
fn a_file_that_was_cut_gives_what_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    filled(&path, 6);
    let len = fs::metadata(&path).unwrap().len();
    let cut = |len: u64| fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
    cut(len - 1_300);
    let OpenedStore { store, blocks } = open(&path);
    assert_eq!(blocks, stored(6));
    let found = read(&store, &blocks);
    assert_eq!((found[..4].to_vec(), found[4..].to_vec()), (bytes(4), vec![None, None]));
    // It is filled again.
    store.offer(block(5).0, block(5).1);
    assert_eq!(read(&store, &blocks[5..]), [Some(block(5).1)]);
    store.close(later());
    drop(store);
    cut(4_200);
    assert!(open(&path).blocks.is_empty(), "its table was cut");
    assert!(folder.path().join("kv.aside").is_file());
}

#[test]
fn another_models_file_is_moved_aside_and_another_size_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    filled(&path, 6);
    let before = fs::read(&path).unwrap();
    let other = KvStore::of(&at(&path), shape("two"), [1, 2]).unwrap();
    assert_eq!((other.blocks, other.store.key()), (Vec::new(), [1, 2]));
    assert_eq!(fs::read(folder.path().join("kv.aside")).unwrap(), before);
    drop(other.store);
    fs::write(&path, "a letter to a friend ".repeat(999)).unwrap();
    assert!(open(&path).blocks.is_empty());
    filled(&path, 6);
    let larger = KvStoreOptions { bytes_max: 200_000, ..at(&path) };
    let OpenedStore { store, blocks } = KvStore::of(&larger, shape("one"), [1, 2]).unwrap();
    assert_eq!((blocks, store.key()), (Vec::new(), KEY), "its salts and hashes are the same");
    assert!(store.places() > 100);
}

#[test]
fn a_file_is_one_processs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    let first = open(&path);
    let second = KvStore::of(&at(&path), shape("one"), KEY);
    assert!(matches!(second, Err(StoreFileError::InUse(_))), "{second:?}");
    drop(first);
    open(&path);
}

#[test]
fn what_cannot_be_a_store_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path, bytes_max| {
        let options = KvStoreOptions { place: KvStorePlace::File(path.to_owned()), bytes_max };
        KvStore::of(&options, shape("one"), KEY).expect_err("refused").to_string()
    };
    assert!(refused(folder.path(), 100_000).contains("it is no regular file"));
    let path = folder.path().join("kv");
    assert!(refused(&path, 9_000).contains("9000 bytes hold no block of 1000 bytes"), "{}", refused(&path, 9_000));
    assert!(!path.exists());
    fs::write(&path, "").unwrap();
    assert!(refused(&path.join("below"), 100_000).contains("kv/below: "));
    let memory = KvStoreOptions { place: KvStorePlace::Memory, bytes_max: 999 };
    assert!(KvStore::of(&memory, shape("one"), KEY).is_err());
}

/// A disk that takes no more costs blocks, and gets well again.
#[test]
fn a_disk_that_is_full_costs_the_blocks_that_it_does_not_take() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    filled(&path, 2);
    let file = StoreFile::open(&path, 100_000, shape("one"), KEY).unwrap();
    let mut store = Backing::File(file);
    store.write(block(2).0, 9, block(2).1).unwrap();
    // A handle that cannot write stands for the disk.
    let Backing::File(file) = store else { unreachable!() };
    let mut full = Backing::File(file.read_only(&path));
    let shared = Shared {
        queue: Mutex::default(),
        changed: Condvar::new(),
        counters: Counters::default(),
        is_failing: AtomicBool::new(false),
    };
    let write = |place: u32| {
        let (block, bytes) = block(place);
        Write::Block { block, stamp: 10, bytes }
    };
    shared.write(&mut full, write(3));
    shared.write(&mut full, write(4));
    assert_eq!(shared.counters.dropped.load(Ordering::Relaxed), 2);
    assert!(shared.is_failing.load(Ordering::Relaxed), "told once");
    assert_eq!([2, 3].map(|place| full.read(&block(place).0)), [Some(block(2).1), None]);
    drop(full);
    let mut again = Backing::File(StoreFile::open(&path, 100_000, shape("one"), KEY).unwrap());
    shared.write(&mut again, write(3));
    assert!(!shared.is_failing.load(Ordering::Relaxed));
    assert_eq!(again.read(&block(3).0), Some(block(3).1));
}

#[test]
fn a_store_in_memory_keeps_what_it_is_given_and_forgets_when_told() {
    let options = KvStoreOptions { place: KvStorePlace::Memory, bytes_max: 20_000 };
    let OpenedStore { store, blocks } = KvStore::of(&options, shape("one"), KEY).unwrap();
    assert_eq!((blocks.len(), store.places(), store.outlives()), (0, 20, false));
    (0..9).map(block).for_each(|(stored, bytes)| store.offer(stored, bytes));
    assert_eq!(read(&store, &stored(9)), bytes(9));
    store.forget();
    store.offer(block(1).0, block(1).1);
    assert_eq!(read(&store, &stored(3)), [None, Some(block(1).1), None]);
    assert!(store.counts().read_bytes_total > 5_000);
}

/// No caller waits for the disk: what is too much is dropped.
#[test]
fn a_queue_that_is_full_drops_what_comes() {
    let options = KvStoreOptions { place: KvStorePlace::Memory, bytes_max: 1 << 30 };
    let OpenedStore { store, .. } = KvStore::of(&options, shape("one"), KEY).unwrap();
    let (told, waiting) = mpsc::channel::<()>();
    // The thread stands still in a reply.
    store.fetch(Vec::new(), move |_| waiting.recv().expect("the test ends"));
    for place in 0..3 {
        store.offer(block(place).0, vec![0; QUEUE_BYTES_MAX / 2]);
    }
    assert_eq!(store.counts().dropped_total, 1);
    told.send(()).unwrap();
    store.close(later());
    assert_eq!(store.counts().written_total, 2);
}
