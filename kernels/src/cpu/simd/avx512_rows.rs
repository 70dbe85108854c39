//! Products of packed rows with AVX-512: a vector holds the sixteen rows of a group.

use std::arch::x86_64::*;

use super::avx512::Avx512;
use super::rows::{DOUBLED, RAISED, Rows, Sums, check};
use crate::cpu::activations::Block;
use crate::cpu::packed::{BF16_BYTES, INT8_BYTES, INT8_SCALES, MXFP4_BYTES, MXFP4_SCALES};

impl Rows for Avx512 {
    const TILE: usize = 8;

    #[inline]
    fn bf16_f32<const T: usize>(self, group: &[u8], xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        let pairs = check(group.len(), xs, BF16_BYTES, 2);
        // SAFETY: `self` exists, so the features were detected; `check` has seen that group and activations are so long.
        unsafe { bf16_f32(group, xs, pairs, sums) }
    }

    #[inline]
    fn mxfp4_f32<const T: usize>(self, group: &[u8], xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        let blocks = check(group.len(), xs, MXFP4_BYTES + MXFP4_SCALES, 32);
        // SAFETY: as above.
        unsafe { mxfp4_f32(group, xs, blocks, sums) }
    }

    #[inline]
    fn mxfp4_int8<const T: usize, const PARTS: usize>(self, group: &[u8], xs: &[&[Block<PARTS>]; T], sums: &mut [Sums; T]) {
        let blocks = check(group.len(), xs, MXFP4_BYTES + MXFP4_SCALES, 1);
        // SAFETY: as above.
        unsafe { mxfp4_int8(group, xs, blocks, sums) }
    }

    #[inline]
    fn int8_int8<const T: usize>(self, group: &[u8], xs: &[&[Block<1>]; T], sums: &mut [Sums; T]) {
        let blocks = check(group.len(), xs, INT8_BYTES + INT8_SCALES, 1);
        // SAFETY: as above.
        unsafe { int8_int8(group, xs, blocks, sums) }
    }
}

/// # Safety
/// The group holds `pairs` pairs of columns, each activation `2 * pairs` values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn bf16_f32<const T: usize>(group: &[u8], xs: &[&[f32]; T], pairs: usize, sums: &mut [Sums; T]) {
    let mut even = [_mm512_setzero_ps(); T];
    let mut odd = [_mm512_setzero_ps(); T];
    let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    for pair in 0..pairs {
        // SAFETY: `pair` is below `pairs`, to which the caller has checked group and activations.
        unsafe {
            let v = _mm512_loadu_si512(group.as_ptr().add(pair * BF16_BYTES).cast());
            let first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
            let second = _mm512_castsi512_ps(_mm512_and_si512(v, high));
            for t in 0..T {
                let x = xs[t].as_ptr().add(2 * pair);
                even[t] = _mm512_fmadd_ps(first, _mm512_set1_ps(*x), even[t]);
                odd[t] = _mm512_fmadd_ps(second, _mm512_set1_ps(*x.add(1)), odd[t]);
            }
        }
    }
    for t in 0..T {
        // SAFETY: sixteen values are written to an array of sixteen.
        unsafe { _mm512_storeu_ps(sums[t].as_mut_ptr(), _mm512_add_ps(even[t], odd[t])) };
    }
}

/// The scales of block `block`, which lie behind the values of all `blocks`: `2^(e - 127)`, zero for 0, infinite for 255.
///
/// # Safety
/// The group holds `blocks` blocks, `block` is one of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn mxfp4_scales(group: &[u8], blocks: usize, block: usize) -> __m512 {
    // SAFETY: the sixteen bytes read lie in the group.
    unsafe {
        let e = _mm_loadu_si128(group.as_ptr().add(blocks * MXFP4_BYTES + block * MXFP4_SCALES).cast());
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_cvtepu8_epi32(e)))
    }
}

/// # Safety
/// The group holds `blocks` blocks, each activation `32 * blocks` values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn mxfp4_f32<const T: usize>(group: &[u8], xs: &[&[f32]; T], blocks: usize, sums: &mut [Sums; T]) {
    let table = DOUBLED.map(f32::from);
    // SAFETY: the table has sixteen values.
    let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let mut totals = [_mm512_setzero_ps(); T];
    for block in 0..blocks {
        let mut low = [_mm512_setzero_ps(); T];
        let mut high = [_mm512_setzero_ps(); T];
        for four in 0..4 {
            // SAFETY: `block` is below `blocks`, to which the caller has checked group and activations.
            unsafe {
                let mut v = _mm512_loadu_si512(group.as_ptr().add(block * MXFP4_BYTES + 64 * four).cast());
                for byte in 0..4 {
                    // The lookup reads the low four bits of each lane.
                    let first = _mm512_permutexvar_ps(v, table);
                    let second = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(v), table);
                    v = _mm512_srli_epi32::<8>(v);
                    for t in 0..T {
                        let x = xs[t].as_ptr().add(32 * block + 4 * four + byte);
                        low[t] = _mm512_fmadd_ps(first, _mm512_set1_ps(*x), low[t]);
                        high[t] = _mm512_fmadd_ps(second, _mm512_set1_ps(*x.add(16)), high[t]);
                    }
                }
            }
        }
        // SAFETY: as above.
        let scales = unsafe { mxfp4_scales(group, blocks, block) };
        for t in 0..T {
            totals[t] = _mm512_fmadd_ps(_mm512_add_ps(low[t], high[t]), scales, totals[t]);
        }
    }
    for t in 0..T {
        // The table is doubled. SAFETY: sixteen values are written to an array of sixteen.
        unsafe { _mm512_storeu_ps(sums[t].as_mut_ptr(), _mm512_mul_ps(totals[t], _mm512_set1_ps(0.5))) };
    }
}

