//! The experts. Kernels: `cuda/experts.cu`, and `cuda/experts_wgmma.cu` for steps of many tokens on
//! Hopper.

use super::device::Device;
use super::error::CudaError;
use super::launch::{Arg, Grid};
use super::memory::Region;
use super::operands::{Activations, Arranged, EXPERT_ROW_TILES, Mxfp4Tiles};
use super::route::{RouteRegions, tiles_max};
use super::tile::{TILE_WARPS, mxfp4_steps, sums_bytes};
use super::wgmma::{MXFP4_TILE_BYTES, MatrixInstruction, WGMMA_ROW_TILES, WGMMA_THREADS, describe, ring_bytes};
use crate::weights::SwiGlu;

/// What the experts of a layer compute with, besides their weights.
#[derive(Debug, Clone)]
pub struct ExpertRegions {
    /// Activations between the projections, a row a pair.
    pub inner: Activations,
    /// `[T, top_k, hidden]`.
    pub outputs: Region<f32>,
}

/// Operands of a launch, checked.
#[derive(Debug, Clone, Copy)]
struct ExpertStep<'a> {
    x: &'a Activations,
    gate_up: &'a Mxfp4Tiles,
    down: &'a Mxfp4Tiles,
    swiglu: SwiGlu,
    routes: &'a RouteRegions,
    tokens: usize,
    regions: &'a ExpertRegions,
    /// Entries of the tile list at most.
    tiles: usize,
}

/// The experts on the first `tokens` rows of `x`: `outputs[t][i]` is what the token's `i`-th expert
/// gives.
///
/// `gate_up` has tiles of 8 gates and their 8 ups. Twin: `reference::expert` on values rounded to
/// f16.
///
/// # Errors
/// [`CudaError::Driver`] if a launch is refused.
///
/// # Panics
/// If a region is too short for its shape.
#[expect(clippy::too_many_arguments, reason = "an operation's operands")]
pub fn experts(
    device: &Device,
    x: &Activations,
    gate_up: &Mxfp4Tiles,
    down: &Mxfp4Tiles,
    swiglu: SwiGlu,
    routes: &RouteRegions,
    tokens: usize,
    regions: &ExpertRegions,
) -> Result<(), CudaError> {
    let (pairs, hidden, inner) = (tokens * routes.top_k, down.rows(), down.cols());
    x.check(tokens, gate_up.cols());
    regions.inner.check(pairs, inner);
    assert!(gate_up.rows() == 2 * inner && gate_up.cols() == hidden, "projections of one expert");
    assert!(gate_up.experts() == routes.share.count && down.experts() == routes.share.count, "the rank's experts");
    assert!(regions.outputs.len() >= pairs * hidden && routes.sorted.len() >= pairs, "{pairs} pairs");
    let (tile, arranged) = routes.tile(pairs);
    let tiles = tiles_max(pairs, routes.share.count, tile);
    let step = ExpertStep { x, gate_up, down, swiglu, routes, tokens, regions, tiles };
    match arranged {
        Some(arranged) => experts_wgmma(device, &step, arranged, tile),
        None => experts_mma(device, &step, tile),
    }
}

