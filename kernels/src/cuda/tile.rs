//! Weights in the tile core's order: what the host writes and `tile.cuh` reads.
//!
//! A tile is 16 rows. For each step of k it holds what 32 lanes need, 16 bytes a lane and load:
//! lane `4 g + t` has rows `g` and `g + 8` at eight neighbouring k. f16: a step is 32 of k, row `g`
//! first, then row `g + 8`. MXFP4: a step is 64 of k; a lane's four words are rows `g` and `g + 8`
//! of the first block of 32, then of the second.

use crate::weights::MXFP4_BLOCK;
use half::{bf16, f16};

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Warps that share a block's sums.
pub(super) const TILE_WARPS: usize = 8;
/// k of one step of f16 weights.
const F16_STEP: usize = 32;
/// k of one step of MXFP4 weights.
const MXFP4_STEP: usize = 64;

/// Words of four bytes in an f16 tile with rows of `cols`.
#[must_use]
pub const fn f16_tile_words(cols: usize) -> usize {
    f16_steps(cols) * TILE_ROWS * F16_STEP / 2
}

/// Words of codes in an MXFP4 tile with rows of `cols`.
#[must_use]
pub const fn mxfp4_tile_words(cols: usize) -> usize {
    mxfp4_steps(cols) * TILE_ROWS * MXFP4_STEP / 8
}

/// Words of scales in an MXFP4 tile with rows of `cols`.
#[must_use]
pub const fn mxfp4_tile_scales(cols: usize) -> usize {
    mxfp4_steps(cols) * 8
}

pub(super) const fn f16_steps(cols: usize) -> usize {
    cols.div_ceil(F16_STEP)
}

pub(super) const fn mxfp4_steps(cols: usize) -> usize {
    cols.div_ceil(MXFP4_STEP)
}

/// Values from one row of activations to the next, for rows of `cols`: whole steps of either kind;
/// what lies beyond `cols` is zero.
#[must_use]
pub const fn row_stride(cols: usize) -> usize {
    cols.next_multiple_of(MXFP4_STEP)
}

/// Shared memory for the sums of a block: see `store_sums`.
pub(super) const fn sums_bytes(row_tiles: usize, tokens: usize) -> usize {
    TILE_WARPS * tokens * (TILE_ROWS * row_tiles + 4) * size_of::<f32>()
}

/// How many tokens a block of the tile core takes, for a step of so many.
pub(super) const fn tile_tokens(tokens: usize) -> usize {
    match tokens {
        0..=8 => 8,
        9..=16 => 16,
        17..=32 => 32,
        _ => 64,
    }
}

/// Writes one tile of f16 weights: `rows` are bytes of bf16 of up to 16 rows of `cols`, `None` a
/// row of zeros. A weight below 2^-17 becomes the nearest multiple of 2^-24, others keep their
/// value; see [`F16_MAX_BITS`].
///
/// # Panics
/// If `out` has not [`f16_tile_words`], or a row not `2 * cols` bytes.
pub fn pack_f16(rows: [Option<&[u8]>; TILE_ROWS], cols: usize, out: &mut [u32]) {
    assert_eq!(out.len(), f16_tile_words(cols), "a tile of rows of {cols}");
    out.fill(0);
    for (row, bytes) in rows.into_iter().enumerate() {
        let Some(bytes) = bytes else { continue };
        assert_eq!(bytes.len(), 2 * cols, "a row of {cols}");
        let (g, part) = (row % 8, row / 8);
        for (eight, values) in bytes.chunks(16).enumerate() {
            let (step, t) = (eight / 4, eight % 4);
            let at = ((step * 2 + part) * 32 + 4 * g + t) * 4;
            for (word, four) in out[at..at + 4].iter_mut().zip(values.chunks(4)) {
                for (half, bytes) in four.as_chunks::<2>().0.iter().enumerate() {
                    let value = f16::from_f32(bf16::from_le_bytes(*bytes).to_f32());
                    *word |= u32::from(value.to_bits()) << (16 * half);
                }
            }
        }
    }
}

