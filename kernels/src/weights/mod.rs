//! Weights as a checkpoint stores them: views of bytes, with a shape.
//!
//! Owns: nothing; a view borrows bytes, from a mapped file or from the binary itself, with no
//! promise about their alignment. Promises: a view that exists has exactly the bytes that its shape
//! asks for. Absent: names, files, dtypes other than bf16 and MXFP4.

mod exact;

pub use exact::quantized;

/// Values that share one scale in MXFP4, along the input dimension.
pub const MXFP4_BLOCK: usize = 32;

/// A view whose bytes do not fit its shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// A buffer has another length than the shape asks for.
    #[error("{what} has {got} bytes, but shape {shape:?} asks for {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Bytes that it has.
        got: usize,
        /// Bytes that the shape asks for.
        expected: usize,
        /// The shape, outermost dimension first.
        shape: Vec<usize>,
    },
    /// The shape asks for more bytes than an address can count.
    #[error("{what} has shape {shape:?}, which no memory holds")]
    Overflow {
        /// Which buffer.
        what: &'static str,
        /// The shape, outermost dimension first.
        shape: Vec<usize>,
    },
    /// MXFP4 stores whole blocks of 32 values only.
    #[error("an MXFP4 matrix has rows of {cols} values, which is not a multiple of {MXFP4_BLOCK}")]
    PartialBlock {
        /// Values in a row.
        cols: usize,
    },
    /// Two weights of one operation do not fit together.
    #[error("{what} should be {expected:?} but is {got:?}")]
    Mismatch {
        /// Which weight.
        what: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that its neighbours ask for.
        expected: Vec<usize>,
    },
}

/// Checks that `bytes` holds exactly `shape` values, `bytes_per_value` each.
fn check_length(what: &'static str, bytes: &[u8], shape: &[usize], bytes_per_value: usize) -> Result<(), ShapeError> {
    let expected = shape
        .iter()
        .try_fold(bytes_per_value, |product, &size| product.checked_mul(size))
        .ok_or_else(|| ShapeError::Overflow { what, shape: shape.to_vec() })?;
    if bytes.len() == expected {
        return Ok(());
    }
    Err(ShapeError::Length { what, got: bytes.len(), expected, shape: shape.to_vec() })
}

/// A row-major bf16 matrix `[rows, cols]`, little-endian, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Bf16Matrix<'a> {
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Bf16Matrix<'a> {
    /// Views `bytes` as `[rows, cols]`.
    ///
    /// # Errors
    /// [`ShapeError::Length`] unless there are `2 * rows * cols` bytes.
    pub fn new(bytes: &'a [u8], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        check_length("a bf16 matrix", bytes, &[rows, cols], 2)?;
        Ok(Self { bytes, rows, cols })
    }

    /// How many rows: outputs of a linear operation, or entries of a table.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes of row `row`: `2 * cols` of them.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of a bf16 matrix of {} rows", self.rows);
        &self.bytes[row * self.cols * 2..][..self.cols * 2]
    }

    /// All bytes, row after row.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// A row-major MXFP4 matrix `[rows, cols]`: `blocks [rows, cols / 32, 16]`, `scales [rows, cols /
