//! Eight lanes of AVX2 with FMA and F16C, perhaps with AVX-VNNI.

use std::arch::x86_64::*;

use half::f16;

use super::{Ahead, Kernel, Simd};

const LANES: usize = 8;

/// This CPU has AVX2, FMA and F16C, and AVX-VNNI if `vnni`. Only [`Avx2::detect`] and
/// [`Avx2::detect_with_vnni`] make one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx2 {
    ahead: Ahead,
    vnni: bool,
}

impl Avx2 {
    /// The proof, if the CPU has them.
    pub(super) fn detect() -> Option<Self> {
        // Every CPU with AVX2 has the other two, but that is not written anywhere.
        let detected = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        detected.then(|| Self { ahead: Ahead::of_this_cpu(), vnni: false })
    }

    /// The same, if the CPU has the instruction that multiplies bytes beside them: AVX-VNNI.
    pub(super) fn detect_with_vnni() -> Option<Self> {
        let vectors = Self::detect()?;
        is_x86_feature_detected!("avxvnni").then_some(Self { vnni: true, ..vectors })
    }

    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        if self.vnni { "AVX-VNNI" } else { "AVX2" }
    }

    /// Whether bytes are multiplied with AVX-VNNI.
    pub(super) fn vnni(self) -> bool {
        self.vnni
    }

    /// How far ahead weights are prefetched.
    pub(super) fn ahead(self) -> Ahead {
        self.ahead
    }

    /// The same with weights prefetched as far ahead as `ahead` says.
    pub(super) fn with_ahead(self, ahead: Ahead) -> Self {
        Self { ahead, ..self }
    }
}

impl Simd for Avx2 {
    type V = __m256;

    const LANES: usize = LANES;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside<K: Kernel>(simd: Avx2, kernel: K) -> K::Out {
            kernel.run(simd)
        }
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { inside(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        let from: &[f32; LANES] = from.first_chunk().expect("a vector's worth of values");
        // SAFETY: `self` exists, so AVX2 was detected; the eight values read are those of `from`.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_half(self, from: &[f16]) -> Self::V {
        let from: &[f16; LANES] = from.first_chunk().expect("a vector's worth of values");
        // SAFETY: `self` exists, so F16C was detected; the eight values read are those of `from`.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("room for a vector");
        // SAFETY: `self` exists, so AVX2 was detected; the eight values written are those of `to`.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn power(self, shifted: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
            _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23)))
        }
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        // SAFETY: `self` exists, so AVX2, FMA and F16C were detected.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        // SAFETY: `self` exists, so SSE is there; nothing is read from the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}
