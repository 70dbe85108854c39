//! How many cores this process has.

use std::collections::BTreeSet;
use std::fs;

/// The cores that this process may use: two threads of one core share its arithmetic units, so a
/// second one gains nothing. As many as the system grants in all, if it does not say which threads
/// share a core.
pub(super) fn physical_cores() -> usize {
    let granted = std::thread::available_parallelism().map_or(1, usize::from);
    let allowed = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(parse_list(line.trim()))
    });
    let siblings =
        |cpu: u32| fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok();
    count(granted, &allowed.unwrap_or_default(), siblings)
}

/// Distinct cores among the allowed CPUs, at most as many as are granted.
fn count(granted: usize, allowed: &[u32], siblings: impl Fn(u32) -> Option<String>) -> usize {
    let cores: Option<BTreeSet<String>> = allowed.iter().map(|cpu| siblings(*cpu)).collect();
    cores.map_or(granted, |cores| if cores.is_empty() { granted } else { cores.len().min(granted) })
}

/// `0-3,8` as its numbers; what cannot be read is left out.
fn parse_list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse::<u32>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list(""), [0; 0]);
    }

    #[test]
    fn two_threads_of_a_core_count_once() {
        let pairs = |cpu: u32| Some(format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1));
        assert_eq!(count(8, &[0, 1, 2, 3, 4, 5, 6, 7], pairs), 4);
        assert_eq!(count(8, &[0, 2, 3], pairs), 2);
        // A quota below the number of cores is what counts, and so is what the system grants if it
        // says no more.
        assert_eq!(count(1, &[0, 1, 2, 3], pairs), 1);
        assert_eq!(count(3, &[0, 1, 2], |_| None), 3);
        assert_eq!(count(3, &[], pairs), 3);
        assert!(physical_cores() >= 1);
    }
}
