//! Every kernel by name, where it exists, and how much shared memory its blocks may ask for.

use super::attention::shared_bytes as attention_bytes;
use super::device::{Device, SHARED_BYTES_PLAIN};
use super::error::CudaError;
use super::probe::CudaDevice;
use super::tile::sums_bytes;
use super::wgmma::{F16_TILE_BYTES, MXFP4_TILE_BYTES, MatrixInstruction, ring_bytes};

/// Kernels of every device: name, and most dynamic shared memory of a block.
const KERNELS: [(&str, usize); 31] = [
    ("embed", 0),
    ("combine_norm", SHARED_BYTES_PLAIN),
    ("sum_routed", 0),
    ("linear_8", sums_bytes(1, 8)),
    ("linear_16", sums_bytes(1, 16)),
    ("linear_32", sums_bytes(1, 32)),
    ("linear_64", sums_bytes(1, 64)),
    ("linear_add_8", sums_bytes(1, 8)),
    ("linear_add_16", sums_bytes(1, 16)),
    ("linear_add_32", sums_bytes(1, 32)),
    ("linear_add_64", sums_bytes(1, 64)),
    ("arrange", 0),
    ("gate_up_8", sums_bytes(2, 8)),
    ("gate_up_16", sums_bytes(2, 16)),
    ("gate_up_32", sums_bytes(2, 32)),
    ("gate_up_64", sums_bytes(2, 64)),
    ("down_8", sums_bytes(2, 8)),
    ("down_16", sums_bytes(2, 16)),
    ("down_32", sums_bytes(2, 32)),
    ("down_64", sums_bytes(2, 64)),
    ("rope_store", 0),
    ("route", SHARED_BYTES_PLAIN),
    ("group_by_expert", SHARED_BYTES_PLAIN),
    ("attention_decode_32", attention_bytes(32, 1)),
    ("attention_decode_64", attention_bytes(64, 1)),
    ("attention_decode_128", attention_bytes(128, 1)),
    ("attention_prefill_32", attention_bytes(32, 4)),
    ("attention_prefill_64", attention_bytes(64, 4)),
    ("attention_prefill_128", attention_bytes(128, 4)),
    ("attention_combine", 0),
    ("sample", 0),
];

/// Kernels of Hopper, which alone has the instructions and so much shared memory: an A100 gives a
/// block 163 KiB, an RTX 4090 99 KiB.
const HOPPER_KERNELS: [(&str, usize); 6] = [
    ("linear_wgmma", ring_bytes(F16_TILE_BYTES, 128)),
    ("linear_add_wgmma", ring_bytes(F16_TILE_BYTES, 128)),
    ("gate_up_wgmma_64", ring_bytes(MXFP4_TILE_BYTES, 64)),
    ("gate_up_wgmma_128", ring_bytes(MXFP4_TILE_BYTES, 128)),
    ("down_wgmma_64", ring_bytes(MXFP4_TILE_BYTES, 64)),
    ("down_wgmma_128", ring_bytes(MXFP4_TILE_BYTES, 128)),
];

/// The kernels that `device` can run: name, and most dynamic shared memory of a block.
pub(super) fn kernels_of(device: &CudaDevice) -> impl Iterator<Item = (&'static str, usize)> + use<> {
    let hopper: &[_] = if MatrixInstruction::Wgmma.is_served_by(device) { &HOPPER_KERNELS } else { &[] };
    KERNELS.iter().chain(hopper).copied()
}

impl Device {
    /// Opens device `ordinal` and loads every kernel that it can run.
    ///
    /// # Errors
    /// [`CudaError::None`] if there is no such device, [`CudaError::Driver`] if its kernels do not
    /// load.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        Self::with_kernels(ordinal, kernels_of)
    }
}
