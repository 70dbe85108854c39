//! A device that a test has for itself, and what the test may turn.

use std::ffi::{CString, c_int};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::api::{Api, api};
use crate::planted::{Planted, load_library};

/// Which thread runs next whenever a thread has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One warp as far as it gets, then the next: the fastest.
    Warps,
    /// Thread after thread.
    Forward,
    /// Thread before thread.
    Reverse,
    /// Any thread; the number seeds it.
    Random(u32),
    /// One warp as far as it gets, then any other. Finds what the others miss: a warp that
    /// overtakes.
    WarpsRandom(u32),
}

/// An order, and when `cp.async` copies are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Which thread runs next.
    pub order: Order,
    /// At once, instead of at the wait. Both are allowed, so both must give the same result.
    pub copies_early: bool,
}

/// What outputs must be equal under, bit by bit.
pub const SCHEDULES: [Schedule; 6] = [
    Schedule { order: Order::Warps, copies_early: false },
    Schedule { order: Order::Reverse, copies_early: false },
    Schedule { order: Order::Forward, copies_early: true },
    Schedule { order: Order::Random(11), copies_early: true },
    Schedule { order: Order::WarpsRandom(13), copies_early: false },
    Schedule { order: Order::WarpsRandom(14), copies_early: true },
];

/// The two that find most: for builds in which every access is checked.
pub const CHECKED_SCHEDULES: [Schedule; 2] = [SCHEDULES[0], SCHEDULES[5]];

/// A failure that a test plants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The kernel ends the context, as an illegal address does: every later call fails too.
    Kernel,
    /// The launch is refused (`CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES`); later ones work.
    Refused,
}

/// A device of the stand-in driver, or the machine's own.
#[derive(Debug)]
pub struct Device {
    ordinal: usize,
    real: Option<Real>,
}

