//! A server of our own: the binary, started, watched and stopped like a user's.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a server may take to become ready: a large model is read from a disk.
const READY_MAX: Duration = Duration::from_secs(900);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It was not started.
    #[error("cannot start {program}: {error}")]
    Start {
        /// Which binary.
        program: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// It ended before it was ready.
    #[error("the server ended before it was ready: {said}")]
    Ended {
        /// Its last words.
        said: String,
    },
    /// It was not ready in time.
    #[error("the server was not ready within {} s", READY_MAX.as_secs())]
    Late,
    /// It cannot be asked to stop.
    #[error("cannot send SIGTERM to the server: {message}")]
    Signal {
        /// What the system says.
        message: String,
    },
}

/// A server in a process of its own; killed when it is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Mutex<Child>,
    address: String,
    ready_after: Duration,
}

impl ServerProcess {
    /// Starts `program serve` on a free port of this machine, with more options, and waits until it
    /// is ready.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn start(program: &Path, options: &[String]) -> Result<Self, ProcessError> {
        let started = Instant::now();
        let fixed = ["serve", "--host", "127.0.0.1", "--port", "0", "--log-format", "json", "--log-level", "info"];
        let mut child = Command::new(program)
            .args(fixed)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| ProcessError::Start { program: program.display().to_string(), error })?;
        let log = child.stderr.take().expect("it was asked for");
        let (said, hears) = channel();
        // The log must be read on, or its lines would be dropped and counted.
        thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                // The receiver is gone once the server is ready.
                let _ = said.send(line);
            }
        });
        let mut last = "it said nothing".to_owned();
        let address = loop {
            match hears.recv_timeout(READY_MAX.saturating_sub(started.elapsed())) {
                Ok(line) => {
                    let event: Value = serde_json::from_str(&line).unwrap_or_default();
                    match event["address"].as_str() {
                        Some(address) if event["message"] == "ready" => break Ok(address.to_owned()),
                        _ => last = line,
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Err(ProcessError::Ended { said: last }),
                Err(RecvTimeoutError::Timeout) => break Err(ProcessError::Late),
            }
        };
        match address {
            Ok(address) => Ok(Self { child: Mutex::new(child), address, ready_after: started.elapsed() }),
            Err(error) => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How long it took to be ready.
    #[must_use]
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// [`ProcessError::Signal`].
    pub fn terminate(&self) -> Result<(), ProcessError> {
        let wrong = |message: String| ProcessError::Signal { message };
        let id = self.lock().id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().map_err(|error| wrong(error.to_string()))?;
        if status.success() { Ok(()) } else { Err(wrong(status.to_string())) }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let mut child = self.lock();
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}
