//! Products of packed rows with AVX-512: a vector holds the sixteen rows of a group.
//!
//! Both groups of a band are taken side by side: two streams of weights. MXFP4 times f32 with more
//! than two tokens keeps too much in registers for that and takes a group after the other.

#![expect(clippy::needless_range_loop, reason = "`t` and `g` also say which activations, weights and sums belong together")]

use std::arch::x86_64::*;

use super::avx512::Avx512;
use super::rows::{Band, DOUBLED, RAISED, Rows, Sums, check, prefetch, prefetch_block};
use crate::cpu::activations::Block;
use crate::cpu::packed::{BF16_BYTES, GROUP, INT8_BYTES, INT8_SCALES, MXFP4_BYTES, MXFP4_SCALES};

/// Calls a kernel for both groups of a band; the last of its constants says whether weights are
/// prefetched, `$alone` how far ahead for a single token.
macro_rules! both_groups {
    ($self:ident, $kernel:ident $([$parts:ident])?, $band:expr, $xs:expr, $blocks:expr, $sums:expr, $alone:ident) => {{
        let ahead = if T > 1 { $self.ahead().several } else { $self.ahead().$alone };
        // SAFETY: `self` exists, so the features were detected; `check` has seen that groups and
        // activations are so long.
        unsafe {
            // A constant, so that only what can be called is compiled.
            if const { T > 1 } || ahead > 0 {
                $kernel::<T, 2, $($parts,)? true>($band, $xs, $blocks, ahead, 0, $sums);
            } else {
                $kernel::<T, 2, $($parts,)? false>($band, $xs, $blocks, ahead, 0, $sums);
            }
        }
    }};
}

impl Rows for Avx512 {
    const TILE: usize = 8;

    #[inline]
    fn bf16_f32<const T: usize>(self, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        let pairs = check(band, xs, BF16_BYTES, 2);
        both_groups!(self, bf16_f32, band, xs, pairs, sums, bf16);
    }

    #[inline]
    fn mxfp4_f32<const T: usize>(self, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, MXFP4_BYTES + MXFP4_SCALES, 32);
        if const { T > 2 } {
            for (first, group) in band.into_iter().enumerate() {
                // SAFETY: `self` exists, so the features were detected; `check` has seen that group
                // and activations are so long.
                unsafe { mxfp4_f32::<T, 1, true>([group], xs, blocks, self.ahead().several, first, sums) };
            }
        } else {
            both_groups!(self, mxfp4_f32, band, xs, blocks, sums, integers);
        }
    }

    #[inline]
    fn mxfp4_int8<const T: usize, const PARTS: usize>(self, band: Band<'_>, xs: &[&[Block<PARTS>]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, MXFP4_BYTES + MXFP4_SCALES, 1);
        both_groups!(self, mxfp4_int8[PARTS], band, xs, blocks, sums, integers);
    }

    #[inline]
    fn int8_int8<const T: usize>(self, band: Band<'_>, xs: &[&[Block<1>]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, INT8_BYTES + INT8_SCALES, 1);
        both_groups!(self, int8_int8, band, xs, blocks, sums, integers);
    }
}

/// Stores sixteen sums, multiplied by `factor`, to a group's part of a token's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
fn store(total: __m512, factor: f32, group: usize, sums: &mut Sums) {
    let to = &mut sums.as_chunks_mut::<GROUP>().0[group];
    // SAFETY: sixteen values are written to an array of sixteen.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_mul_ps(total, _mm512_set1_ps(factor))) };
}

/// # Safety
/// Each group holds `pairs` pairs of columns, each activation `2 * pairs` values; `first + G` is at
/// most 2.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn bf16_f32<const T: usize, const G: usize, const PREFETCHES: bool>(
    groups: [&[u8]; G],
    xs: &[&[f32]; T],
    pairs: usize,
    ahead: usize,
    first: usize,
    sums: &mut [Sums; T],
) {
    let ahead = ahead.min(pairs * BF16_BYTES);
    let mut totals = [[_mm512_setzero_ps(); G]; T];
    let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    for pair in 0..pairs {
        if PREFETCHES {
            prefetch(groups, pair * BF16_BYTES, BF16_BYTES, pairs * BF16_BYTES, ahead);
        }
        // SAFETY: `pair` is below `pairs`, to which the caller has checked groups and activations.
        unsafe {
            let v = groups.map(|group| _mm512_loadu_si512(group.as_ptr().add(pair * BF16_BYTES).cast()));
            let even = v.map(|v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)));
            let odd = v.map(|v| _mm512_castsi512_ps(_mm512_and_si512(v, high)));
            for t in 0..T {
                let x = xs[t].as_ptr().add(2 * pair);
                let (x_even, x_odd) = (_mm512_set1_ps(*x), _mm512_set1_ps(*x.add(1)));
                for g in 0..G {
                    totals[t][g] = _mm512_fmadd_ps(even[g], x_even, totals[t][g]);
                    totals[t][g] = _mm512_fmadd_ps(odd[g], x_odd, totals[t][g]);
                }
            }
        }
    }
    for t in 0..T {
        for g in 0..G {
            store(totals[t][g], 1.0, first + g, &mut sums[t]);
        }
    }
}

