//! Products of packed rows in plain Rust.

use super::portable::Portable;
use super::rows::{Band, DOUBLED, Rows, Sums, check};
use crate::cpu::activations::Block;
use crate::cpu::packed::{BF16_BYTES, GROUP, INT8_BYTES, INT8_SCALES, MXFP4_BYTES, MXFP4_SCALES};

/// The scales of block `block`: `2^(e - 127)`, zero for 0, infinite for 255.
fn mxfp4_scales(group: &[u8], blocks: usize, block: usize) -> [f32; GROUP] {
    let bytes = &group[blocks * MXFP4_BYTES + block * MXFP4_SCALES..];
    std::array::from_fn(|row| f32::from_bits(u32::from(bytes[row]) << 23))
}

/// Twice the weights of a block, by column: byte `4 row + i` of vector `j` holds columns `4 j + i`
/// and `16 + 4 j + i`.
fn mxfp4_block(group: &[u8], block: usize) -> [[i8; GROUP]; 32] {
    let bytes = &group[block * MXFP4_BYTES..][..MXFP4_BYTES];
    let mut weights = [[0; GROUP]; 32];
    for column in 0..16 {
        for row in 0..GROUP {
            let byte = bytes[64 * (column / 4) + 4 * row + column % 4];
            weights[column][row] = DOUBLED[usize::from(byte & 15)];
            weights[column + 16][row] = DOUBLED[usize::from(byte >> 4)];
        }
    }
    weights
}

/// Adds a block's integer products, times their scales.
fn add_integers<const PARTS: usize>(
    weights: &[[i8; GROUP]; 32],
    scales: &[f32; GROUP],
    x: &Block<PARTS>,
    total: &mut [f32; GROUP],
) {
    let mut sums = [0i32; GROUP];
    for (column, weights) in weights.iter().enumerate() {
        let integer = x.values.iter().fold(0, |high, part| (high << 8) + i32::from(part[column]));
        for (sum, &weight) in sums.iter_mut().zip(weights) {
            *sum += i32::from(weight) * integer;
        }
    }
    for row in 0..GROUP {
        total[row] += sums[row] as f32 * (scales[row] * x.scale);
    }
}

/// Two groups' sums, side by side.
fn join(sums: [[f32; GROUP]; 2]) -> Sums {
    std::array::from_fn(|row| sums[row / GROUP][row % GROUP])
}

/// What `group` makes of each of a band's groups, joined.
fn by_groups<const T: usize>(band: Band<'_>, sums: &mut [Sums; T], group: impl Fn(&[u8]) -> [[f32; GROUP]; T]) {
    let [first, second] = band.map(group);
    *sums = std::array::from_fn(|t| join([first[t], second[t]]));
}

impl Rows for Portable {
    const TILE: usize = 4;

    fn bf16_f32<const T: usize>(self, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        let pairs = check(band, xs, BF16_BYTES, 2);
        by_groups(band, sums, |group| {
            let mut totals = [[0.0; GROUP]; T];
            for (pair, bytes) in group.as_chunks::<BF16_BYTES>().0[..pairs].iter().enumerate() {
                let bits: [u32; GROUP] = std::array::from_fn(|row| {
                    u32::from_le_bytes([bytes[4 * row], bytes[4 * row + 1], bytes[4 * row + 2], bytes[4 * row + 3]])
                });
                for (x, total) in xs.iter().zip(&mut totals) {
                    for row in 0..GROUP {
                        total[row] += f32::from_bits(bits[row] << 16) * x[2 * pair];
                        total[row] += f32::from_bits(bits[row] & 0xffff_0000) * x[2 * pair + 1];
                    }
                }
            }
            totals
        });
    }

    fn mxfp4_f32<const T: usize>(self, band: Band<'_>, xs: &[&[f32]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, MXFP4_BYTES + MXFP4_SCALES, 32);
        by_groups(band, sums, |group| {
            let mut totals = [[0.0; GROUP]; T];
            for block in 0..blocks {
                let (weights, scales) = (mxfp4_block(group, block), mxfp4_scales(group, blocks, block));
                for (x, total) in xs.iter().zip(&mut totals) {
                    let mut parts = [[0.0; GROUP]; 2];
                    for (column, weights) in weights.iter().enumerate() {
                        for (part, &weight) in parts[column / 16].iter_mut().zip(weights) {
                            *part += f32::from(weight) * x[32 * block + column];
                        }
                    }
                    for row in 0..GROUP {
                        total[row] += (parts[0][row] + parts[1][row]) * scales[row];
                    }
                }
            }
            // The weights were doubled.
            totals.map(|total| total.map(|total| 0.5 * total))
        });
    }

    fn mxfp4_int8<const T: usize, const PARTS: usize>(self, band: Band<'_>, xs: &[&[Block<PARTS>]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, MXFP4_BYTES + MXFP4_SCALES, 1);
        by_groups(band, sums, |group| {
            let mut totals = [[0.0; GROUP]; T];
            for block in 0..blocks {
                let (weights, scales) = (mxfp4_block(group, block), mxfp4_scales(group, blocks, block));
                xs.iter().zip(&mut totals).for_each(|(x, total)| add_integers(&weights, &scales, &x[block], total));
            }
            totals.map(|total| total.map(|total| 0.5 * total))
        });
    }

    fn int8_int8<const T: usize>(self, band: Band<'_>, xs: &[&[Block<1>]; T], sums: &mut [Sums; T]) {
        let blocks = check(band, xs, INT8_BYTES + INT8_SCALES, 1);
        by_groups(band, sums, |group| {
            let mut totals = [[0.0; GROUP]; T];
            for block in 0..blocks {
                let bytes = &group[block * INT8_BYTES..][..INT8_BYTES];
                let weight = |column: usize, row: usize| (bytes[64 * (column / 4) + 4 * row + column % 4] ^ 0x80).cast_signed();
                let weights = std::array::from_fn(|column| std::array::from_fn(|row| weight(column, row)));
                let scales = &group[blocks * INT8_BYTES + block * INT8_SCALES..];
                let scales =
                    std::array::from_fn(|row| half::bf16::from_le_bytes([scales[2 * row], scales[2 * row + 1]]).to_f32());
                xs.iter().zip(&mut totals).for_each(|(x, total)| add_integers(&weights, &scales, &x[block], total));
            }
            totals
        });
    }
}
