//! The router, the grouping of tokens by expert, and the experts. Kernels: `cuda/route.cu`,
//! `cuda/experts.cu`.

use super::device::{Arg, Grid};
use super::linear::{Activations, tile_tokens};
use super::memory::{Arena, Region, region_bytes};
use super::tile::{TILE_ROWS, TILE_WARPS, mxfp4_steps, mxfp4_tile_scales, mxfp4_tile_words, row_stride, sums_bytes};
use super::wgmma::{Arranged, expert_tile, experts_wgmma};
use super::{CudaError, Device};
use crate::weights::SwiGlu;
use half::bf16;

/// Most experts of a layer: four tokens' logits and the groups' counts are kept in a block's shared
/// memory.
pub const EXPERTS_MAX: usize = 2048;
/// Tiles of 16 rows that a block takes.
const ROW_TILES: usize = 2;
/// Tokens that a block of the router takes.
const ROUTE_TOKENS: usize = 4;

/// Which of a layer's experts a rank has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertShare {
    /// The first one.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// Of how many.
    pub total: usize,
}

impl ExpertShare {
    /// All of them.
    #[must_use]
    pub const fn all(total: usize) -> Self {
        Self { first: 0, count: total, total }
    }
}

/// Where each token goes, and the same by expert.
#[derive(Debug, Clone)]
pub struct RouteRegions {
    /// `[T, top_k]`, the likeliest expert first, numbered from this rank's first one on; -1 where
    /// another rank has it.
    pub experts: Region<i32>,
    /// `[T, top_k]`.
    pub weights: Region<f32>,
    /// Pairs of a token and an expert, sorted by expert.
    pub(super) sorted: Region<i32>,
    pub(super) tiles: Region<i32>,
    pub(super) tile_count: Region<i32>,
    pub(super) top_k: usize,
    pub(super) share: ExpertShare,
    /// Room for a row of the hidden size a pair, where wgmma multiplies long steps.
    arranged: Option<Arranged>,
}

impl RouteRegions {
    /// Bytes for `tokens` tokens.
    #[must_use]
    pub const fn bytes(tokens: usize, top_k: usize, share: ExpertShare) -> usize {
        let pairs = tokens * top_k;
        3 * region_bytes::<i32>(pairs) + region_bytes::<i32>(3 * tiles_max(pairs, share.count, 8)) + region_bytes::<i32>(1)
    }

    /// Room for `tokens` tokens.
    pub fn new(arena: &mut Arena, tokens: usize, top_k: usize, share: ExpertShare) -> Self {
        let pairs = tokens * top_k;
        Self {
            experts: arena.take(pairs),
            weights: arena.take(pairs),
            sorted: arena.take(pairs),
            tiles: arena.take(3 * tiles_max(pairs, share.count, 8)),
            tile_count: arena.take(1),
            top_k,
            share,
            arranged: None,
        }
    }

    /// The same for experts that wgmma multiplies where each has many pairs. `arranged`: room for a
    /// row of the hidden size a pair.
    #[must_use]
    pub fn with_wgmma(self, arranged: Arranged) -> Self {
        Self { arranged: Some(arranged), ..self }
    }

    /// Whether wgmma multiplies the experts of a step of so many tokens.
    #[must_use]
    pub fn multiplies_with_wgmma(&self, tokens: usize) -> bool {
        self.tile(tokens * self.top_k).1.is_some()
    }

    /// Pairs that a block of the experts takes for a step of so many, and room for what it reads if
    /// it is one of wgmma.
    fn tile(&self, pairs: usize) -> (usize, Option<&Arranged>) {
        // Twice the mean: most experts then have one tile, and weights are read once.
        let most = 2 * pairs / self.share.total;
        match (&self.arranged, expert_tile(most)) {
            (Some(arranged), Some(tile)) => (tile, Some(arranged)),
            _ => (tile_tokens(most), None),
        }
    }
}

/// Most tiles of `tile` pairs that `pairs` pairs make: every expert may have one that is not full.
const fn tiles_max(pairs: usize, experts: usize, tile: usize) -> usize {
    let partial = if pairs < experts { pairs } else { experts };
    partial + pairs / tile
}

/// The router's weights: `[E]` rows, [`row_stride`] apart, as they are in the checkpoint.
#[derive(Debug, Clone)]
pub struct RouterWeights {
    /// `[E, row_stride(hidden)]`.
    pub weights: Region<bf16>,
    /// `[E]`.
    pub bias: Region<f32>,
}

