//! Which weights are multiplied with which activations, and in which tiles.
//!
//! What, shapes, source, twin, cost: as [`super::simd::rows`] says, whose kernels this calls.
//!
//! A tile is a band of rows and up to [`Product::tile_max`] tokens. Tiles only decide which sums
//! are computed side by side; each sum has its own chain.

use super::activations::Block;
use super::packed::BAND;
use super::simd::{Band, Simd, Sums};

/// Tokens whose sums are kept at once: those of the largest tile. A band comes from a cache for all
/// but the first of them.
pub(super) const TOKENS: usize = 8;

/// Sums of a band for at most [`TOKENS`] tokens.
pub(super) type TokenSums = [Sums; TOKENS];

/// What [`TokenSums`] begins as.
pub(super) const NO_SUMS: TokenSums = [[0.0; BAND]; TOKENS];

/// A format of weights with a form of activations.
pub(super) trait Product {
    /// What a row of activations is made of.
    type X: Copy;

    /// Most tokens of a tile.
    #[inline(always)]
    fn tile_max<S: Simd>() -> usize {
        S::TILE
    }

    /// Multiplies a band with the rows of one tile.
    fn tile<S: Simd, const T: usize>(s: S, band: Band<'_>, xs: &[&[Self::X]; T], sums: &mut [Sums; T]);
}

/// bf16 weights, f32 activations.
pub(super) struct Bf16F32;

impl Product for Bf16F32 {
    type X = f32;

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        s.bf16_f32(band, xs, sums);
    }
}

/// MXFP4 weights, f32 activations.
pub(super) struct Mxfp4F32;

impl Product for Mxfp4F32 {
    type X = f32;

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        s.mxfp4_f32(band, xs, sums);
    }
}

/// MXFP4 weights, activations of one or two parts of int8.
pub(super) struct Mxfp4Int8<const PARTS: usize>;

impl<const PARTS: usize> Mxfp4Int8<PARTS> {
    /// What the kernels add to twice a weight.
    pub(super) const OFFSET: i32 = 12;
}

impl<const PARTS: usize> Product for Mxfp4Int8<PARTS> {
    type X = Block<PARTS>;

    #[inline(always)]
    fn tile_max<S: Simd>() -> usize {
        S::MXFP4_INT8_TILE
    }

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, band: Band<'_>, xs: &[&[Block<PARTS>]; T], sums: &mut [Sums; T]) {
        s.mxfp4_int8(band, xs, sums);
    }
}

/// int8 weights, int8 activations.
pub(super) struct Int8Int8;

impl Int8Int8 {
    /// What is added to a weight when it is packed.
    pub(super) const OFFSET: i32 = 128;
}

impl Product for Int8Int8 {
    type X = Block<1>;

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, band: Band<'_>, xs: &[&[Block<1>]; T], sums: &mut [Sums; T]) {
        s.int8_int8(band, xs, sums);
    }
}

/// Multiplies a band with at most [`TOKENS`] rows of activations of one length: `sums[t]` for
/// `xs[t]`.
///
/// Largest tiles first, then one of exactly what is left: a tile decodes the weights anew.
#[inline(always)]
pub(super) fn band<S: Simd, P: Product>(s: S, band: Band<'_>, xs: &[&[P::X]], sums: &mut TokenSums) {
    let mut sums = &mut sums[..xs.len()];
    for xs in xs.chunks(P::tile_max::<S>()) {
        let (now, later) = std::mem::take(&mut sums).split_at_mut(xs.len());
        sums = later;
        let done = tile::<S, P, 1>(s, band, xs, now)
            || tile::<S, P, 2>(s, band, xs, now)
            || tile::<S, P, 3>(s, band, xs, now)
            || tile::<S, P, 4>(s, band, xs, now)
            || tile::<S, P, 5>(s, band, xs, now)
            || tile::<S, P, 6>(s, band, xs, now)
            || tile::<S, P, 7>(s, band, xs, now)
            || tile::<S, P, 8>(s, band, xs, now);
        assert!(done, "a tile of {} tokens", xs.len());
    }
}

/// Takes a tile of `T` tokens, if it is one.
#[inline(always)]
fn tile<S: Simd, P: Product, const T: usize>(s: S, band: Band<'_>, xs: &[&[P::X]], sums: &mut [Sums]) -> bool {
    if T > P::tile_max::<S>() {
        return false;
    }
    let (Ok(xs), Ok(sums)) = (xs.try_into(), sums.try_into()) else { return false };
    P::tile::<S, T>(s, band, xs, sums);
    true
}