/// Adds what a block of weights, eight vectors of four columns, and a block of activations give.
///
/// # Safety
/// None but the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn add_block<const PARTS: usize>(weights: &[__m512i; 8], scales: __m512, x: &Block<PARTS>, total: __m512) -> __m512 {
    let mut sum = _mm512_setzero_si512();
    for part in 0..PARTS {
        let (fours, _) = x.values[part].as_chunks::<4>();
        // Each part counts 256 times the next one; the last one begins with the shift.
        let mut low = if part > 0 { _mm512_slli_epi32::<8>(sum) } else { sum };
        let mut high = if part + 1 == PARTS { _mm512_set1_epi32(x.shift) } else { _mm512_setzero_si512() };
        for four in 0..4 {
            let of = |four: usize| _mm512_set1_epi32(i32::from_le_bytes(fours[four].map(i8::cast_unsigned)));
            low = _mm512_dpbusd_epi32(low, weights[four], of(four));
            high = _mm512_dpbusd_epi32(high, weights[four + 4], of(four + 4));
        }
        sum = _mm512_add_epi32(low, high);
    }
    let sum = _mm512_cvtepi32_ps(sum);
    _mm512_fmadd_ps(sum, _mm512_mul_ps(scales, _mm512_set1_ps(x.scale)), total)
}

/// # Safety
/// The group and each activation hold `blocks` blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn mxfp4_int8<const T: usize, const PARTS: usize>(
    group: &[u8],
    xs: &[&[Block<PARTS>]; T],
    blocks: usize,
    sums: &mut [Sums; T],
) {
    // SAFETY: the table has sixteen bytes.
    let table = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(RAISED.as_ptr().cast())) };
    let nibble = _mm512_set1_epi8(15);
    let mut totals = [_mm512_setzero_ps(); T];
    for block in 0..blocks {
        let mut weights = [_mm512_setzero_si512(); 8];
        // SAFETY: `block` is below `blocks`, to which the caller has checked group and activations.
        unsafe {
            for four in 0..4 {
                let v = _mm512_loadu_si512(group.as_ptr().add(block * MXFP4_BYTES + 64 * four).cast());
                weights[four] = _mm512_shuffle_epi8(table, _mm512_and_si512(v, nibble));
                weights[four + 4] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(v), nibble));
            }
            let scales = mxfp4_scales(group, blocks, block);
            for t in 0..T {
                totals[t] = add_block(&weights, scales, xs[t].get_unchecked(block), totals[t]);
            }
        }
    }
    for t in 0..T {
        // The table is doubled. SAFETY: sixteen values are written to an array of sixteen.
        unsafe { _mm512_storeu_ps(sums[t].as_mut_ptr(), _mm512_mul_ps(totals[t], _mm512_set1_ps(0.5))) };
    }
}

/// # Safety
/// The group and each activation hold `blocks` blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn int8_int8<const T: usize>(group: &[u8], xs: &[&[Block<1>]; T], blocks: usize, sums: &mut [Sums; T]) {
    let mut totals = [_mm512_setzero_ps(); T];
    for block in 0..blocks {
        let mut weights = [_mm512_setzero_si512(); 8];
        // SAFETY: `block` is below `blocks`, to which the caller has checked group and activations.
        unsafe {
            for (four, weights) in weights.iter_mut().enumerate() {
                *weights = _mm512_loadu_si512(group.as_ptr().add(block * INT8_BYTES + 64 * four).cast());
            }
            let scales = _mm256_loadu_si256(group.as_ptr().add(blocks * INT8_BYTES + block * INT8_SCALES).cast());
            let scales = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)));
            for t in 0..T {
                totals[t] = add_block(&weights, scales, xs[t].get_unchecked(block), totals[t]);
            }
        }
    }
    for t in 0..T {
        // SAFETY: sixteen values are written to an array of sixteen.
        unsafe { _mm512_storeu_ps(sums[t].as_mut_ptr(), totals[t]) };
    }
}
