//! Products of sixteen rows of packed weights with activations: the inner loops of every linear map.
//!
//! What: `sums[t][n] = sum over k of weight[n][k] * x[t][k]` for the rows `n` of one group and `T` tokens.
//! Shapes: a group as [`packed`](crate::cpu::packed) lays it out; activations `[K]`, in f32 or as [`Block`]s of 32.
//! Source: a row a lane and a table lookup for E2M1 are common practice; sums of bytes stay integers until their block ends.
//! Twin: `reference::linear`; integers are summed exactly, so for given activations the tolerance is that of f32.
//! Cost: the group's bytes once for every [`Rows::TILE`] tokens; `16 K` multiplications a token.
//!
//! A lane is a row, so no sum crosses lanes, and a token's sum is one chain over K whatever the other tokens are. AVX2 and
//! AVX-512 give the same bits; the portable path rounds products before it adds them.

use crate::cpu::activations::Block;
use crate::cpu::packed::GROUP;

/// Sums of a group for one token.
pub(in crate::cpu) type Sums = [f32; GROUP];

/// The products of a group of packed rows, by the format of the weights and of the activations.
pub(in crate::cpu) trait Rows: Copy {
    /// Most tokens that are worth multiplying at once: their sums and the weights fill the registers.
    const TILE: usize;

    /// bf16 times f32. `xs` hold `2 * ceil(K / 2)` values each.
    fn bf16_f32<const T: usize>(self, group: &[u8], xs: &[&[f32]; T], sums: &mut [Sums; T]);
    /// MXFP4 times f32.
    fn mxfp4_f32<const T: usize>(self, group: &[u8], xs: &[&[f32]; T], sums: &mut [Sums; T]);
    /// MXFP4 times int8 in parts, whose blocks are shifted by [`Mxfp4Int8::OFFSET`](crate::cpu::product::Mxfp4Int8).
    fn mxfp4_int8<const T: usize, const PARTS: usize>(self, group: &[u8], xs: &[&[Block<PARTS>]; T], sums: &mut [Sums; T]);
    /// int8 times int8, whose blocks are shifted by [`Int8Int8::OFFSET`](crate::cpu::product::Int8Int8).
    fn int8_int8<const T: usize>(self, group: &[u8], xs: &[&[Block<1>]; T], sums: &mut [Sums; T]);
}

/// E2M1 doubled, which makes it an integer, by all four bits.
pub(super) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The same with 12 added, which makes it positive: the instruction that multiplies bytes takes unsigned ones on one side.
pub(super) const RAISED: [u8; 16] = {
    let mut raised = [0; 16];
    let mut code = 0;
    while code < 16 {
        raised[code] = (DOUBLED[code] + 12) as u8;
        code += 1;
    }
    raised
};

/// Asserts that a group and its activations are `blocks` blocks long, which the loops over raw memory rely on.
#[inline(always)]
pub(super) fn check<X>(bytes: usize, xs: &[&[X]], block_bytes: usize, block_values: usize) -> usize {
    let blocks = xs[0].len() / block_values;
    assert!(bytes >= blocks * block_bytes, "a group of {bytes} bytes for {blocks} blocks");
    assert!(xs.iter().all(|x| x.len() >= blocks * block_values), "activations of one length");
    blocks
}
