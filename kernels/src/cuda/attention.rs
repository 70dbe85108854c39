//! Paged attention. Kernels: `cuda/attention.cu`.
//!
//! Work comes as a list of items; the host writes it (see [`AttentionItem`]) and the list may be
//! shorter than its room.

use super::device::Device;
use super::error::CudaError;
use super::launch::{Arg, Grid};
use super::memory::{Element, Region, element};
use super::operands::Activations;
use super::rope::KvRegion;
use half::f16;

/// Positions whose partial sums are kept together; chunks begin at multiples of it.
pub const CHUNK_TOKENS: usize = 128;
/// Widest head.
pub const HEAD_DIM_MAX: usize = 128;
/// Rows of a decode item, at most.
pub const DECODE_ROWS: usize = 16;
/// Rows of a prefill item, at most.
pub const PREFILL_ROWS: usize = 64;

/// Some rows of a slice, a row being a token and one of the query heads that share a KV head, and
/// the chunks that they attend to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AttentionItem {
    /// First token of the slice among the step's.
    pub token: i32,
    /// Its position.
    pub start: i32,
    /// First row: token of the slice times group plus head of the group.
    pub row: i32,
    /// How many.
    pub rows: i32,
    /// Where the slice's block table begins.
    pub table: i32,
    /// Logical index of the table's first entry.
    pub table_first: i32,
    /// First chunk.
    pub chunk: i32,
    /// One past the last chunk.
    pub chunk_end: i32,
    /// Slot for the chunk's partial sums; -1 to merge the chunks and write the result.
    pub partial: i32,
    /// How many positions a token sees, itself included.
    pub window: i32,
}

/// A token whose chunks went to several items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Split {
    /// The token among the step's.
    pub token: i32,
    /// Slot of its first chunk.
    pub first: i32,
    /// How many chunks.
    pub chunks: i32,
}

element!(AttentionItem, Split);

impl AttentionItem {
    /// Its fields in order, as the device has them.
    #[must_use]
    pub fn words(&self) -> [u32; 10] {
        let Self { token, start, row, rows, table, table_first, chunk, chunk_end, partial, window } = *self;
        [token, start, row, rows, table, table_first, chunk, chunk_end, partial, window].map(i32::cast_unsigned)
    }
}

impl Split {
    /// Its fields in order, as the device has them.
    #[must_use]
    pub fn words(&self) -> [u32; 3] {
        [self.token, self.first, self.chunks].map(i32::cast_unsigned)
    }
}

/// What attention reads and writes of a step.
#[derive(Debug, Clone, Copy)]
pub struct AttentionOperands<'a> {
    /// `[T, heads, row]` from `rope_store`.
    pub queries: &'a Region<f16>,
    /// `[heads]`.
    pub sinks: &'a Region<f32>,
    /// The batch's block tables.
    pub blocks: &'a Region<u32>,
    /// Room for partial sums, [`partial_values`] a slot.
    pub partials: &'a Region<f32>,
    /// Rows of `heads * head_dim`.
    pub out: &'a Activations,
}

/// The work list of one kind of item.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a, T: Element> {
    /// Room for the entries; how much there is decides how many blocks are launched.
    pub items: &'a Region<T>,
    /// One number: how many of them there are.
    pub count: &'a Region<i32>,
}

/// Blocks of a launch at most; each takes every so many-th item. One warp of a block in decode has
/// room for six beside it on a multiprocessor, so this is some five rounds of the largest devices.
const BLOCKS_MAX: usize = 4096;

/// f32 values of a slot of partial sums.
#[must_use]
pub const fn partial_values(heads: usize, head_dim: usize) -> usize {
    heads * (head_dim + 2)
}

/// Which kernel: the head's width rounded up, and keys of a tile.
const fn padded(head_dim: usize) -> (usize, usize) {
    match head_dim {
        0..=32 => (32, 32),
        33..=64 => (64, 64),
        _ => (128, 32),
    }
}

/// Two stages of keys and values; for wide heads the merged values too.
pub(super) const fn shared_bytes(dim: usize, warps: usize) -> usize {
    let (_, keys) = padded(dim);
    let merged = if dim > 64 { 16 * warps * dim * size_of::<f32>() } else { 0 };
    4 * keys * (dim + 8) * size_of::<f16>() + merged
}

/// Computes items of up to [`DECODE_ROWS`] (one warp) or [`PREFILL_ROWS`] rows (four).
///
/// Twin: `reference::attention`, within 1e-3 of the largest value; the same bits for a token
/// whatever items it is cut into.
///
/// # Errors
/// [`CudaError::Driver`] if a launch is refused.
///
/// # Panics
/// If the heads are wider than [`HEAD_DIM_MAX`].
pub fn attention(
    device: &Device,
    operands: AttentionOperands<'_>,
    kv: &KvRegion,
    work: Work<'_, AttentionItem>,
    is_prefill: bool,
) -> Result<(), CudaError> {
    let shape = kv.shape;
    assert!(shape.head_dim <= HEAD_DIM_MAX, "heads of {}, at most {HEAD_DIM_MAX}", shape.head_dim);
    assert!(operands.sinks.len() == shape.heads, "a sink for each of {} heads", shape.heads);
    operands.out.check(0, shape.heads * shape.head_dim);
    let (dim, _) = padded(shape.head_dim);
    let name = match (is_prefill, dim) {
        (false, 32) => "attention_decode_32",
        (false, 64) => "attention_decode_64",
        (false, _) => "attention_decode_128",
        (true, 32) => "attention_prefill_32",
        (true, 64) => "attention_prefill_64",
        (true, _) => "attention_prefill_128",
    };
    let warps = if is_prefill { PREFILL_ROWS / 16 } else { 1 };
    let blocks = work.items.len().min((BLOCKS_MAX / shape.kv_heads).max(1));
    let grid = Grid { blocks: (blocks, shape.kv_heads), threads: 32 * warps, shared_bytes: shared_bytes(dim, warps) };
    let args: [Arg; 16] = [
        (&operands.out.values).into(),
        operands.partials.into(),
        operands.queries.into(),
        (&kv.keys).into(),
        (&kv.values).into(),
        operands.sinks.into(),
        work.items.into(),
        work.count.into(),
        operands.blocks.into(),
        shape.heads.into(),
        shape.kv_heads.into(),
        shape.head_dim.into(),
        shape.row().into(),
        shape.block_tokens.into(),
        operands.out.stride.into(),
        (1.0 / (shape.head_dim as f32).sqrt()).into(),
    ];
    // SAFETY: the kernel's parameters in its order; items and block tables on the device are those
    // of a batch that the engine checked.
    unsafe { device.launch(name, grid, &args) }
}

/// Merges the partial sums of tokens whose chunks went to several items.
///
/// # Errors
/// [`CudaError::Driver`] if the launch is refused.
pub fn attention_combine(
    device: &Device,
    operands: AttentionOperands<'_>,
    kv: &KvRegion,
    work: Work<'_, Split>,
) -> Result<(), CudaError> {
    let shape = kv.shape;
    let grid = Grid { blocks: (work.items.len(), shape.heads.div_ceil(4)), threads: 128, shared_bytes: 0 };
    let args: [Arg; 8] = [
        (&operands.out.values).into(),
        operands.partials.into(),
        operands.sinks.into(),
        work.items.into(),
        work.count.into(),
        shape.heads.into(),
        shape.head_dim.into(),
        operands.out.stride.into(),
    ];
    // SAFETY: as in `attention`.
    unsafe { device.launch("attention_combine", grid, &args) }
}
