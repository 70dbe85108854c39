//! Products of weights and activations, the inner loop of every linear map.
//!
//! What: `sum over k of weight[n][k] * x[t][k]` for a block of rows `n` and tokens `t`.
//! Shapes: weights `[rows, K]` in bf16 or MXFP4, at most [`ROWS`] rows; activations as [`super::panels::Panels`], at most
//! [`TOKENS`] of them.
//! Source: register tiles as in Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
//! Twin: `reference::linear`, within `1e-6 * sum over k of |weight[n][k] * x[t][k]|` for K up to 4096.
//! Cost: one token reads each weight once and is bound by memory; from 4 tokens on, 4 rows are widened once into 8 KiB that
//! stay in L1, and the FMA units are the bound. Measured figures are in `kernels/README.md`.
//!
//! Each sum has one accumulator of `LANES` lanes, to which the chunks of K are added in their order, evens before odds, and
//! which is summed at the end. Tokens, rows and threads only decide which sums are computed side by side.

use std::ops::Range;

use super::simd::{LANES_MAX, Simd};
use crate::weights::{Bf16Matrix, MXFP4_BLOCK, Mxfp4Matrix};

/// Rows of a block: what a thread takes at once.
pub(super) const ROWS: usize = 16;

/// Tokens of a block: as many share the weights that were widened for it.
pub(super) const TOKENS: usize = 64;

/// Rows that are multiplied side by side.
const TILE: usize = 4;

/// Values of a row that are widened before tokens are multiplied with them.
const SPAN: usize = 512;

/// Sums of a block, `[TOKENS, ROWS]`.
pub(super) type Sums = [[f32; ROWS]; TOKENS];

/// Weights that can be widened chunk by chunk.
pub(super) trait Weights: Copy + Sync {
    /// One row of them.
    type Row<S: Simd>: Row<S>;

    /// How many rows.
    fn rows(self) -> usize;
    /// Values in a row.
    fn cols(self) -> usize;
    /// Row `row`.
    fn row<S: Simd>(self, row: usize) -> Self::Row<S>;
}

/// One row of weights, in chunks of `2 * LANES` values.
pub(super) trait Row<S: Simd>: Copy {
    /// How many whole chunks the row has.
    fn whole(self) -> usize;
    /// The row cut at `whole` whole chunks. Where rows of a tile are cut alike, the compiler sees that an index which is
    /// good for one is good for all.
    fn cut(self, whole: usize) -> Self;
    /// The whole chunk with index `chunk`: evens and odds.
    fn chunk(self, s: S, chunk: usize) -> (S::V, S::V);
    /// What is left after the whole chunks, with zeros to fill it up.
    fn rest(self, s: S) -> (S::V, S::V);
}

impl<'a> Weights for Bf16Matrix<'a> {
    type Row<S: Simd> = Bf16Row<'a, S>;

    fn rows(self) -> usize {
        Bf16Matrix::rows(&self)
    }

    fn cols(self) -> usize {
        Bf16Matrix::cols(&self)
    }

    #[inline(always)]
    fn row<S: Simd>(self, row: usize) -> Bf16Row<'a, S> {
        let (chunks, rest) = S::halves(Bf16Matrix::row(&self, row));
        Bf16Row { chunks, rest }
    }
}

/// The bytes of a row of bf16.
#[derive(Clone, Copy)]
pub(super) struct Bf16Row<'a, S: Simd> {
    chunks: &'a [S::Halves],
    rest: &'a [u8],
}

impl<S: Simd> Row<S> for Bf16Row<'_, S> {
    #[inline(always)]
    fn whole(self) -> usize {
        self.chunks.len()
    }

    #[inline(always)]
    fn cut(self, whole: usize) -> Self {
        Self { chunks: &self.chunks[..whole], ..self }
    }

    #[inline(always)]
    fn chunk(self, s: S, chunk: usize) -> (S::V, S::V) {
        s.bf16(&self.chunks[chunk])
    }

    #[inline(always)]
    fn rest(self, s: S) -> (S::V, S::V) {
        let mut padded = [0; 4 * LANES_MAX];
        padded[..self.rest.len()].copy_from_slice(self.rest);
        s.bf16(&S::halves(&padded).0[0])
    }
}

impl<'a> Weights for Mxfp4Matrix<'a> {
    type Row<S: Simd> = Mxfp4Row<'a, S>;

