//! Rotary embedding and paged KV memory. Kernel: `cuda/rope.cu`.

use super::device::Device;
use super::error::CudaError;
use super::launch::{Arg, Grid};
use super::memory::{Arena, Region, region_bytes};
use half::f16;

/// The shape of one layer's heads and KV memory on the device.
///
/// Keys and values lie `[block][kv head][slot][row]`, f16, a row being `head_dim` rounded up to 8,
/// with zeros behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Tokens in a block of KV memory.
    pub block_tokens: usize,
}

impl HeadShape {
    /// Values from one head to the next in queries, keys and values.
    #[must_use]
    pub const fn row(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }

    /// Values of keys, or of values, in a block.
    #[must_use]
    pub const fn block_values(&self) -> usize {
        self.kv_heads * self.block_tokens * self.row()
    }

    /// Query heads that share a KV head.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Width of queries, keys and values of one token together.
    #[must_use]
    pub const fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Keys and values of one layer.
#[derive(Debug, Clone)]
pub struct KvRegion {
    pub(super) keys: Region<f16>,
    pub(super) values: Region<f16>,
    pub(super) shape: HeadShape,
}

impl KvRegion {
    /// Bytes that `blocks` blocks take.
    #[must_use]
    pub const fn bytes(shape: HeadShape, blocks: usize) -> usize {
        2 * region_bytes::<f16>(blocks * shape.block_values())
    }

    /// Takes memory for `blocks` blocks, zeros.
    pub fn new(arena: &mut Arena, shape: HeadShape, blocks: usize) -> Self {
        let len = blocks * shape.block_values();
        Self { keys: arena.take(len), values: arena.take(len), shape }
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Region<f16> {
        &self.keys
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &Region<f16> {
        &self.values
    }
}

/// Cosines and sines of every position, `[positions, head_dim / 2]` each.
#[derive(Debug, Clone)]
pub struct AngleTable {
    /// Cosines.
    pub cos: Region<f32>,
    /// Sines.
    pub sin: Region<f32>,
}

/// Turns queries and keys by their positions' angles, puts queries into `queries`, keys and values
/// into KV memory.
///
/// `qkv`: `[T, qkv_width]` f32; `positions`, `slots`: `[T]`, a slot being `block * block_tokens +
/// place`, or -1 to store nothing; `queries`: `[T, heads, row]`. Twin: `reference::rotary` and
/// `KvMemory::store`, within f16's rounding, finite values beyond 65,504 as that.
///
/// # Errors
/// [`CudaError::Driver`] if the launch is refused.
///
/// # Panics
/// If a region is too short for its shape.
#[expect(clippy::too_many_arguments, reason = "an operation's operands")]
pub fn rope_store(
    device: &Device,
    qkv: &Region<f32>,
    angles: &AngleTable,
    positions: &Region<i32>,
    slots: &Region<i32>,
    count: usize,
    queries: &Region<f16>,
    kv: &KvRegion,
) -> Result<(), CudaError> {
    let shape = kv.shape;
    assert!(qkv.len() >= count * shape.qkv_width(), "{count} rows of queries, keys and values");
    assert!(queries.len() >= count * shape.heads * shape.row(), "{count} rows of queries");
    assert!(positions.len() >= count && slots.len() >= count, "{count} positions and slots");
    let grid = Grid { blocks: (count, 1), threads: 256, shared_bytes: 0 };
    let args: [Arg; 13] = [
        queries.into(),
        (&kv.keys).into(),
        (&kv.values).into(),
        qkv.into(),
        (&angles.cos).into(),
        (&angles.sin).into(),
        positions.into(),
        slots.into(),
        shape.heads.into(),
        shape.kv_heads.into(),
        shape.head_dim.into(),
        shape.row().into(),
        shape.block_tokens.into(),
    ];
    // SAFETY: the kernel's parameters in its order; positions and slots on the device are those of
    // a batch that the engine checked.
    unsafe { device.launch("rope_store", grid, &args) }
}
