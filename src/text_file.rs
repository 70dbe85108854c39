//! Text files that an operator names, read whole within a size and a time.
//!
//! Promises: a read ends whatever lies under the name: a device without end and a file that is too
//! large at the bound, a pipe that nothing is written to after [`PATIENCE`]. A pipe that is written
//! to is as good as a file (`--config <(make-settings)`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// How long a pipe or a device may take to come to its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads a file of at most `max_bytes`.
///
/// # Errors
/// What the system says, or that it is a directory, too large, too slow or no text.
pub(crate) fn read(path: &Path, max_bytes: u64) -> io::Result<String> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    let bytes = if kind.is_file() { read_bytes(path, max_bytes)? } else { read_in_time(path, max_bytes)? };
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))
}

/// Opening a pipe waits for its writer, so a thread does it; one that waits for ever ends with the
/// process.
fn read_in_time(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let (tell, told) = sync_channel(1);
    let path = path.to_owned();
    thread::spawn(move || {
        // The reader may have lost its patience.
        let _ = tell.send(read_bytes(&path, max_bytes));
    });
    told.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let problem = format!("it is a pipe or a device, and did not end within {} s", PATIENCE.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, problem))
    })
}

fn read_bytes(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::process::Command;

    fn pipe(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    #[test]
    fn whatever_lies_there_is_read_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let said = |path: &Path| read(path, 4).map_err(|error| error.to_string());
        fs::write(&path, "four").unwrap();
        assert_eq!(said(&path), Ok("four".to_owned()));
        fs::write(&path, "fives").unwrap();
        assert_eq!(said(&path), Err("it is larger than 4 bytes".to_owned()));
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(said(&path), Err("it is no text".to_owned()));
        assert_eq!(said(folder.path()), Err("it is a directory".to_owned()));
        assert_eq!(said(Path::new("/dev/zero")), Err("it is larger than 4 bytes".to_owned()));
        assert_eq!(said(Path::new("/dev/null")), Ok(String::new()));
        assert!(said(Path::new("/no/such")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn a_pipe_is_read_if_it_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let to = path.clone();
        let writer = thread::spawn(move || fs::write(to, "text").unwrap());
        assert_eq!(read(&path, 8).unwrap(), "text");
        writer.join().unwrap();
        assert_eq!(read(&path, 8).unwrap_err().to_string(), "it is a pipe or a device, and did not end within 5 s");
    }
}
