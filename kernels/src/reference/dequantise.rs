//! Bytes of a checkpoint to f32.

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

/// Widens an MXFP4 matrix to f32 `[rows, cols]`: `value = e2m1 * 2^(scale - 127)`; scale 255 is NaN. Exact.
///
/// Source: OCP Microscaling Formats (MX) 1.0, sections 5.3.3 (E2M1), 5.4.1 (E8M0) and 6 (conversion).
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
