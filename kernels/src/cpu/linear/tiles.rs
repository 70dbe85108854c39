//! Linear maps of bf16 weights on CPUs that multiply tiles (AMX).
//!
//! What, shapes, twin: those of [`linear`](super). Source: three parts of eight bits are an f32, a
//! common practice; why not one part is said in `docs/adr/0017-cpu-weights-and-threads.md`.
//! Cost: as there, but three times the operations, of a unit that is faster; an activation takes 6
//! bytes.

use std::ops::Range;

use super::Map;
use crate::cpu::packed::BAND;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Amx, Bf16Tiles, Isa, Kernel, Simd, TOKENS};

/// Columns of a tile.
const COLS: usize = 32;
/// How many bf16 hold all bits of an f32.
pub(in crate::cpu) const PARTS: usize = 3;
/// Tokens of a tile: their parts fill its rows, of which there are sixteen.
pub(in crate::cpu) const TILE_TOKENS: usize = 5;

/// One part of 32 activations of a token, bf16.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::cpu) struct Line([u16; COLS]);

/// Activations as sums of three bf16, in tiles of [`TILE_TOKENS`] tokens: of a tile the blocks of
/// 32 columns follow each other, of a block the tokens, of a token the parts.
#[derive(Debug, Default)]
pub(in crate::cpu) struct Tiles {
    lines: Vec<Line>,
    per_tile: usize,
}

impl Tiles {
    /// Splits the rows of `x`, `cols` values each. Nothing is lost but what is smaller than 2^-126.
    pub(in crate::cpu) fn fill(&mut self, pool: &mut Pool, isa: Isa, x: &[f32], cols: usize) {
        let (tokens, blocks) = (x.len() / cols, cols.div_ceil(COLS));
        self.per_tile = TILE_TOKENS * blocks * PARTS;
        let used = tokens * blocks * PARTS;
        // A tile is read with all its rows, whether there are tokens for them or not.
        self.lines.resize(used + TILE_TOKENS * PARTS, Line([0; COLS]));
        // 16,384 values take a thread some 3 us.
        pool.for_rows(&mut self.lines[..used], self.per_tile, 16_384 / (TILE_TOKENS * cols), |tile, lines| {
            let tokens = lines.len() / (blocks * PARTS);
            let x = &x[tile * TILE_TOKENS * cols..][..tokens * cols];
            isa.run(Split { x, cols, lines });
        });
    }

    /// Tile `tile` and what follows it; nothing if there is no such tile.
    pub(in crate::cpu) fn tile(&self, tile: usize) -> &[Line] {
        self.lines.get(tile * self.per_tile..).unwrap_or_default()
    }
}

/// Splits the rows of one tile.
struct Split<'a> {
    x: &'a [f32],
    cols: usize,
    lines: &'a mut [Line],
}

impl Kernel for Split<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let tokens = self.x.len() / self.cols;
        for (token, x) in self.x.chunks_exact(self.cols).enumerate() {
            let (whole, rest) = x.as_chunks::<COLS>();
            for (block, x) in whole.iter().enumerate() {
                split(x, &mut self.lines[(block * tokens + token) * PARTS..]);
            }
            if !rest.is_empty() {
                let mut x = [0.0; COLS];
                x[..rest.len()].copy_from_slice(rest);
                split(&x, &mut self.lines[(whole.len() * tokens + token) * PARTS..]);
            }
        }
    }
}

/// The upper half of each value, then of what that leaves, then all of what is left of that.
#[inline(always)]
fn split(x: &[f32; COLS], lines: &mut [Line]) {
    let mut left = *x;
    for line in &mut lines[..PARTS] {
        for (part, left) in line.0.iter_mut().zip(&mut left) {
            let bits = left.to_bits();
            *part = (bits >> 16) as u16;
            *left -= f32::from_bits(bits & 0xffff_0000);
        }
    }
}

impl Map<'_> {
    /// Some bands, for all tokens: for so many of them that their activations stay in a core's
    /// cache, one band after the other.
    pub(super) fn run_in_tiles(&self, bands: Range<usize>, tiles: &Tiles, amx: Amx) {
        let unit = Bf16Tiles::new(amx);
        let mut sums = [[0.0; BAND]; TOKENS];
        let near = near_tokens(self.weight.cols());
        for start in (0..self.tokens).step_by(near) {
            for band in bands.clone() {
                let (rows, bias) = self.band(band);
                for first in (start..self.tokens.min(start + near)).step_by(TOKENS) {
                    let sums = &mut sums[..TOKENS.min(self.tokens - first)];
                    unit.multiply(self.weight.band(band), tiles, first / TILE_TOKENS, first == start, sums);
                    for (token, sums) in (first..).zip(&*sums) {
                        // SAFETY: the pool hands out every band once.
                        unsafe { self.put(token, &rows, sums, &bias) };
                    }
                }
            }
        }
    }
}

/// How many tokens' activations of `cols` values, in parts, leave room for a band's weights in a
/// core's cache of 2 MiB.
fn near_tokens(cols: usize) -> usize {
    let fit = (5 << 18) / (2 * PARTS * cols);
    (fit / TOKENS).clamp(1, 8) * TOKENS
}

/// How many bands a thread claims at least: with many tokens so many that activations which were
/// brought near serve several of them, as long as every thread has three pieces.
pub(super) fn grain(tokens: usize, bands: usize, threads: usize) -> usize {
    if tokens > TOKENS { (bands / (3 * threads)).min(8) } else { 1 }
}
