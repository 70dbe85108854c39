//! Where the keys come from, and how they change while the server runs.
//!
//! Promises: a file of keys that cannot be used changes nothing: the keys stay as they were, and
//! the log says why.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;

use super::{AppError, Secret, ServeOptions};
use crate::http::{ApiKey, KeyRing, Keys};
use crate::text_file;

/// A million keys are a mistake, or a device without end.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// How often the files are looked at: a look is one call of the system.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The texts of keys, of clients and of admins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyTexts {
    /// Clients' keys.
    pub users: Vec<Secret>,
    /// Admins' keys.
    pub admins: Vec<Secret>,
}

impl KeyTexts {
    /// Those that a server starts with.
    pub(super) fn of(options: &ServeOptions) -> Self {
        Self { users: options.api_keys.clone(), admins: options.admin_keys.clone() }
    }
}

/// Where keys are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySources {
    /// Keys that do not change.
    pub fixed: KeyTexts,
    /// A file of clients' keys.
    pub users_file: Option<PathBuf>,
    /// A file of admins' keys.
    pub admins_file: Option<PathBuf>,
}

/// Reads a file with a key a line.
///
/// # Errors
/// What is wrong with it, in words: unreadable, too large, or without a key. A server that was
/// meant to be locked must not be open.
pub fn read_key_file(path: &Path) -> Result<Vec<Secret>, String> {
    let text = text_file::read(path, FILE_MAX_BYTES).map_err(|error| error.to_string())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys: Vec<Secret> = lines.map(|line| Secret::new(line.to_owned())).collect();
    if keys.is_empty() { Err("it holds no key".to_owned()) } else { Ok(keys) }
}

/// The keys of these texts.
///
/// # Errors
/// [`AppError::ApiKey`] for a text that no client could send.
pub(super) fn keys(texts: &KeyTexts) -> Result<Keys, AppError> {
    let keys = |texts: &[Secret]| -> Result<Vec<ApiKey>, AppError> {
        let key = |(index, text): (usize, &Secret)| {
            ApiKey::new(text.reveal()).map_err(|error| AppError::ApiKey { place: index + 1, error })
        };
        texts.iter().enumerate().map(key).collect()
    };
    Ok(Keys { users: keys(&texts.users)?, admins: keys(&texts.admins)? })
}

impl KeySources {
    /// The keys that they hold now.
    ///
    /// # Errors
    /// What is wrong with one of the files, in words.
    pub fn read(&self) -> Result<KeyTexts, String> {
        let mut texts = self.fixed.clone();
        for (file, into) in [(&self.users_file, &mut texts.users), (&self.admins_file, &mut texts.admins)] {
            if let Some(path) = file {
                into.extend(read_key_file(path).map_err(|message| format!("{}: {message}", path.display()))?);
            }
        }
        Ok(texts)
    }

    /// What tells that a file was written or replaced, without reading it.
    fn stamps(&self) -> [Option<(u64, u64, i64, i64)>; 2] {
        [&self.users_file, &self.admins_file].map(|file| {
            let metadata = file.as_ref()?.metadata().ok()?;
            Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
        })
    }
}

/// Exchanges the ring's keys, which are `current`, whenever a file changes or a hangup asks for it.
/// Never ends.
pub(super) async fn keep_current(sources: KeySources, mut current: KeyTexts, ring: KeyRing, mut hangups: Signal) {
    // The files may have changed since they were read: they are read once more.
    let mut seen = None;
    loop {
        let asked = tokio::select! {
            Some(()) = hangups.recv() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let stamps = sources.stamps();
        if !asked && seen == Some(stamps) {
            continue;
        }
        seen = Some(stamps);
        // A pipe may take seconds to come to its end, which no signal and no other task waits for.
        let asked_sources = sources.clone();
        let read = spawn_blocking(move || asked_sources.read()).await.unwrap_or_else(|error| Err(error.to_string()));
        let read = read.and_then(|texts| match keys(&texts) {
            Ok(keys) => Ok((texts, keys)),
            Err(error) => Err(error.to_string()),
        });
        match read {
            Err(message) => tracing::error!(message, "the keys stay as they were"),
            Ok((texts, keys)) if asked || texts != current => {
                tracing::info!(users_count = keys.users.len(), admins_count = keys.admins.len(), "the keys were read again");
                ring.exchange(keys);
                current = texts;
            }
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runtime has one thread, as the server's has: what the read of a pipe without a writer
    /// held up, it would hold up.
    #[tokio::test]
    async fn a_pipe_that_nothing_writes_to_holds_up_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("keys");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let sources = KeySources { users_file: Some(pipe), ..KeySources::default() };
        let hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
        let reading = tokio::spawn(keep_current(sources, KeyTexts::default(), KeyRing::new(Keys::default()), hangups));
        // The first look begins after a second, and the pipe is given up after five.
        let mut longest = Duration::ZERO;
        for _ in 0..150 {
            let asked = std::time::Instant::now();
            tokio::time::sleep(Duration::from_millis(10)).await;
            longest = longest.max(asked.elapsed());
        }
        reading.abort();
        assert!(longest < Duration::from_secs(4), "another task waited {longest:?}");
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let said = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            read_key_file(&path).map(|keys| keys.len())
        };
        assert_eq!(said(b"a\n\n  b \n"), Ok(2));
        assert_eq!(said(b" \n\n"), Err("it holds no key".to_owned()));
        assert_eq!(said(b"\xff\xfe"), Err("it is no text".to_owned()));
        assert!(read_key_file(Path::new("/dev/zero")).unwrap_err().contains("larger than 1048576 bytes"));
        assert!(read_key_file(Path::new("/no/such")).unwrap_err().contains("No such file"));
    }
}
