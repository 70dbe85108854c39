//! Where the time of operations goes, for a bench.
//!
//! Owns: what was timed, and the caller's clock. Promises: as long as nothing is timed no clock is
//! read, and an operation costs one look at whether it is; what is computed is the same. Absent: a
//! clock of its own, because kernels know no time.

use std::sync::PoisonError;
use std::thread::ThreadId;

use crate::sync::Mutex;

/// What one operation took, in nanoseconds of the clock that was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationTime {
    /// Its name.
    pub name: &'static str,
    /// Bytes of weights that it reads.
    pub bytes: usize,
    /// From its beginning to the next one's.
    pub wall_ns: u64,
    /// The part of it in which the threads share work.
    pub shared_ns: u64,
    /// How long the threads compute while they share work, added up.
    pub busy_ns: u64,
    /// How long threads take until they begin their first piece of shared work, added up; all of
    /// the work's time for a thread that gets none.
    pub late_ns: u64,
    /// How long threads wait for others behind their last piece, added up.
    pub idle_ns: u64,
    /// How often the threads share work.
    pub shares: usize,
    /// Into how many pieces.
    pub pieces: usize,
}

/// What a thread did while work was shared.
#[derive(Debug, Clone, Copy)]
struct Part {
    thread: ThreadId,
    begun_ns: u64,
    ended_ns: u64,
    busy_ns: u64,
    pieces: usize,
}

/// Operations that are being timed.
#[derive(Debug)]
pub(super) struct Timing {
    clock: fn() -> u64,
    begun_ns: u64,
    operations: Vec<OperationTime>,
}

impl Timing {
    /// Times from now on.
    pub(super) fn start(clock: fn() -> u64) -> Self {
        Self { clock, begun_ns: clock(), operations: vec![OperationTime { name: "checks", ..Default::default() }] }
    }

    /// Ends the operation under way and begins another one.
    pub(super) fn begin(&mut self, name: &'static str, bytes: usize) {
        self.end();
        self.operations.push(OperationTime { name, bytes, ..Default::default() });
    }

    /// What was timed.
    pub(super) fn finish(mut self) -> Vec<OperationTime> {
        self.end();
        self.operations
    }

    /// Ends the operation under way.
    fn end(&mut self) {
        let now_ns = (self.clock)();
        self.current().wall_ns = now_ns - self.begun_ns;
        self.begun_ns = now_ns;
    }

    fn current(&mut self) -> &mut OperationTime {
        self.operations.last_mut().expect("one is under way from the start")
    }

    /// Work that is about to be shared among `threads` threads.
    pub(super) fn share(&self, threads: usize) -> Share {
        Share { clock: self.clock, threads, begun_ns: (self.clock)(), parts: Mutex::new(Vec::new()) }
    }

    /// Adds work that was shared to the operation under way.
    pub(super) fn add(&mut self, share: Share) {
        let ended_ns = (self.clock)();
        let parts = share.parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let operation = self.current();
        operation.shares += 1;
        operation.shared_ns += ended_ns - share.begun_ns;
        operation.late_ns += (share.threads - parts.len().min(share.threads)) as u64 * (ended_ns - share.begun_ns);
        for part in parts {
            operation.late_ns += part.begun_ns - share.begun_ns;
            operation.busy_ns += part.busy_ns;
            operation.idle_ns += ended_ns - part.ended_ns;
            operation.pieces += part.pieces;
        }
    }
}

/// Work that threads share.
#[derive(Debug)]
pub(super) struct Share {
    clock: fn() -> u64,
    threads: usize,
    begun_ns: u64,
    parts: Mutex<Vec<Part>>,
}

impl Share {
    /// Computes a piece and writes down how long that took.
    pub(super) fn piece(&self, work: impl FnOnce()) {
        let begun_ns = (self.clock)();
        work();
        let ended_ns = (self.clock)();
        let thread = std::thread::current().id();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = parts.iter().position(|part| part.thread == thread);
        let part = known.unwrap_or_else(|| {
            parts.push(Part { thread, begun_ns, ended_ns, busy_ns: 0, pieces: 0 });
            parts.len() - 1
        });
        parts[part].ended_ns = ended_ns;
        parts[part].busy_ns += ended_ns - begun_ns;
        parts[part].pieces += 1;
    }
}
