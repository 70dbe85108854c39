//! Activations in the order in which widened weights come.

use super::pool::Pool;
use super::simd::{Isa, Kernel, Simd};

/// Rows of activations, each cut into chunks of `2 * LANES` values: those with even index first, then those with odd, as
/// bf16 and E2M1 weights leave their bytes. The last chunk of a row is filled up with zeros.
#[derive(Debug, Default)]
pub(super) struct Panels {
    values: Vec<f32>,
    stride: usize,
}

impl Panels {
    /// Values in a panel row for `cols` values.
    fn stride(isa: Isa, cols: usize) -> usize {
        cols.next_multiple_of(2 * isa.lanes())
    }

    /// Takes the rows of `x`, `cols` values each.
    pub(super) fn fill(&mut self, pool: &mut Pool, isa: Isa, x: &[f32], cols: usize) {
        self.stride = Self::stride(isa, cols);
        self.values.resize(x.len() / cols * self.stride, 0.0);
        // 16,384 values take a thread some 5 us.
        pool.for_rows(&mut self.values, self.stride, 16_384 / self.stride, |row, panel| {
            isa.run(Split { x: &x[row * cols..][..cols], panel });
        });
    }

    /// Room for `rows` rows of `cols` values; returned are the values, to be stored where [`position`] says.
    pub(super) fn room(&mut self, isa: Isa, rows: usize, cols: usize) -> &mut [f32] {
        assert!(cols.is_multiple_of(2 * isa.lanes()), "rows of {cols} values would need padding");
        self.stride = cols;
        self.values.resize(rows * cols, 0.0);
        &mut self.values
    }

    /// How many rows.
    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.stride
    }

    /// Row `row`, padding included.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..][..self.stride]
    }
}

/// Where the value with index `index` stands in its panel row.
#[inline(always)]
pub(super) fn position(lanes: usize, index: usize) -> usize {
    let within = index % (2 * lanes);
    index - within + within / 2 + within % 2 * lanes
}

/// Copies a row into its panel row.
struct Split<'a> {
    x: &'a [f32],
    panel: &'a mut [f32],
}

impl Kernel for Split<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let full = self.x.chunks_exact(2 * S::LANES);
        let rest = full.remainder();
        let whole = self.x.len() - rest.len();
        for (from, to) in full.zip(self.panel.chunks_exact_mut(2 * S::LANES)) {
            let (even, odd) = to.split_at_mut(S::LANES);
            for ((pair, even), odd) in from.chunks_exact(2).zip(even).zip(odd) {
                (*even, *odd) = (pair[0], pair[1]);
            }
        }
        self.panel[whole..].fill(0.0);
        for (index, &value) in rest.iter().enumerate() {
            self.panel[whole + position(S::LANES, index)] = value;
        }
    }
}
