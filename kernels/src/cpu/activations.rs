//! Activations in the form in which a kernel multiplies them.
//!
//! What: a block of 32 values becomes `scale * integer` with `scale = max |x| / 127`, or, in two
//! parts of eight bits, with `scale = max |x| / 32512`.
//! Shapes: `[T, K]` in, `[T, ceil(K / 32)]` blocks out, zeros behind the last value.
//! Source: rounding to integers with a scale a block is common practice; the shift follows from
//! `packed`. Twin: `reference::int8_activations`, `reference::int16_activations`, equal.
//! Cost: 5.25 bytes a value, 6.25 in two parts.

use super::pool::Pool;
use super::simd::{Isa, Kernel, Simd};
use crate::weights::MXFP4_BLOCK;

/// 32 activations as integers of `PARTS` parts, one or two.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Block<const PARTS: usize> {
    /// The high eight bits between -127 and 127, then, if there are two parts, the low ones, signed
    /// as well.
    pub(super) values: [[i8; MXFP4_BLOCK]; PARTS],
    /// What a one stands for; not finite if a value is not.
    pub(super) scale: f32,
    /// Minus the sum of the values times what was added to each weight to make it positive.
    pub(super) shift: i32,
}

impl<const PARTS: usize> Block<PARTS> {
    const EMPTY: Self = Self { values: [[0; MXFP4_BLOCK]; PARTS], scale: 0.0, shift: 0 };
    /// The largest integer.
    const STEPS: f32 = if PARTS == 1 { 127.0 } else { 127.0 * 256.0 };

    /// Rounds 32 values, for weights to which `offset` was added.
    #[inline(always)]
    pub(super) fn new(x: &[f32; MXFP4_BLOCK], offset: i32) -> Self {
        // As integers, magnitudes are ordered like the numbers, and NaN is the largest.
        let largest = x.iter().fold(0, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        let inverse = if largest > 0.0 { Self::STEPS / largest } else { 0.0 };
        // The inverse of the smallest magnitudes overflows; they are as good as zero.
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
        let integers = x.map(|x| (x * inverse + 12_582_912.0).to_bits() as i16);
        let mut values = [[0; MXFP4_BLOCK]; PARTS];
        if PARTS == 1 {
            values[0] = integers.map(|integer| integer as i8);
        } else {
            // The low part is signed, so the high one is rounded. Of NaN any integer is right, and
            // it may be the largest.
            values[0] = integers.map(|integer| (integer.wrapping_add(128) >> 8) as i8);
            values[1] = integers.map(|integer| integer as i8);
        }
        let sum: i32 = integers.into_iter().map(i32::from).sum();
        Self { values, scale: largest / Self::STEPS, shift: -offset * sum }
    }
}

/// Rows of blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks<const PARTS: usize> {
    blocks: Vec<Block<PARTS>>,
    per_row: usize,
}

impl<const PARTS: usize> Blocks<PARTS> {
    /// Rounds the rows of `x`, `cols` values each.
    pub(super) fn fill(&mut self, pool: &mut Pool, isa: Isa, x: &[f32], cols: usize, offset: i32) {
        let room = self.room(x.len() / cols, cols);
        let per_row = cols.div_ceil(MXFP4_BLOCK);
        // 16,384 values take a thread some 3 us.
        pool.for_rows(room, per_row, 16_384 / cols, |row, blocks| {
            isa.run(Round { x: &x[row * cols..][..cols], offset, blocks });
        });
    }

    /// Room for `rows` rows of `cols` values.
    pub(super) fn room(&mut self, rows: usize, cols: usize) -> &mut [Block<PARTS>] {
        self.per_row = cols.div_ceil(MXFP4_BLOCK);
        self.blocks.resize(rows * self.per_row, Block::EMPTY);
        &mut self.blocks
    }

    /// Row `row`.
    pub(super) fn row(&self, row: usize) -> &[Block<PARTS>] {
        &self.blocks[row * self.per_row..][..self.per_row]
    }
}

/// Rounds one row.
struct Round<'a, const PARTS: usize> {
    x: &'a [f32],
    offset: i32,
    blocks: &'a mut [Block<PARTS>],
}

impl<const PARTS: usize> Kernel for Round<'_, PARTS> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (whole, rest) = self.x.as_chunks::<MXFP4_BLOCK>();
        for (block, x) in self.blocks.iter_mut().zip(whole) {
            *block = Block::new(x, self.offset);
        }
        if !rest.is_empty() {
            let mut x = [0.0; MXFP4_BLOCK];
            x[..rest.len()].copy_from_slice(rest);
            self.blocks[whole.len()] = Block::new(&x, self.offset);
        }
    }
}

/// Rows of f32, with a zero behind an odd number of values.
#[derive(Debug, Default)]
pub(super) struct Padded {
    values: Vec<f32>,
}

impl Padded {
    /// The rows of `x`, `cols` values each, and the length of one; copied only if that must change.
    pub(super) fn rows<'a>(&'a mut self, x: &'a [f32], cols: usize) -> (&'a [f32], usize) {
        if cols.is_multiple_of(2) {
            return (x, cols);
        }
        self.values.clear();
        for row in x.chunks_exact(cols) {
            self.values.extend_from_slice(row);
            self.values.push(0.0);
        }
        (&self.values, cols + 1)
    }
}
