//! Each fast kernel against its twin on every path that this CPU has, and against itself: other
//! tokens, threads and slices must not change a bit.

mod attention;
mod experts;
mod linear;
mod rows;
mod timing;

use super::{Ahead, Cpu, Format, Isa, Math, Packed};

/// Numbers that look random and come again from the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // SplitMix64, Steele et al. 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Values between -1 and 1.
    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// The bytes of bf16 values between -1 and 1.
    fn bf16(&mut self, count: usize) -> Vec<u8> {
        self.values(count).into_iter().flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// MXFP4 scales of 2^-6 to 2^-3.
    fn scales(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| 121 + self.below(4) as u8).collect()
    }
}

/// A CPU for every path, each with another number of threads.
fn cpus() -> Vec<Cpu> {
    Isa::available().into_iter().enumerate().map(|(index, isa)| Cpu::with_isa(1 + index, isa)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Asserts that each value is within `tolerance` of what is expected.
fn assert_near(got: &[f32], expected: &[f32], tolerance: impl Fn(usize) -> f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let near = (got - expected).abs() <= tolerance(index);
        assert!(near, "{what}: value {index} is {got}, expected {expected} within {}", tolerance(index));
    }
}

/// The largest magnitude, at least one.
fn magnitude(values: &[f32]) -> f32 {
    values.iter().fold(1.0, |largest, value| value.abs().max(largest))
}
