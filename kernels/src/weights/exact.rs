//! bf16 experts that are MXFP4 values, as MXFP4: exactly or not at all.

use super::MXFP4_BLOCK;
use half::bf16;
use std::thread;

/// Twice the magnitudes of E2M1, by code.
const DOUBLED: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// The codes and the scale of a block, if all of its values are E2M1 values of one power of two.
///
/// The scale is that with which the largest is 4 or 6: whatever a larger scale represents, this one
/// does too.
fn block(values: &[f32; MXFP4_BLOCK]) -> Option<([u8; MXFP4_BLOCK / 2], u8)> {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    // The exponent of f32 has the bias of E8M0; a block of zeros has any scale.
    let scale = if largest == 0.0 { 127 } else { u8::try_from((largest.to_bits() >> 23).checked_sub(2)?).ok()? };
    if scale == 0 {
        return None;
    }
    let doubled_unit = f32::from_bits(u32::from(scale) << 23) / 2.0;
    let mut codes = [0; MXFP4_BLOCK];
    for (code, value) in codes.iter_mut().zip(values) {
        let magnitude = DOUBLED.iter().position(|doubled| doubled * doubled_unit == value.abs())?;
        *code = u8::try_from(magnitude).ok()? | u8::from(value.is_sign_negative()) << 3;
    }
    Some((std::array::from_fn(|byte| codes[2 * byte] | codes[2 * byte + 1] << 4), scale))
}

/// Blocks `[E, rows, cols / 32, 16]` and scales `[E, rows, cols / 32]` of the bf16 values `[E,
/// cols, rows]`; `None` unless every one of them is exactly what MXFP4 says. `shape`: `[E, rows,
/// cols]`, `cols` a multiple of 32.
///
/// # Panics
/// If `bytes` has another length.
#[must_use]
pub fn quantized(bytes: &[u8], [experts, rows, cols]: [usize; 3], threads: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    assert_eq!(bytes.len(), 2 * experts * rows * cols, "bf16 values of {experts} experts, {rows} x {cols}");
    let groups = cols / MXFP4_BLOCK;
    let (mut codes, mut scales) = (vec![0; experts * rows * cols / 2], vec![0; experts * rows * groups]);
    let each = experts.div_ceil(threads.max(1)).max(1);
    let row_blocks = |expert: &[[u8; 2]], codes: &mut [u8], scales: &mut [u8]| -> Option<()> {
        let (codes, _) = codes.as_chunks_mut::<{ MXFP4_BLOCK / 2 }>();
        for (index, (codes, scale)) in codes.iter_mut().zip(scales).enumerate() {
            let (row, group) = (index / groups, index % groups);
            let value = |col: usize| bf16::from_le_bytes(expert[(group * MXFP4_BLOCK + col) * rows + row]).to_f32();
            (*codes, *scale) = block(&std::array::from_fn(value))?;
        }
        Some(())
    };
    let is_exact = thread::scope(|scope| {
        let parts = bytes.as_chunks::<2>().0.chunks(each * rows * cols);
        let outs = codes.chunks_mut(each * rows * cols / 2).zip(scales.chunks_mut(each * rows * groups));
        let work = parts.zip(outs).map(|(part, (codes, scales))| {
            let row_blocks = &row_blocks;
            scope.spawn(move || {
                let outs = codes.chunks_mut(rows * cols / 2).zip(scales.chunks_mut(rows * groups));
                part.chunks(rows * cols).zip(outs).try_for_each(|(expert, (codes, scales))| row_blocks(expert, codes, scales))
            })
        });
        let work: Vec<_> = work.collect();
        work.into_iter().all(|part| part.join().is_ok_and(|exact| exact.is_some()))
    });
    is_exact.then_some((codes, scales))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::weights::Mxfp4Stack;

    /// Every code with every scale that gives normal numbers, and back to the same values.
    #[test]
    fn what_was_mxfp4_comes_back_with_the_same_values() {
        for scale in 4..=200_u8 {
            let blocks: Vec<u8> = (0..2 * 16).map(|byte: u8| byte.wrapping_mul(37).wrapping_add(scale)).collect();
            let scales = [scale, 255 - scale];
            let stack = Mxfp4Stack::new(&blocks, &scales, 1, 2, 32).unwrap();
            let values = reference::mxfp4_to_f32(&stack.expert(0));
            let turned = (0..64).flat_map(|at| bf16::from_f32(values[at % 2 * 32 + at / 2]).to_le_bytes()).collect::<Vec<u8>>();
            let (codes, scales) = quantized(&turned, [1, 2, 32], 2).unwrap();
            let again = reference::mxfp4_to_f32(&Mxfp4Stack::new(&codes, &scales, 1, 2, 32).unwrap().expert(0));
            assert_eq!(values, again, "scale {scale}");
        }
    }

    #[test]
    fn what_is_no_mxfp4_is_never_rounded() {
        for odd in [5.0_f32, 0.25, 7.0, f32::NAN, f32::INFINITY, 6.0625] {
            let mut values = [1.0_f32; 32];
            (values[3], values[9]) = (6.0, odd);
            let bytes: Vec<u8> = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
            assert!(quantized(&bytes, [1, 1, 32], 1).is_none(), "{odd}");
        }
    }
}
