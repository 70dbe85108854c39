//! Weights in the tile core's order: what the host writes and `tile.cuh` reads.
//!
//! A tile is 16 rows. For each step of k it holds what 32 lanes need, 16 bytes a lane and load: lane `4 g + t` has rows `g` and
//! `g + 8` at eight neighbouring k. bf16: a step is 32 of k, row `g` first, then row `g + 8`. MXFP4: a step is 64 of k; a lane's
//! four words are rows `g` and `g + 8` of the first block of 32, then of the second.

use crate::weights::MXFP4_BLOCK;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Warps that share a block's sums.
pub(super) const TILE_WARPS: usize = 8;
/// k of one step of bf16 weights.
const BF16_STEP: usize = 32;
/// k of one step of MXFP4 weights.
const MXFP4_STEP: usize = 64;

/// Words of four bytes in a bf16 tile with rows of `cols`.
#[must_use]
pub const fn bf16_tile_words(cols: usize) -> usize {
    bf16_steps(cols) * TILE_ROWS * BF16_STEP / 2
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

pub(super) const fn bf16_steps(cols: usize) -> usize {
    cols.div_ceil(BF16_STEP)
}

pub(super) const fn mxfp4_steps(cols: usize) -> usize {
    cols.div_ceil(MXFP4_STEP)
}

/// Values from one row of activations to the next, for rows of `cols`: whole steps of either kind; what lies beyond `cols` is zero.
#[must_use]
pub const fn row_stride(cols: usize) -> usize {
    cols.next_multiple_of(MXFP4_STEP)
}

/// Shared memory for the sums of a block: see `store_sums`.
pub(super) const fn sums_bytes(row_tiles: usize, tokens: usize) -> usize {
    TILE_WARPS * tokens * (TILE_ROWS * row_tiles + 4) * size_of::<f32>()
}

/// Writes one tile of bf16 weights: `rows` are the bytes of up to 16 rows of `cols`, `None` a row of zeros.
///
/// # Panics
/// If `out` has not [`bf16_tile_words`], or a row not `2 * cols` bytes.
pub fn pack_bf16(rows: [Option<&[u8]>; TILE_ROWS], cols: usize, out: &mut [u32]) {
    assert_eq!(out.len(), bf16_tile_words(cols), "a tile of rows of {cols}");
    out.fill(0);
    for (row, bytes) in rows.into_iter().enumerate() {
        let Some(bytes) = bytes else { continue };
        assert_eq!(bytes.len(), 2 * cols, "a row of {cols}");
        let (g, part) = (row % 8, row / 8);
        for (eight, values) in bytes.chunks(16).enumerate() {
            let (step, t) = (eight / 4, eight % 4);
            let at = ((step * 2 + part) * 32 + 4 * g + t) * 4;
            for (word, four) in out[at..at + 4].iter_mut().zip(values.chunks(4)) {
                let mut bytes = [0; 4];
                bytes[..four.len()].copy_from_slice(four);
                *word = u32::from_le_bytes(bytes);
            }
        }
    }
}

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

/// Writes the codes of one tile of MXFP4 weights: `rows` are the packed values of up to 16 rows of `cols`, `None` a row of zeros.
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

/// Writes the scales of one tile of MXFP4 weights: `rows` are those of up to 16 rows of `cols`, `None` a row of zeros.
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
            out[block / 2 * 8 + row % 8] |= u32::from(scale) << (8 * (block % 2 * 2 + row / 8));
        }
    }
}

/// Where `expand_e2m1` expects the bits of eight values: a table for each of the four bytes, a pair of values each.
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
    match pair {
        0 => sign << 15 | magnitude << 6,
        1 => sign << 12 | magnitude << 3,
        2 => sign << 9 | magnitude,
        _ => sign << 14 | (magnitude & 4) << 11 | (magnitude & 3) << 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `expand_e2m1` does, on the host.
    fn expand(word: u32) -> [u32; 4] {
        const MASK: u32 = 0x81c0_81c0;
        let last = (word << 1 & 0x8000_8000) | (word >> 5 & 0x0100_0100) | (word >> 4 & 0x00c0_00c0);
        [word & MASK, word << 3 & MASK, word << 6 & MASK, last]
    }

    #[test]
    fn every_code_comes_back_from_every_place() {
        let value = |bits: u32| f64::from(f32::from_bits(bits << 16)) * 2_f64.powi(126);
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
    fn a_bf16_tile_has_each_value_once() {
        let cols = 43;
        let bytes: Vec<Vec<u8>> =
            (0..11_u16).map(|row| (0..cols as u16).flat_map(|col| (1 + row * 100 + col).to_le_bytes()).collect()).collect();
        let rows = std::array::from_fn(|row| bytes.get(row).map(Vec::as_slice));
        let mut out = vec![7; bf16_tile_words(cols)];
        pack_bf16(rows, cols, &mut out);
        let values: Vec<u16> = out.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).collect();
        let mut found = 0;
        for (at, &value) in values.iter().enumerate().filter(|(_, value)| **value != 0) {
            let (eight, within) = (at / 8, at % 8);
            let (lane, part, step) = (eight % 32, eight / 32 % 2, eight / 64);
            let (row, col) = (lane / 4 + 8 * part, step * 32 + lane % 4 * 8 + within);
            assert_eq!(usize::from(value), 1 + row * 100 + col);
            found += 1;
        }
        assert_eq!(found, 11 * cols);
    }
}
