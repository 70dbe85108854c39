//! What was put into a file reaches the disk by a thread of its own.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::Database;

/// How long what was put may be in memory alone. Waiting for the disk each time would cost a
/// response the milliseconds of a `fsync`.
pub(super) const FLUSH: Duration = Duration::from_millis(200);

/// Brings to the disk what was put, shortly after.
#[derive(Debug)]
pub(super) struct Flusher {
    wanted: Arc<(Mutex<FlushState>, Condvar)>,
    database: Arc<Database>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct FlushState {
    is_due: bool,
    is_over: bool,
}

fn locked(state: &Mutex<FlushState>) -> MutexGuard<'_, FlushState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flusher {
    pub(super) fn start(database: Arc<Database>) -> Self {
        let wanted: Arc<(Mutex<FlushState>, Condvar)> = Arc::default();
        let (shared, written) = (Arc::clone(&wanted), Arc::clone(&database));
        let work = move || {
            let (state, changed) = &*shared;
            loop {
                let waiting = changed.wait_while(locked(state), |state| !state.is_due && !state.is_over);
                let is_over = waiting.unwrap_or_else(PoisonError::into_inner).is_over;
                if is_over {
                    return;
                }
                std::thread::sleep(FLUSH);
                locked(state).is_due = false;
                flush(&written);
            }
        };
        // Without the thread everything is flushed when the store is dropped.
        let thread = std::thread::Builder::new().name("responses".to_owned()).spawn(work).ok();
        Self { wanted, database, thread }
    }

    /// Brings to the disk what was put, now.
    pub(super) fn flush(&self) {
        flush(&self.database);
    }

    pub(super) fn wake(&self) {
        locked(&self.wanted.0).is_due = true;
        self.wanted.1.notify_one();
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        locked(&self.wanted.0).is_over = true;
        self.wanted.1.notify_one();
        // The thread has no panics of its own; one of the database's is logged by the process.
        let _ = self.thread.take().map(JoinHandle::join);
        flush(&self.database);
    }
}

/// A commit that waits for the disk takes those before it along.
fn flush(database: &Database) {
    let flushed = database.begin_write().map_err(redb::Error::from).and_then(|write| write.commit().map_err(redb::Error::from));
    if let Err(error) = flushed {
        tracing::error!(%error, "the response store cannot be written to its file");
    }
}
