//! What was put into a file reaches the disk by a thread of its own.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::file::DatabaseSlot;

/// How long what was put may be in memory alone. Waiting for the disk each time would cost a
/// response the milliseconds of a `fsync`.
pub(super) const FLUSH: Duration = Duration::from_millis(200);

/// Brings to the disk what was put, shortly after.
#[derive(Debug)]
pub(super) struct Flusher {
    wanted: Arc<(Mutex<FlushState>, Condvar)>,
    slot: Arc<DatabaseSlot>,
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
    /// `retry`: how often a file that failed is opened again.
    pub(super) fn start(slot: Arc<DatabaseSlot>, retry: Duration) -> Self {
        let wanted: Arc<(Mutex<FlushState>, Condvar)> = Arc::default();
        let (shared, written) = (Arc::clone(&wanted), Arc::clone(&slot));
        let work = move || {
            let (state, changed) = &*shared;
            loop {
                let idle = |state: &mut FlushState| !state.is_due && !state.is_over;
                let waited = changed.wait_timeout_while(locked(state), retry, idle);
                let (state_now, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                if state_now.is_over {
                    return;
                }
                drop(state_now);
                if waited.timed_out() {
                    // A file that failed is opened again even if nothing asks for it, so that the
                    // server gets well by itself.
                    if written.problem().is_some() {
                        written.flush();
                    }
                    continue;
                }
                std::thread::sleep(FLUSH);
                locked(state).is_due = false;
                written.flush();
            }
        };
        // Without the thread everything is flushed when the store is dropped.
        let thread = std::thread::Builder::new().name("responses".to_owned()).spawn(work).ok();
        Self { wanted, slot, thread }
    }

    /// Brings to the disk what was put, now.
    pub(super) fn flush(&self) {
        self.slot.flush();
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
        self.slot.flush();
    }
}
