//! Operations on whole rows of the residual stream. Kernels: `cuda/rows.cu`.

use super::device::{Arg, Grid};
use super::kernels::SHARED_BYTES_PLAIN;
use super::linear::Activations;
use super::memory::Region;
use super::{CudaError, Device};
use half::bf16;

/// Widest residual stream: a block of the norm keeps a row in shared memory.
pub const HIDDEN_MAX: usize = SHARED_BYTES_PLAIN / size_of::<f32>();

/// `stream[t] = table[tokens[t]]` for the first `count` tokens.
///
/// `table`: `[V, hidden]` bf16; `stream`: `[T, hidden]` f32. Twin: `reference::embed`, equal. A token that is not in the table is a bug
/// that the host checks: see the engine.
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
    hidden: usize,
    count: usize,
    stream: &Region<f32>,
) -> Result<(), CudaError> {
    assert!(hidden.is_multiple_of(8) && table.len().is_multiple_of(hidden), "rows of {hidden} in {}", table.len());
    assert!(tokens.len() >= count && stream.len() >= count * hidden, "{count} tokens");
    let grid = Grid { blocks: (count, 1), threads: 256, shared_bytes: 0 };
    let args: [Arg; 4] = [stream.into(), table.into(), tokens.into(), hidden.into()];
    // SAFETY: the kernel's parameters in its order; one block a token writes a row of the stream, checked above. The tokens on the
    // device come from `Batch`, which the engine checks against the vocabulary.
    unsafe { device.launch("embed", grid, &args) }
}

/// The experts' outputs that a norm adds to the stream first.
#[derive(Debug, Clone, Copy)]
pub struct Routed<'a> {
    /// `[T, top_k, hidden]`.
    pub outputs: &'a Region<f32>,
    /// `[T, top_k]`.
    pub weights: &'a Region<f32>,
    /// Experts that a token goes to.
    pub top_k: usize,
}

/// Adds the experts' outputs to the stream, if there are any, and norms it: `out[b] = rms_norm(stream[rows[b]])`, or of row `b`.
///
/// `stream`: `[T, hidden]` f32, written unless `rows` picks; `scale`: `[hidden]`; `out`: rows of `hidden` bf16. Twin:
/// `reference::rms_norm`, within bf16's rounding.
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
    routed: Option<Routed<'_>>,
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
    let top_k = routed.map_or(0, |routed| routed.top_k);
    if let Some(routed) = routed {
        let tokens = if rows.is_some() { 0 } else { count };
        assert!(
            routed.outputs.len() >= tokens * top_k * hidden && routed.weights.len() >= tokens * top_k,
            "{count} tokens' experts"
        );
    }
    let grid = Grid { blocks: (count, 1), threads: 256, shared_bytes: hidden * size_of::<f32>() };
    let args: [Arg; 10] = [
        (&out.values).into(),
        stream.into(),
        routed.map(|routed| routed.outputs).into(),
        routed.map(|routed| routed.weights).into(),
        rows.into(),
        scale.into(),
        top_k.into(),
        hidden.into(),
        out.stride.into(),
        eps.into(),
    ];
    // SAFETY: the kernel's parameters in its order; rows that `rows` names are rows of the step, as the engine writes them there.
    unsafe { device.launch("combine_norm", grid, &args) }
}
