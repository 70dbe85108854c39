//! The threads that compute an operation together.
//!
//! Owns: the helper threads. Promises: a call returns when its work is done and no helper still
//! looks at it. A helper that the system has not scheduled delays no other, because work is claimed
//! piece by piece and never assigned. A panic in a piece reaches the caller, and the pool goes on.
//! Absent: queues, futures, nested calls (`&mut self` rules them out).
//!
//! An operation lasts 5 us to 5 ms and the next one follows at once, so a helper without work first
//! spins, about 30 us, and then sleeps. To wake a sleeper costs the caller 5 to 50 us, which is
//! paid once a step and not once an operation.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;

use super::timing::Timing;
use crate::sync::{
    Arc, AtomicU64, AtomicUsize, Builder, Condvar, JoinHandle, Mutex, Ordering, SPINS, UnsafePlace, spin_loop, yield_now,
};

// The state word: a job's number, whether it takes helpers, whether the pool ends, and how many
// helpers are inside.
const NUMBER: u64 = 1 << 32;
const OPEN: u64 = 1 << 31;
const ENDED: u64 = 1 << 30;
const INSIDE: u64 = ENDED - 1;

/// What a helper does once it is inside a job.
type Work = *const (dyn Fn() + Sync);

/// What the caller and the helpers share.
struct Shared {
    state: AtomicU64,
    /// Written only while the job is closed and no thread inside it, read only by threads inside.
    work: UnsafePlace<Option<Work>>,
    asleep: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `work` is the only field that is not Sync by itself. `run` writes it while the state is
// closed with no thread inside, and publishes it by opening the state; a helper reads it only after
// it got inside, which succeeds only while open.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `work` is to a Sync closure, which any thread may call.
unsafe impl Send for Shared {}

impl Shared {
    /// Whether there is a job that is not number `served`, or an end.
    fn has_news(&self, served: u64) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & ENDED != 0 || (state & OPEN != 0 && state / NUMBER != served)
    }

