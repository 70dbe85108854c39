//! Linear maps. Kernels: `cuda/linear.cu`, and `cuda/linear_wgmma.cu` for steps of many tokens on
//! Hopper.

use super::device::Device;
use super::error::CudaError;
use super::launch::{Arg, Grid};
use super::memory::Region;
use super::operands::{Activations, Arranged, F16Tiles};
use super::tile::{TILE_ROWS, TILE_WARPS, f16_steps, sums_bytes, tile_tokens};
use super::wgmma::{F16_TILE_BYTES, MatrixInstruction, WGMMA_ROW_TILES, WGMMA_THREADS, WGMMA_TOKENS, ring_bytes};

/// What a product does to the values that its output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Replaces them.
    Replace,
    /// Is added to them.
    Add,
}

/// `y[t] = W x[t] + bias`, or adds that to `y[t]`, for the first `tokens` rows of `x`.
///
/// `x`: rows of the matrix's inputs; `bias`: `[rows]`; `y`: `[T, rows]` f32. Sums in f32; the same
/// bits for a token whatever else is in the step. Twin: `reference::linear` on values rounded to
/// f16, within 1e-5 of the sum of magnitudes. With room for `arranged` rows wgmma multiplies from
/// [`WGMMA_TOKENS`] on, with the same bits.
///
/// # Errors
/// [`CudaError::Driver`] if a launch is refused.
///
/// # Panics
/// If a region is too short for its shape, or there is room for wgmma on a device that has none.
#[expect(clippy::too_many_arguments, reason = "an operation's operands")]
pub fn linear(
    device: &Device,
    x: &Activations,
    weights: &F16Tiles,
    bias: Option<&Region<f32>>,
    tokens: usize,
    output: Output,
    y: &Region<f32>,
    arranged: Option<&Arranged>,
) -> Result<(), CudaError> {
    if let Some(arranged) = arranged.filter(|_| tokens >= WGMMA_TOKENS) {
        return linear_wgmma(device, x, arranged, weights, bias, tokens, output, y);
    }
    weights.check(x, bias, tokens, y);
    let tile = tile_tokens(tokens);
    let name = match (output, tile) {
        (Output::Replace, 8) => "linear_8",
        (Output::Replace, 16) => "linear_16",
        (Output::Replace, 32) => "linear_32",
        (Output::Replace, _) => "linear_64",
        (Output::Add, 8) => "linear_add_8",
        (Output::Add, 16) => "linear_add_16",
        (Output::Add, 32) => "linear_add_32",
        (Output::Add, _) => "linear_add_64",
    };
    let blocks = (weights.rows().div_ceil(TILE_ROWS), tokens.div_ceil(tile));
    let grid = Grid { blocks, threads: 32 * TILE_WARPS, shared_bytes: sums_bytes(1, tile) };
    let steps = f16_steps(weights.cols());
    let args: [Arg; 8] = [
        y.into(),
        (&x.values).into(),
        weights.region().into(),
        bias.into(),
        weights.rows().into(),
        steps.into(),
        x.stride.into(),
        tokens.into(),
    ];
    // SAFETY: the kernel's parameters in its order. It reads `tokens` rows of x up to whole steps,
    // which the stride covers, whole tiles of weights, `rows` biases, and writes `tokens * rows` of
    // y, all checked above.
    unsafe { device.launch(name, grid, &args) }
}

/// As [`linear`], with wgmma and the same bits. `arranged`: room for `tokens` rows of `x`.
#[expect(clippy::too_many_arguments, reason = "an operation's operands")]
pub(super) fn linear_wgmma(
    device: &Device,
    x: &Activations,
    arranged: &Arranged,
    weights: &F16Tiles,
    bias: Option<&Region<f32>>,
    tokens: usize,
    output: Output,
    y: &Region<f32>,
) -> Result<(), CudaError> {
    assert!(MatrixInstruction::Wgmma.is_served_by(device.facts()), "{:?} has no wgmma", device.facts());
    weights.check(x, bias, tokens, y);
    let x = arranged.fill(device, x, tokens, None, WGMMA_TOKENS)?;
    let name = match output {
        Output::Replace => "linear_wgmma",
        Output::Add => "linear_add_wgmma",
    };
    let blocks = (weights.rows().div_ceil(TILE_ROWS * WGMMA_ROW_TILES), tokens.div_ceil(WGMMA_TOKENS));
    let grid = Grid { blocks, threads: WGMMA_THREADS, shared_bytes: ring_bytes(F16_TILE_BYTES, WGMMA_TOKENS) };
    let args: [Arg; 7] = [
        x,
        y.into(),
        weights.region().into(),
        bias.into(),
        weights.rows().into(),
        f16_steps(weights.cols()).into(),
        tokens.into(),
    ];
    // SAFETY: the kernel's parameters in its order. It reads what the map describes, whole tiles of
    // weights and `rows` biases, and writes `tokens * rows` of y, all checked above.
    unsafe { device.launch(name, grid, &args) }
}