/// The scales of block `block`, which lie behind the values of all `blocks`: `2^(e - 127)`, zero
/// for 0, infinite for 255.
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
/// Each group holds `blocks` blocks, each activation `32 * blocks` values; `first + G` is at most
/// 2.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn mxfp4_f32<const T: usize, const G: usize, const PREFETCHES: bool>(
    groups: [&[u8]; G],
    xs: &[&[f32]; T],
    blocks: usize,
    ahead: usize,
    first: usize,
    sums: &mut [Sums; T],
) {
    let table = DOUBLED.map(f32::from);
    // SAFETY: the table has sixteen values.
    let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let ahead = ahead.min(blocks * MXFP4_BYTES);
    let mut totals = [[_mm512_setzero_ps(); G]; T];
    for block in 0..blocks {
        if PREFETCHES {
            prefetch_block::<G, MXFP4_BYTES, MXFP4_SCALES>(groups, blocks, block, ahead);
        }
        for g in 0..G {
            let mut low = [_mm512_setzero_ps(); T];
            let mut high = [_mm512_setzero_ps(); T];
            for four in 0..4 {
                // SAFETY: `block` is below `blocks`, to which the caller has checked groups and
                // activations.
                unsafe {
                    let mut v = _mm512_loadu_si512(groups[g].as_ptr().add(block * MXFP4_BYTES + 64 * four).cast());
                    for byte in 0..4 {
                        // The lookup reads the low four bits of each lane.
                        let left = _mm512_permutexvar_ps(v, table);
                        let right = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(v), table);
                        v = _mm512_srli_epi32::<8>(v);
                        for t in 0..T {
                            let x = xs[t].as_ptr().add(32 * block + 4 * four + byte);
                            low[t] = _mm512_fmadd_ps(left, _mm512_set1_ps(*x), low[t]);
                            high[t] = _mm512_fmadd_ps(right, _mm512_set1_ps(*x.add(16)), high[t]);
                        }
                    }
                }
            }
            // SAFETY: as above.
            let scales = unsafe { mxfp4_scales(groups[g], blocks, block) };
            for t in 0..T {
                totals[t][g] = _mm512_fmadd_ps(_mm512_add_ps(low[t], high[t]), scales, totals[t][g]);
            }
        }
    }
    for t in 0..T {
        for g in 0..G {
            // The table is doubled.
            store(totals[t][g], 0.5, first + g, &mut sums[t]);
        }
    }
}

/// Adds to each lane of `$sum` what four bytes of `$weights` and the four activations at `$x + 4 *
/// $four` give.
///
/// The activations are an operand in memory that the instruction spreads over the lanes. Left to
/// itself the compiler reads two of them at once and spreads each with an instruction of its own:
/// eight tokens in two parts were seen to take a third longer.
macro_rules! add_fours {
    ($sum:ident, $weights:expr, $x:expr, $four:literal) => {
        std::arch::asm!(
            "vpdpbusd {sum}, {weights}, dword ptr [{x} + {at}]{{1to16}}",
            sum = inout(zmm_reg) $sum,
            weights = in(zmm_reg) $weights,
            x = in(reg) $x,
            at = const 4 * $four,
            options(pure, readonly, nostack, preserves_flags)
        )
    };
}

