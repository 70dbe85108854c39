//! What wgmma and TMA of Hopper need besides the operands of mma.sync: the ring of stages in shared
//! memory, and rows that are arranged and described. The core of its kernels is in
//! `cuda/prefill.cuh`.
//!
//! Promises: the bits of the mma.sync kernels, from the same packed weights. [`super::linear`] and
//! [`super::experts`] go this way where they are given room for what it reads ([`Arranged`]) and a
//! step is long enough. Absent: whether they are, which the engine is told.

use super::device::Device;
use super::error::CudaError;
use super::launch::{Arg, Grid};
use super::memory::Region;
use super::operands::{Activations, Arranged};
use super::probe::CudaDevice;
use super::tile::TILE_ROWS;
use cudarc::driver::sys;
use half::f16;

/// Fewest tokens of a step that wgmma multiplies: as many as a block takes. Below, a step waits for
/// its weights whatever multiplies.
pub const WGMMA_TOKENS: usize = 128;
/// Tiles of 16 rows that a block takes, a warp each; one more warp fetches.
pub(super) const WGMMA_ROW_TILES: usize = 8;
/// Threads of a block.
pub(super) const WGMMA_THREADS: usize = 32 * WGMMA_ROW_TILES + 32;
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
    1024 + STAGES * (tokens * STAGE_K * 2 + (WGMMA_ROW_TILES * tile_bytes).next_multiple_of(1024) + 2 * size_of::<u64>())
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

impl Arranged {
    /// Copies the first `tokens` rows of `x` here, or those of a list of pairs and how many of them
    /// a token has, and describes them to TMA in boxes of `box_rows` rows.
    pub(super) fn fill(
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
        describe(&self.values, rows, x.stride, box_rows)
    }
}

/// Describes `rows` rows of `stride` values to TMA: boxes of 64 columns, which land in the 128-byte
/// swizzle; zeros beyond the rows.
pub(super) fn describe(values: &Region<f16>, rows: usize, stride: usize, box_rows: usize) -> Result<Arg, CudaError> {
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
