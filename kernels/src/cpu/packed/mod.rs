//! Weights in the order in which the kernels read them.
//!
//! Owns: copies of a checkpoint's matrices, on huge pages where the system has them. Promises:
//! sixteen rows, a group, lie together, so that a vector holds the same columns of all of them and
//! a matrix is read once from its first byte to its last. Absent: arithmetic.
//!
//! A group's values, of row `r` of the group:
//! * bf16: columns `2 p` and `2 p + 1` are the bytes `64 p + 4 r ..+ 4`;
//! * int8: a block of 32 columns takes 512 bytes, column `c` of it is byte `64 (c / 4) + 4 r + c %
//!   4`, with 128 added; behind all blocks stand their scales, sixteen bf16 each;
//! * MXFP4: a block takes 256 bytes, byte `64 j + 4 r + i` holds column `4 j + i` in its low and
//!   column `16 + 4 j + i` in its high nibble; behind all blocks stand their scales, sixteen bytes
//!   each. Of the scales 0, 252 to 254 and 255, which no model uses, the kernels make zeros,
//!   infinities and what is not finite.

use std::sync::Arc;

use super::Cpu;
use super::simd::Band;
use crate::mmap::MappedFile;
use crate::pages::Pages;
use crate::weights::{Bf16Matrix, Bf16Stack, Experts, MXFP4_BLOCK, Mxfp4Stack, SwiGlu};

mod fill;

/// Rows of a group.
pub(super) const GROUP: usize = 16;
/// Rows of a band: two groups, which are multiplied side by side.
pub(super) const BAND: usize = 2 * GROUP;
/// Bytes of two columns of a group in bf16.
pub(super) const BF16_BYTES: usize = 64;
/// Bytes of a block's values in int8, and of its scales.
pub(super) const INT8_BYTES: usize = 512;
pub(super) const INT8_SCALES: usize = 32;
/// Bytes of a block's values in MXFP4, and of its scales.
pub(super) const MXFP4_BYTES: usize = 256;
pub(super) const MXFP4_SCALES: usize = 16;

/// What gates and ups of an expert are cut into: sixteen gates, their ups, sixteen gates, their ups
/// make a block of outputs.
pub(super) const GATED_ROWS: usize = 2 * MXFP4_BLOCK;

/// How packed weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As in the checkpoint, value for value.
    Bf16,
    /// Rounded to eight bits with a scale for 32 columns of a row.
    Int8,
    /// As in the checkpoint, value for value.
    Mxfp4,
}

impl Format {
    /// Those of dense weights, as `--cpu-dense` offers them.
    pub const DENSE: [Self; 2] = [Self::Bf16, Self::Int8];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// Bytes of a group of `cols` columns; whole cache lines.
    fn group_bytes(self, cols: usize) -> usize {
        let blocks = cols.div_ceil(MXFP4_BLOCK);
        match self {
            Self::Bf16 => cols.div_ceil(2) * BF16_BYTES,
            Self::Int8 => (blocks * (INT8_BYTES + INT8_SCALES)).next_multiple_of(64),
            Self::Mxfp4 => (blocks * (MXFP4_BYTES + MXFP4_SCALES)).next_multiple_of(64),
        }
    }

    /// Bytes that a matrix `[rows, cols]` takes when it is packed.
    #[must_use]
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(GROUP) * self.group_bytes(cols)
    }
}

/// A packed matrix `[rows, cols]`.
#[derive(Debug)]
pub struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    group_bytes: usize,
    place: Place,
}

/// Where packed bytes lie.
#[derive(Debug)]
enum Place {
    /// In memory of their own.
    Pages(Pages<u8>),
    /// In a file, from a byte on.
    File(Arc<MappedFile>, usize),
}

impl Packed {
    /// A matrix whose groups `fill` fills, from zeros.
    ///
    /// # Panics
    /// If the system does not give the memory.
    fn new(format: Format, rows: usize, cols: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let bytes = format.bytes(rows, cols);
        let mut pages = Pages::new(bytes, "weights");
        fill(&mut pages[..bytes]);
        Self { format, rows, cols, group_bytes: format.group_bytes(cols), place: Place::Pages(pages) }
    }