/// 32]`, at any alignment.
///
/// Byte `j` of a block holds value `2 j` in its low and value `2 j + 1` in its high nibble. A value
/// is E2M1, a scale E8M0. Source: OCP Microscaling Formats (MX) 1.0, sections 5.3.3 and 5.4.1; the
/// order of nibbles is that of OpenAI's checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Mxfp4Matrix<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Mxfp4Matrix<'a> {
    /// Views `blocks` and `scales` as `[rows, cols]`.
    ///
    /// # Errors
    /// [`ShapeError::PartialBlock`] if `cols` is not a multiple of 32, [`ShapeError::Length`]
    /// unless there are `rows * cols / 2` bytes of blocks and `rows * cols / 32` of scales.
    pub fn new(blocks: &'a [u8], scales: &'a [u8], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        if !cols.is_multiple_of(MXFP4_BLOCK) {
            return Err(ShapeError::PartialBlock { cols });
        }
        let groups = cols / MXFP4_BLOCK;
        check_length("the blocks of an MXFP4 matrix", blocks, &[rows, groups, MXFP4_BLOCK / 2], 1)?;
        check_length("the scales of an MXFP4 matrix", scales, &[rows, groups], 1)?;
        Ok(Self { blocks, scales, rows, cols })
    }

    /// How many rows: outputs of a linear operation.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row, a multiple of 32.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The packed values of row `row`: `cols / 2` bytes.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn row_blocks(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of an MXFP4 matrix of {} rows", self.rows);
        &self.blocks[row * self.cols / 2..][..self.cols / 2]
    }

    /// The scales of row `row`: `cols / 32` bytes.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn row_scales(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of an MXFP4 matrix of {} rows", self.rows);
        &self.scales[row * (self.cols / MXFP4_BLOCK)..][..self.cols / MXFP4_BLOCK]
    }

    /// All packed values, row after row.
    #[must_use]
    pub fn blocks(&self) -> &'a [u8] {
        self.blocks
    }

    /// All scales, row after row.
    #[must_use]
    pub fn scales(&self) -> &'a [u8] {
        self.scales
    }
}

/// One MXFP4 matrix for each expert, `[experts, rows, cols]`.
#[derive(Debug, Clone, Copy)]
pub struct Mxfp4Stack<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    experts: usize,
    rows: usize,
    cols: usize,
}

impl<'a> Mxfp4Stack<'a> {
    /// Views `blocks [experts, rows, cols / 32, 16]` and `scales [experts, rows, cols / 32]`.
    ///
    /// # Errors
    /// As [`Mxfp4Matrix::new`].
    pub fn new(blocks: &'a [u8], scales: &'a [u8], experts: usize, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        if !cols.is_multiple_of(MXFP4_BLOCK) {
            return Err(ShapeError::PartialBlock { cols });
        }
        let groups = cols / MXFP4_BLOCK;
        check_length("the blocks of MXFP4 experts", blocks, &[experts, rows, groups, MXFP4_BLOCK / 2], 1)?;
        check_length("the scales of MXFP4 experts", scales, &[experts, rows, groups], 1)?;
        Ok(Self { blocks, scales, experts, rows, cols })
    }

    /// The matrix of expert `expert`.
    ///
    /// # Panics
    /// If there is no such expert.
    #[must_use]
    pub fn expert(&self, expert: usize) -> Mxfp4Matrix<'a> {
        assert!(expert < self.experts, "expert {expert} of {}", self.experts);
        let values = self.rows * self.cols;
        Mxfp4Matrix {
            blocks: &self.blocks[expert * (values / 2)..][..values / 2],
            scales: &self.scales[expert * (values / MXFP4_BLOCK)..][..values / MXFP4_BLOCK],
            rows: self.rows,
            cols: self.cols,
        }
    }

    /// `[experts, rows, cols]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        [self.experts, self.rows, self.cols]
    }
}

/// One bf16 matrix for each expert as transformers keeps it, inputs first: `[experts, cols, rows]`.
#[derive(Debug, Clone, Copy)]
pub struct Bf16Stack<'a> {
    bytes: &'a [u8],
    experts: usize,
    rows: usize,
    cols: usize,
}

impl<'a> Bf16Stack<'a> {
    /// Views `bytes` as `[experts, cols, rows]`: `cols` inputs, `rows` outputs.
    ///
    /// # Errors
    /// [`ShapeError::Length`] unless there are `2 * experts * cols * rows` bytes.
    pub fn new(bytes: &'a [u8], experts: usize, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        check_length("bf16 experts", bytes, &[experts, cols, rows], 2)?;
        Ok(Self { bytes, experts, rows, cols })
    }

    /// `[experts, rows, cols]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        [self.experts, self.rows, self.cols]
    }

    /// The value of output `row` and input `col` of an expert.
    ///
    /// # Panics
    /// If there is no such value.
    #[must_use]
    pub fn value(&self, expert: usize, row: usize, col: usize) -> [u8; 2] {
        assert!(expert < self.experts && row < self.rows && col < self.cols, "{expert}, {row}, {col} of {:?}", self.shape());
        let at = 2 * ((expert * self.cols + col) * self.rows + row);
        [self.bytes[at], self.bytes[at + 1]]
    }
}

