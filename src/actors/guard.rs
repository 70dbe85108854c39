//! The border that a panic does not cross. An actor whose handler panics is gone with its mailbox, and nobody is told; so every
//! handler that runs more than bookkeeping runs it in here.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`; what it panicked with, if it did.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // Whoever gets the error ends what `work` was for, so nobody looks at half-changed state.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_message(&*panic))
}

/// The sentence of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
