//! The products of Hopper against those of every device: the same bits.

use super::experts::compute;
use super::rows::put_matrix;
use super::*;
use crate::cuda::linear::linear_wgmma;
use crate::reference;

/// A device with wgmma, if there is one.
fn hopper() -> Option<Bench> {
    let bench = Bench::new();
    let is_served = MatrixInstruction::Wgmma.is_served_by(bench.device.facts());
    if !is_served {
        antiphon_cuda_shim::skipped(format_args!("{:?} has no wgmma", bench.device.facts()));
    }
    is_served.then_some(bench)
}

/// Room for so many values in the order in which wgmma wants them.
pub(super) fn room(bench: &Bench, values: usize) -> Arranged {
    Arranged::new(&mut Arena::new(&bench.device, "a test", Arranged::bytes(values)).unwrap(), values)
}

#[test]
fn linear_maps_with_wgmma_are_those_with_mma() {
    let Some(bench) = hopper() else { return };
    check_linear(&bench);
    // One step of 32 and less, several blocks of rows and of tokens, parts of k that are short,
    // odd, empty; more stages than the ring has.
    for shape in [(5, 8, 3), (16, 32, 1), (150, 64, 129), (128, 96, 128), (33, 544, 17), (290, 352, 260), (40, 1000, 66)] {
        compare_linear(&bench, shape);
    }
}

/// More stages than the ring has, the last one half; a block that is not full.
pub(super) fn check_linear(bench: &Bench) {
    compare_linear(bench, (140, 800, 130));
}

fn compare_linear(bench: &Bench, (rows, cols, tokens): (usize, usize, usize)) {
    let (x, weights, bias) = (numbers(tokens * cols, 1), numbers(rows * cols, 2), numbers(rows, 3));
    let (x_rows, matrix, bias_region) = (bench.put_rows(&x, cols), put_matrix(bench, &weights, cols), bench.put(&bias));
    let (before, y, room) =
        (bench.put(&numbers(tokens * rows, 4)), bench.room::<f32>(tokens * rows), room(bench, x_rows.values.len()));
    for (bias, into) in [(Some(&bias_region), Output::Replace), (None, Output::Add)] {
        bench.device.copy(&before, &y).unwrap();
        linear(&bench.device, &x_rows, &matrix, bias, tokens, into, &y, None).unwrap();
        let expected = bench.device.fetch(&y).unwrap();
        let got = bench.run(|device| {
            device.copy(&before, &y).unwrap();
            linear_wgmma(device, &x_rows, &room, &matrix, bias, tokens, into, &y).unwrap();
            device.fetch(&y).unwrap()
        });
        let what = format!("{rows} x {cols}, {tokens} tokens, {into:?}");
        assert_bits(&got, &expected, &what);
    }
    linear_wgmma(&bench.device, &x_rows, &room, &matrix, Some(&bias_region), tokens, Output::Replace, &y).unwrap();
    let got = bench.device.fetch(&y).unwrap();
    assert_near(&got, &reference::linear(&x, &weights, cols, Some(&bias)), 1e-5 * cols as f32, "the reference");
}

fn assert_bits(got: &[f32], expected: &[f32], what: &str) {
    let other = got.iter().zip(expected).position(|(got, expected)| got.to_bits() != expected.to_bits());
    assert_eq!(other, None, "{what}: other bits than expected of mma.sync");
}

#[test]
fn experts_with_wgmma_are_those_with_mma() {
    let Some(bench) = hopper() else { return };
    // Blocks of 64 and of 128 pairs, none of them full, and an expert that has two; more stages
    // than the ring has; experts that get nothing.
    for shape in [(96, 64, 2, 2, 40), (832, 160, 4, 2, 70), (64, 480, 3, 2, 110)] {
        compare_experts(&bench, shape);
    }
}

/// An expert with two tiles, and with rows for more than a block.
pub(super) fn check_experts(bench: &Bench) {
    compare_experts(bench, (96, 160, 4, 2, 70));
}

fn compare_experts(bench: &Bench, shape: (usize, usize, usize, usize, usize)) {
    let expected = compute(bench, shape, MatrixInstruction::Mma);
    assert_bits(&compute(bench, shape, MatrixInstruction::Wgmma), &expected, &format!("{shape:?}"));
}
