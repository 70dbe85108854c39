//! Matrices and rows of activations as the products take them: their shapes, and the memory that
//! they take.
//!
//! Absent: what is computed with them.

use super::memory::{Arena, Region, region_bytes};
use super::tile::{TILE_ROWS, f16_tile_words, mxfp4_tile_scales, mxfp4_tile_words, row_stride};
use half::f16;

/// Tiles of 16 rows that a block of mma.sync takes; the rows of an expert are padded to them.
pub(super) const EXPERT_ROW_TILES: usize = 2;

/// Rows of f16, each padded with zeros to whole steps of the tile core.
#[derive(Debug, Clone)]
pub struct Activations {
    pub(super) values: Region<f16>,
    pub(super) stride: usize,
}

impl Activations {
    /// Bytes that `rows` rows of `cols` take.
    #[must_use]
    pub const fn bytes(rows: usize, cols: usize) -> usize {
        region_bytes::<f16>(rows * row_stride(cols))
    }

    /// Room for `rows` rows of `cols`. The arena's zeros are the padding: no kernel writes there.
    pub fn new(arena: &mut Arena, rows: usize, cols: usize) -> Self {
        Self { values: arena.take(rows * row_stride(cols)), stride: row_stride(cols) }
    }

    /// The values, [`row_stride`] a row.
    #[must_use]
    pub fn values(&self) -> &Region<f16> {
        &self.values
    }

    pub(super) fn check(&self, rows: usize, cols: usize) {
        assert!(self.stride == row_stride(cols), "rows of {cols}, but {} apart", self.stride);
        assert!(self.values.len() >= rows * self.stride, "{rows} rows in {} values", self.values.len());
    }
}

/// An f16 matrix on the device, in the order of the tile core.
#[derive(Debug, Clone)]
pub struct F16Tiles {
    words: Region<u32>,
    rows: usize,
    cols: usize,
}

impl F16Tiles {
    /// Words that a matrix takes.
    #[must_use]
    pub const fn words(rows: usize, cols: usize) -> usize {
        rows.div_ceil(TILE_ROWS) * f16_tile_words(cols)
    }

    /// Takes `words`, tile after tile as [`super::tile::pack_f16`] writes them.
    ///
    /// # Panics
    /// If there are not [`Self::words`].
    #[must_use]
    pub fn new(words: Region<u32>, rows: usize, cols: usize) -> Self {
        assert_eq!(words.len(), Self::words(rows, cols), "a matrix of {rows} x {cols}");
        Self { words, rows, cols }
    }

    /// Its words, to be filled.
    #[must_use]
    pub fn region(&self) -> &Region<u32> {
        &self.words
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether `tokens` rows of these operands go through it.
    pub(super) fn check(&self, x: &Activations, bias: Option<&Region<f32>>, tokens: usize, y: &Region<f32>) {
        x.check(tokens, self.cols);
        assert!(y.len() >= tokens * self.rows, "{tokens} rows of {} in {} values", self.rows, y.len());
        assert!(bias.is_none_or(|bias| bias.len() == self.rows), "a bias for each of {} rows", self.rows);
    }
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
        rows.div_ceil(TILE_ROWS * EXPERT_ROW_TILES) * EXPERT_ROW_TILES
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

    /// How many matrices.
    pub(super) fn experts(&self) -> usize {
        self.experts
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

/// Room for the rows that a product reads, in the order in which wgmma wants them.
#[derive(Debug, Clone)]
pub struct Arranged {
    pub(super) values: Region<f16>,
}

impl Arranged {
    /// Bytes that `values` values take: rows times their stride.
    #[must_use]
    pub const fn bytes(values: usize) -> usize {
        region_bytes::<f16>(values)
    }

    /// Room for `values` values.
    pub fn new(arena: &mut Arena, values: usize) -> Self {
        Self { values: arena.take(values) }
    }
}
