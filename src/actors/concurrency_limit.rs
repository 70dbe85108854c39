//! A bound that we count ourselves, because actix's mailboxes do not keep theirs: `do_send` ignores
//! the capacity, a SyncArbiter's queue has none, and `send` into a full mailbox is never woken
//! again (actix 0.13.5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Lets in so many at a time.
#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    inside_count: AtomicUsize,
    max_count: usize,
}

impl ConcurrencyLimit {
    /// A gate with nothing inside.
    pub(super) fn new(max_count: usize) -> Self {
        Self { inside_count: AtomicUsize::new(0), max_count }
    }

    /// Passes, unless as many as there may be are inside.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Pass> {
        let entered = self
            .inside_count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |inside| (inside < self.max_count).then_some(inside + 1));
        entered.ok().map(|_| Pass(Arc::clone(self)))
    }

    /// How many are inside.
    pub(super) fn inside_count(&self) -> usize {
        self.inside_count.load(Ordering::Relaxed)
    }

    /// How many there may be.
    pub(super) fn max_count(&self) -> usize {
        self.max_count
    }
}

/// The right to be inside; leaves when dropped.
#[derive(Debug)]
pub(super) struct Pass(Arc<ConcurrencyLimit>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside_count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound_are_inside_however_many_try() {
        let gate = Arc::new(ConcurrencyLimit::new(5));
        let passed: Vec<Pass> = std::thread::scope(|scope| {
            let tries: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..100).filter_map(|_| gate.enter()).collect::<Vec<_>>())).collect();
            tries.into_iter().flat_map(|thread| thread.join().expect("the thread ends")).collect()
        });
        assert_eq!(passed.len(), 5);
        assert_eq!(gate.inside_count(), 5);
        drop(passed);
        assert_eq!(gate.inside_count(), 0);
        assert!(gate.enter().is_some());
    }
}
