//! Fills a group from the rows of a checkpoint.

use super::{GROUP, INT8_BYTES, INT8_SCALES, MXFP4_BLOCK, MXFP4_BYTES, MXFP4_SCALES};

/// Packs at most sixteen rows of bf16; what they leave free stays zero.
pub(super) fn bf16(rows: &[&[u8]], out: &mut [u8]) {
    let (vectors, _) = out.as_chunks_mut::<64>();
    for (lane, row) in rows.iter().enumerate() {
        let (pairs, rest) = row.as_chunks::<4>();
        for (vector, pair) in vectors.iter_mut().zip(pairs) {
            vector[4 * lane..][..4].copy_from_slice(pair);
        }
        if !rest.is_empty() {
            vectors[pairs.len()][4 * lane..][..2].copy_from_slice(rest);
        }
    }
}

/// A scale and 32 integers for a block of weights: `weight = scale * integer`. The scale is a bf16,
/// the last block of a row may be shorter. Twin: `reference::int8_weights`.
pub(super) fn int8_block(values: &[f32]) -> (half::bf16, [i8; MXFP4_BLOCK]) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let broken = values.iter().any(|value| !value.is_finite());
    let scale = half::bf16::from_f32(if broken { f32::NAN } else { largest / 127.0 });
    let mut integers = [0; MXFP4_BLOCK];
    if scale.to_f32() > 0.0 {
        for (integer, value) in integers.iter_mut().zip(values) {
            *integer = (value / scale.to_f32()).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
    (scale, integers)
}

/// Rounds at most sixteen rows of bf16 to int8 and packs them.
pub(super) fn int8(rows: &[&[u8]], cols: usize, out: &mut [u8]) {
    let blocks = cols.div_ceil(MXFP4_BLOCK);
    let (integers, scales) = out.split_at_mut(blocks * INT8_BYTES);
    for (lane, row) in rows.iter().enumerate() {
        let values: Vec<f32> = row.as_chunks::<2>().0.iter().map(|&value| half::bf16::from_le_bytes(value).to_f32()).collect();
        for (block, values) in values.chunks(MXFP4_BLOCK).enumerate() {
            let (scale, rounded) = int8_block(values);
            scales[block * INT8_SCALES + 2 * lane..][..2].copy_from_slice(&scale.to_le_bytes());
            let block = &mut integers[block * INT8_BYTES..][..INT8_BYTES];
            for (column, integer) in rounded.iter().enumerate() {
                block[64 * (column / 4) + 4 * lane + column % 4] = integer.cast_unsigned() ^ 0x80;
            }
        }
    }
}

/// Sixteen bytes of a block in the order of a packed row: byte `t` holds columns `t` and `16 + t`.
fn reorder(bytes: &[u8; 16]) -> [u8; 16] {
    let mut nibbles = [0; 32];
    for (pair, byte) in nibbles.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [byte & 15, byte >> 4];
    }
    std::array::from_fn(|t| nibbles[t] | nibbles[16 + t] << 4)
}

/// Packs sixteen rows of MXFP4: `row(lane)` has the packed values and the scales of one.
pub(super) fn mxfp4<'a>(row: impl Fn(usize) -> (&'a [u8], &'a [u8]), out: &mut [u8]) {
    let blocks = row(0).1.len();
    let (values, scales) = out.split_at_mut(blocks * MXFP4_BYTES);
    for lane in 0..GROUP {
        let (row_values, row_scales) = row(lane);
        for (block, bytes) in row_values.as_chunks::<16>().0.iter().enumerate() {
            let out = &mut values[block * MXFP4_BYTES..][..MXFP4_BYTES];
            for (four, bytes) in reorder(bytes).as_chunks::<4>().0.iter().enumerate() {
                out[64 * four + 4 * lane..][..4].copy_from_slice(bytes);
            }
        }
        for (block, &scale) in row_scales.iter().enumerate() {
            scales[block * MXFP4_SCALES + lane] = scale;
        }
    }
}
