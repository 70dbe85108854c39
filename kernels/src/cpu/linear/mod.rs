//! Linear maps of packed weights: attention's projections, the router, the lm_head.
//!
//! What: `out[t][n] = bias[n] + sum over k of weight[n][k] * x[t][k]`, or the same added to what
//! `out` holds. Shapes: `x [T, K]`, `weight [N, K]` in bf16 or int8, `bias [N]`, `out [T, N]`; any
//! N, K, T. Source: none but the formula; the loops are those of `product`, and of `tiles` for bf16
//! on CPUs with AMX. Twin: `reference::linear`, within `1e-6 * sum over k of |weight[n][k] *
//! x[t][k]|` for K up to 4096; for int8 on the values that `reference::int8_weights` and
//! `reference::int8_activations` leave. Cost: `2 N K` bytes of bf16 or `17/16 N K` of int8 for
//! every 64 tokens, `2 N K T` operations; measured figures are in `docs/performance.md`.

use std::marker::PhantomData;
use std::ops::Range;

use super::Cpu;
use super::packed::{BAND, Format, Packed};
use super::pool::Outputs;
use super::product::{self, Bf16F32, Int8Int8, NO_SUMS, Product, TOKENS};
use super::simd::{Kernel, Simd, Sums};

#[cfg(target_arch = "x86_64")]
pub(super) mod tiles;

/// Multiplications that are worth claiming a piece of work for: some 2 us of one thread from a
/// cache, 8 us from memory. A quarter of it was seen to make a step of one token a seventh slower.
const CLAIM: usize = 1 << 16;

/// How many bands of rows a thread claims at once, if a band multiplies `cols` values of `tokens`
/// tokens.
pub(super) fn grain(cols: usize, tokens: usize) -> usize {
    CLAIM / (BAND * cols * tokens).max(1)
}

/// What a result does to the values that its output holds.
#[derive(Clone, Copy, PartialEq)]
enum Output {
    /// Replaces them.
    Replace,
    /// Is added to them.
    Add,
}

impl Cpu {
    /// A linear map: `out[t][n] = bias[n] + sum over k of weight[n][k] * x[t][k]`.
    ///
    /// `x`: `[T, K]`; `weight`: `[N, K]`, bf16 or int8; `bias`: `[N]`; `out`: `[T, N]`. Int8
    /// weights are multiplied with activations rounded to int8. Twin:
    /// [`reference::linear`](crate::reference::linear), within
    /// `1e-6 * sum over k of |weight[n][k] * x[t][k]|` for K up to 4096.
    ///
    /// # Panics
    /// If lengths do not fit, or the weights are MXFP4.
    pub fn linear(&mut self, x: &[f32], weight: &Packed, bias: Option<&[f32]>, out: &mut [f32]) {
        self.map(x, weight, bias, out, Output::Replace);
    }

    /// The same, added to what `stream` holds.
    ///
    /// # Panics
    /// As [`Cpu::linear`].
    pub fn linear_add(&mut self, x: &[f32], weight: &Packed, bias: Option<&[f32]>, stream: &mut [f32]) {
        self.map(x, weight, bias, stream, Output::Add);
    }

    fn map(&mut self, x: &[f32], weight: &Packed, bias: Option<&[f32]>, out: &mut [f32], output: Output) {
        let (rows, cols) = (weight.rows(), weight.cols());
        assert!(cols > 0 && x.len().is_multiple_of(cols), "{} activations are no rows of {cols}", x.len());
        let tokens = x.len() / cols;
        assert_eq!(out.len(), tokens * rows, "{rows} outputs for each of {tokens} tokens");
        assert!(bias.is_none_or(|bias| bias.len() == rows), "a bias for each of {rows} outputs");
        let Self { pool, isa, blocks, padded, .. } = self;
        let isa = *isa;
        let map = Map { weight, bias, tokens, out: Outputs::new(out), output };
        let (bands, grain) = (weight.bands(), grain(cols, tokens));
        match weight.format() {
            #[cfg(target_arch = "x86_64")]
            Format::Bf16 if let Some(amx) = isa.amx() => {
                self.tiles.fill(pool, isa, x, cols);
                let grain = grain.max(tiles::grain(tokens, bands, pool.threads()));
                pool.run(bands, grain, |bands| map.run_in_tiles(bands, &self.tiles, amx));
            }
            Format::Bf16 => {
                let (x, width) = padded.rows(x, cols);
                let row = |token: usize| &x[token * width..][..width];
                pool.run(bands, grain, |bands| isa.run(Linear::<Bf16F32, _> { map, bands, row, form: PhantomData }));
            }
            Format::Int8 => {
                blocks.fill(pool, isa, x, cols, Int8Int8::OFFSET);
                let row = |token: usize| blocks.row(token);
                pool.run(bands, grain, |bands| isa.run(Linear::<Int8Int8, _> { map, bands, row, form: PhantomData }));
            }
            Format::Mxfp4 => panic!("a linear map of MXFP4 weights is an expert's part"),
        }
    }
}

/// A linear map of all tokens.
#[derive(Clone, Copy)]
struct Map<'a> {
    weight: &'a Packed,
    bias: Option<&'a [f32]>,
    tokens: usize,
    out: Outputs<'a, f32>,
    output: Output,
}

impl Map<'_> {
    /// The outputs of a band, and their biases.
    #[inline(always)]
    fn band(&self, band: usize) -> (Range<usize>, [f32; BAND]) {
        let rows = band * BAND..self.weight.rows().min(band * BAND + BAND);
        let mut bias = [0.0; BAND];
        if let Some(all) = self.bias {
            bias[..rows.len()].copy_from_slice(&all[rows.clone()]);
        }
        (rows, bias)
    }

    /// Puts a band's sums of one token in their place.
    ///
    /// # Safety
    /// No other thread touches these rows of any token.
    #[inline(always)]
    unsafe fn put(&self, token: usize, rows: &Range<usize>, sums: &Sums, bias: &[f32; BAND]) {
        let first = token * self.weight.rows();
        // SAFETY: as the caller promises.
        let out = unsafe { self.out.slice(first + rows.start..first + rows.end) };
        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
            *out = if self.output == Output::Add { *out + (sum + bias) } else { sum + bias };
        }
    }
}

/// Some bands of a linear map, for all tokens; `row` has a token's activations.
struct Linear<'a, P: Product, F> {
    map: Map<'a>,
    bands: Range<usize>,
    row: F,
    form: PhantomData<P>,
}

impl<'x, P: Product<X: 'x>, F: Fn(usize) -> &'x [P::X]> Kernel for Linear<'_, P, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { map, .. } = self;
        let mut sums = NO_SUMS;
        for band in self.bands {
            let (rows, bias) = map.band(band);
            for first in (0..map.tokens).step_by(TOKENS) {
                let tokens = first..map.tokens.min(first + TOKENS);
                let mut xs: [&[P::X]; TOKENS] = [&[]; TOKENS];
                tokens.clone().zip(&mut xs).for_each(|(token, x)| *x = (self.row)(token));
                product::band::<S, P>(s, map.weight.band(band), &xs[..tokens.len()], &mut sums);
                for (token, sums) in tokens.zip(&sums) {
                    // SAFETY: the pool hands out every band once.
                    unsafe { map.put(token, &rows, sums, &bias) };
                }
            }
        }
    }
}
