//! Products of packed rows with AVX2: two vectors hold the sixteen rows of a group.
//!
//! One token takes both groups of a band side by side, in the order of memory: two streams of
//! weights. Several tokens take a half of a group at a time, bf16 excepted, so that what is
//! multiplied stays in registers; the second half then comes from a cache. The sums of eight tokens
//! with MXFP4 do not.

#![expect(clippy::needless_range_loop, reason = "`g` and `h` also say where in a token's sums a half lies")]

use std::arch::x86_64::*;

use super::Ahead;
use super::avx_vnni_rows::{int8_int8 as int8_int8_vnni, mxfp4_int8 as mxfp4_int8_vnni};
use super::avx2::Avx2;
use super::rows::{Band, DOUBLED, RAISED, Rows, Sums, check, prefetch, prefetch_block};
use crate::cpu::activations::Block;
use crate::cpu::packed::{BF16_BYTES, INT8_BYTES, INT8_SCALES, MXFP4_BYTES, MXFP4_SCALES};

/// Calls a kernel once for all of a band, or once for each half of its groups; the last of its
/// constants says whether weights are prefetched.
macro_rules! by_halves {
    ($self:ident, $kernel:ident $([$parts:tt])?, $band:expr, $xs:expr, $blocks:expr, $sums:expr) => {{
        let Ahead { integers, several, .. } = $self.ahead();
        // SAFETY: `self` exists, so AVX2 and FMA were detected, and AVX-VNNI if `self.vnni()`,
        // which is asked before a kernel is named that needs it; `check` has seen that groups and
        // activations are so long.
        unsafe {
            if const { T > 1 } {
                for (group, rows) in $band.into_iter().zip([0, 2]) {
                    $kernel::<T, 1, 1, $($parts,)? true>([group], $xs, $blocks, several, rows, 0, $sums);
                    $kernel::<T, 1, 1, $($parts,)? false>([group], $xs, $blocks, several, rows, 1, $sums);
                }
            } else if integers > 0 {
                $kernel::<T, 2, 2, $($parts,)? true>($band, $xs, $blocks, integers, 0, 0, $sums);
            } else {
                $kernel::<T, 2, 2, $($parts,)? false>($band, $xs, $blocks, integers, 0, 0, $sums);
            }
        }
    }};
}

impl Rows for Avx2 {
    const TILE: usize = 4;
    const MXFP4_INT8_TILE: usize = 8;

    #[inline]
    fn bf16_f32<const T: usize>(self, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        let pairs = check(band, xs, BF16_BYTES, 2);
        let Ahead { bf16, several, .. } = self.ahead();
        // SAFETY: `self` exists, so AVX2 and FMA were detected; `check` has seen that groups and
        // activations are so long.
        unsafe {
            if const { T > 2 } {
                bf16_f32::<T, 1, true>([band[0]], xs, pairs, several, 0, sums);
                bf16_f32::<T, 1, true>([band[1]], xs, pairs, several, 2, sums);
            } else if const { T > 1 } {
                bf16_f32::<T, 2, true>(band, xs, pairs, several, 0, sums);
            } else if bf16 > 0 {
                bf16_f32::<T, 2, true>(band, xs, pairs, bf16, 0, sums);
            } else {
                bf16_f32::<T, 2, false>(band, xs, pairs, bf16, 0, sums);
            }
        }
    }

    #[inline]
    fn mxfp4_f32<const T: usize>(self, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, MXFP4_BYTES + MXFP4_SCALES, 32);
        by_halves!(self, mxfp4_f32, band, xs, blocks, sums);
    }

    #[inline]
    fn mxfp4_int8<const T: usize, const PARTS: usize>(self, band: Band<'_>, xs: &[&[Block<PARTS>]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, MXFP4_BYTES + MXFP4_SCALES, 1);
        if self.vnni() {
            by_halves!(self, mxfp4_int8_vnni[PARTS], band, xs, blocks, sums);
        } else {
            by_halves!(self, mxfp4_int8[PARTS], band, xs, blocks, sums);
        }
    }

    #[inline]
    fn int8_int8<const T: usize>(self, band: Band<'_>, xs: &[&[Block<1>]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, INT8_BYTES + INT8_SCALES, 1);
        if self.vnni() {
            by_halves!(self, int8_int8_vnni[1], band, xs, blocks, sums);
        } else {
            by_halves!(self, int8_int8, band, xs, blocks, sums);
        }
    }
}

