//! One budget for what requests hold in memory: their bodies, their prompts, the answers that are
//! not read yet.
//!
//! Owns: how much of it is reserved. Promises: what is reserved is given back when its last holder
//! drops it, whatever way the request ends; so a reservation travels with what it stands for. Never
//! waits: what has no room is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::actors::messages::Refusal;

/// The code of a refusal for want of memory.
pub const MEMORY_FULL: &str = "memory_full";
/// When to come back: a body that arrives slowly holds its share for ten seconds at most.
const RETRY_SECONDS: u64 = 2;

/// What memory is reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A body that is large, or of unknown size.
    LargeBody,
    /// Any other body, and prompts.
    Request,
    /// Answers.
    Answer,
}

impl Use {
    /// Quarters of the budget that may be reserved, all uses together, for this one to get more: so
    /// large bodies leave room for small requests, and requests for the answers of those that
    /// were let in.
    fn quarters(self) -> u64 {
        match self {
            Self::LargeBody => 2,
            Self::Request => 3,
            Self::Answer => 4,
        }
    }
}

/// The budget has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// Others hold what is wanted.
    Now,
    /// There is less for this use in all.
    Ever {
        /// What is wanted.
        bytes: u64,
        /// What there is.
        most_bytes: u64,
    },
}

impl From<NoRoom> for Refusal {
    fn from(none: NoRoom) -> Self {
        match none {
            NoRoom::Now => Self::Unavailable { retry_after_seconds: RETRY_SECONDS, code: MEMORY_FULL },
            NoRoom::Ever { bytes, most_bytes } => Self::TooLarge { bytes, most_bytes },
        }
    }
}

/// The budget.
#[derive(Debug)]
pub struct Budget {
    most_bytes: u64,
    reserved_bytes: AtomicU64,
    peak_bytes: AtomicU64,
}

impl Budget {
    /// Of so many bytes, nothing reserved.
    #[must_use]
    pub fn new(most_bytes: u64) -> Self {
        Self { most_bytes, reserved_bytes: AtomicU64::new(0), peak_bytes: AtomicU64::new(0) }
    }

    /// How large it is.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// How much of it is reserved.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes.load(Ordering::Relaxed)
    }

    /// The most that was reserved at any time since the last call.
    pub fn peak_since_bytes(&self) -> u64 {
        self.peak_bytes.swap(0, Ordering::Relaxed)
    }

    /// The largest reservation that there can ever be for `wanted`.
    #[must_use]
    pub fn most_for(&self, wanted: Use) -> u64 {
        self.most_bytes / 4 * wanted.quarters()
    }

    /// A reservation of nothing, to grow.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> Reserved {
        Reserved(Arc::new(BudgetShare { budget: Arc::clone(self), bytes: AtomicU64::new(0) }))
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn reserve(self: &Arc<Self>, wanted: Use, bytes: u64) -> Result<Reserved, NoRoom> {
        let reserved = self.open();
        reserved.grow(wanted, bytes).map(|()| reserved)
    }

    fn take(&self, wanted: Use, bytes: u64) -> Result<(), NoRoom> {
        let most = self.most_for(wanted);
        let more = |reserved: u64| reserved.checked_add(bytes).filter(|sum| *sum <= most);
        let taken = self.reserved_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let before = taken.map_err(|_| NoRoom::Now)?;
        self.peak_bytes.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// A part of the budget. Clones hold the same part; the last one gives it back. One holder at a
/// time changes it.
#[derive(Debug, Clone)]
pub struct Reserved(Arc<BudgetShare>);

#[derive(Debug)]
struct BudgetShare {
    budget: Arc<Budget>,
    bytes: AtomicU64,
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.reserved_bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

impl Reserved {
    /// How much it is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Makes it larger.
    ///
    /// # Errors
    /// [`NoRoom`]; then it is as it was. What could never have room is told so.
    pub fn grow(&self, wanted: Use, bytes: u64) -> Result<(), NoRoom> {
        if bytes > 0 {
            let (all, most_bytes) = (self.bytes().saturating_add(bytes), self.0.budget.most_for(wanted));
            // How long an answer gets is not known when it is asked for: it may be shorter later.
            if all > most_bytes && wanted != Use::Answer {
                return Err(NoRoom::Ever { bytes: all, most_bytes });
            }
            self.0.budget.take(wanted, bytes)?;
            self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes it smaller, by no more than it is.
    pub fn shrink(&self, bytes: u64) {
        let less = |held: u64| Some(held.saturating_sub(bytes));
        if let Ok(held) = self.0.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            self.0.budget.reserved_bytes.fetch_sub(held.min(bytes), Ordering::Relaxed);
        }
    }

    /// Makes it `bytes` large.
    ///
    /// # Errors
    /// [`NoRoom`] if that is more than it was; then it is as it was.
    pub fn set(&self, wanted: Use, bytes: u64) -> Result<(), NoRoom> {
        let held = self.bytes();
        self.shrink(held.saturating_sub(bytes));
        self.grow(wanted, bytes.saturating_sub(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_given_back_by_its_last_holder() {
        let budget = Arc::new(Budget::new(1_000));
        let one = budget.reserve(Use::Request, 600).unwrap();
        assert_eq!(budget.reserve(Use::Request, 151).unwrap_err(), NoRoom::Now);
        assert_eq!(budget.reserve(Use::Request, 751).unwrap_err(), NoRoom::Ever { bytes: 751, most_bytes: 750 });
        let two = one.clone();
        drop(one);
        assert_eq!(budget.reserved_bytes(), 600);
        two.shrink(200);
        assert_eq!((two.bytes(), budget.reserved_bytes()), (400, 400));
        two.set(Use::Request, 750).unwrap();
        assert_eq!(two.set(Use::Request, 751), Err(NoRoom::Ever { bytes: 751, most_bytes: 750 }));
        assert_eq!((two.bytes(), budget.reserved_bytes()), (750, 750), "a refusal changes nothing");
        two.shrink(10_000);
        assert_eq!((two.bytes(), budget.reserved_bytes()), (0, 0));
        two.grow(Use::Answer, 1_000).unwrap();
        drop(two);
        assert_eq!(budget.reserved_bytes(), 0);
        assert_eq!(budget.reserve(Use::Answer, u64::MAX).unwrap_err(), NoRoom::Now);
        assert_eq!((budget.peak_since_bytes(), budget.peak_since_bytes()), (1_000, 0), "a peak is told once");
    }

    #[test]
    fn large_bodies_leave_room_for_requests_and_those_for_answers() {
        let budget = Arc::new(Budget::new(400));
        let large = budget.reserve(Use::LargeBody, 200).unwrap();
        assert_eq!(large.grow(Use::LargeBody, 1), Err(NoRoom::Ever { bytes: 201, most_bytes: 200 }));
        let small = budget.reserve(Use::Request, 100).unwrap();
        assert_eq!(small.grow(Use::Request, 1), Err(NoRoom::Now));
        let answer = budget.reserve(Use::Answer, 100).unwrap();
        assert_eq!(answer.grow(Use::Answer, 1), Err(NoRoom::Now));
    }

    #[test]
    fn however_many_reserve_at_once_the_bound_holds_and_nothing_is_lost() {
        let budget = Arc::new(Budget::new(10_000));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..2_000 {
                        let Ok(reserved) = budget.reserve(Use::Answer, 3_000 + turn % 7) else { continue };
                        let _ = reserved.grow(Use::Answer, 500);
                        assert!(budget.reserved_bytes() <= 10_000);
                        reserved.shrink(turn);
                    }
                });
            }
        });
        assert_eq!(budget.reserved_bytes(), 0);
    }
}
