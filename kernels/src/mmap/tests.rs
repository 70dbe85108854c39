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