/// Largest bf16 without its sign that f16 holds, 65,280; the next is 65,536.
pub const F16_MAX_BITS: u16 = 0x477f;

/// One row of an MXFP4 matrix.
#[derive(Debug, Clone, Copy)]
pub struct Mxfp4Row<'a> {
    /// `cols / 2` bytes of packed values.
    pub blocks: &'a [u8],
    /// `cols / 32` scales.
    pub scales: &'a [u8],
}

/// Largest scale that the kernels widen: weights up to `6 * 2^1`.
pub const SCALE_MAX: u8 = 128;

/// Writes the codes of one tile of MXFP4 weights: `rows` are the packed values of up to 16 rows of
/// `cols`, `None` a row of zeros.
///
/// # Panics
/// If `out` has not [`mxfp4_tile_words`], or a row not `cols / 2` bytes.
pub fn pack_mxfp4_codes(rows: [Option<&[u8]>; TILE_ROWS], cols: usize, out: &mut [u32]) {
    assert_eq!(out.len(), mxfp4_tile_words(cols), "the codes of a tile of rows of {cols}");
    out.fill(0);
    for (row, bytes) in rows.into_iter().enumerate() {
        let Some(bytes) = bytes else { continue };
        assert_eq!(bytes.len(), cols / 2, "a row of {cols}");
        let (g, part) = (row % 8, row / 8);
        for (block, values) in bytes.chunks_exact(MXFP4_BLOCK / 2).enumerate() {
            let (step, half) = (block / 2, block % 2);
            for (t, four) in values.chunks_exact(4).enumerate() {
                out[(step * 32 + 4 * g + t) * 4 + 2 * half + part] = spread([four[0], four[1], four[2], four[3]]);
            }
        }
    }
}

/// A scale as the kernels keep it: the exponent field of the f16 that takes a value times 2^-14 to
/// its place. Below 2^-28 every weight is nearer to zero than to f16's least, and so is zero.
const fn packed_scale(scale: u8) -> u8 {
    scale.saturating_sub(98)
}

/// Four scales of 2^-7 to 2^-4, which `bits` picks: for weights that mean nothing.
#[must_use]
pub const fn any_scales(bits: u32) -> u32 {
    u32::from_ne_bytes([packed_scale(120); 4]) + (bits & 0x0303_0303)
}

/// Writes the scales of one tile of MXFP4 weights: `rows` are those of up to 16 rows of `cols`,
/// `None` a row of zeros.
///
/// # Panics
/// If `out` has not [`mxfp4_tile_scales`], or a row not `cols / 32` scales.
pub fn pack_mxfp4_scales(rows: [Option<&[u8]>; TILE_ROWS], cols: usize, out: &mut [u32]) {
    assert_eq!(out.len(), mxfp4_tile_scales(cols), "the scales of a tile of rows of {cols}");
    out.fill(0);
    for (row, scales) in rows.into_iter().enumerate() {
        let Some(scales) = scales else { continue };
        assert_eq!(scales.len(), cols / MXFP4_BLOCK, "a row of {cols}");
        for (block, &scale) in scales.iter().enumerate() {
            out[block / 2 * 8 + row % 8] |= u32::from(packed_scale(scale)) << (8 * (block % 2 * 2 + row / 8));
        }
    }
}

/// Where `expand_e2m1` expects the bits of eight values: a table for each of the four bytes, a pair
/// of values each.
static SPREAD: [[u32; 256]; 4] = spread_tables();

fn spread(bytes: [u8; 4]) -> u32 {
    SPREAD.iter().zip(bytes).fold(0, |word, (table, byte)| word | table[usize::from(byte)])
}

