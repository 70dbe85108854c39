//! Stand-ins for what threads share memory with.
//!
//! Loom takes sequentially consistent loads and stores for acquiring and releasing ones, so that it
//! finds lost wake-ups where there are none. An example: one thread stores one place and then loads
//! another, while a second thread does so the other way round. What C++ promises of them is a fence
//! between such a store and such a load of one thread, which loom knows: so these atomics put it
//! there.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use loom::sync::atomic::{self, fence};

pub(crate) use loom::cell::UnsafeCell as UnsafePlace;
pub(crate) use loom::hint::spin_loop;
pub(crate) use loom::sync::{Arc, Condvar, Mutex};
pub(crate) use loom::thread::{Builder, JoinHandle, yield_now};
pub(crate) use std::sync::atomic::Ordering;

/// One look is enough to show what spinning may show.
pub(crate) const SPINS: u32 = 1;

loom::thread_local! {
    /// The thread's last sequentially consistent write has no such load behind it yet.
    static WROTE: Cell<bool> = Cell::new(false);
}

fn wrote(order: Ordering) {
    if order == Ordering::SeqCst {
        WROTE.with(|wrote| wrote.set(true));
    }
}

fn loads(order: Ordering) {
    if order == Ordering::SeqCst && WROTE.with(|wrote| wrote.replace(false)) {
        fence(Ordering::SeqCst);
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[doc = concat!("Stands for the standard library's `", stringify!($name), "`.")]
        #[derive(Debug)]
        pub struct $name(atomic::$name);

        #[allow(dead_code, reason = "the one or the other file uses it")]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                loads(order);
                self.0.load(order)
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, order);
                wrote(order);
            }

            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                let before = self.0.fetch_add(value, order);
                wrote(order);
                before
            }

            #[track_caller]
            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                let before = self.0.fetch_sub(value, order);
                wrote(order);
                before
            }

            #[track_caller]
            pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                let before = self.0.fetch_and(value, order);
                wrote(order);
                before
            }

            #[track_caller]
            pub(crate) fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                change: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                self.0.fetch_update(set, fetch, change)
            }
        }
    };
}

atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);

/// Stands for tokio's: a future hears of `notify_waiters` from the moment on at which it is made.
pub struct Notify(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// How often those that wait were told.
    times: u64,
    wakers: Vec<Waker>,
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").finish_non_exhaustive()
    }
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Waiting::default()))
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, made_at: self.0.lock().expect("not poisoned").times }
    }

    pub(crate) fn notify_waiters(&self) {
        let wakers = {
            let mut waiting = self.0.lock().expect("not poisoned");
            waiting.times += 1;
            std::mem::take(&mut waiting.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// What `Notify::notified` returns.
pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    made_at: u64,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.notify.0.lock().expect("not poisoned");
        if waiting.times > self.made_at {
            return Poll::Ready(());
        }
        waiting.wakers.push(context.waker().clone());
        Poll::Pending
    }
}