/// Adds what a block of weights, eight vectors of four columns, and a block of activations give.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
fn add_block<const PARTS: usize>(weights: &[__m512i; 8], scales: __m512, x: &Block<PARTS>, total: __m512) -> __m512 {
    let mut sum = _mm512_setzero_si512();
    for (part, values) in x.values.iter().enumerate() {
        let values = values.as_ptr();
        // The last part begins with the shift.
        let mut low = if part + 1 == PARTS { _mm512_set1_epi32(x.shift) } else { _mm512_setzero_si512() };
        let mut high = _mm512_setzero_si512();
        // SAFETY: the CPU has the instruction; the eight times four bytes read are a part's.
        unsafe {
            add_fours!(low, weights[0], values, 0);
            add_fours!(high, weights[4], values, 4);
            add_fours!(low, weights[1], values, 1);
            add_fours!(high, weights[5], values, 5);
            add_fours!(low, weights[2], values, 2);
            add_fours!(high, weights[6], values, 6);
            add_fours!(low, weights[3], values, 3);
            add_fours!(high, weights[7], values, 7);
        }
        // Each part counts 256 times the next one, and waits for no other.
        sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(sum), _mm512_add_epi32(low, high));
    }
    let sum = _mm512_cvtepi32_ps(sum);
    _mm512_fmadd_ps(sum, _mm512_mul_ps(scales, _mm512_set1_ps(x.scale)), total)
}

/// # Safety
/// Each group and each activation hold `blocks` blocks; `first + G` is at most 2.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn mxfp4_int8<const T: usize, const G: usize, const PARTS: usize, const PREFETCHES: bool>(
    groups: [&[u8]; G],
    xs: &[&[Block<PARTS>]; T],
    blocks: usize,
    ahead: usize,
    first: usize,
    sums: &mut [Sums; T],
) {
    // SAFETY: the table has sixteen bytes.
    let table = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(RAISED.as_ptr().cast())) };
    let nibble = _mm512_set1_epi8(15);
    let ahead = ahead.min(blocks * MXFP4_BYTES);
    let mut totals = [[_mm512_setzero_ps(); G]; T];
    for block in 0..blocks {
        if PREFETCHES {
            prefetch_block::<G, MXFP4_BYTES, MXFP4_SCALES>(groups, blocks, block, ahead);
        }
        for g in 0..G {
            let mut weights = [_mm512_setzero_si512(); 8];
            // SAFETY: `block` is below `blocks`, to which the caller has checked groups and
            // activations.
            unsafe {
                for four in 0..4 {
                    let v = _mm512_loadu_si512(groups[g].as_ptr().add(block * MXFP4_BYTES + 64 * four).cast());
                    weights[four] = _mm512_shuffle_epi8(table, _mm512_and_si512(v, nibble));
                    weights[four + 4] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(v), nibble));
                }
                let scales = mxfp4_scales(groups[g], blocks, block);
                for t in 0..T {
                    totals[t][g] = add_block(&weights, scales, xs[t].get_unchecked(block), totals[t][g]);
                }
            }
        }
    }
    for t in 0..T {
        for g in 0..G {
            // The table is doubled.
            store(totals[t][g], 0.5, first + g, &mut sums[t]);
        }
    }
}

/// # Safety
/// Each group and each activation hold `blocks` blocks; `first + G` is at most 2.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn int8_int8<const T: usize, const G: usize, const PREFETCHES: bool>(
    groups: [&[u8]; G],
    xs: &[&[Block<1>]; T],
    blocks: usize,
    ahead: usize,
    first: usize,
    sums: &mut [Sums; T],
) {
    let ahead = ahead.min(blocks * INT8_BYTES);
    let mut totals = [[_mm512_setzero_ps(); G]; T];
    for block in 0..blocks {
        if PREFETCHES {
            prefetch_block::<G, INT8_BYTES, INT8_SCALES>(groups, blocks, block, ahead);
        }
        for g in 0..G {
            let mut weights = [_mm512_setzero_si512(); 8];
            // SAFETY: `block` is below `blocks`, to which the caller has checked groups and
            // activations.
            unsafe {
                for (four, weights) in weights.iter_mut().enumerate() {
                    *weights = _mm512_loadu_si512(groups[g].as_ptr().add(block * INT8_BYTES + 64 * four).cast());
                }
                let scales = _mm256_loadu_si256(groups[g].as_ptr().add(blocks * INT8_BYTES + block * INT8_SCALES).cast());
                let scales = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)));
                for t in 0..T {
                    totals[t][g] = add_block(&weights, scales, xs[t].get_unchecked(block), totals[t][g]);
                }
            }
        }
    }
    for t in 0..T {
        for g in 0..G {
            store(totals[t][g], 1.0, first + g, &mut sums[t]);
        }
    }
}
