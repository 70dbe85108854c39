//! Bytes of a checkpoint to f32, and what rounding to int8 leaves of numbers.

use crate::weights::{MXFP4_BLOCK, Mxfp4Matrix};

/// Widens bf16, little-endian, to f32: `value = bits << 16`. Exact.
///
/// # Panics
/// If the number of bytes is odd.
#[must_use]
pub fn bf16_to_f32(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks::<2>();
    assert!(rest.is_empty(), "bf16 has two bytes a value, there are {}", bytes.len());
    values.iter().map(|&value| half::bf16::from_le_bytes(value).to_f32()).collect()
}

/// What the low three bits of an E2M1 value stand for; the fourth is the sign.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Widens an MXFP4 matrix to f32 `[rows, cols]`: `value = e2m1 * 2^(scale - 127)`; scale 255 is
/// NaN. Exact.
///
/// Source: OCP Microscaling Formats (MX) 1.0, sections 5.3.3 (E2M1), 5.4.1 (E8M0) and 6
/// (conversion).
#[must_use]
pub fn mxfp4_to_f32(matrix: &Mxfp4Matrix<'_>) -> Vec<f32> {
    let mut values = Vec::with_capacity(matrix.rows() * matrix.cols());
    for (block, &scale) in matrix.blocks().chunks_exact(MXFP4_BLOCK / 2).zip(matrix.scales()) {
        let scale = if scale == u8::MAX { f32::NAN } else { 2f64.powi(i32::from(scale) - 127) as f32 };
        for byte in block {
            for nibble in [byte & 15, byte >> 4] {
                let magnitude = E2M1[usize::from(nibble & 7)];
                values.push(scale * if nibble & 8 == 0 { magnitude } else { -magnitude });
            }
        }
    }
    values
}

/// What is left of the rows of bf16 weights when each 32 of them are rounded to integers with one
/// scale: `scale * round(value / scale)`, `scale = max |value| / 127` rounded to bf16. The last
/// block of a row may be shorter.
#[must_use]
pub fn int8_weights(bytes: &[u8], cols: usize) -> Vec<f32> {
    let values = bf16_to_f32(bytes);
    let blocks = values.chunks_exact(cols).flat_map(|row| row.chunks(MXFP4_BLOCK));
    let rounded = blocks.flat_map(|block| {
        let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let scale = half::bf16::from_f32(largest / 127.0).to_f32();
        let round = move |value: &f32| (value / scale).round_ties_even().clamp(-127.0, 127.0) * scale;
        block.iter().map(move |value| if scale > 0.0 { round(value) } else { 0.0 })
    });
    rounded.collect()
}

/// What is left of activations when each 32 of a row are rounded to integers with one scale:
/// `scale * round(x * (127 / max |x|))`, `scale = max |x| / 127`. The last block of a row may be
/// shorter.
#[must_use]
pub fn int8_activations(x: &[f32], cols: usize) -> Vec<f32> {
    rounded(x, cols, 127.0)
}

/// The same with integers of 16 bits, at most `127 * 256`.
#[must_use]
pub fn int16_activations(x: &[f32], cols: usize) -> Vec<f32> {
    rounded(x, cols, 127.0 * 256.0)
}

fn rounded(x: &[f32], cols: usize, steps: f32) -> Vec<f32> {
    let blocks = x.chunks_exact(cols).flat_map(|row| row.chunks(MXFP4_BLOCK));
    let rounded = blocks.flat_map(|block| {
        let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let inverse = if largest > 0.0 { steps / largest } else { 0.0 };
        block.iter().map(move |value| (value * inverse).round_ties_even() * (largest / steps))
    });
    rounded.collect()
}
