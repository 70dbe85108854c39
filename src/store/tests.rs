use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use redb::StorageBackend;

use super::flusher::FLUSH;
use super::*;

const NOW: u64 = 1_000_000_000;
const SMALL: StoreLimits = StoreLimits { bytes_max: 10_000, age_max_seconds: 100 };

fn text(store: &ResponseStore, id: &str, now: u64) -> Option<String> {
    store.get(id, now).unwrap().map(|record| String::from_utf8(record.bytes).unwrap())
}

#[test]
fn what_is_put_is_found_until_it_is_deleted() {
    let store = ResponseStore::in_memory(SMALL);
    store.put("a", b"one", b"first", NOW).unwrap();
    assert_eq!(store.get("a", NOW).unwrap(), Some(StoredRecord { owner: b"one".to_vec(), bytes: b"first".to_vec() }));
    store.put("a", b"one", b"second", NOW + 1).unwrap();
    assert_eq!(text(&store, "a", NOW).as_deref(), Some("second"));
    assert_eq!(store.bytes().unwrap(), RECORD_BYTES + 9);
    assert_eq!((store.delete("a").unwrap(), store.delete("a").unwrap()), (true, false));
    assert_eq!((text(&store, "a", NOW), store.bytes().unwrap()), (None, 0));
}

#[test]
fn records_are_shown_and_forgotten_by_how_their_ids_begin() {
    let store = ResponseStore::in_memory(SMALL);
    for id in ["a", "b_2", "b_1", "ba", "c"] {
        store.put(id, b"one", id.as_bytes(), NOW).unwrap();
    }
    let seen = |prefix: &str, now| {
        let mut ids = Vec::new();
        store.visit(prefix, now, |id, owner, bytes| ids.push(format!("{id}{}{}", owner.len(), bytes.len()))).unwrap();
        ids
    };
    assert_eq!(seen("b_", NOW), ["b_133", "b_233"]);
    assert_eq!(seen("b_", NOW + SMALL.age_max_seconds + 1), [""; 0]);
    store.delete_all("b_").unwrap();
    assert_eq!((seen("b", NOW), seen("", NOW).len()), (vec!["ba32".to_owned()], 3));
}

#[test]
fn a_store_that_is_off_keeps_nothing() {
    let store = ResponseStore::off();
    store.put("a", b"", b"x", NOW).unwrap();
    store.touch(&["a".to_owned()], NOW).unwrap();
    assert_eq!((store.is_on(), text(&store, "a", NOW), store.delete("a").unwrap()), (false, None, false));
}

#[test]
fn the_least_recently_used_make_room() {
    let store = ResponseStore::in_memory(StoreLimits { age_max_seconds: u64::MAX, ..SMALL });
    for (index, id) in ["a", "b", "c"].iter().enumerate() {
        store.put(id, b"", &[b'x'; 2_900], NOW + index as u64).unwrap();
    }
    // Used again, so that the second is the oldest.
    store.touch(&["a".to_owned(), "z".to_owned()], NOW + USED_AGAIN_SECONDS + 10).unwrap();
    store.put("d", b"", &[b'x'; 2_900], NOW + USED_AGAIN_SECONDS + 11).unwrap();
    let found = ["a", "b", "c", "d"].map(|id| text(&store, id, NOW).is_some());
    assert_eq!(found, [true, false, true, true]);
    assert!(store.bytes().unwrap() <= SMALL.bytes_max);
    let refused = store.put("e", b"", &[b'x'; 10_000], NOW).unwrap_err();
    assert!(matches!(refused, StoreError::TooLarge { bytes: 10_256, bytes_max: 10_000 }), "{refused}");
}