/// Stores eight sums, multiplied by `factor`, to the part of a token's that belongs to a half of a
/// group.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store(total: __m256, factor: f32, half: usize, sums: &mut Sums) {
    let to = &mut sums.as_chunks_mut::<8>().0[half];
    // SAFETY: eight values are written to an array of eight.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_mul_ps(total, _mm256_set1_ps(factor))) };
}

/// # Safety
/// Each group holds `pairs` pairs of columns, each activation `2 * pairs` values; `rows / 2 + G` is
/// at most 2.
#[target_feature(enable = "avx2,fma")]
unsafe fn bf16_f32<const T: usize, const G: usize, const PREFETCHES: bool>(
    groups: [&[u8]; G],
    xs: &[&[f32]; T],
    pairs: usize,
    ahead: usize,
    rows: usize,
    sums: &mut [Sums; T],
) {
    let ahead = ahead.min(pairs * BF16_BYTES);
    let mut totals = [[[_mm256_setzero_ps(); 2]; G]; T];
    let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    for pair in 0..pairs {
        if PREFETCHES {
            prefetch(groups, pair * BF16_BYTES, BF16_BYTES, pairs * BF16_BYTES, ahead);
        }
        for g in 0..G {
            for h in 0..2 {
                // SAFETY: `pair` is below `pairs`, to which the caller has checked groups and
                // activations.
                unsafe {
                    let v = _mm256_loadu_si256(groups[g].as_ptr().add(pair * BF16_BYTES + 32 * h).cast());
                    let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v));
                    let odd = _mm256_castsi256_ps(_mm256_and_si256(v, high));
                    for t in 0..T {
                        let x = xs[t].as_ptr().add(2 * pair);
                        totals[t][g][h] = _mm256_fmadd_ps(even, _mm256_set1_ps(*x), totals[t][g][h]);
                        totals[t][g][h] = _mm256_fmadd_ps(odd, _mm256_set1_ps(*x.add(1)), totals[t][g][h]);
                    }
                }
            }
        }
    }
    for t in 0..T {
        for g in 0..G {
            for h in 0..2 {
                store(totals[t][g][h], 1.0, rows + 2 * g + h, &mut sums[t]);
            }
        }
    }
}

/// Half a group's values of block `block`, doubled and raised: four columns of eight rows a vector.
///
/// # Safety
/// The group holds more than `block` blocks, `half` is 0 or 1.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn mxfp4_weights(group: &[u8], block: usize, half: usize) -> [__m256i; 8] {
    let mut weights = [_mm256_setzero_si256(); 8];
    let nibble = _mm256_set1_epi8(15);
    // SAFETY: the table has sixteen bytes, and the vectors read lie in the group.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(RAISED.as_ptr().cast()));
        for four in 0..4 {
            let v = _mm256_loadu_si256(group.as_ptr().add(block * MXFP4_BYTES + 64 * four + 32 * half).cast());
            weights[four] = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
            weights[four + 4] = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble));
        }
    }
    weights
}

/// Eight scales of block `block`, which lie behind the values of all `blocks`: `2^(e - 127)`, zero
/// for 0, infinite for 255.
///
/// # Safety
/// The group holds `blocks` blocks, `block` is one of them, `half` 0 or 1.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn mxfp4_scales(group: &[u8], blocks: usize, block: usize, half: usize) -> __m256 {
    // SAFETY: the eight bytes read lie in the group.
    unsafe {
        let at = blocks * MXFP4_BYTES + block * MXFP4_SCALES + 8 * half;
        let e = _mm_loadl_epi64(group.as_ptr().add(at).cast());
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(e)))
    }
}

