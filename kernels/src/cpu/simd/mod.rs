//! The instruction sets, behind one trait, so that each kernel is written once.
//!
//! A kernel is a [`Kernel`]: a struct of its operands whose `run` is generic over [`Simd`].
//! [`Isa::run`] calls it inside a function compiled for the instruction set, into which everything
//! marked `#[inline(always)]` is inlined. A value of a `Simd` type is the proof that the CPU has
//! the instructions, so its methods are safe.
//!
//! Promises: every operation is the same on each lane, whatever the other lanes hold, and sums
//! across lanes have one order. The paths differ from each other in the last bits: the portable one
//! rounds products, the others fuse them, and AMX, which is AVX-512 for all but bf16 weights, adds
//! up the parts of activations.

mod ahead;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_rows;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_rows;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_rows;
#[cfg(target_arch = "x86_64")]
mod avx_vnni_rows;
mod portable;
mod portable_rows;
mod rows;

pub use ahead::Ahead;
#[cfg(target_arch = "x86_64")]
pub(super) use amx::Amx;
#[cfg(target_arch = "x86_64")]
pub(super) use amx_rows::{Bf16Tiles, TOKENS};
pub(super) use rows::{Band, Rows, Sums};

use half::f16;

/// Lanes of the widest vector: buffers on the stack are made for these.
pub(super) const LANES_MAX: usize = 16;

/// Operations on a kernel's operands, compiled for each instruction set.
pub(super) trait Kernel {
    /// What it returns.
    type Out;

    /// Computes. Implementations are `#[inline(always)]`, as is everything that they call with `s`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// An instruction set that this CPU has.
pub(super) trait Simd: Rows {
    /// A vector of f32.
    type V: Copy;

    /// How many f32 a vector holds.
    const LANES: usize;

    /// Runs `kernel` with these instructions.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::V;
    /// The first `LANES` values of `from`. Panics if there are fewer.
    fn load(self, from: &[f32]) -> Self::V;
    /// The same of f16, exactly.
    fn load_half(self, from: &[f16]) -> Self::V;
    /// Stores to the first `LANES` values of `to`. Panics if there are fewer.
    fn store(self, v: Self::V, to: &mut [f32]);

    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the CPU fuses.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^n`, where a lane holds `1.5 * 2^23 + n`, `n` in -127 ..= 128; zero for -127, infinite for
    /// 128.
    fn power(self, shifted: Self::V) -> Self::V;
    /// The sum of all lanes, in one fixed order.
    fn sum(self, v: Self::V) -> f32;

    /// Brings the cache line at an address near, if the instructions can. Nothing is read.
    fn prefetch<T>(self, at: *const T);
}

/// `e^x` in each lane, within 2e-7 relative; zero below -87.7, infinite above 88.37, NaN for NaN.
///
/// Source: Cephes `expf` (Moshier): `x = n ln 2 + r`, a polynomial in `r`, times `2^n`.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the constants as Cephes states them")]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const POLYNOMIAL: [f32; 5] =
        [1.398_199_950_7e-3, 8.333_451_907_3e-3, 4.166_579_589_4e-2, 1.666_666_545_9e-1, 5.000_000_120_1e-1];
    // x stands second in both: that keeps NaN.
    let x = s.min(s.splat(89.0), s.max(s.splat(-88.0), x));
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    let magic = s.splat(12_582_912.0);
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), magic);
    let n = s.sub(shifted, magic);
    // ln 2 in two parts: the first has few bits, so that its product with n is exact.
    let r = s.fma(n, s.splat(-0.693_359_375), x);
    let r = s.fma(n, s.splat(2.121_944_400_5e-4), r);
    let mut p = s.splat(1.987_569_150_0e-4);
    for coefficient in POLYNOMIAL {
        p = s.fma(p, r, s.splat(coefficient));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    s.mul(p, s.power(shifted))
}

/// The values of `from`, at most `LANES`, and `rest` in the lanes that are left.
#[inline(always)]
pub(super) fn load_part<S: Simd>(s: S, from: &[f32], rest: f32) -> S::V {
    let mut lanes = [rest; LANES_MAX];
    lanes[..from.len()].copy_from_slice(from);
    s.load(&lanes)
}

/// Stores the first lanes, as many as `to` takes, at most `LANES`.
#[inline(always)]
pub(super) fn store_part<S: Simd>(s: S, v: S::V, to: &mut [f32]) {
    let mut lanes = [0.0; LANES_MAX];
    s.store(v, &mut lanes);
    to.copy_from_slice(&lanes[..to.len()]);
}

/// The instructions that the kernels use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Set);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    Portable(portable::Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

impl Isa {
    /// Every instruction set that this CPU has and the kernels know, the slowest first. The first
    /// is on every CPU.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let portable = Set::Portable(portable::Portable);
        #[cfg(target_arch = "x86_64")]
        let sets = [
            Some(portable),
            avx2::Avx2::detect().map(Set::Avx2),
            avx2::Avx2::detect_with_vnni().map(Set::Avx2),
            avx512::Avx512::detect().map(Set::Avx512),
            avx512::Avx512::detect_with_tiles().map(Set::Avx512),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let sets = [Some(portable)];
        sets.into_iter().flatten().map(Self).collect()
    }

    /// The fastest that this CPU has.
    #[must_use]
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Set::Portable(portable::Portable)))
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => simd.name(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.name(),
        }
    }

    /// How far ahead weights are prefetched; `None` if the instructions cannot.
    #[must_use]
    pub fn ahead(self) -> Option<Ahead> {
        match self.0 {
            Set::Portable(_) => None,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => Some(simd.ahead()),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => Some(simd.ahead()),
        }
    }

    /// The same instructions with weights prefetched as far ahead as `ahead` says, if they can: a
    /// bench compares distances so.
    ///
    /// # Panics
    /// If there is no distance for several tokens.
    #[must_use]
    pub fn with_ahead(self, ahead: Ahead) -> Self {
        assert!(ahead.several > 0, "weights that several tokens are multiplied with are always prefetched");
        match self.0 {
            Set::Portable(_) => self,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => Self(Set::Avx2(simd.with_ahead(ahead))),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => Self(Set::Avx512(simd.with_ahead(ahead))),
        }
    }

    /// The proof that there are tiles, if they are to be used.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn amx(self) -> Option<Amx> {
        if let Set::Avx512(simd) = self.0 { simd.amx() } else { None }
    }

    /// Runs `kernel` with these instructions.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Set::Portable(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.vectorize(kernel),
        }
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