const fn spread_tables() -> [[u32; 256]; 4] {
    let mut tables = [[0; 256]; 4];
    let mut pair = 0;
    while pair < 4 {
        let mut byte = 0;
        while byte < 256 {
            tables[pair][byte] = place(pair, byte as u32 & 15) | place(pair, byte as u32 >> 4) << 16;
            byte += 1;
        }
        pair += 1;
    }
    tables
}

/// The bits of one value of pair `pair` within its half of a word.
const fn place(pair: usize, code: u32) -> u32 {
    let (sign, magnitude) = (code >> 3, code & 7);
    let (sign_bit, magnitude_bit) = match pair {
        0 => (15, 9),
        1 => (12, 6),
        2 => (14, 0),
        _ => (13, 3),
    };
    sign << sign_bit | magnitude << magnitude_bit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `expand_e2m1` does, on the host.
    fn expand(word: u32) -> [u32; 4] {
        const SIGNS: u32 = 0x8000_8000;
        const MAGNITUDES: u32 = 0x0e00_0e00;
        let apart = |sign: u32, magnitude: u32| (word << sign & SIGNS) | (word << magnitude & MAGNITUDES);
        [apart(0, 0), apart(3, 3), apart(1, 9), apart(2, 6)]
    }

    #[test]
    fn every_code_comes_back_from_every_place() {
        let value = |bits: u32| f16::from_bits(bits as u16).to_f64() * 2_f64.powi(14);
        let expected = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for byte in 0..=255_u8 {
            for place in 0..4 {
                let mut bytes = [0; 4];
                bytes[place] = byte;
                for (pair, bits) in expand(spread(bytes)).into_iter().enumerate() {
                    let codes = if pair == place { [byte & 15, byte >> 4] } else { [0, 0] };
                    for (bits, code) in [bits & 0xffff, bits >> 16].into_iter().zip(codes) {
                        let sign = if code < 8 { 1.0 } else { -1.0 };
                        assert_eq!(value(bits), sign * expected[usize::from(code & 7)], "{byte:#x} at {place}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_scale_gives_the_nearest_f16() {
        for scale in 0..=SCALE_MAX {
            let factor = f16::from_bits(u16::from(packed_scale(scale)) << 10).to_f64();
            for value in [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0] {
                let got = f16::from_f64(value * 2_f64.powi(-14) * factor);
                assert_eq!(got, f16::from_f64(value * 2_f64.powi(i32::from(scale) - 127)), "{value} at scale {scale}");
                // From 2^-23 on that is the value itself.
                assert!(scale < 104 || got.to_f64() == value * 2_f64.powi(i32::from(scale) - 127));
            }
        }
    }

    #[test]
    fn an_f16_tile_has_each_value_once() {
        let cols = 43;
        // Eight bits for each: row in the exponent, column in the fraction, zero in none.
        let number = |row: u8, col: u8| bf16::from_f32((1.0 + f32::from(col) / 64.0) * 2.0_f32.powi(i32::from(row) - 8));
        let bytes: Vec<Vec<u8>> =
            (0..11_u8).map(|row| (0..cols as u8).flat_map(|col| number(row, col).to_le_bytes()).collect()).collect();
        let rows = std::array::from_fn(|row| bytes.get(row).map(Vec::as_slice));
        let mut out = vec![7; f16_tile_words(cols)];
        pack_f16(rows, cols, &mut out);
        let values: Vec<u16> = out.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).collect();
        let mut found = 0;
        for (at, &value) in values.iter().enumerate().filter(|(_, value)| **value != 0) {
            let (eight, within) = (at / 8, at % 8);
            let (lane, part, step) = (eight % 32, eight / 32 % 2, eight / 64);
            let (row, col) = (lane / 4 + 8 * part, step * 32 + lane % 4 * 8 + within);
            assert_eq!(f16::from_bits(value).to_f32(), number(row as u8, col as u8).to_f32());
            found += 1;
        }
        assert_eq!(found, 11 * cols);
    }
}