/// Its owner could not call it off otherwise.
#[test]
fn what_is_under_way_makes_room_last_and_is_of_no_age_until_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("responses.redb");
    let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
    store.put_under_way("a", b"", &[b'x'; 2_900], NOW).unwrap();
    (0..9).for_each(|index| store.put(&format!("b{index}"), b"", &[b'x'; 2_900], NOW + index).unwrap());
    assert!(text(&store, "a", NOW + 9_999).is_some() && text(&store, "b0", NOW).is_none());
    store.put("a", b"", b"whole", NOW).unwrap();
    store.put_under_way("c", b"", b"cut", NOW).unwrap();
    drop(store);
    let store = ResponseStore::open(&path, SMALL, NOW + 50).unwrap();
    assert_eq!((text(&store, "a", NOW + 101), text(&store, "c", NOW + 150).as_deref()), (None, Some("cut")));
    assert_eq!(text(&store, "c", NOW + 151), None);
}

#[test]
fn what_is_too_old_is_not_found_and_goes() {
    let store = ResponseStore::in_memory(SMALL);
    store.put("a", b"", b"x", NOW).unwrap();
    assert!(text(&store, "a", NOW + 100).is_some());
    assert_eq!(text(&store, "a", NOW + 101), None);
    store.put("b", b"", b"y", NOW + 101).unwrap();
    assert_eq!(store.bytes().unwrap(), RECORD_BYTES + 1);
}

#[test]
fn a_file_is_there_after_a_restart_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/responses.redb");
    // An empty file that was there before is this account's alone too.
    std::fs::create_dir(folder.path().join("new")).unwrap();
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
    store.put("a", b"one", b"kept", NOW).unwrap();
    store.put("b", b"one", b"old", NOW - 90).unwrap();
    let sealed = store.seal().seal(b"one", "thought");
    let second = ResponseStore::open(&path, SMALL, NOW).unwrap_err();
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
    drop(store);
    let store = ResponseStore::open(&path, SMALL, NOW + 50).unwrap();
    assert_eq!((text(&store, "a", NOW).as_deref(), text(&store, "b", NOW)), (Some("kept"), None));
    assert_eq!(store.seal().open(b"one", &sealed).as_deref(), Some("thought"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let deep = folder.path().join("made/here/responses.redb");
    drop(ResponseStore::open(&deep, SMALL, NOW).unwrap());
    assert_eq!((mode(deep.parent().unwrap()), mode(&deep)), (0o700, 0o600));
}

/// The end of the process drops nothing: others may hold the store then.
#[test]
fn what_is_flushed_is_in_the_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a.redb"), folder.path().join("b.redb"));
    let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
    for (id, wanted) in [("a", 1), ("b", 2)] {
        store.put(id, b"", b"kept", NOW).unwrap();
        store.flush();
        std::fs::copy(&path, &copy).unwrap();
        let copied = ResponseStore::open(&copy, SMALL, NOW).unwrap();
        assert_eq!(["a", "b"].into_iter().filter(|id| text(&copied, id, NOW).is_some()).count(), wanted);
    }
}

/// What was put is on the disk a moment later, without an end in order.
#[test]
fn a_process_that_dies_loses_no_more_than_the_last_moment() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a.redb"), folder.path().join("b.redb"));
    let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
    store.put("a", b"", b"kept", NOW).unwrap();
    // What another process would find in the file, which is never closed.
    let found = (0..100).any(|_| {
        std::thread::sleep(FLUSH / 2);
        std::fs::copy(&path, &copy).unwrap();
        let found = ResponseStore::open(&copy, SMALL, NOW).is_ok_and(|copied| text(&copied, "a", NOW).is_some());
        std::fs::remove_file(&copy).unwrap();
        found
    });
    assert!(found);
    drop(store);
}

fn aside_count(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("damaged-")).count()
}

#[test]
fn a_file_that_is_none_of_ours_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("responses.redb");
    let other: TableDefinition<&str, u64> = TableDefinition::new("others");
    for (place, write) in [0_usize, 1, 2, 3].into_iter().enumerate() {
        match write {
            0 => std::fs::write(&path, "a letter to a friend ".repeat(1_000)).unwrap(),
            // Shorter than the head of a database.
            3 => std::fs::write(&path, [7; 100]).unwrap(),
            1 => {
                std::fs::remove_file(&path).unwrap();
                let database = Database::create(&path).unwrap();
                let write = database.begin_write().unwrap();
                write.open_table(other).unwrap().insert("a", 1).unwrap();
                write.commit().unwrap();
            }
            _ => {
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
        }
        let store = ResponseStore::open(&path, SMALL, NOW + place as u64).unwrap();
        assert_eq!(aside_count(folder.path()), place + 1);
        store.put("a", b"", b"goes on", NOW).unwrap();
        drop(store);
        let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
        assert_eq!(text(&store, "a", NOW).as_deref(), Some("goes on"));
    }
}

