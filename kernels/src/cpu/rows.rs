//! Operations on single rows: embedding, norm, rotary embedding, residual sum, log-softmax.
//!
//! What: the formulas stand at each function.
//! Shapes: rows of `H` or `vocab` values, any number of them.
//! Source: named at each twin.
//! Twin: in `reference`, each under the same name; the tolerance stands at each function.
//! Cost: a few bytes and operations a value, together below 1% of a step.

use super::Cpu;
use super::simd::{self, Isa, Kernel, Simd, load_part, store_part};
use crate::rope::Angles;
use crate::weights::Bf16Matrix;

/// Values that are worth claiming a piece of work for: some 5 us of one thread.
const CLAIM: usize = 1 << 14;

impl Cpu {
    /// Gathers rows of the embedding table: `out[t] = table[tokens[t]]`.
    ///
    /// `table`: `[vocab, H]`; `out`: `[T, H]`. Twin: [`reference::embed`](crate::reference::embed),
    /// equal.
    ///
    /// # Panics
    /// If a token is not in the table, or `out` has another length.
    pub fn embed(&mut self, table: &Bf16Matrix<'_>, tokens: &[u32], out: &mut [f32]) {
        let width = table.cols();
        assert_eq!(out.len(), tokens.len() * width, "{width} values for each of {} tokens", tokens.len());
        self.pool.for_rows(out, width, CLAIM / width, |row, out| {
            let (values, _) = table.row(tokens[row] as usize).as_chunks::<2>();
            for (out, &value) in out.iter_mut().zip(values) {
                *out = half::bf16::from_le_bytes(value).to_f32();
            }
        });
    }

    /// Root-mean-square norm of each row: `out[t][i] = x[t][i] * scale[i] / sqrt(mean(x[t]^2) +
    /// eps)`.
    ///
    /// `x`, `out`: `[T, H]`; `scale`: `[H]`. Twin:
    /// [`reference::rms_norm`](crate::reference::rms_norm), within 2e-6 relative.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn rms_norm(&mut self, x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
        let width = scale.len();
        assert_eq!(x.len(), out.len(), "as many outputs as inputs");
        assert!(x.len().is_multiple_of(width), "{} values are no rows of {width}", x.len());
        let isa = self.isa;
        self.pool.for_rows(out, width, CLAIM / width, |row, out| {
            isa.run(RmsNorm { x: &x[row * width..][..width], scale, eps, out });
        });
    }

    /// Turns the two halves of each head by the token's angles, in place:
    /// `first[i], second[i] = first[i] cos[i] - second[i] sin[i], second[i] cos[i] + first[i]
    /// sin[i]`.
    ///
    /// `x`: `[T, heads * head_dim]`; `angles`: `[T, head_dim / 2]`. Twin:
    /// [`reference::rotary`](crate::reference::rotary), equal.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn rotary(&mut self, x: &mut [f32], heads: usize, head_dim: usize, angles: &Angles) {
        let (width, half) = (heads * head_dim, head_dim / 2);
        assert!(x.len().is_multiple_of(width), "{} values are no rows of {width}", x.len());
        assert_eq!(x.len() / width * half, angles.cos.len(), "{half} angles for each of {} tokens", x.len() / width);
        self.pool.for_rows(x, width, CLAIM / width, |token, x| {
            let (cos, sin) = (&angles.cos[token * half..][..half], &angles.sin[token * half..][..half]);
            for head in x.chunks_exact_mut(head_dim) {
                let (first, second) = head.split_at_mut(half);
                for ((first, second), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                    (*first, *second) = (*first * cos - *second * sin, *second * cos + *first * sin);
                }
            }
        });
    }

    /// Adds `y` to the residual stream: `x[i] += y[i]`. Twin:
    /// [`reference::add`](crate::reference::add), equal.
    ///
    /// # Panics
    /// If their lengths differ.
    pub fn add(&mut self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "as much to add as there is");
        self.pool.for_rows(x, CLAIM, 1, |row, x| x.iter_mut().zip(&y[row * CLAIM..]).for_each(|(x, y)| *x += y));
    }

    /// Log-probabilities of one row of logits: `out[i] = logits[i] - max - ln(sum over j of
    /// exp(logits[j] - max))`.
    ///
    /// `logits`, `out`: `[vocab]`. NaN among the logits makes all of them NaN.
    /// Twin: [`reference::log_softmax`](crate::reference::log_softmax), within 2e-6 of the largest
    /// magnitude.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn log_softmax(&mut self, logits: &[f32], out: &mut [f32]) {
        assert_eq!(logits.len(), out.len(), "as many outputs as inputs");
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = sum_of_exp(self.isa, logits, max).ln() as f32;
        out.iter_mut().zip(logits).for_each(|(out, logit)| *out = logit - max - log_sum);
    }
}

/// The norm of one row.
struct RmsNorm<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut squares = s.splat(0.0);
        let chunks = self.x.chunks_exact(S::LANES);
        let rest = load_part(s, chunks.remainder(), 0.0);
        for chunk in chunks {
            let v = s.load(chunk);
            squares = s.fma(v, v, squares);
        }
        squares = s.fma(rest, rest, squares);
        let inverse = 1.0 / (s.sum(squares) / self.x.len() as f32 + self.eps).sqrt();
        let scales = self.scale.chunks(S::LANES);
        for ((out, x), scale) in self.out.chunks_mut(S::LANES).zip(self.x.chunks(S::LANES)).zip(scales) {
            if out.len() == S::LANES {
                s.store(s.mul(s.load(scale), s.mul(s.load(x), s.splat(inverse))), out);
            } else {
                let normed = s.mul(load_part(s, x, 0.0), s.splat(inverse));
                store_part(s, s.mul(load_part(s, scale, 0.0), normed), out);
            }
        }
    }
}

/// `sum over j of exp(logits[j] - max)`, added up in f64 every 4096 values.
fn sum_of_exp(isa: Isa, logits: &[f32], max: f32) -> f64 {
    logits.chunks(4096).map(|logits| f64::from(isa.run(SumOfExp { logits, max }))).sum()
}

/// The sum of one stretch.
struct SumOfExp<'a> {
    logits: &'a [f32],
    max: f32,
}

impl Kernel for SumOfExp<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let max = s.splat(self.max);
        let chunks = self.logits.chunks_exact(S::LANES);
        // Minus infinity adds nothing.
        let rest = load_part(s, chunks.remainder(), f32::NEG_INFINITY);
        let mut sum = s.splat(0.0);
        for chunk in chunks {
            sum = s.add(sum, simd::exp(s, s.sub(s.load(chunk), max)));
        }
        s.sum(s.add(sum, simd::exp(s, s.sub(rest, max))))
    }
}