/// # Safety
/// Each group holds `blocks` blocks, each activation `32 * blocks` values; `first + H` is at most
/// 2, `rows / 2 + G` too.
#[target_feature(enable = "avx2,fma")]
unsafe fn mxfp4_f32<const T: usize, const G: usize, const H: usize, const PREFETCHES: bool>(
    groups: [&[u8]; G],
    xs: &[&[f32]; T],
    blocks: usize,
    ahead: usize,
    rows: usize,
    first: usize,
    sums: &mut [Sums; T],
) {
    // SAFETY: the table has sixteen bytes.
    let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(DOUBLED.as_ptr().cast())) };
    let nibble = _mm256_set1_epi8(15);
    let ahead = ahead.min(blocks * MXFP4_BYTES);
    let mut totals = [[[_mm256_setzero_ps(); H]; G]; T];
    for block in 0..blocks {
        if PREFETCHES {
            prefetch_block::<G, MXFP4_BYTES, MXFP4_SCALES>(groups, blocks, block, ahead);
        }
        for (g, h) in (0..G * H).map(|half| (half / H, half % H)) {
            let mut low = [_mm256_setzero_ps(); T];
            let mut high = [_mm256_setzero_ps(); T];
            for four in 0..4 {
                // SAFETY: `block` is below `blocks`, to which the caller has checked group and
                // activations.
                unsafe {
                    let at = block * MXFP4_BYTES + 64 * four + 32 * (first + h);
                    let v = _mm256_loadu_si256(groups[g].as_ptr().add(at).cast());
                    let mut left = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
                    let mut right = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble));
                    for byte in 0..4 {
                        // The lowest byte of each lane, with its sign.
                        let widen = |v| _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(v)));
                        let (l, r) = (widen(left), widen(right));
                        left = _mm256_srli_epi32::<8>(left);
                        right = _mm256_srli_epi32::<8>(right);
                        for t in 0..T {
                            let x = xs[t].as_ptr().add(32 * block + 4 * four + byte);
                            low[t] = _mm256_fmadd_ps(l, _mm256_set1_ps(*x), low[t]);
                            high[t] = _mm256_fmadd_ps(r, _mm256_set1_ps(*x.add(16)), high[t]);
                        }
                    }
                }
            }
            // SAFETY: as above.
            let scales = unsafe { mxfp4_scales(groups[g], blocks, block, first + h) };
            for t in 0..T {
                totals[t][g][h] = _mm256_fmadd_ps(_mm256_add_ps(low[t], high[t]), scales, totals[t][g][h]);
            }
        }
    }
    for (g, h) in (0..G * H).map(|half| (half / H, half % H)) {
        for t in 0..T {
            // The table is doubled.
            store(totals[t][g][h], 0.5, rows + 2 * g + first + h, &mut sums[t]);
        }
    }
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn four_of(values: &[i8; 32], four: usize) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(values.as_chunks::<4>().0[four].map(i8::cast_unsigned)))
}

/// A kernel of a format of weights times integers for some features: how many bytes a block's
/// values and scales take, what loads them, and what a sum is multiplied by at its end. `add_block`
/// adds what a block of weights and a block of activations give.
macro_rules! define_integer_kernel {
    ($features:literal, $kernel:ident, $bytes:ident, $scale_bytes:ident, $weights:ident, $scales:ident, $factor:literal) => {
        /// # Safety
        /// Each group and each activation hold `blocks` blocks; `first + H` is at most 2, and
        /// `rows / 2 + G` too.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $kernel<
            const T: usize,
            const G: usize,
            const H: usize,
            const PARTS: usize,
            const PREFETCHES: bool,
        >(
            groups: [&[u8]; G],
            xs: &[&[Block<PARTS>]; T],
            blocks: usize,
            ahead: usize,
            rows: usize,
            first: usize,
            sums: &mut [Sums; T],
        ) {
            let ahead = ahead.min(blocks * $bytes);
            let mut totals = [[[_mm256_setzero_ps(); H]; G]; T];
            for block in 0..blocks {
                if PREFETCHES {
                    prefetch_block::<G, $bytes, $scale_bytes>(groups, blocks, block, ahead);
                }
                for (g, h) in (0..G * H).map(|half| (half / H, half % H)) {
                    // SAFETY: `block` is below `blocks`, to which the caller has checked groups and
                    // activations.
                    unsafe {
                        let weights = $weights(groups[g], block, first + h);
                        let scales = $scales(groups[g], blocks, block, first + h);
                        for t in 0..T {
                            totals[t][g][h] = add_block(&weights, scales, xs[t].get_unchecked(block), totals[t][g][h]);
                        }
                    }
                }
            }
            for (g, h) in (0..G * H).map(|half| (half / H, half % H)) {
                for t in 0..T {
                    store(totals[t][g][h], $factor, rows + 2 * g + first + h, &mut sums[t]);
                }
            }
        }
    };
}
pub(super) use define_integer_kernel;

// The table is doubled.
define_integer_kernel!("avx2,fma", mxfp4_int8, MXFP4_BYTES, MXFP4_SCALES, mxfp4_weights, mxfp4_scales, 0.5);

