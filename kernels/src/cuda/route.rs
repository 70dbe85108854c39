//! The router, and the grouping of tokens by expert. Kernels: `cuda/route.cu`.

use super::device::Device;
use super::error::CudaError;
use super::launch::{Arg, Grid};
use super::memory::{Arena, Region, region_bytes};
use super::operands::{Activations, Arranged};
use super::tile::{row_stride, tile_tokens};
use half::bf16;

/// Most experts of a layer: four tokens' logits and the groups' counts are kept in a block's shared
/// memory.
pub const EXPERTS_MAX: usize = 2048;
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
    pub(super) fn tile(&self, pairs: usize) -> (usize, Option<&Arranged>) {
        // Twice the mean: most experts then have one tile, and weights are read once.
        let most = 2 * pairs / self.share.total;
        match (&self.arranged, expert_tile(most)) {
            (Some(arranged), Some(tile)) => (tile, Some(arranged)),
            _ => (tile_tokens(most), None),
        }
    }
}

/// Pairs that a block takes of a step whose experts get half of `most` on average; `None` where
/// blocks of mma.sync, which are smaller, hold so many.
const fn expert_tile(most: usize) -> Option<usize> {
    match most {
        ..64 => None,
        64..128 => Some(64),
        _ => Some(128),
    }
}

/// Most tiles of `tile` pairs that `pairs` pairs make: every expert may have one that is not full.
pub(super) const fn tiles_max(pairs: usize, experts: usize, tile: usize) -> usize {
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
