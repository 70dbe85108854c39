//! Linear maps in bf16: attention's projections, the router, the lm_head.
//!
//! What: `out[t][n] = bias[n] + sum over k of weight[n][k] * x[t][k]`.
//! Shapes: `x [T, K]`, `weight [N, K]` bf16, `bias [N]`, `out [T, N]`; any N, K, T.
//! Source: none but the formula; the loops are those of `product`.
//! Twin: `reference::linear`, within `1e-6 * sum over k of |weight[n][k] * x[t][k]|` for K up to 4096.
//! Cost: `2 N K` bytes of weights for every 64 tokens, `2 N K T` operations; measured figures are in `kernels/README.md`.

use std::ops::Range;

use super::Cpu;
use super::panels::Panels;
use super::pool::Outputs;
use super::product::{self, ROWS, Scratch, TOKENS, Weights};
use super::simd::{Kernel, Simd};
use crate::weights::Bf16Matrix;

/// Multiplications that are worth claiming a piece of work for: some 3 us of one thread.
const CLAIM: usize = 1 << 15;

/// How many blocks of rows a thread claims at once, if a block multiplies `cols` values of `tokens` tokens.
pub(super) fn grain(cols: usize, tokens: usize) -> usize {
    CLAIM / (ROWS * cols * tokens).max(1)
}

impl Cpu {
    /// A linear map: `out[t][n] = bias[n] + sum over k of weight[n][k] * x[t][k]`.
    ///
    /// `x`: `[T, K]`; `weight`: `[N, K]`; `bias`: `[N]`; `out`: `[T, N]`. Twin: [`reference::linear`](crate::reference::linear),
    /// within `1e-6 * sum over k of |weight[n][k] * x[t][k]|` for K up to 4096.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn linear(&mut self, x: &[f32], weight: &Bf16Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
        let (rows, cols) = (weight.rows(), weight.cols());
        assert!(cols > 0 && x.len().is_multiple_of(cols), "{} activations are no rows of {cols}", x.len());
        let tokens = x.len() / cols;
        assert_eq!(out.len(), tokens * rows, "{rows} outputs for each of {tokens} tokens");
        assert!(bias.is_none_or(|bias| bias.len() == rows), "a bias for each of {rows} outputs");
        let Self { pool, isa, panels, .. } = self;
        panels.fill(pool, *isa, x, cols);
        let out = Outputs::new(out);
        pool.run(rows.div_ceil(ROWS), grain(cols, tokens), |blocks| {
            let rows = blocks.start * ROWS..rows.min(blocks.end * ROWS);
            isa.run(Linear { weight: *weight, bias, rows, panels, out });
        });
    }
}

/// Some rows of a linear map, for all tokens.
struct Linear<'a> {
    weight: Bf16Matrix<'a>,
    bias: Option<&'a [f32]>,
    rows: Range<usize>,
    panels: &'a Panels,
    out: Outputs<'a>,
}

impl Kernel for Linear<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut scratch = Scratch::new();
        let mut sums = [[0.0; ROWS]; TOKENS];
        let width = Weights::rows(self.weight);
        for first in (0..self.panels.rows()).step_by(TOKENS) {
            let tokens = first..self.panels.rows().min(first + TOKENS);
            let mut xs: [&[f32]; TOKENS] = [&[]; TOKENS];
            tokens.clone().zip(&mut xs).for_each(|(token, x)| *x = self.panels.row(token));
            for start in self.rows.clone().step_by(ROWS) {
                let rows = start..self.rows.end.min(start + ROWS);
                product::block(s, self.weight, rows.clone(), &xs[..tokens.len()], &mut sums, &mut scratch);
                for (token, sums) in tokens.clone().zip(&sums) {
                    for (row, sum) in rows.clone().zip(sums) {
                        self.out.set(token * width + row, sum + self.bias.map_or(0.0, |bias| bias[row]));
                    }
                }
            }
        }
    }
}
