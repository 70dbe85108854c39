//! Products of steps with many tokens on Hopper: wgmma and TMA. Kernels: `cuda/linear_wgmma.cu` and
//! `cuda/experts_wgmma.cu` on the core in `cuda/prefill.cuh`.
//!
//! Promises: the bits of the mma.sync kernels, from the same packed weights. [`super::linear`] and
//! [`super::experts`] go this way where they are given room for what it reads ([`Arranged`]) and a
//! step is long enough. Absent: whether they are, which the engine is told.

use super::device::{Arg, Grid};
use super::experts::{ExpertStep, Mxfp4Tiles};
use super::linear::{Activations, F16Tiles, Output};
use super::memory::{Arena, Region};
use super::tile::{TILE_ROWS, f16_steps, mxfp4_steps};
use super::{CudaDevice, CudaError, Device};
use cudarc::driver::sys;
use half::f16;

/// Fewest tokens of a step that wgmma multiplies: as many as a block takes. Below, a step waits for
/// its weights whatever multiplies.
pub const WGMMA_TOKENS: usize = 128;
/// Tiles of 16 rows that a block takes, a warp each; one more warp fetches.
const ROW_TILES: usize = 8;
const THREADS: usize = 32 * ROW_TILES + 32;
/// Stages of the ring, and k of each.
const STAGES: usize = 6;
const STAGE_K: usize = 64;
/// k of one thread of `arrange`.
const UNIT_K: usize = 32;
/// Bytes of a tile of f16 weights in a stage.
pub(super) const F16_TILE_BYTES: usize = TILE_ROWS * STAGE_K * 2;

/// Bytes of a tile of MXFP4 weights in a stage: codes and scales.
pub(super) const MXFP4_TILE_BYTES: usize = TILE_ROWS * STAGE_K / 2 + TILE_ROWS * STAGE_K / 32;

/// Shared memory of a block: the ring from a multiple of 1,024 on, and two barriers a stage.
pub(super) const fn ring_bytes(tile_bytes: usize, tokens: usize) -> usize {
    1024 + STAGES * (tokens * STAGE_K * 2 + (ROW_TILES * tile_bytes).next_multiple_of(1024) + 2 * size_of::<u64>())
}

/// Which instruction multiplies matrices in steps of many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MatrixInstruction {
    /// mma.sync, as in steps of few tokens: on every device.
    #[default]
    Mma,
    /// wgmma, on devices of compute capability 9.x.
    Wgmma,
}

impl MatrixInstruction {
    /// Every one, as `--cuda-prefill` offers them.
    pub const ALL: [Self; 2] = [Self::Mma, Self::Wgmma];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mma => "mma",
            Self::Wgmma => "wgmma",
        }
    }

    /// Whether the device has the instructions.
    #[must_use]
    pub const fn is_served_by(self, device: &CudaDevice) -> bool {
        matches!(self, Self::Mma) || device.compute_capability.0 == 9
    }
}

/// Pairs that a block takes of a step whose experts get half of `most` on average; `None` where
/// blocks of mma.sync, which are smaller, hold so many.
pub(super) const fn expert_tile(most: usize) -> Option<usize> {
    match most {
        ..64 => None,
        64..128 => Some(64),
        _ => Some(128),
    }
}

/// Room for the rows that a product reads, in the order in which wgmma wants them.
#[derive(Debug, Clone)]
pub struct Arranged {
    values: Region<f16>,
}

impl Arranged {
    /// Bytes that `values` values take: rows times their stride.
    #[must_use]
    pub const fn bytes(values: usize) -> usize {
        super::region_bytes::<f16>(values)
    }

    /// Room for `values` values.
    pub fn new(arena: &mut Arena, values: usize) -> Self {
        Self { values: arena.take(values) }
    }

    /// Copies the first `tokens` rows of `x` here, or those of a list of pairs and how many of them
    /// a token has, and describes them to TMA in boxes of `box_rows` rows.
    fn fill(
        &self,
        device: &Device,
        x: &Activations,
        tokens: usize,
        sorted: Option<(&Region<i32>, usize)>,
        box_rows: usize,
    ) -> Result<Arg, CudaError> {
        let top_k = sorted.map_or(1, |(_, top_k)| top_k);
        let rows = tokens * top_k;
        assert!(self.values.len() >= rows * x.stride, "{rows} rows of {} in {} values", x.stride, self.values.len());
        let threads = 256;
        let blocks = (rows * (x.stride / UNIT_K)).div_ceil(threads);
        let grid = Grid { blocks: (blocks, 1), threads, shared_bytes: 0 };
        let args: [Arg; 7] = [
            (&self.values).into(),
            (&x.values).into(),
            sorted.map(|(pairs, _)| pairs).into(),
            rows.into(),
            tokens.into(),
            top_k.into(),
            x.stride.into(),
        ];
        // SAFETY: the kernel's parameters in its order. It reads `tokens` rows and writes `rows`,
        // which the regions have; the caller has checked that the list has as many pairs.
        unsafe { device.launch("arrange", grid, &args) }?;
        map(&self.values, rows, x.stride, box_rows)
    }
}

/// Describes `rows` rows of `stride` values to TMA: boxes of 64 columns, which land in the 128-byte
/// swizzle; zeros beyond the rows.
fn map(values: &Region<f16>, rows: usize, stride: usize, box_rows: usize) -> Result<Arg, CudaError> {
    assert!(values.len() >= rows * stride && stride.is_multiple_of(STAGE_K), "{rows} rows of {stride} in {}", values.len());
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let box_rows = u32::try_from(box_rows).expect("a box has at most 256 rows");
    // SAFETY: the map outlives the call, and each list has an entry a dimension; the driver checks
    // what they say.
    let made = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            2,
            values.address() as *mut _,
            [stride as u64, rows as u64].as_ptr(),
            [(stride * size_of::<f16>()) as u64].as_ptr(),
            [STAGE_K as u32, box_rows].as_ptr(),
            [1, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    made.result().map_err(CudaError::driver("describing rows to TMA"))?;
    Ok(Arg::Map(map))
}

/// As [`super::linear`], with wgmma and the same bits. `arranged`: room for `tokens` rows of `x`.
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
    let blocks = (weights.rows().div_ceil(TILE_ROWS * ROW_TILES), tokens.div_ceil(WGMMA_TOKENS));
    let grid = Grid { blocks, threads: THREADS, shared_bytes: ring_bytes(F16_TILE_BYTES, WGMMA_TOKENS) };
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

/// As [`super::experts`] with wgmma and the same bits, whose operands it has checked. `tile`: pairs
/// a block, 64 or 128.
pub(super) fn experts_wgmma(device: &Device, step: &ExpertStep<'_>, arranged: &Arranged, tile: usize) -> Result<(), CudaError> {
    assert!(MatrixInstruction::Wgmma.is_served_by(device.facts()), "{:?} has no wgmma", device.facts());
    let ExpertStep { x, gate_up, down, swiglu, routes, tokens, regions, tiles } = *step;
    let (hidden, inner, top_k) = (down.rows(), down.cols(), routes.top_k);
    let (gate_up_name, down_name) = match tile {
        64 => ("gate_up_wgmma_64", "down_wgmma_64"),
        _ => ("gate_up_wgmma_128", "down_wgmma_128"),
    };
    let grid = |rows: usize| Grid {
        blocks: (Mxfp4Tiles::tiles(rows).div_ceil(ROW_TILES), tiles),
        threads: THREADS,
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
        map(&regions.inner.values, tokens * top_k, regions.inner.stride, tile)?,
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
