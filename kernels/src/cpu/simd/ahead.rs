//! How far ahead weights are prefetched, for each kind of CPU.
//!
//! A distance changes when weights arrive and never what is computed. The kinds differ in what
//! their own prefetching does: one that keeps up by itself loses by being asked.

/// How far ahead weights are prefetched, in bytes of each of a band's two groups, which are two
/// streams of memory. Zero: they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// bf16 that a single token is multiplied with.
    pub bf16: usize,
    /// int8 and MXFP4 that a single token is multiplied with.
    pub integers: usize,
    /// Whatever several tokens are multiplied with; never zero.
    pub several: usize,
}

impl Ahead {
    /// What suits this CPU.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of_this_cpu() -> Self {
        use std::arch::x86_64::__cpuid;
        let vendor = __cpuid(0);
        let vendor = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        let signature = __cpuid(1).eax;
        let (family, more) = (signature >> 8 & 15, signature >> 20 & 255);
        Self::of(vendor.as_flattened(), if family == 15 { family + more } else { family })
    }

    /// What suits the CPUs of a maker's family, as CPUID numbers them.
    #[cfg(target_arch = "x86_64")]
    fn of(vendor: &[u8], family: u32) -> Self {
        // With several tokens loads fill the window in which they run ahead, whatever the CPU: of
        // 512 to 8,192 this and its double were the fastest (Emerald Rapids).
        let several = 2048;
        match (vendor, family) {
            // Emerald Rapids: a third faster with it.
            (b"GenuineIntel", _) => Self { bf16: 2048, integers: 2048, several },
            // Zen 5: MXFP4 at 33 GB/s without, at 46, 48.5 and 46.5 with 2, 4 and 6 KiB. bf16 read
            // 51 to 76 without, and was not measured with it.
            (b"AuthenticAMD", 26..) => Self { bf16: 0, integers: 4096, several },
            // Zen 4: MXFP4 at 18.6 GB/s without, at 17.6 and 17.4 with 2 and 4 KiB. Zen 3: a plain
            // read became a quarter slower.
            _ => Self { bf16: 0, integers: 0, several },
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_cpu_has_its_distances() {
        let alone = |vendor: &[u8; 12], family| {
            let ahead = Ahead::of(vendor, family);
            assert!(ahead.several > 0);
            (ahead.bf16, ahead.integers)
        };
        assert_eq!(alone(b"GenuineIntel", 6), (2048, 2048));
        assert_eq!(alone(b"AuthenticAMD", 25), (0, 0));
        assert_eq!(alone(b"AuthenticAMD", 26), (0, 4096));
        assert_eq!(alone(b"HygonGenuine", 24), (0, 0));
    }
}
