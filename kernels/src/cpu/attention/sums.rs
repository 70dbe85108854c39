//! What queries have seen so far, and how what they see next joins it.

use crate::cpu::simd::{self, LANES_MAX, Simd};

/// Of some rows, each a query: one head of one token, what they have seen.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// The largest score so far.
    pub(super) max: Vec<f32>,
    /// The sum of `exp(score - max)` so far; zero if nothing was seen.
    pub(super) total: Vec<f32>,
    /// `[rows, value_stride]`: the sum of `exp(score - max) * value` so far.
    pub(super) sum: Vec<f32>,
}

/// The largest score, the sum of exponentials, the sum of values of one row.
pub(super) type Row<'a> = (f32, f32, &'a [f32]);

impl Sums {
    /// Of `rows` rows that have seen nothing.
    pub(super) fn new(rows: usize, width: usize) -> Self {
        Self { max: vec![f32::NEG_INFINITY; rows], total: vec![0.0; rows], sum: vec![0.0; rows * width] }
    }

    fn width(&self) -> usize {
        self.sum.len() / self.max.len()
    }

    /// Row `row`.
    pub(super) fn row(&self, row: usize) -> Row<'_> {
        (self.max[row], self.total[row], &self.sum[row * self.width()..][..self.width()])
    }

    /// Lets what row `row` has seen since join it.
    #[inline(always)]
    pub(super) fn join<S: Simd>(&mut self, s: S, row: usize, (added_max, added_total, added): Row<'_>) {
        let max = self.max[row].max(added_max);
        let (old, new) = (exp_of(s, self.max[row] - max), exp_of(s, added_max - max));
        self.max[row] = max;
        self.total[row] = self.total[row] * old + added_total * new;
        let width = self.width();
        let sums = &mut self.sum[row * width..][..width];
        for (sum, added) in sums.chunks_exact_mut(S::LANES).zip(added.chunks_exact(S::LANES)) {
            s.store(s.fma(s.load(added), s.splat(new), s.mul(s.load(sum), s.splat(old))), sum);
        }
    }

    /// Lets the next span of all rows join. What is the first that a row sees is taken as it is, so
    /// that a row has the same bits whether other rows see more spans or not.
    #[inline(always)]
    pub(super) fn join_span<S: Simd>(&mut self, s: S, span: &Self) {
        let width = self.width();
        for row in 0..self.max.len() {
            if span.total[row] == 0.0 {
                continue;
            }
            if self.total[row] == 0.0 {
                (self.max[row], self.total[row]) = (span.max[row], span.total[row]);
                self.sum[row * width..][..width].copy_from_slice(span.row(row).2);
            } else {
                self.join(s, row, span.row(row));
            }
        }
    }
}

/// `e^x` of one number, by the vector's code.
#[inline(always)]
pub(super) fn exp_of<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; LANES_MAX];
    s.store(simd::exp(s, s.splat(x)), &mut lanes);
    lanes[0]
}