    /// A matrix that was packed before and lies in a file from byte `start` on. The file's owner
    /// checks that it does not change ([`MappedFile::check_unchanged`]).
    ///
    /// # Panics
    /// If the file does not hold so many bytes, or they do not begin at a cache line.
    #[must_use]
    pub fn in_file(format: Format, rows: usize, cols: usize, file: &Arc<MappedFile>, start: usize) -> Self {
        let end = start + format.bytes(rows, cols);
        assert!(end <= file.len() && start.is_multiple_of(64), "bytes {start}..{end} of {}", file.len());
        Self { format, rows, cols, group_bytes: format.group_bytes(cols), place: Place::File(Arc::clone(file), start) }
    }

    /// Its groups, one behind the other.
    #[must_use]
    pub fn groups_bytes(&self) -> &[u8] {
        let bytes: &[u8] = match &self.place {
            Place::Pages(pages) => pages,
            Place::File(file, start) => &file.bytes()[*start..],
        };
        &bytes[..self.bytes()]
    }

    /// How they are stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many rows: outputs of a linear map.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of its groups.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.format.bytes(self.rows, self.cols)
    }

    /// How many groups.
    fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// How many bands.
    pub(super) fn bands(&self) -> usize {
        self.rows.div_ceil(BAND)
    }

    /// The groups of band `band`. If the last band has one group only, it stands for both.
    pub(super) fn band(&self, band: usize) -> Band<'_> {
        let bytes = self.groups_bytes();
        let group = |group: usize| &bytes[group * self.group_bytes..][..self.group_bytes];
        [group(2 * band), group((2 * band + 1).min(self.groups() - 1))]
    }
}

/// The packed experts of one layer.
#[derive(Debug)]
pub struct PackedExperts {
    pub(super) count: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    /// `[count * 2 I, H]`; of each [`GATED_ROWS`] rows the groups hold gates, ups, gates, ups.
    pub(super) gate_up: Packed,
    /// In the order of the packed rows.
    pub(super) gate_up_bias: Vec<f32>,
    /// `[count * H, I]`.
    pub(super) down: Packed,
    pub(super) down_bias: Vec<f32>,
    pub(super) swiglu: SwiGlu,
}

impl PackedExperts {
    /// Experts of matrices that were packed, each with its biases `[E, outputs]`.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    #[must_use]
    pub fn new(gate_up: (Packed, Bf16Matrix<'_>), down: (Packed, Bf16Matrix<'_>), swiglu: SwiGlu) -> Self {
        let (count, intermediate, hidden) = (gate_up.1.rows(), gate_up.1.cols() / 2, down.1.cols());
        let shapes = [&gate_up.0, &down.0].map(|packed| (packed.rows(), packed.cols()));
        assert_eq!(shapes, [(count * 2 * intermediate, hidden), (count * hidden, intermediate)], "experts of one shape");
        Self {
            count,
            hidden,
            intermediate,
            gate_up_bias: widen(&gate_up.1, gated_row),
            down_bias: widen(&down.1, |row| row),
            gate_up: gate_up.0,
            down: down.0,
            swiglu,
        }
    }

    /// The packed matrices: of the first projection, of the second one.
    #[must_use]
    pub fn matrices(&self) -> [&Packed; 2] {
        [&self.gate_up, &self.down]
    }

    /// Bytes of the packed matrices and biases.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes() + 4 * (self.gate_up_bias.len() + self.down_bias.len())
    }
}

/// The row of `gate_up [2 I, H]`, gates even and ups odd, that is packed as row `row`.
fn gated_row(row: usize) -> usize {
    let (unit, within) = (row / GATED_ROWS, row % GATED_ROWS);
    let (group, lane) = (within / GROUP, within % GROUP);
    2 * (unit * MXFP4_BLOCK + group / 2 * GROUP + lane) + group % 2
}

/// Biases `[E, outputs]` in f32, in the order of the packed rows.
fn widen(matrix: &Bf16Matrix<'_>, order: impl Fn(usize) -> usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(matrix.rows() * matrix.cols());
    for expert in 0..matrix.rows() {
        let row = matrix.row(expert).as_chunks::<2>().0;
        values.extend((0..row.len()).map(|at| half::bf16::from_le_bytes(row[order(at)]).to_f32()));
    }
    values
}