/// Adds what a block of weights, eight vectors of four columns, and a block of activations give.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_block<const PARTS: usize>(weights: &[__m256i; 8], scales: __m256, x: &Block<PARTS>, total: __m256) -> __m256 {
    let ones = _mm256_set1_epi16(1);
    let mut sum = _mm256_setzero_si256();
    for part in &x.values {
        let product = |four| _mm256_maddubs_epi16(weights[four], four_of(part, four));
        // A sum of four stays within 4 * 2 * 24 * 128 = 24576 and fits 16 bits.
        let low = _mm256_add_epi16(_mm256_add_epi16(product(0), product(1)), _mm256_add_epi16(product(2), product(3)));
        let high = _mm256_add_epi16(_mm256_add_epi16(product(4), product(5)), _mm256_add_epi16(product(6), product(7)));
        let both = _mm256_add_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones));
        // Each part counts 256 times the next one.
        sum = _mm256_add_epi32(_mm256_slli_epi32::<8>(sum), both);
    }
    let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(sum, _mm256_set1_epi32(x.shift)));
    _mm256_fmadd_ps(sum, _mm256_mul_ps(scales, _mm256_set1_ps(x.scale)), total)
}

/// Eight scales of block `block`, which lie behind the values of all `blocks`.
///
/// # Safety
/// The group holds `blocks` blocks, `block` is one of them, `half` 0 or 1.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn int8_scales(group: &[u8], blocks: usize, block: usize, half: usize) -> __m256 {
    // SAFETY: the sixteen bytes read lie in the group.
    unsafe {
        let at = blocks * INT8_BYTES + block * INT8_SCALES + 16 * half;
        let scales = _mm_loadu_si128(group.as_ptr().add(at).cast());
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(scales)))
    }
}

/// # Safety
/// Each group and each activation hold `blocks` blocks; `first + H` is at most 2, `rows / 2 + G`
/// too.
#[target_feature(enable = "avx2,fma")]
unsafe fn int8_int8<const T: usize, const G: usize, const H: usize, const PREFETCHES: bool>(
    groups: [&[u8]; G],
    xs: &[&[Block<1>]; T],
    blocks: usize,
    ahead: usize,
    rows: usize,
    first: usize,
    sums: &mut [Sums; T],
) {
    let (raised, ones) = (_mm256_set1_epi8(i8::MIN), _mm256_set1_epi16(1));
    let ahead = ahead.min(blocks * INT8_BYTES);
    let mut totals = [[[_mm256_setzero_ps(); H]; G]; T];
    for block in 0..blocks {
        if PREFETCHES {
            prefetch_block::<G, INT8_BYTES, INT8_SCALES>(groups, blocks, block, ahead);
        }
        for (g, h) in (0..G * H).map(|half| (half / H, half % H)) {
            let mut parts = [_mm256_setzero_si256(); T];
            for four in 0..8 {
                // SAFETY: `block` is below `blocks`, to which the caller has checked group and
                // activations.
                let v = unsafe {
                    _mm256_loadu_si256(groups[g].as_ptr().add(block * INT8_BYTES + 64 * four + 32 * (first + h)).cast())
                };
                // The magnitude goes to the unsigned side and the sign to the other: two products
                // stay below 2 * 127 * 127.
                let signed = _mm256_xor_si256(v, raised);
                let magnitude = _mm256_abs_epi8(signed);
                for t in 0..T {
                    // SAFETY: as above.
                    let x = unsafe { xs[t].get_unchecked(block) };
                    let product = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four_of(&x.values[0], four), signed));
                    parts[t] = _mm256_add_epi32(parts[t], _mm256_madd_epi16(product, ones));
                }
            }
            // SAFETY: as above.
            let scales = unsafe { int8_scales(groups[g], blocks, block, first + h) };
            for t in 0..T {
                // SAFETY: as above.
                let x = unsafe { xs[t].get_unchecked(block) };
                let factor = _mm256_mul_ps(scales, _mm256_set1_ps(x.scale));
                totals[t][g][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(parts[t]), factor, totals[t][g][h]);
            }
        }
    }
    for (g, h) in (0..G * H).map(|half| (half / H, half % H)) {
        for t in 0..T {
            store(totals[t][g][h], 1.0, rows + 2 * g + first + h, &mut sums[t]);
        }
    }
}
