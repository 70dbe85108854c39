//! Products of packed rows with integers where AVX2 has AVX-VNNI beside it: one instruction
//! multiplies four bytes of each lane and adds them up. The bits are those of AVX2.

use std::arch::x86_64::*;

use super::avx2_rows::{define_integer_kernel, four_of, int8_scales, mxfp4_scales, mxfp4_weights, store};
use super::rows::{Sums, prefetch_block};
use crate::cpu::activations::Block;
use crate::cpu::packed::{INT8_BYTES, INT8_SCALES, MXFP4_BYTES, MXFP4_SCALES};

/// Adds what a block of weights, eight vectors of four columns, and a block of activations give.
#[inline]
#[target_feature(enable = "avx2,fma,avxvnni")]
fn add_block<const PARTS: usize>(weights: &[__m256i; 8], scales: __m256, x: &Block<PARTS>, total: __m256) -> __m256 {
    let mut sum = _mm256_setzero_si256();
    for part in 0..PARTS {
        // The last part begins with the shift.
        let mut low = if part + 1 == PARTS { _mm256_set1_epi32(x.shift) } else { _mm256_setzero_si256() };
        let mut high = _mm256_setzero_si256();
        for four in 0..4 {
            low = _mm256_dpbusd_avx_epi32(low, weights[four], four_of(&x.values[part], four));
            high = _mm256_dpbusd_avx_epi32(high, weights[four + 4], four_of(&x.values[part], four + 4));
        }
        // Each part counts 256 times the next one, and waits for no other.
        sum = _mm256_add_epi32(_mm256_slli_epi32::<8>(sum), _mm256_add_epi32(low, high));
    }
    let sum = _mm256_cvtepi32_ps(sum);
    _mm256_fmadd_ps(sum, _mm256_mul_ps(scales, _mm256_set1_ps(x.scale)), total)
}

// The table is doubled.
define_integer_kernel!("avx2,fma,avxvnni", mxfp4_int8, MXFP4_BYTES, MXFP4_SCALES, mxfp4_weights, mxfp4_scales, 0.5);
define_integer_kernel!("avx2,fma,avxvnni", int8_int8, INT8_BYTES, INT8_SCALES, int8_weights, int8_scales, 1.0);

/// Half a group's values of block `block`, raised as they are packed: four columns of eight rows a
/// vector.
///
/// # Safety
/// The group holds more than `block` blocks, `half` is 0 or 1.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn int8_weights(group: &[u8], block: usize, half: usize) -> [__m256i; 8] {
    let mut weights = [_mm256_setzero_si256(); 8];
    for (four, weights) in weights.iter_mut().enumerate() {
        // SAFETY: the vectors read lie in the group.
        *weights = unsafe { _mm256_loadu_si256(group.as_ptr().add(block * INT8_BYTES + 64 * four + 32 * half).cast()) };
    }
    weights
}
