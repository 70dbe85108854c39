//! The simulation's randomness: a seed gives the same numbers for ever, on every machine.

use std::ops::RangeInclusive;

/// A generator of SplitMix64. Source: Steele, Lea and Flood 2014.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `true` with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Any number of the range, all alike.
    pub(super) fn uniform(&mut self, range: RangeInclusive<usize>) -> usize {
        let span = (range.end() - range.start()) as u64 + 1;
        range.start() + (self.next() % span) as usize
    }

    /// Any number of the range, every order of magnitude alike: small ones are where the corners
    /// are.
    pub(super) fn magnitude(&mut self, range: RangeInclusive<usize>) -> usize {
        let (low, high) = (*range.start() as f64, *range.end() as f64 + 1.0);
        let value = (low.max(0.5).ln() + self.unit() * (high.ln() - low.max(0.5).ln())).exp();
        (value as usize).clamp(*range.start(), *range.end())
    }

    /// One of these.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.uniform(0..=choices.len() - 1)]
    }
}
