//! The pool of the CPU's kernels, and its models.

#[path = "../../../kernels/src/cpu/pool.rs"]
#[allow(dead_code, reason = "a model uses what it needs of the file")]
mod shipped;

#[path = "../../../kernels/src/cpu/timing.rs"]
#[allow(dead_code, unreachable_pub, reason = "no model times anything")]
mod timing;

/// Models of the pool.
pub mod pool {
    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    use super::shipped::Pool;

    /// So many runs of so many pieces on a pool of `threads` threads, then its end. Each piece is
    /// computed once; what a piece writes without any care of its own, the caller sees behind
    /// the run, and the next run's pieces as well.
    pub fn runs(threads: usize, runs: usize, pieces: usize) {
        let mut pool = Pool::new(threads);
        let computed: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
        let written = Written((0..pieces).map(|_| UnsafeCell::new(0)).collect());
        let written = &written;
        for run in 1..=runs {
            pool.run(pieces, 1, |range| {
                for piece in range {
                    computed[piece].fetch_add(1, Ordering::Relaxed);
                    // SAFETY: the pool hands each piece to one thread; the checker would find it if it did not.
                    written.0[piece].with_mut(|place| unsafe { *place += 1 });
                }
            });
            for (computed, written) in computed.iter().zip(&written.0) {
                assert_eq!(computed.load(Ordering::Relaxed), run);
                // SAFETY: as above: the run is over.
                assert_eq!(written.with(|place| unsafe { *place }), run);
            }
        }
    }

    struct Written(Vec<UnsafeCell<usize>>);

    // SAFETY: the checker watches every access.
    unsafe impl Sync for Written {}
}