impl Cpu {
    /// Packs the rows of `parts`, one matrix below the other, as bf16 or int8.
    ///
    /// # Panics
    /// If there is no part, their columns differ, the format is MXFP4, or the system does not give
    /// the memory.
    #[must_use]
    pub fn pack(&mut self, parts: &[Bf16Matrix<'_>], format: Format) -> Packed {
        assert!(format != Format::Mxfp4, "bf16 is not turned into MXFP4");
        let cols = parts.first().expect("at least one matrix").cols();
        assert!(parts.iter().all(|part| part.cols() == cols), "matrices of one width");
        let rows: Vec<&[u8]> = parts.iter().flat_map(|part| (0..part.rows()).map(|row| part.row(row))).collect();
        let pack = |group: usize, out: &mut [u8]| {
            let rows = &rows[group * GROUP..rows.len().min(group * GROUP + GROUP)];
            match format {
                Format::Bf16 => fill::bf16(rows, out),
                Format::Int8 | Format::Mxfp4 => fill::int8(rows, cols, out),
            }
        };
        Packed::new(format, rows.len(), cols, |bytes| self.pool.for_rows(bytes, format.group_bytes(cols), 1, pack))
    }

    /// Packs the experts of a layer.
    ///
    /// # Panics
    /// If the system does not give the memory.
    #[must_use]
    pub fn pack_experts(&mut self, experts: &Experts<'_>) -> PackedExperts {
        let gate_up = self.pack_stack(experts.gate_up(), gated_row);
        let down = self.pack_stack(experts.down(), |row| row);
        PackedExperts::new((gate_up, *experts.gate_up_bias()), (down, *experts.down_bias()), experts.swiglu())
    }

    /// Packs the experts of a layer that are bf16, value for value; each with its biases `[E,
    /// outputs]`.
    ///
    /// # Panics
    /// If the shapes do not fit together, or the system does not give the memory.
    #[must_use]
    pub fn pack_dense_experts(
        &mut self,
        gate_up: (Bf16Stack<'_>, Bf16Matrix<'_>),
        down: (Bf16Stack<'_>, Bf16Matrix<'_>),
        swiglu: SwiGlu,
    ) -> PackedExperts {
        let packed = [self.pack_dense_stack(&gate_up.0, gated_row), self.pack_dense_stack(&down.0, |row| row)];
        let [first, second] = packed;
        PackedExperts::new((first, gate_up.1), (second, down.1), swiglu)
    }

    fn pack_dense_stack(&mut self, stack: &Bf16Stack<'_>, order: impl Fn(usize) -> usize + Sync) -> Packed {
        let [experts, rows, cols] = stack.shape();
        // As for MXFP4: an expert's gates and ups are packed in whole blocks.
        assert!(rows.is_multiple_of(MXFP4_BLOCK) && cols.is_multiple_of(2), "{rows} rows of {cols} are no whole blocks");
        let width = Format::Bf16.group_bytes(cols);
        let pack = |group: usize, out: &mut [u8]| {
            let first = group * GROUP;
            let value = |lane: usize, col: usize| stack.value(first / rows, order(first % rows + lane), col);
            for (pair, vector) in out.as_chunks_mut::<BF16_BYTES>().0.iter_mut().enumerate() {
                for (lane, four) in vector.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    four[..2].copy_from_slice(&value(lane, 2 * pair));
                    four[2..].copy_from_slice(&value(lane, 2 * pair + 1));
                }
            }
        };
        Packed::new(Format::Bf16, experts * rows, cols, |bytes| self.pool.for_rows(bytes, width, 1, pack))
    }

    /// Packs the matrices of all experts; row `row` of an expert's packed matrix is its row
    /// `order(row)`.
    fn pack_stack(&mut self, stack: &Mxfp4Stack<'_>, order: impl Fn(usize) -> usize + Sync) -> Packed {
        let [experts, rows, cols] = stack.shape();
        // MXFP4 knows whole blocks only, and an expert's outputs are the next matrix's inputs.
        assert!(rows.is_multiple_of(MXFP4_BLOCK), "{rows} rows of experts are no whole blocks");
        let width = Format::Mxfp4.group_bytes(cols);
        let pack = |group: usize, out: &mut [u8]| {
            let first = group * GROUP;
            let matrix = stack.expert(first / rows);
            let row = |lane: usize| order(first % rows + lane);
            fill::mxfp4(|lane| (matrix.row_blocks(row(lane)), matrix.row_scales(row(lane))), out);
        };
        Packed::new(Format::Mxfp4, experts * rows, cols, |bytes| self.pool.for_rows(bytes, width, 4, pack))
    }
}