/// A device of the machine's own.
#[derive(Debug)]
enum Real {
    /// The first one; with it a test has them all.
    First { _lock: MutexGuard<'static, ()> },
    /// Another.
    Other,
}

static FREE: Mutex<Option<Vec<usize>>> = Mutex::new(None);
static RETURNED: Condvar = Condvar::new();
static REAL: Mutex<()> = Mutex::new(());

/// Takes a device; waits if all are taken. It is as new: no memory in use, no error, the fastest
/// schedule, unchecked.
///
/// # Panics
/// Without a C++ compiler, with a sentence that says so.
#[must_use]
pub fn device() -> Device {
    devices(1).remove(0)
}

/// Whether tests run on the machine's own driver.
#[must_use]
pub fn on_the_driver() -> bool {
    std::env::var_os("ANTIPHON_CUDA").is_some_and(|value| value == "driver")
}

/// Says that the running test, or the rest of it, checks nothing on this machine, and why. Tests
/// that pass without having checked are counted by `scripts/gpu-check`, which looks for this line.
pub fn skipped(why: impl std::fmt::Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {test}: {why}");
}

/// Takes `count` devices at once; on the machine's own driver the first ones, which the caller
/// knows to be there.
///
/// # Panics
/// As [`device`].
#[must_use]
pub fn devices(count: usize) -> Vec<Device> {
    if on_the_driver() {
        // A test that failed with the device in hand leaves it to the next one.
        let mut first = Some(Real::First { _lock: REAL.lock().unwrap_or_else(PoisonError::into_inner) });
        return (0..count).map(|ordinal| Device { ordinal, real: first.take().or(Some(Real::Other)) }).collect();
    }
    let total = usize::try_from((api().devices)()).expect("a count");
    assert!(count <= total, "the shim has {total} devices");
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let left = free.get_or_insert_with(|| (0..total).rev().collect());
        if left.len() >= count {
            let taken = left.split_off(left.len() - count);
            return taken.into_iter().rev().map(|ordinal| Device { ordinal, real: None }).collect();
        }
        free = RETURNED.wait(free).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Device {
    /// Which device this is to the driver.
    #[must_use]
    pub const fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Whether this is silicon.
    #[must_use]
    pub const fn real(&self) -> bool {
        self.real.is_some()
    }

    /// The stand-in's calls and this device's number there; nothing on the machine's own driver.
    fn shim(&self) -> Option<(&'static Api, c_int)> {
        let number = c_int::try_from(self.ordinal).expect("a handful of devices");
        (!self.real()).then(|| (api(), number))
    }

    /// Sets the order in which threads run from now on.
    pub fn schedule(&self, schedule: Schedule) {
        let (order, seed) = match schedule.order {
            Order::Warps => (0, 1),
            Order::Forward => (1, 1),
            Order::Reverse => (2, 1),
            Order::Random(seed) => (3, seed),
            Order::WarpsRandom(seed) => (4, seed),
        };
        if let Some((api, number)) = self.shim() {
            (api.set_schedule)(number, order, seed, c_int::from(schedule.copies_early));
        }
    }

    /// Whether later launches run the build that checks every access; about ten times slower.
    pub fn check(&self, on: bool) {
        if let Some((api, number)) = self.shim() {
            (api.set_check)(number, c_int::from(on));
        }
    }

    /// Sets how much memory the device says it has. 1 GiB, unless set; what is not touched takes
    /// none of the machine's.
    pub fn memory_bytes(&self, bytes: usize) {
        if let Some((api, number)) = self.shim() {
            (api.set_memory)(number, bytes);
        }
    }

    /// Sets how many multiprocessors the device says it has; 8, unless set.
    pub fn multiprocessors(&self, count: u16) {
        if let Some((api, number)) = self.shim() {
            (api.set_multiprocessors)(number, c_int::from(count));
        }
    }

    /// Sets the compute capability; 9.0, unless set.
    pub fn capability(&self, major: u16, minor: u16) {
        if let Some((api, number)) = self.shim() {
            (api.set_capability)(number, c_int::from(major), c_int::from(minor));
        }
    }

    /// Lets the `nth` launch from now fail, counted from 1. A replayed graph is one launch for
    /// [`Fault::Refused`], and as many as it has kernels for [`Fault::Kernel`].
    pub fn fail_launch(&self, nth: u32, fault: Fault) {
        let code = match fault {
            Fault::Kernel => 700,
            Fault::Refused => 701,
        };
        if let Some((api, number)) = self.shim() {
            (api.fail_launch)(number, c_int::try_from(nth).expect("a small number"), code);
        }
    }

    /// Lets the `nth` allocation from now find no memory, counted from 1.
    pub fn fail_allocation(&self, nth: u32) {
        if let Some((api, number)) = self.shim() {
            (api.fail_allocation)(number, c_int::try_from(nth).expect("a small number"));
        }
    }

    /// Puts a bug into the project's kernels: modules that this device loads from now on have it.
    ///
    /// # Panics
    /// As [`load_library`].
    pub fn plant(&self, bug: Planted) {
        let Some((api, number)) = self.shim() else { return };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cuda");
        // A module's image is what asks for a library by name; these modules are the project's own.
        drop(load_library(bug.name, &folder, Some(bug)));
        let name = CString::new(bug.name).expect("a bug's name has no zero byte");
        (api.plant)(number, name.as_ptr());
    }

    /// Races seen since the device was taken; 0 on silicon.
    #[must_use]
    pub fn races(&self) -> usize {
        self.shim().map_or(0, |(api, number)| usize::try_from((api.races)(number)).unwrap_or(0))
    }

    /// Driver calls since the device was taken; 0 on silicon.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.shim().map_or(0, |(api, number)| usize::try_from((api.calls)(number)).unwrap_or(0))
    }

    /// Kernels that ran since the device was taken; 0 on silicon.
    #[must_use]
    pub fn launches(&self) -> usize {
        self.shim().map_or(0, |(api, number)| usize::try_from((api.launches)(number)).unwrap_or(0))
    }

    /// How often this kernel ran since the device was taken; 0 on silicon.
    #[must_use]
    pub fn launches_of(&self, kernel: &str) -> usize {
        let kernel = CString::new(kernel).expect("a kernel's name has no zero byte");
        self.shim().map_or(0, |(api, number)| usize::try_from((api.launches_of)(number, kernel.as_ptr())).unwrap_or(0))
    }

    /// Bytes allocated now; 0 on silicon.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.shim().map_or(0, |(api, number)| (api.memory_used)(number))
    }

    /// What the device last complained of, empty if nothing.
    #[must_use]
    pub fn message(&self) -> String {
        let Some((api, number)) = self.shim() else { return String::new() };
        let mut text = vec![0_u8; 1024];
        let length = (api.message)(number, text.as_mut_ptr().cast(), text.len());
        text.truncate(length.min(1023));
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let Some((api, number)) = self.shim() else { return };
        (api.reset)(number);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.get_or_insert_default().push(self.ordinal);
        RETURNED.notify_all();
    }
}