/// A byte that changes anywhere: the file is read as it was, or moved aside, and nothing panics.
#[test]
fn a_damaged_file_is_read_or_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("responses.redb");
    let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
    (0..20).for_each(|index| store.put(&format!("resp_{index}"), b"one", &[b'x'; 100], NOW).unwrap());
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let step = whole.len() / 40 + 1;
    for place in (0..whole.len()).step_by(step) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x55;
        std::fs::write(&path, &bytes).unwrap();
        let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
        let records = (0..20).filter_map(|index| text(&store, &format!("resp_{index}"), NOW));
        assert!(records.into_iter().all(|record| record == "x".repeat(100)), "byte {place}");
        store.put("a", b"", b"goes on", NOW).unwrap();
    }
    assert!(aside_count(folder.path()) <= 1, "moved to one name");
}

#[test]
fn a_place_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let refused = ResponseStore::open(folder.path(), SMALL, NOW).unwrap_err();
    assert!(refused.to_string().contains("cannot be opened as a response store"), "{refused}");
}

/// A file whose writes fail while it is told so, as those of a full disk.
#[derive(Debug)]
struct FullDisk {
    inner: InMemoryBackend,
    is_full: Arc<AtomicBool>,
}

impl StorageBackend for FullDisk {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { self.inner.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
}

/// Waits for what the flusher's thread does.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_is_told_and_keeping_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("responses.redb");
    // What is found at the path is the file that the store is opened from again.
    let before = ResponseStore::open(&path, SMALL, NOW).unwrap();
    before.put_under_way("u", b"", b"never ended", NOW).unwrap();
    drop(before);
    let is_full = Arc::new(AtomicBool::new(false));
    let backend = FullDisk { inner: InMemoryBackend::new(), is_full: Arc::clone(&is_full) };
    let database = Builder::new().create_with_backend(backend).unwrap();
    let store = ResponseStore::of(database, SMALL, Some(&path), Duration::from_millis(100)).unwrap();
    let sealed = store.seal().seal(b"one", "said before");
    store.put("a", b"", b"kept", NOW).unwrap();
    store.flush();
    assert_eq!(store.problem(), None);
    is_full.store(true, Ordering::Relaxed);
    store.put("b", b"", b"lost", NOW).unwrap();
    store.flush();
    assert!(store.problem().is_some(), "a write that failed is told");
    until("the file is opened again by itself", || store.problem().is_none());
    store.put("c", b"", b"goes on", NOW).unwrap();
    assert_eq!(text(&store, "c", NOW).as_deref(), Some("goes on"));
    assert_eq!(store.seal().open(b"one", &sealed).as_deref(), Some("said before"));
    // What was under way has an age from then on.
    let later = |seconds| text(&store, "u", NOW + SMALL.age_max_seconds + seconds);
    assert_eq!((later(0).as_deref(), later(1)), (Some("never ended"), None));
}

#[test]
fn a_file_that_is_removed_while_it_is_open_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("responses.redb");
    let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
    let sealed = store.seal().seal(b"one", "said before");
    std::fs::remove_file(&path).unwrap();
    store.put("a", b"", b"gone", NOW).unwrap();
    store.flush();
    assert!(store.problem().is_some_and(|problem| problem.contains("removed")));
    store.put("b", b"", b"goes on", NOW).unwrap();
    assert_eq!(store.problem(), None);
    drop(store);
    let store = ResponseStore::open(&path, SMALL, NOW).unwrap();
    assert_eq!((text(&store, "a", NOW), text(&store, "b", NOW).as_deref()), (None, Some("goes on")));
    assert_eq!(store.seal().open(b"one", &sealed).as_deref(), Some("said before"));
}
