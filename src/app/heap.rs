//! Memory that requests have freed goes back to the system.

use std::sync::Arc;
use std::time::Duration;

use antiphon_kernels::heap;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::actors::budget::Budget;

/// An operator that names glibc's settings in this variable has decided.
const TUNABLES: &str = "GLIBC_TUNABLES";
/// How often the reservations are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Trimming walks all that is free, which is worth it from here on.
const WORTH_BYTES: u64 = 8 << 20;

/// Before any thread is started: where large blocks come from.
pub(super) fn fix_thresholds() {
    if std::env::var_os(TUNABLES).is_none() {
        heap::fix_thresholds();
    }
}

/// Trims the heaps whenever much less is reserved than was before.
pub(super) async fn keep_trimmed(budget: Arc<Budget>) {
    let mut high_bytes = 0;
    loop {
        sleep(LOOK_EVERY).await;
        high_bytes = high_bytes.max(budget.peak_since_bytes());
        let now_bytes = budget.reserved_bytes();
        if is_worth(high_bytes, now_bytes) {
            high_bytes = now_bytes;
            // It cannot be called off; where the runtime ends, so does the process.
            let _ = spawn_blocking(heap::trim).await;
        }
    }
}

/// Whether half of what was reserved is free, and so much that a trim pays.
fn is_worth(high_bytes: u64, now_bytes: u64) -> bool {
    let freed_bytes = high_bytes.saturating_sub(now_bytes);
    freed_bytes >= WORTH_BYTES && freed_bytes >= now_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trim_waits_until_half_of_much_is_free() {
        assert!(is_worth(WORTH_BYTES, 0) && is_worth(4 * WORTH_BYTES, 2 * WORTH_BYTES));
        assert!(!is_worth(WORTH_BYTES - 1, 0) && !is_worth(4 * WORTH_BYTES, 2 * WORTH_BYTES + 1) && !is_worth(0, WORTH_BYTES));
    }
}
