//! What glibc's allocator does with memory that was freed.
//!
//! Owns: two calls that only C has. Promises: they change where freed memory goes and nothing else;
//! with another C library they do nothing. Why these numbers: docs/adr/0038.

/// Blocks from this size on are mapped each for itself, and are the system's again as soon as they
/// are freed.
const MAPPED_BYTES: i32 = 128 << 10;

/// Fixes the thresholds of glibc's allocator for this process.
///
/// Left alone, glibc raises them to twice the largest block that was freed, up to 64 MiB. From the
/// first body of 3 MB on, all bodies then come from heaps, which do not shrink.
pub fn fix_thresholds() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: mallopt takes any parameter and any value, locks what it changes, and reports
        // what it does not know.
        let _ = unsafe { libc::mallopt(parameter, MAPPED_BYTES) };
    }
}

/// Gives the system what is free inside the heaps, in whole pages.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes any padding and locks each heap while it trims it.
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_bytes() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    /// 64 MiB in blocks of 64 KiB, every second of which stays: no heap can shrink at its end.
    #[test]
    fn what_is_free_between_what_is_held_goes_back() {
        fix_thresholds();
        let mut blocks: Vec<Option<Vec<u8>>> = (0..1024).map(|_| Some(vec![1; 64 << 10])).collect();
        blocks.iter_mut().step_by(2).for_each(|block| *block = None);
        let before_bytes = resident_bytes();
        trim();
        let freed_bytes = before_bytes.saturating_sub(resident_bytes());
        assert!(freed_bytes > 16 << 20, "{freed_bytes} of 32 MiB");
        assert!(blocks.iter().flatten().all(|block| block.iter().all(|byte| *byte == 1)));
    }
}
