//! Sixteen lanes of AVX-512.

use std::arch::x86_64::*;

use half::f16;

use super::amx::Amx;
use super::{Ahead, Kernel, Simd};

const LANES: usize = 16;

/// This CPU has AVX-512 with the instructions that multiply bytes (VNNI). Only [`Avx512::detect`]
/// makes one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512 {
    ahead: Ahead,
    amx: Option<Amx>,
}

impl Avx512 {
    /// The proof, if the CPU has them. The few CPUs with AVX-512 but without VNNI take the path of
    /// AVX2.
    pub(super) fn detect() -> Option<Self> {
        // AVX2 and FMA for sums across lanes; every CPU with AVX-512 has them, but that is not
        // written anywhere.
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        detected.then(|| Self { ahead: Ahead::of_this_cpu(), amx: None })
    }

    /// The same, if the CPU has tiles beside them: AMX.
    pub(super) fn detect_with_tiles() -> Option<Self> {
        let vectors = Self::detect()?;
        Some(Self { amx: Some(Amx::detect()?), ..vectors })
    }

    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        if self.amx.is_some() { "AMX" } else { "AVX-512" }
    }

    /// The proof that there are tiles, if they are to be used.
    pub(super) fn amx(self) -> Option<Amx> {
        self.amx
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

impl Simd for Avx512 {
    type V = __m512;

    const LANES: usize = LANES;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
        fn inside<K: Kernel>(simd: Avx512, kernel: K) -> K::Out {
            kernel.run(simd)
        }
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { inside(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        let from: &[f32; LANES] = from.first_chunk().expect("a vector's worth of values");
        // SAFETY: `self` exists, so AVX-512F was detected; the sixteen values read are those of
        // `from`.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_half(self, from: &[f16]) -> Self::V {
        let from: &[f16; LANES] = from.first_chunk().expect("a vector's worth of values");
        // SAFETY: `self` exists, so AVX-512F was detected; the sixteen values read are those of
        // `from`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("room for a vector");
        // SAFETY: `self` exists, so AVX-512F was detected; the sixteen values written are those of
        // `to`.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn power(self, shifted: Self::V) -> Self::V {
        // SAFETY: `self` exists, so AVX-512F was detected.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(127 << 23)))
        }
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        // SAFETY: `self` exists, so AVX-512F and AVX2 were detected.
        unsafe {
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), upper);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
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