/// The experts with mma.sync.
fn experts_mma(device: &Device, step: &ExpertStep<'_>, tile: usize) -> Result<(), CudaError> {
    let ExpertStep { x, gate_up, down, swiglu, routes, regions, tiles, .. } = *step;
    let (hidden, inner) = (down.rows(), down.cols());
    let (gate_up_name, down_name) = match tile {
        8 => ("gate_up_8", "down_8"),
        16 => ("gate_up_16", "down_16"),
        32 => ("gate_up_32", "down_32"),
        _ => ("gate_up_64", "down_64"),
    };
    let grid = |rows: usize| Grid {
        blocks: (Mxfp4Tiles::tiles(rows) / EXPERT_ROW_TILES, tiles),
        threads: 32 * TILE_WARPS,
        shared_bytes: sums_bytes(EXPERT_ROW_TILES, tile),
    };
    let args: [Arg; 16] = [
        (&regions.inner.values).into(),
        (&x.values).into(),
        (&gate_up.codes).into(),
        (&gate_up.scales).into(),
        (&gate_up.bias).into(),
        (&routes.sorted).into(),
        (&routes.tiles).into(),
        (&routes.tile_count).into(),
        inner.into(),
        Mxfp4Tiles::tiles(gate_up.rows()).into(),
        mxfp4_steps(hidden).into(),
        routes.top_k.into(),
        x.stride.into(),
        regions.inner.stride.into(),
        swiglu.alpha.into(),
        swiglu.limit.into(),
    ];
    // SAFETY: the kernel's parameters in its order; tiles and pairs on the device are those that
    // `route` made of `tokens` tokens.
    unsafe { device.launch(gate_up_name, grid(gate_up.rows()), &args) }?;
    let args: [Arg; 12] = [
        (&regions.outputs).into(),
        (&regions.inner.values).into(),
        (&down.codes).into(),
        (&down.scales).into(),
        (&down.bias).into(),
        (&routes.sorted).into(),
        (&routes.tiles).into(),
        (&routes.tile_count).into(),
        hidden.into(),
        Mxfp4Tiles::tiles(hidden).into(),
        mxfp4_steps(inner).into(),
        regions.inner.stride.into(),
    ];
    // SAFETY: as above.
    unsafe { device.launch(down_name, grid(down.rows()), &args) }
}

/// As [`experts_mma`], with wgmma and the same bits. `tile`: pairs a block, 64 or 128.
fn experts_wgmma(device: &Device, step: &ExpertStep<'_>, arranged: &Arranged, tile: usize) -> Result<(), CudaError> {
    assert!(MatrixInstruction::Wgmma.is_served_by(device.facts()), "{:?} has no wgmma", device.facts());
    let ExpertStep { x, gate_up, down, swiglu, routes, tokens, regions, tiles } = *step;
    let (hidden, inner, top_k) = (down.rows(), down.cols(), routes.top_k);
    let (gate_up_name, down_name) = match tile {
        64 => ("gate_up_wgmma_64", "down_wgmma_64"),
        _ => ("gate_up_wgmma_128", "down_wgmma_128"),
    };
    let grid = |rows: usize| Grid {
        blocks: (Mxfp4Tiles::tiles(rows).div_ceil(WGMMA_ROW_TILES), tiles),
        threads: WGMMA_THREADS,
        shared_bytes: ring_bytes(MXFP4_TILE_BYTES, tile),
    };
    let args: [Arg; 13] = [
        arranged.fill(device, x, tokens, Some((&routes.sorted, top_k)), tile)?,
        (&regions.inner.values).into(),
        (&gate_up.codes).into(),
        (&gate_up.scales).into(),
        (&gate_up.bias).into(),
        (&routes.tiles).into(),
        (&routes.tile_count).into(),
        inner.into(),
        Mxfp4Tiles::tiles(gate_up.rows()).into(),
        mxfp4_steps(hidden).into(),
        regions.inner.stride.into(),
        swiglu.alpha.into(),
        swiglu.limit.into(),
    ];
    // SAFETY: the kernel's parameters in its order; tiles and pairs on the device are those that
    // `route` made of `tokens` tokens.
    unsafe { device.launch(gate_up_name, grid(gate_up.rows()), &args) }?;
    let args: [Arg; 11] = [
        describe(&regions.inner.values, tokens * top_k, regions.inner.stride, tile)?,
        (&regions.outputs).into(),
        (&down.codes).into(),
        (&down.scales).into(),
        (&down.bias).into(),
        (&routes.sorted).into(),
        (&routes.tiles).into(),
        (&routes.tile_count).into(),
        hidden.into(),
        Mxfp4Tiles::tiles(hidden).into(),
        mxfp4_steps(inner).into(),
    ];
    // SAFETY: as above.
    unsafe { device.launch(down_name, grid(hidden), &args) }
}
