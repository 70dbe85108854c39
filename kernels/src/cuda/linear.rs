//! Linear maps, and the rows that go through them. Kernels: `cuda/linear.cu`.

use super::device::{Arg, Grid};
use super::memory::{Arena, Region, region_bytes};
use super::tile::{TILE_ROWS, TILE_WARPS, f16_steps, f16_tile_words, row_stride, sums_bytes};
use super::wgmma::{Arranged, WGMMA_TOKENS, linear_wgmma};
use super::{CudaError, Device};
use half::f16;

/// Rows of f16, each padded with zeros to whole steps of the tile core.
#[derive(Debug, Clone)]
pub struct Activations {
    pub(super) values: Region<f16>,
    pub(super) stride: usize,
}

impl Activations {
    /// Bytes that `rows` rows of `cols` take.
    #[must_use]
    pub const fn bytes(rows: usize, cols: usize) -> usize {
        region_bytes::<f16>(rows * row_stride(cols))
    }

    /// Room for `rows` rows of `cols`. The arena's zeros are the padding: no kernel writes there.
    pub fn new(arena: &mut Arena, rows: usize, cols: usize) -> Self {
        Self { values: arena.take(rows * row_stride(cols)), stride: row_stride(cols) }
    }

    /// The values, [`row_stride`] a row.
    #[must_use]
    pub fn values(&self) -> &Region<f16> {
        &self.values
    }

    pub(super) fn check(&self, rows: usize, cols: usize) {
        assert!(self.stride == row_stride(cols), "rows of {cols}, but {} apart", self.stride);
        assert!(self.values.len() >= rows * self.stride, "{rows} rows in {} values", self.values.len());
    }
}

/// An f16 matrix on the device, in the order of the tile core.
#[derive(Debug, Clone)]
pub struct F16Tiles {
    words: Region<u32>,
    rows: usize,
    cols: usize,
}

impl F16Tiles {
    /// Words that a matrix takes.
    #[must_use]
    pub const fn words(rows: usize, cols: usize) -> usize {
        rows.div_ceil(TILE_ROWS) * f16_tile_words(cols)
    }

    /// Takes `words`, tile after tile as [`super::tile::pack_f16`] writes them.
    ///
    /// # Panics
    /// If there are not [`Self::words`].
    #[must_use]
    pub fn new(words: Region<u32>, rows: usize, cols: usize) -> Self {
        assert_eq!(words.len(), Self::words(rows, cols), "a matrix of {rows} x {cols}");
        Self { words, rows, cols }
    }

    /// Its words, to be filled.
    #[must_use]
    pub fn region(&self) -> &Region<u32> {
        &self.words
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether `tokens` rows of these operands go through it.
    pub(super) fn check(&self, x: &Activations, bias: Option<&Region<f32>>, tokens: usize, y: &Region<f32>) {
        x.check(tokens, self.cols);
        assert!(y.len() >= tokens * self.rows, "{tokens} rows of {} in {} values", self.rows, y.len());
        assert!(bias.is_none_or(|bias| bias.len() == self.rows), "a bias for each of {} rows", self.rows);
    }
}

/// What a product does to the values that its output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Replaces them.
    Replace,
    /// Is added to them.
    Add,
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
    let blocks = (weights.rows.div_ceil(TILE_ROWS), tokens.div_ceil(tile));
    let grid = Grid { blocks, threads: 32 * TILE_WARPS, shared_bytes: sums_bytes(1, tile) };
    let steps = f16_steps(weights.cols);
    let args: [Arg; 8] = [
        y.into(),
        (&x.values).into(),
        (&weights.words).into(),
        bias.into(),
        weights.rows.into(),
        steps.into(),
        x.stride.into(),
        tokens.into(),
    ];
    // SAFETY: the kernel's parameters in its order. It reads `tokens` rows of x up to whole steps,
    // which the stride covers, whole tiles of weights, `rows` biases, and writes `tokens * rows` of
    // y, all checked above.
    unsafe { device.launch(name, grid, &args) }
}
