//! Products of packed rows with integers where AVX2 has AVX-VNNI beside it: one instruction multiplies four bytes of each lane and adds
//! them up. The bits are those of AVX2.

use std::arch::x86_64::*;

use super::avx2_rows::{define_mxfp4_int8, four_of, int8_scales, mxfp4_scales, mxfp4_weights, store};
use super::rows::{Sums, ask_block};
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

define_mxfp4_int8!("avx2,fma,avxvnni");

/// # Safety
/// Each group and each activation hold `blocks` blocks; `first + H` is at most 2, `rows / 2 + G` too.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) unsafe fn int8_int8<const T: usize, const G: usize, const H: usize, const ASKS: bool>(
    groups: [&[u8]; G],
    xs: &[&[Block<1>]; T],
    blocks: usize,
    rows: usize,
    first: usize,
    sums: &mut [Sums; T],
) {
    let mut totals = [[[_mm256_setzero_ps(); H]; G]; T];
    for block in 0..blocks {
        if ASKS {
            ask_block::<G, INT8_BYTES, INT8_SCALES>(groups, blocks, block);
        }
        for (g, h) in (0..G * H).map(|half| (half / H, half % H)) {
            // SAFETY: `block` is below `blocks`, to which the caller has checked groups and activations.
            unsafe {
                let mut weights = [_mm256_setzero_si256(); 8];
                for (four, weights) in weights.iter_mut().enumerate() {
                    let at = block * INT8_BYTES + 64 * four + 32 * (first + h);
                    *weights = _mm256_loadu_si256(groups[g].as_ptr().add(at).cast());
                }
                let scales = int8_scales(groups[g], blocks, block, first + h);
                for t in 0..T {
                    totals[t][g][h] = add_block(&weights, scales, xs[t].get_unchecked(block), totals[t][g][h]);
                }
            }
        }
    }
    for (g, h) in (0..G * H).map(|half| (half / H, half % H)) {
        for t in 0..T {
            store(totals[t][g][h], 1.0, rows + 2 * g + first + h, &mut sums[t]);
        }
    }
}