    fn rows(self) -> usize {
        Mxfp4Matrix::rows(&self)
    }

    fn cols(self) -> usize {
        Mxfp4Matrix::cols(&self)
    }

    #[inline(always)]
    fn row<S: Simd>(self, row: usize) -> Mxfp4Row<'a, S> {
        // A row is whole blocks, and a block of 32 values one chunk or two.
        Mxfp4Row { chunks: S::nibbles(self.row_blocks(row)).0, scales: self.row_scales(row) }
    }
}

/// The packed values and the scales of a row of MXFP4.
#[derive(Clone, Copy)]
pub(super) struct Mxfp4Row<'a, S: Simd> {
    chunks: &'a [S::Nibbles],
    scales: &'a [u8],
}

/// What an E8M0 scale stands for: `2^(scale - 127)`, NaN for 255.
const E8M0: [f32; 256] = {
    let mut table = [f32::NAN; 256];
    let mut scale = 1;
    while scale < 255 {
        table[scale] = f32::from_bits((scale as u32) << 23);
        scale += 1;
    }
    // 2^-127 is below the normal numbers.
    table[0] = f32::from_bits(1 << 22);
    table
};

impl<S: Simd> Row<S> for Mxfp4Row<'_, S> {
    #[inline(always)]
    fn whole(self) -> usize {
        self.chunks.len()
    }

    #[inline(always)]
    fn cut(self, whole: usize) -> Self {
        let scales = (whole * 2 * S::LANES).div_ceil(MXFP4_BLOCK);
        Self { chunks: &self.chunks[..whole], scales: &self.scales[..scales] }
    }

    #[inline(always)]
    fn chunk(self, s: S, chunk: usize) -> (S::V, S::V) {
        let scale = self.scales[chunk / (MXFP4_BLOCK / (2 * S::LANES))];
        s.e2m1(&self.chunks[chunk], E8M0[usize::from(scale)])
    }

    #[inline(always)]
    fn rest(self, s: S) -> (S::V, S::V) {
        (s.splat(0.0), s.splat(0.0))
    }
}

/// Memory of a block's computation, about 28 KiB: on the stack, so in L1.
pub(super) struct Scratch {
    widened: [f32; TILE * SPAN],
    accumulators: [f32; TILE * LANES_MAX * TOKENS],
}

impl Scratch {
    /// New memory.
    pub(super) fn new() -> Self {
        Self { widened: [0.0; TILE * SPAN], accumulators: [0.0; TILE * LANES_MAX * TOKENS] }
    }
}

/// Computes `sums[t][n - rows.start]` for every row `n` of `rows` and every activation `xs[t]`.
#[inline(always)]
pub(super) fn block<S: Simd, W: Weights>(
    s: S,
    weights: W,
    rows: Range<usize>,
    xs: &[&[f32]],
    sums: &mut Sums,
    scratch: &mut Scratch,
) {
    debug_assert!(rows.len() <= ROWS && xs.len() <= TOKENS, "a block of {} rows and {} tokens", rows.len(), xs.len());
    let start = rows.start;
    let mut row = start;
    while row + TILE <= rows.end {
        tile::<S, W, TILE>(s, weights, row, row - start, xs, sums, scratch);
        row += TILE;
    }
    while row < rows.end {
        tile::<S, W, 1>(s, weights, row, row - start, xs, sums, scratch);
        row += 1;
    }
}

