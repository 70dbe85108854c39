//! Eight lanes in plain Rust, which the compiler turns into whatever vectors the target always has
//! (SSE2, NEON).

use half::f16;

use super::{Kernel, Simd};

const LANES: usize = 8;

/// Needs no instructions that a CPU might lack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    let mut v = [0.0; LANES];
    for (lane, v) in v.iter_mut().enumerate() {
        *v = f(lane);
    }
    v
}

/// An f16's value, without branches, so that the compiler makes vectors of it.
#[inline(always)]
fn widen(half: f16) -> f32 {
    let bits = u32::from(half.to_bits());
    // The exponent is 112 less than an f32's. The product sets that right, and makes of subnormal
    // numbers what they stand for.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    // Infinity and NaN have become 2^16 and above, which no number reaches.
    let broken = if magnitude >= 65_536.0 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | broken | (bits & 0x8000) << 16)
}

impl Simd for Portable {
    type V = [f32; LANES];

    const LANES: usize = LANES;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        *from.first_chunk().expect("a vector's worth of values")
    }

    #[inline(always)]
    fn load_half(self, from: &[f16]) -> Self::V {
        let from: &[f16; LANES] = from.first_chunk().expect("a vector's worth of values");
        each(|lane| widen(from[lane]))
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32]) {
        *to.first_chunk_mut().expect("room for a vector") = v;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane] - b[lane])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane] / b[lane])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a function call, a hundred times slower.
        each(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn power(self, shifted: Self::V) -> Self::V {
        each(|lane| f32::from_bits((shifted[lane].to_bits() << 23).wrapping_add(127 << 23)))
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
}
