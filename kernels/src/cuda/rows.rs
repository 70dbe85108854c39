//! Operations on whole rows of the residual stream. Kernels: `cuda/rows.cu`.

use super::device::{Device, SHARED_BYTES_PLAIN};
use super::error::CudaError;
use super::launch::{Arg, Grid};
use super::memory::Region;
use super::operands::Activations;
use super::route::RouteRegions;
use super::sample::REPORT_WORDS;
use half::bf16;

/// Widest residual stream: a block of the norm keeps a row in shared memory.
pub const HIDDEN_MAX: usize = SHARED_BYTES_PLAIN / size_of::<f32>();

/// The token that the step before drew, to be read from row `row` of its reports.
#[must_use]
pub fn drawn_token(row: usize) -> u32 {
    AWAITED | u32::try_from(row).ok().filter(|row| row & AWAITED == 0).expect("a step has fewer than 2^31 rows")
}

/// Set in a token that is read from a report.
const AWAITED: u32 = 1 << 31;

/// `stream[t] = table[tokens[t]]` for the first `count` tokens; what [`drawn_token`] gives stands
/// for a token in `reports`.
///
/// `table`: `[V, hidden]` bf16; `stream`: `[T, hidden]` f32; `reports`: `[rows, REPORT_WORDS]` of
/// [`super::sample`]. Twin: `reference::embed`, equal. A row whose draw failed, or that is not
/// there, gives the first token of the table, as does a token that is not in it.
///
/// # Errors
/// [`CudaError::Driver`] if the launch is refused.
///
/// # Panics
/// If a region is too short for its shape.
pub fn embed(
    device: &Device,
    table: &Region<bf16>,
    tokens: &Region<u32>,
    reports: &Region<u32>,
    hidden: usize,
    count: usize,
    stream: &Region<f32>,
) -> Result<(), CudaError> {
    assert!(hidden.is_multiple_of(8) && table.len().is_multiple_of(hidden), "rows of {hidden} in {}", table.len());
    assert!(tokens.len() >= count && stream.len() >= count * hidden, "{count} tokens");
    let grid = Grid { blocks: (count, 1), threads: 256, shared_bytes: 0 };
    let args: [Arg; 8] = [
        stream.into(),
        table.into(),
        tokens.into(),
        reports.into(),
        (reports.len() / REPORT_WORDS).into(),
        REPORT_WORDS.into(),
        hidden.into(),
        (table.len() / hidden).into(),
    ];
    // SAFETY: the kernel's parameters in its order; one block a token writes a row of the stream,
    // checked above. No token is read beyond the table, no row beyond the reports.
    unsafe { device.launch("embed", grid, &args) }
}

/// What a norm adds to the stream first.
#[derive(Debug, Clone, Copy)]
pub enum Parts<'a> {
    /// What the experts gave, each with its weight.
    Experts {
        /// `[T, top_k, hidden]`.
        outputs: &'a Region<f32>,
        /// `[T, top_k]`.
        weights: &'a Region<f32>,
        /// Experts that a token goes to.
        top_k: usize,
    },
    /// What the ranks gave, in their order: the same bits on all of them, however many rows a step
    /// has.
    Ranks {
        /// `[ranks, rows, hidden]`.
        outputs: &'a Region<f32>,
        /// How many ranks.
        ranks: usize,
        /// Rows of the step that they gave them for.
        rows: usize,
    },
}

/// Adds `parts` to the stream, if there are any, and norms it: `out[b] =
/// rms_norm(stream[rows[b]])`, or of row `b`.
///
/// `stream`: `[T, hidden]` f32, written unless `rows` picks; `scale`: `[hidden]`; `out`: rows of
/// `hidden` f16. Twin: `reference::rms_norm`, within f16's rounding.
///
/// # Errors
/// [`CudaError::Driver`] if the launch is refused.
///
/// # Panics
/// If a region is too short for its shape, or the stream wider than [`HIDDEN_MAX`].
#[expect(clippy::too_many_arguments, reason = "an operation's operands")]
pub fn combine_norm(
    device: &Device,
    stream: &Region<f32>,
    parts: Option<Parts<'_>>,
    rows: Option<&Region<u32>>,
    scale: &Region<f32>,
    eps: f32,
    count: usize,
    out: &Activations,
) -> Result<(), CudaError> {
    let hidden = scale.len();
    assert!(hidden <= HIDDEN_MAX, "a stream of {hidden}, at most {HIDDEN_MAX}");
    out.check(count, hidden);
    assert!(rows.is_none_or(|rows| rows.len() >= count), "{count} rows to pick");
    assert!(rows.is_some() || stream.len() >= count * hidden, "{count} rows of {hidden}");
    let tokens = if rows.is_some() { 0 } else { count };
    let (outputs, weights, part_count, row_step, part_step) = match parts {
        None => (None, None, 0, 0, 0),
        Some(Parts::Experts { outputs, weights, top_k }) => {
            assert!(outputs.len() >= tokens * top_k * hidden && weights.len() >= tokens * top_k, "{count} tokens' experts");
            (Some(outputs), Some(weights), top_k, top_k * hidden, hidden)
        }
        Some(Parts::Ranks { outputs, ranks, rows }) => {
            assert!(tokens <= rows && outputs.len() >= ranks * rows * hidden, "{count} of {rows} tokens of {ranks} ranks");
            (Some(outputs), None, ranks, hidden, rows * hidden)
        }
    };
    let grid = Grid { blocks: (count, 1), threads: 256, shared_bytes: hidden * size_of::<f32>() };
    let args: [Arg; 12] = [
        (&out.values).into(),
        stream.into(),
        outputs.into(),
        weights.into(),
        rows.into(),
        scale.into(),
        part_count.into(),
        row_step.into(),
        part_step.into(),
        hidden.into(),
        out.stride.into(),
        eps.into(),
    ];
    // SAFETY: the kernel's parameters in its order; rows that `rows` names are rows of the step, as
    // the engine writes them there.
    unsafe { device.launch("combine_norm", grid, &args) }
}

/// What this rank's experts give for each of the first `count` tokens: `out[t]` is the weighted sum
/// over those of its routes that are this rank's.
///
/// `outputs`: `[T, top_k, hidden]` f32, `out`: `[T, hidden]` f32. Twin: the last sum of
/// `reference::experts`, within 1e-6 of the sum of magnitudes.
///
/// # Errors
/// [`CudaError::Driver`] if the launch is refused.
///
/// # Panics
/// If a region is too short for its shape.
pub fn sum_routed(
    device: &Device,
    outputs: &Region<f32>,
    routes: &RouteRegions,
    hidden: usize,
    count: usize,
    out: &Region<f32>,
) -> Result<(), CudaError> {
    let pairs = count * routes.top_k;
    assert!(outputs.len() >= pairs * hidden && out.len() >= count * hidden, "{count} tokens of {hidden}");
    assert!(routes.experts.len() >= pairs, "{pairs} pairs in {}", routes.experts.len());
    let grid = Grid { blocks: (count, 1), threads: 256, shared_bytes: 0 };
    let args: [Arg; 6] =
        [out.into(), outputs.into(), (&routes.weights).into(), (&routes.experts).into(), routes.top_k.into(), hidden.into()];
    // SAFETY: the kernel's parameters in its order; all lengths are checked above.
    unsafe { device.launch("sum_routed", grid, &args) }
}
