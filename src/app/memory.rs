//! How much memory requests may hold.

use rlimit::Resource;

use super::ServeOptions;
use crate::engine::cpu::available_bytes;
use crate::http::largest_body_bytes;
use crate::metrics::Process;

/// The share of the free memory that requests may hold. Weights and KV memory are not taken yet,
/// and come from the rest.
const SHARE: u64 = 4;
/// Bounds of the default: less holds no body, and more is seldom reached.
const DEFAULT_BYTES: [u64; 2] = [64 << 20, 4 << 30];

/// The budget that the options ask for, or what the machine has to give.
pub(super) fn budget_bytes(options: &ServeOptions) -> u64 {
    let [least, most] = DEFAULT_BYTES;
    options.memory_budget_bytes.unwrap_or_else(|| {
        let free = [available_bytes(), address_space_left()].into_iter().flatten().min();
        free.map_or(most, |free| free / SHARE).clamp(least, most)
    })
}

/// The largest body that is taken: what the options say, unless so much could never be held.
pub(super) fn body_max_bytes(options: &ServeOptions, budget_bytes: u64) -> usize {
    let largest = largest_body_bytes(budget_bytes);
    if options.body_max_bytes > largest {
        tracing::warn!(
            "--body-max-bytes is {} and the memory budget of {} MiB holds bodies of {largest} bytes at most, which is taken; a \
             larger --memory-budget holds more",
            options.body_max_bytes,
            budget_bytes >> 20
        );
    }
    options.body_max_bytes.min(largest)
}

/// What this process may still map, if it has such a limit.
fn address_space_left() -> Option<u64> {
    let (limit, _) = Resource::AS.get().ok()?;
    (limit != rlimit::INFINITY).then(|| limit.saturating_sub(Process::read().virtual_bytes))
}