/// The gated activation between an expert's two projections: `(up + 1) * gate * sigmoid(alpha *
/// gate)`, with gate clamped to at most `limit` and up to `-limit ..= limit`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwiGlu {
    /// Steepness of the sigmoid; 1.702 in the released models.
    pub alpha: f32,
    /// Where gate and up are clamped; 7 in the released models.
    pub limit: f32,
}

impl Default for SwiGlu {
    /// As in the released models.
    fn default() -> Self {
        Self { alpha: 1.702, limit: 7.0 }
    }
}

/// The experts of one layer, hidden size `H`, intermediate size `I`.
#[derive(Debug, Clone, Copy)]
pub struct Experts<'a> {
    gate_up: Mxfp4Stack<'a>,
    gate_up_bias: Bf16Matrix<'a>,
    down: Mxfp4Stack<'a>,
    down_bias: Bf16Matrix<'a>,
    swiglu: SwiGlu,
}

impl<'a> Experts<'a> {
    /// Puts the weights of a layer's experts together: `gate_up [E, 2 I, H]` with gate in even and
    /// up in odd rows, `gate_up_bias [E, 2 I]`, `down [E, H, I]`, `down_bias [E, H]`.
    ///
    /// # Errors
    /// [`ShapeError::Mismatch`] names the first weight that does not fit `gate_up`.
    pub fn new(
        gate_up: Mxfp4Stack<'a>,
        gate_up_bias: Bf16Matrix<'a>,
        down: Mxfp4Stack<'a>,
        down_bias: Bf16Matrix<'a>,
        swiglu: SwiGlu,
    ) -> Result<Self, ShapeError> {
        let [experts, rows, hidden] = gate_up.shape();
        let expect = |what, got: &[usize], expected: &[usize]| {
            let mismatch = || ShapeError::Mismatch { what, got: got.to_vec(), expected: expected.to_vec() };
            if got == expected { Ok(()) } else { Err(mismatch()) }
        };
        expect("gate_up", &[experts, rows, hidden], &[experts, rows / 2 * 2, hidden])?;
        expect("gate_up_bias", &[gate_up_bias.rows, gate_up_bias.cols], &[experts, rows])?;
        expect("down", &down.shape(), &[experts, hidden, rows / 2])?;
        expect("down_bias", &[down_bias.rows, down_bias.cols], &[experts, hidden])?;
        Ok(Self { gate_up, gate_up_bias, down, down_bias, swiglu })
    }

    /// How many experts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.gate_up.experts
    }

    /// Values in a row of the residual stream.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.gate_up.cols
    }

    /// Values between an expert's two projections.
    #[must_use]
    pub fn intermediate(&self) -> usize {
        self.down.cols
    }

    /// Gate and up projections, interleaved rows.
    #[must_use]
    pub fn gate_up(&self) -> &Mxfp4Stack<'a> {
        &self.gate_up
    }

    /// Biases of the gate and up projections, one row an expert.
    #[must_use]
    pub fn gate_up_bias(&self) -> &Bf16Matrix<'a> {
        &self.gate_up_bias
    }

    /// Down projections.
    #[must_use]
    pub fn down(&self) -> &Mxfp4Stack<'a> {
        &self.down
    }

    /// Biases of the down projections, one row an expert.
    #[must_use]
    pub fn down_bias(&self) -> &Bf16Matrix<'a> {
        &self.down_bias
    }

    /// The activation between the projections.
    #[must_use]
    pub fn swiglu(&self) -> SwiGlu {
        self.swiglu
    }
}

/// Which experts each token goes to, and with what weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Routes {
    /// Experts a token goes to.
    pub top_k: usize,
    /// `[T, top_k]`, the likeliest expert first.
    pub experts: Vec<u32>,
    /// `[T, top_k]`, each row sums to one.
    pub weights: Vec<f32>,
}

impl Routes {
    /// No token yet; each will go to `top_k` experts.
    #[must_use]
    pub fn new(top_k: usize) -> Self {
        Self { top_k, experts: Vec::new(), weights: Vec::new() }
    }

    /// How many tokens are routed.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.experts.len() / self.top_k.max(1)
    }
}

#[cfg(test)]
mod tests;
