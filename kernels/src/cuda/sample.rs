//! Drawing tokens on the device. Kernel: `cuda/sample.cu`.

use super::device::Device;
use super::error::CudaError;
use super::launch::{Arg, Grid};
use super::memory::{Region, element};

/// Likeliest tokens that a row can report.
pub const TOP_MAX: usize = 32;
/// Words of a row's report: token, log-probability, rank, one spare, then token and log-probability
/// of the likeliest.
pub const REPORT_WORDS: usize = 4 + 2 * TOP_MAX;
/// What stands in a report's first word where the logits cannot be drawn from.
pub const NOT_FINITE: u32 = u32::MAX;

/// What is asked of one row of logits; the fields are those of the engine's sampling parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
#[expect(missing_docs, reason = "they are the sampling parameters")]
pub struct RowDraw {
    /// 1 draws, 0 reports `target`.
    pub is_draw: u32,
    pub wants_logprobs: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: u32,
    pub min_p: f32,
    pub seed_low: u32,
    pub seed_high: u32,
    /// Counter of the draw.
    pub index: u32,
    /// The row's first edit, and one past its last.
    pub edit: u32,
    pub edit_end: u32,
    /// The row's first word in the masks; -1 allows every token.
    pub mask: i32,
    pub target: u32,
    pub top_count: u32,
    pub repetition: f32,
    pub presence: f32,
    pub frequency: f32,
    pub spare: [u32; 3],
}

impl Default for RowDraw {
    /// Greedy, nothing changed, nothing reported.
    fn default() -> Self {
        Self {
            is_draw: 1,
            wants_logprobs: 0,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed_low: 0,
            seed_high: 0,
            index: 0,
            edit: 0,
            edit_end: 0,
            mask: -1,
            target: 0,
            top_count: 0,
            repetition: 1.0,
            presence: 0.0,
            frequency: 0.0,
            spare: [0; 3],
        }
    }
}

/// A change to one logit; no token twice in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub struct LogitEdit {
    /// The token.
    pub token: u32,
    /// Added first.
    pub bias: f32,
    /// One more than how often it was generated; zero for no penalty.
    pub seen: u32,
    /// 1 takes the token out of the draw.
    pub is_masked: u32,
}

element!(RowDraw, LogitEdit);

impl RowDraw {
    /// Its fields in order, as the device has them.
    #[must_use]
    pub fn words(&self) -> [u32; 20] {
        let Self { is_draw, wants_logprobs, top_k, seed_low, seed_high, index, edit, edit_end, target, top_count, .. } = *self;
        let [temperature, top_p, min_p] = [self.temperature, self.top_p, self.min_p].map(f32::to_bits);
        let [repetition, presence, frequency] = [self.repetition, self.presence, self.frequency].map(f32::to_bits);
        let (first, mask) = ([is_draw, wants_logprobs, temperature, top_p, top_k, min_p, seed_low], self.mask.cast_unsigned());
        let rest = [seed_high, index, edit, edit_end, mask, target, top_count, repetition, presence, frequency, 0, 0, 0];
        std::array::from_fn(|at| if at < first.len() { first[at] } else { rest[at - first.len()] })
    }
}

impl LogitEdit {
    /// Its fields in order, as the device has them.
    #[must_use]
    pub fn words(&self) -> [u32; 4] {
        [self.token, self.bias.to_bits(), self.seen, self.is_masked]
    }
}

/// What a step's rows are drawn with.
#[derive(Debug, Clone, Copy)]
pub struct SampleOperands<'a> {
    /// `[rows, V]`; the same after the draw.
    pub logits: &'a Region<f32>,
    /// `[rows]`.
    pub draws: &'a Region<RowDraw>,
    /// All rows' edits.
    pub edits: &'a Region<LogitEdit>,
    /// As many values as edits: logits on their way back.
    pub saved: &'a Region<f32>,
    /// Bits of tokens that may be drawn.
    pub masks: &'a Region<u32>,
    /// `[rows, REPORT_WORDS]`.
    pub reports: &'a Region<u32>,
}

/// Draws a token from each of the first `rows` rows of `vocab` logits.
///
/// Twin: the engine's `Sampler`, the same token but where two sums lie within 1e-7 of the drawn
/// number.
///
/// # Errors
/// [`CudaError::Driver`] if the launch is refused.
///
/// # Panics
/// If a region is too short for its shape.
pub fn sample(device: &Device, operands: SampleOperands<'_>, rows: usize, vocab: usize) -> Result<(), CudaError> {
    assert!(operands.logits.len() >= rows * vocab && operands.draws.len() >= rows, "{rows} rows of {vocab} logits");
    assert!(operands.reports.len() >= rows * REPORT_WORDS, "{rows} reports");
    assert!(operands.saved.len() >= operands.edits.len(), "room for each edited logit");
    let grid = Grid { blocks: (rows, 1), threads: 512, shared_bytes: 0 };
    let args: [Arg; 7] = [
        operands.reports.into(),
        operands.logits.into(),
        operands.saved.into(),
        operands.draws.into(),
        operands.edits.into(),
        operands.masks.into(),
        vocab.into(),
    ];
    // SAFETY: the kernel's parameters in its order; draws, edits and masks on the device are the
    // engine's, within their regions.
    unsafe { device.launch("sample", grid, &args) }
}
