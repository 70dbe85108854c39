use std::io::Write;

use super::*;

#[test]
fn a_file_is_mapped_as_it_is() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"weights").unwrap();
    let mapped = MappedFile::open(file.path()).unwrap();
    assert_eq!((mapped.bytes(), mapped.len(), mapped.path()), (b"weights".as_slice(), 7, file.path()));
    mapped.check_unchanged().unwrap();
}

#[test]
fn an_empty_file_has_no_bytes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mapped = MappedFile::open(file.path()).unwrap();
    assert!(mapped.is_empty());
    assert_eq!(mapped.bytes(), b"");
}

#[test]
fn what_is_not_a_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = MappedFile::open(folder.path()).unwrap_err();
    assert!(error.to_string().ends_with("it is a directory, not a regular file"), "{error}");
    let error = MappedFile::open(Path::new("/dev/null")).unwrap_err();
    assert!(error.to_string().ends_with("/dev/null: it is a device, not a regular file"), "{error}");
    let error = MappedFile::open(&folder.path().join("absent")).unwrap_err();
    assert!(matches!(error, MapError::Io { .. }) && error.to_string().contains("absent"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_is_refused_without_waiting_for_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = MappedFile::open(&path).unwrap_err();
    assert!(error.to_string().ends_with("it is a pipe, not a regular file"), "{error}");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(MappedFile::open(&link), Err(MapError::NotAFile { kind: "pipe", .. })));
}

#[test]
fn a_change_is_noticed_and_a_replacement_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    std::fs::write(&path, [1; 5000]).unwrap();
    let mapped = MappedFile::open(&path).unwrap();
    let replacement = folder.path().join("download");
    std::fs::write(&replacement, [2; 10]).unwrap();
    std::fs::rename(&replacement, &path).unwrap();
    mapped.check_unchanged().unwrap();
    assert_eq!(mapped.bytes(), [1; 5000]);

    let mapped = MappedFile::open(&path).unwrap();
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[3]).unwrap();
    let error = mapped.check_unchanged().unwrap_err();
    assert!(matches!(error, MapError::Changed { before: 10, after: 11, .. }), "{error}");
}

#[test]
fn a_writer_with_the_lock_keeps_readers_out_and_a_reader_keeps_writers_out() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let writer = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
    writer.lock().unwrap();
    assert!(matches!(MappedFile::open(file.path()), Err(MapError::BeingWritten { .. })));
    writer.unlock().unwrap();
    let _reader = MappedFile::open(file.path()).unwrap();
    let _second = MappedFile::open(file.path()).unwrap();
    assert!(writer.try_lock().is_err());
}

#[test]
fn a_file_that_is_cut_while_it_is_read_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("model"), folder.path().join("other"));
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    std::fs::write(&other, vec![9; 1 << 16]).unwrap();
    let (mapped, witness) = (MappedFile::open(&path).unwrap(), MappedFile::open(&other).unwrap());
    mapped.check_unchanged().unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    // Several threads run into the hole at once, as those of a step would.
    let sums: Vec<u64> = std::thread::scope(|scope| {
        let sum = || mapped.bytes().iter().map(|byte| u64::from(*byte)).sum();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(sum)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(sums.iter().all(|sum| *sum < 7 << 20), "{sums:?}");
    assert!(matches!(mapped.check_unchanged(), Err(MapError::Changed { after: 4096, .. })));
    witness.check_unchanged().unwrap();

    // The file has its length again, but what was read is worth nothing still.
    let time = std::fs::metadata(&other).unwrap().modified().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&other).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(witness.bytes()[1 << 15], 0);
    file.set_len(1 << 16).unwrap();
    file.set_modified(time).unwrap();
    assert!(matches!(witness.check_unchanged(), Err(MapError::Lost { .. })));
}
