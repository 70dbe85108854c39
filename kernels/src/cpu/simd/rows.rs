//! Products of a band of packed weights, two groups of sixteen rows, with activations: the inner
//! loops of every linear map.
//!
//! What: `sums[t][n] = sum over k of weight[n][k] * x[t][k]` for the rows `n` of one band and `T`
//! tokens. Shapes: groups as [`packed`](crate::cpu::packed) lays them out; activations `[K]`, in
//! f32 or as [`Block`]s of 32. Source: a row a lane and a table lookup for E2M1 are common
//! practice; sums of bytes stay integers until their block ends. Twin: `reference::linear`;
//! integers are summed exactly, so for given activations the tolerance is that of f32.
//! Cost: the band's bytes once for every tile of tokens; `32 K` multiplications a token.
//!
//! A lane is a row, so no sum crosses lanes, and a token's sum is one chain over K whatever the
//! other tokens are. AVX2, AVX-VNNI and AVX-512 give the same bits; the portable path rounds
//! products before it adds them.
//!
//! Weights are prefetched before they are multiplied, as far ahead as
//! [`Ahead`](super::Ahead) says. The processor's own
//! prefetching stops at every page of 4 KiB, and a loop that multiplies each line with several
//! tokens fills the window in which loads run ahead of it. Without asking, eight tokens were seen
//! to read at two fifths of the bandwidth. Two groups side by side are two streams of weights, and
//! an activation is loaded once for both.

use crate::cpu::activations::Block;
use crate::cpu::packed::BAND;

/// Sums of a band for one token.
pub(in crate::cpu) type Sums = [f32; BAND];

/// A band's groups, of equal length. In memory the second one follows the first, or is the first
/// once more.
pub(in crate::cpu) type Band<'a> = [&'a [u8]; 2];

/// The products of a band of packed rows, by the format of the weights and of the activations.
pub(in crate::cpu) trait Rows: Copy {
    /// Most tokens that are worth multiplying at once: their sums and the weights fill the
    /// registers.
    const TILE: usize;
    /// The same for MXFP4 times int8. To decode weights may cost more than to keep sums in memory:
    /// then it is more than fill the registers.
    const MXFP4_INT8_TILE: usize = Self::TILE;

    /// bf16 times f32. `xs` hold `2 * ceil(K / 2)` values each.
    fn bf16_f32<const T: usize>(self, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]);
    /// MXFP4 times f32.
    fn mxfp4_f32<const T: usize>(self, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]);
    /// MXFP4 times int8 in parts, whose blocks are shifted by
    /// [`Mxfp4Int8::OFFSET`](crate::cpu::product::Mxfp4Int8).
    fn mxfp4_int8<const T: usize, const PARTS: usize>(self, band: Band<'_>, xs: &[&[Block<PARTS>]; T], sums: &mut [Sums; T]);
    /// int8 times int8, whose blocks are shifted by
    /// [`Int8Int8::OFFSET`](crate::cpu::product::Int8Int8).
    fn int8_int8<const T: usize>(self, band: Band<'_>, xs: &[&[Block<1>]; T], sums: &mut [Sums; T]);
}

/// Prefetches the `bytes` bytes of each group that are `ahead` of byte `at`, of groups that are
/// read side by side and whose values end at byte `end`; `ahead` is at most `end`. Behind a group's
/// values come those of the group that is read after it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn prefetch<const G: usize>(groups: [&[u8]; G], at: usize, bytes: usize, end: usize, ahead: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let to = at + ahead;
    let to = if to < end { to } else { to - end + G * groups[0].len() };
    for group in groups {
        for line in (0..bytes).step_by(64) {
            // SAFETY: nothing is read from the address, which may lie behind the group and even
            // behind the matrix.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(to + line).cast()) };
        }
    }
}

/// The same for block `block` of `blocks`, values and scales of so many bytes a block. The scales
/// are those of the groups that are read next: they are too few to be worth a distance of their
/// own.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn prefetch_block<const G: usize, const VALUES: usize, const SCALES: usize>(
    groups: [&[u8]; G],
    blocks: usize,
    block: usize,
    ahead: usize,
) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    prefetch(groups, block * VALUES, VALUES, blocks * VALUES, ahead);
    if (block * SCALES).is_multiple_of(64) {
        for group in groups {
            let at = blocks * VALUES + block * SCALES + G * group.len();
            // SAFETY: nothing is read from the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(at).cast()) };
        }
    }
}

/// E2M1 doubled, which makes it an integer, by all four bits.
pub(super) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The same with 12 added, which makes it positive: the instruction that multiplies bytes takes
/// unsigned ones on one side.
pub(super) const RAISED: [u8; 16] = {
    let mut raised = [0; 16];
    let mut code = 0;
    while code < 16 {
        raised[code] = (DOUBLED[code] + 12) as u8;
        code += 1;
    }
    raised
};

/// Asserts that a band's groups and its activations are so many blocks long, which the loops over
/// raw memory rely on, and returns how many.
#[inline(always)]
pub(super) fn check<X>(band: Band<'_>, xs: &[&[X]], block_bytes: usize, block_values: usize) -> usize {
    let blocks = xs[0].len() / block_values;
    let bytes = band[0].len();
    assert!(bytes >= blocks * block_bytes && band[1].len() == bytes, "groups of {bytes} bytes for {blocks} blocks");
    assert!(xs.iter().all(|x| x.len() >= blocks * block_values), "activations of one length");
    blocks
}
