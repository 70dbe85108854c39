//! Which weights are multiplied with which activations, and in which tiles.
//!
//! What, shapes, source, twin, cost: as [`super::simd::rows`] says, whose kernels this calls.
//!
//! A tile is a group of rows and up to [`Rows::TILE`](super::simd::Rows) tokens. Tiles only decide which sums are computed side
//! by side; each sum has its own chain.

use super::activations::Block;
use super::packed::GROUP;
use super::simd::{Simd, Sums};

/// Tokens whose sums are kept at once: those of the largest tile. A group comes from a cache for all but the first of them.
pub(super) const TOKENS: usize = 8;

/// Sums of a group for at most [`TOKENS`] tokens.
pub(super) type TokenSums = [Sums; TOKENS];

/// What [`TokenSums`] begins as.
pub(super) const NO_SUMS: TokenSums = [[0.0; GROUP]; TOKENS];

/// A format of weights with a form of activations.
pub(super) trait Product {
    /// What a row of activations is made of.
    type X: Copy;

    /// Multiplies a group with the rows of one tile.
    fn tile<S: Simd, const T: usize>(s: S, group: &[u8], xs: &[&[Self::X]; T], sums: &mut [Sums; T]);
}

/// bf16 weights, f32 activations.
pub(super) struct Bf16F32;

impl Product for Bf16F32 {
    type X = f32;

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, group: &[u8], xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        s.bf16_f32(group, xs, sums);
    }
}

/// MXFP4 weights, f32 activations.
pub(super) struct Mxfp4F32;

impl Product for Mxfp4F32 {
    type X = f32;

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, group: &[u8], xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        s.mxfp4_f32(group, xs, sums);
    }
}

/// MXFP4 weights, int8 activations.
pub(super) struct Mxfp4Int8;

impl Mxfp4Int8 {
    /// What the kernels add to twice a weight.
    pub(super) const OFFSET: i32 = 12;
}

impl Product for Mxfp4Int8 {
    type X = Block;

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, group: &[u8], xs: &[&[Block]; T], sums: &mut [Sums; T]) {
        s.mxfp4_int8(group, xs, sums);
    }
}

/// int8 weights, int8 activations.
pub(super) struct Int8Int8;

impl Int8Int8 {
    /// What is added to a weight when it is packed.
    pub(super) const OFFSET: i32 = 128;
}

impl Product for Int8Int8 {
    type X = Block;

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, group: &[u8], xs: &[&[Block]; T], sums: &mut [Sums; T]) {
        s.int8_int8(group, xs, sums);
    }
}

/// Multiplies a group with at most [`TOKENS`] rows of activations of one length: `sums[t]` for `xs[t]`.
#[inline(always)]
pub(super) fn group<S: Simd, P: Product>(s: S, group: &[u8], xs: &[&[P::X]], sums: &mut TokenSums) {
    let mut xs = xs;
    let mut sums = &mut sums[..xs.len()];
    tiles::<S, P, 8>(s, group, &mut xs, &mut sums);
    tiles::<S, P, 4>(s, group, &mut xs, &mut sums);
    tiles::<S, P, 2>(s, group, &mut xs, &mut sums);
    tiles::<S, P, 1>(s, group, &mut xs, &mut sums);
}

/// Takes tiles of `T` tokens as long as there are so many.
#[inline(always)]
fn tiles<S: Simd, P: Product, const T: usize>(s: S, group: &[u8], xs: &mut &[&[P::X]], sums: &mut &mut [Sums]) {
    if T > S::TILE {
        return;
    }
    while let Some((now, later)) = xs.split_first_chunk::<T>() {
        let all = std::mem::take(sums);
        let (to, rest) = all.split_first_chunk_mut::<T>().expect("as many sums as rows");
        P::tile(s, group, now, to);
        (*xs, *sums) = (later, rest);
    }
}
