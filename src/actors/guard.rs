//! The border that a panic does not cross. An actor whose handler panics is gone with its mailbox,
//! without a word to those that wait for it; so a handler that runs more than bookkeeping runs it
//! in here.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`; what it panicked with, if it did.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // The caller ends what `work` was for when it gets the error, so half-changed state is never
    // read.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_message(&*panic))
}

/// The sentence of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// Logs a failure inside the server under a fresh id, which the client gets to see in place of the
/// message.
pub(super) fn log_failure(request_id: &str, message: &str) -> String {
    let error_id = uuid::Uuid::new_v4().simple().to_string();
    tracing::error!(error_id, request_id, message, "a request failed inside");
    error_id
}
