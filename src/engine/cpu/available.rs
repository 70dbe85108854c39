//! How much memory the system would still give.

use std::fs;

/// Bytes that can be allocated without swapping: what the system has available, or what is left of
/// this process's limit (cgroup 2), whichever is less. `None` where neither is told.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_meminfo(&text));
    let number = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let limit = number("memory.max").zip(number("memory.current")).map(|(most, used)| most.saturating_sub(used));
    match (system, limit) {
        (Some(system), Some(limit)) => Some(system.min(limit)),
        (system, limit) => system.or(limit),
    }
}

/// `MemAvailable`, which is in KiB.
fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kibibytes() {
        assert_eq!(parse_meminfo("MemTotal:  9 kB\nMemAvailable:     1234 kB\n"), Some(1234 * 1024));
        assert_eq!(parse_meminfo("MemTotal:  9 kB\n"), None);
        assert_eq!(parse_meminfo("MemAvailable: many kB\n"), None);
    }
}