/// Routes the first `tokens` rows of `x` and groups this rank's pairs by expert. Of these rows
/// `token_count`, one number on the device, are tokens; the rest fill the batch up to its graph's
/// size and go to no expert.
///
/// Twin: `reference::linear` and `route`.
///
/// # Errors
/// [`CudaError::Driver`] if a launch is refused.
///
/// # Panics
/// If a region is too short for its shape, or there are more experts than [`EXPERTS_MAX`].
pub fn route(
    device: &Device,
    x: &Activations,
    hidden: usize,
    router: &RouterWeights,
    tokens: usize,
    token_count: &Region<i32>,
    routes: &RouteRegions,
) -> Result<(), CudaError> {
    let (ExpertShare { first, count, total: experts }, top_k, pairs) = (routes.share, routes.top_k, tokens * routes.top_k);
    x.check(tokens, hidden);
    assert!(experts <= EXPERTS_MAX && router.bias.len() == experts, "{experts} experts, at most {EXPERTS_MAX}");
    assert!(router.weights.len() == experts * row_stride(hidden), "a row of {hidden} for each of {experts} experts");
    assert!(routes.experts.len() >= pairs, "{pairs} pairs in {}", routes.experts.len());
    let shared_bytes = ROUTE_TOKENS * experts * size_of::<f32>();
    let grid = Grid { blocks: (tokens.div_ceil(ROUTE_TOKENS), 1), threads: 256, shared_bytes };
    let args: [Arg; 12] = [
        (&routes.experts).into(),
        (&routes.weights).into(),
        (&x.values).into(),
        (&router.weights).into(),
        (&router.bias).into(),
        token_count.into(),
        experts.into(),
        first.into(),
        count.into(),
        top_k.into(),
        x.stride.into(),
        tokens.into(),
    ];
    // SAFETY: the kernel's parameters in its order; all lengths are checked above.
    unsafe { device.launch("route", grid, &args) }?;
    let grid = Grid { blocks: (1, 1), threads: 1024, shared_bytes: 2 * count * size_of::<i32>() };
    let args: [Arg; 7] = [
        (&routes.sorted).into(),
        (&routes.tiles).into(),
        (&routes.tile_count).into(),
        (&routes.experts).into(),
        pairs.into(),
        count.into(),
        routes.tile(pairs).0.into(),
    ];
    // SAFETY: the kernel's parameters in its order; `tiles` has room for the most tiles of the
    // smallest size.
    unsafe { device.launch("group_by_expert", grid, &args) }
}

/// MXFP4 matrices of all experts, in the order of the tile core; the rows of each padded to whole
/// blocks of tiles.
#[derive(Debug, Clone)]
pub struct Mxfp4Tiles {
    /// Codes, [`super::tile::mxfp4_tile_words`] a tile.
    pub codes: Region<u32>,
    /// Scales, [`super::tile::mxfp4_tile_scales`] a tile.
    pub scales: Region<u32>,
    /// `[E, rows]`.
    pub bias: Region<f32>,
    experts: usize,
    rows: usize,
    cols: usize,
}

impl Mxfp4Tiles {
    /// Tiles of an expert's matrix.
    #[must_use]
    pub const fn tiles(rows: usize) -> usize {
        rows.div_ceil(TILE_ROWS * ROW_TILES) * ROW_TILES
    }

    /// Bytes that `experts` matrices and their biases take.
    #[must_use]
    pub const fn bytes(experts: usize, rows: usize, cols: usize) -> usize {
        let tiles = experts * Self::tiles(rows);
        region_bytes::<u32>(tiles * mxfp4_tile_words(cols))
            + region_bytes::<u32>(tiles * mxfp4_tile_scales(cols))
            + region_bytes::<f32>(experts * rows)
    }

    /// Room for `experts` matrices.
    pub fn new(arena: &mut Arena, experts: usize, rows: usize, cols: usize) -> Self {
        let tiles = experts * Self::tiles(rows);
        Self {
            codes: arena.take(tiles * mxfp4_tile_words(cols)),
            scales: arena.take(tiles * mxfp4_tile_scales(cols)),
            bias: arena.take(experts * rows),
            experts,
            rows,
            cols,
        }
    }

    /// Outputs of a matrix.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of a matrix.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }
}

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
pub(super) struct ExpertStep<'a> {
    pub(super) x: &'a Activations,
    pub(super) gate_up: &'a Mxfp4Tiles,
    pub(super) down: &'a Mxfp4Tiles,
    pub(super) swiglu: SwiGlu,
    pub(super) routes: &'a RouteRegions,
    pub(super) tokens: usize,
    pub(super) regions: &'a ExpertRegions,
    /// Entries of the tile list at most.
    pub(super) tiles: usize,
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
    let (pairs, hidden, inner) = (tokens * routes.top_k, down.rows, down.cols);
    x.check(tokens, gate_up.cols);
    regions.inner.check(pairs, inner);
    assert!(gate_up.rows == 2 * inner && gate_up.cols == hidden, "projections of one expert");
    assert!(gate_up.experts == routes.share.count && down.experts == routes.share.count, "the rank's experts");
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
    let (hidden, inner) = (down.rows, down.cols);
    let (gate_up_name, down_name) = match tile {
        8 => ("gate_up_8", "down_8"),
        16 => ("gate_up_16", "down_16"),
        32 => ("gate_up_32", "down_32"),
        _ => ("gate_up_64", "down_64"),
    };
    let grid = |rows: usize| Grid {
        blocks: (Mxfp4Tiles::tiles(rows) / ROW_TILES, tiles),
        threads: 32 * TILE_WARPS,
        shared_bytes: sums_bytes(ROW_TILES, tile),
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
        Mxfp4Tiles::tiles(gate_up.rows).into(),
        mxfp4_steps(hidden).into(),
        routes.top_k.into(),
        x.stride.into(),
        regions.inner.stride.into(),
        swiglu.alpha.into(),
        swiglu.limit.into(),
    ];
    // SAFETY: the kernel's parameters in its order; tiles and pairs on the device are those that
    // `route` made of `tokens` tokens.
    unsafe { device.launch(gate_up_name, grid(gate_up.rows), &args) }?;
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
    unsafe { device.launch(down_name, grid(down.rows), &args) }
}