/// The rows `row .. row + R` of a block, whose sums go to `at .. at + R`.
#[inline(always)]
fn tile<S: Simd, W: Weights, const R: usize>(
    s: S,
    weights: W,
    row: usize,
    at: usize,
    xs: &[&[f32]],
    sums: &mut Sums,
    scratch: &mut Scratch,
) {
    let rows: [W::Row<S>; R] = std::array::from_fn(|r| weights.row(row + r));
    let rows = rows.map(|row| row.cut(rows[0].whole()));
    if let [x] = xs {
        let accumulators = one_token(s, rows, x);
        for (r, accumulator) in accumulators.into_iter().enumerate() {
            sums[0][at + r] = s.sum(accumulator);
        }
        return;
    }
    let accumulators = &mut scratch.accumulators[..xs.len() * R * S::LANES];
    accumulators.fill(0.0);
    let chunks = weights.cols().div_ceil(2 * S::LANES);
    let span = SPAN / (2 * S::LANES);
    for first in (0..chunks).step_by(span) {
        let chunks = first..chunks.min(first + span);
        let widened = &mut scratch.widened[..chunks.len() * R * 2 * S::LANES];
        widen(s, rows, chunks.clone(), widened);
        let columns = chunks.start * 2 * S::LANES..chunks.end * 2 * S::LANES;
        let mut xs = xs;
        let mut accumulators = &mut *accumulators;
        // Two tokens fill the 16 registers of AVX2.
        while let [a, b, rest @ ..] = xs {
            let (now, later) = accumulators.split_at_mut(2 * R * S::LANES);
            multiply::<S, R, 2>(s, widened, [&a[columns.clone()], &b[columns.clone()]], now);
            (xs, accumulators) = (rest, later);
        }
        if let [x] = xs {
            multiply::<S, R, 1>(s, widened, [&x[columns]], accumulators);
        }
    }
    for (token, accumulators) in accumulators.chunks_exact(R * S::LANES).enumerate() {
        for (r, accumulator) in accumulators.chunks_exact(S::LANES).enumerate() {
            sums[token][at + r] = s.sum(s.load(accumulator));
        }
    }
}

/// The accumulators of `rows` times one activation, widening in registers.
#[inline(always)]
fn one_token<S: Simd, W: Row<S>, const R: usize>(s: S, rows: [W; R], x: &[f32]) -> [S::V; R] {
    let mut accumulators = [s.splat(0.0); R];
    let (whole, rest) = x.split_at(rows[0].whole() * 2 * S::LANES);
    for (chunk, x) in whole.chunks_exact(2 * S::LANES).enumerate() {
        let (x_even, x_odd) = (s.load(x), s.load(&x[S::LANES..]));
        for r in 0..R {
            let (even, odd) = rows[r].chunk(s, chunk);
            accumulators[r] = s.fma(odd, x_odd, s.fma(even, x_even, accumulators[r]));
        }
    }
    if !rest.is_empty() {
        let (x_even, x_odd) = (s.load(rest), s.load(&rest[S::LANES..]));
        for r in 0..R {
            let (even, odd) = rows[r].rest(s);
            accumulators[r] = s.fma(odd, x_odd, s.fma(even, x_even, accumulators[r]));
        }
    }
    accumulators
}

/// Widens `chunks` of `rows` to `[chunk, R, 2 * LANES]`.
#[inline(always)]
fn widen<S: Simd, W: Row<S>, const R: usize>(s: S, rows: [W; R], chunks: Range<usize>, widened: &mut [f32]) {
    for (chunk, widened) in chunks.zip(widened.chunks_exact_mut(R * 2 * S::LANES)) {
        for (row, widened) in rows.iter().zip(widened.chunks_exact_mut(2 * S::LANES)) {
            let (even, odd) = if chunk < row.whole() { row.chunk(s, chunk) } else { row.rest(s) };
            s.store(even, widened);
            s.store(odd, &mut widened[S::LANES..]);
        }
    }
}

/// Adds the products of widened rows and `C` activations to `accumulators [C, R, LANES]`.
#[inline(always)]
fn multiply<S: Simd, const R: usize, const C: usize>(s: S, widened: &[f32], xs: [&[f32]; C], accumulators: &mut [f32]) {
    let mut registers = [[s.splat(0.0); R]; C];
    for c in 0..C {
        for r in 0..R {
            registers[c][r] = s.load(&accumulators[(c * R + r) * S::LANES..]);
        }
    }
    for (chunk, widened) in widened.chunks_exact(R * 2 * S::LANES).enumerate() {
        let xs: [&[f32]; C] = std::array::from_fn(|c| &xs[c][chunk * 2 * S::LANES..][..2 * S::LANES]);
        for half in [0, S::LANES] {
            let xs: [S::V; C] = std::array::from_fn(|c| s.load(&xs[c][half..]));
            for r in 0..R {
                let weight = s.load(&widened[r * 2 * S::LANES + half..]);
                for c in 0..C {
                    registers[c][r] = s.fma(weight, xs[c], registers[c][r]);
                }
            }
        }
    }
    for c in 0..C {
        for r in 0..R {
            s.store(registers[c][r], &mut accumulators[(c * R + r) * S::LANES..]);
        }
    }
}
