//! The log: to standard error, on a thread of its own, never in the way of serving.
//!
//! Lines go through a bounded queue. If standard error is not read, or is closed, lines are dropped
//! and counted; nothing waits and nothing fails.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::unix_seconds;
use crate::metrics::LogWatch;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 4096;
/// How long the last lines may take when the process ends.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

enum LogJob {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Where the log's lines go; a line that does not fit is dropped and counted.
#[derive(Clone)]
struct Queue {
    jobs: SyncSender<LogJob>,
    watch: LogWatch,
}

impl Queue {
    fn start(watch: LogWatch) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(QUEUE_LINES);
        let writer_watch = watch.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            for job in waiting {
                match job {
                    LogJob::Line(line) => {
                        if io::stderr().write_all(&line).is_err() {
                            writer_watch.dropped();
                        }
                    }
                    // The caller may have stopped waiting.
                    LogJob::Flush(done) => drop(done.try_send(())),
                }
            }
        })?;
        Ok(Self { jobs, watch })
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.jobs.try_send(LogJob::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.watch.dropped(),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Writes what is still queued when it is dropped.
#[derive(Debug)]
pub struct Log {
    jobs: SyncSender<LogJob>,
    watch: LogWatch,
}

impl Log {
    /// What the log saw.
    #[must_use]
    pub fn watch(&self) -> &LogWatch {
        &self.watch
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, waiting) = sync_channel(1);
        if self.jobs.try_send(LogJob::Flush(done)).is_ok() {
            // A standard error that is not read must not keep the process from ending.
            let _ = waiting.recv_timeout(FLUSH_MAX);
        }
    }
}

/// Starts the log of this process; also what a caught panic leaves in it.
///
/// # Errors
/// If the system gives no thread.
///
/// # Panics
/// If the log of this process was started before.
pub fn start(format: Format, filter: EnvFilter) -> io::Result<Log> {
    let watch = LogWatch::default();
    let queue = Queue::start(watch.clone())?;
    let jobs = queue.jobs.clone();
    let lines = tracing_subscriber::fmt::layer().with_writer(queue).with_ansi(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).with(Warnings(watch.clone())).init();
    std::panic::set_hook(Box::new(|panic| {
        // The message may quote what a user wrote (slicing a text does), so only the place is
        // logged.
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let thread = thread::current();
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), place, "a panic was caught");
    }));
    Ok(Log { jobs, watch })
}

/// Keeps the last warnings for the debug bundle.
struct Warnings(LogWatch);

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            _ => return,
        };
        let mut line = LogLine::default();
        event.record(&mut line);
        self.0.warned(unix_seconds(), level, format!("{}{}", line.message, line.fields).trim());
    }
}

/// An event as one line.
#[derive(Default)]
struct LogLine {
    message: String,
    fields: String,
}

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a String takes everything");
    }
}

#[cfg(test)]
#[path = "logging_tests.rs"]
mod tests;