    /// Spins, then sleeps, until there are news.
    fn wait(&self, served: u64) {
        for _ in 0..SPINS {
            if self.has_news(served) {
                return;
            }
            spin_loop();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before looking again: either this thread sees the job, or the caller that opened
        // it sees a sleeper.
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while !self.has_news(served) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Gets inside the open job and returns its number; `None` if it was closed meanwhile.
    fn enter(&self) -> Option<u64> {
        let inside = |state: u64| (state & OPEN != 0).then_some(state + 1);
        self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, inside).ok().map(|state| state / NUMBER)
    }

    /// What every helper thread does.
    fn help(&self) {
        let mut served = 0;
        loop {
            self.wait(served);
            if self.state.load(Ordering::SeqCst) & ENDED != 0 {
                return;
            }
            if let Some(number) = self.enter() {
                served = number;
                // SAFETY: inside an open job `work` is set and not written; the closure lives until
                // every thread is out.
                unsafe { self.work.with(|work| *work).map(|work| (*work)()) };
                self.state.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Sets the state and wakes the threads that sleep.
    fn announce(&self, state: u64) {
        self.state.store(state, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            // With the lock taken once, no thread is between looking and sleeping.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Closes the job and waits until the helpers are out.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins < SPINS { spin_loop() } else { yield_now() }
        }
    }
}

/// Threads that wait for work.
pub(super) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    jobs: u64,
    timing: Option<Timing>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads` threads; the caller of [`Pool::run`] is one of them, so one thread
    /// starts none.
    pub(super) fn new(threads: usize) -> Self {
        assert!(threads > 0, "someone must compute");
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            work: UnsafePlace::new(None),
            asleep: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let start = |index| {
            let shared = Arc::clone(&shared);
            let started = Builder::new().name(format!("cpu-{index}")).spawn(move || shared.help());
            started.unwrap_or_else(|error| panic!("cannot start thread {index} of {threads} for the CPU's kernels: {error}"))
        };
        let helpers = (1..threads).map(start).collect();
        Self { shared, helpers, jobs: 0, timing: None }
    }

    /// How many threads compute, the caller's among them.
    pub(super) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// What is timed, if anything is.
    pub(super) fn timing(&mut self) -> &mut Option<Timing> {
        &mut self.timing
    }

    /// Calls `work` with ranges that together are `0..items`, each at most `grain` long, on all
    /// threads at once. A single range, or a pool of one thread, is computed by the caller
    /// alone.
    ///
    /// # Panics
    /// With the first panic of `work`; ranges that were not begun then are left out.
    pub(super) fn run(&mut self, items: usize, grain: usize, work: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        if items <= grain || self.helpers.is_empty() {
            if items > 0 {
                work(0..items);
            }
            return;
        }
        let Some(mut timing) = self.timing.take() else { return self.share(items, grain, &work) };
        let share = timing.share(self.threads());
        self.share(items, grain, &|range| share.piece(|| work(range)));
        timing.add(share);
        self.timing = Some(timing);
    }

    /// Hands out the pieces, of which there are several, and waits for all of them.
    fn share(&mut self, items: usize, grain: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        let next = AtomicUsize::new(0);
        let panicked: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
        let claim = || {
            loop {
                let start = next.fetch_add(grain, Ordering::Relaxed);
                if start >= items {
                    break;
                }
                let range = start..items.min(start + grain);
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(range))) {
                    next.store(items, Ordering::Relaxed);
                    panicked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                }
            }
        };
        let claim: &(dyn Fn() + Sync) = &claim;
        // SAFETY: only the lifetime changes. Helpers call `claim` from inside the job alone, and
        // `close` below waits until they are out; nothing between here and there can unwind, since
        // `claim` catches what `work` throws.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(claim) };
        // SAFETY: the last job was closed and left by every helper (`close`), so no thread reads
        // `work`; `&mut self` makes this thread the only one that could write it.
        self.shared.work.with_mut(|work| unsafe { *work = Some(erased) });
        // Zero is the number that a helper starts with, so it is left out when the number wraps.
        self.jobs = (self.jobs + 1) % (NUMBER - 1);
        self.shared.announce(((self.jobs + 1) * NUMBER) | OPEN);
        claim();
        self.shared.close();
        if let Some(panic) = panicked.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }

    /// Cuts `out` into rows of `width` values, the last one perhaps shorter, and calls `work` with
    /// each row and its index, on all threads, `grain` rows at a time.
    pub(super) fn for_rows<T: Send>(
        &mut self,
        out: &mut [T],
        width: usize,
        grain: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let len = out.len();
        let out = Outputs::new(out);
        self.run(len.div_ceil(width), grain, |rows| {
            for row in rows {
                let first = row * width;
                // SAFETY: `run` hands out every index once, and rows of different index do not
                // overlap.
                work(row, unsafe { out.slice(first..len.min(first + width)) });
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.announce(ENDED);
        for helper in self.helpers.drain(..) {
            // A helper cannot panic: the work that it calls catches its own panics.
            let _ = helper.join();
        }
    }
}

/// Results that threads write side by side, where those of one thread are not neighbours in memory.
#[derive(Debug)]
pub(super) struct Outputs<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Outputs<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Outputs<'_, T> {}

// SAFETY: what lies behind the pointer is exclusively borrowed for as long as this lives, and is
// reached through `slice` alone, whose caller promises that no two threads reach the same values.
unsafe impl<T: Send> Send for Outputs<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Outputs<'_, T> {}

impl<'a, T> Outputs<'a, T> {
    /// Takes `values` until the writing is done.
    pub(super) fn new(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), borrowed: PhantomData }
    }

    /// The values of `range`, to be read and written.
    ///
    /// # Safety
    /// While the slice lives, no other slice of these values does, on this thread or another.
    ///
    /// # Panics
    /// If there are not so many values.
    #[inline(always)]
    pub(super) unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "values {range:?} of {}", self.len);
        // SAFETY: the range lies in the borrowed slice, and no other piece has a part of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
