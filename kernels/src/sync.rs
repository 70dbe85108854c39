//! What the threads of the pool share memory with, each under one name: `tests/models` compiles the
//! pool with a model checker's in their place (docs/adr/0037). Inlined away here.

use std::cell::UnsafeCell;

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Condvar, Mutex};
pub(crate) use std::thread::{Builder, JoinHandle, yield_now};

/// Spins before sleeping: a `pause` takes 40 to 140 cycles, so this is 20 to 50 us.
pub(crate) const SPINS: u32 = 1000;

/// A place that threads read and write at times of which they tell each other by other means.
#[derive(Debug)]
pub(crate) struct UnsafePlace<T>(UnsafeCell<T>);

impl<T> UnsafePlace<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Calls `read` with where it is.
    #[inline(always)]
    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// Calls `write` with where it is.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}
