//! The router's choice, and the mixture of experts in MXFP4.
//!
//! What: `out[t] = sum over k of weights[t][k] * (down . swiglu(gate_up . x[t] + gate_up_bias) + down_bias)` with the weights
//! of expert `experts[t][k]`.
//! Shapes: `x`, `out` `[T, H]`; `gate_up [E, 2 I, H]`, `down [E, H, I]` MXFP4; routes `[T, top_k]`.
//! Source: the gpt-oss model card; Shazeer et al. 2017, arXiv:1701.06538.
//! Twin: `reference::experts`, within 1e-5 of the largest output.
//! Cost: `51 / 32 * H * I` bytes for each expert that is hit and every 64 tokens of it, `6 H I` operations for each token and
//! each of its experts; measured figures are in `kernels/README.md`.
//!
//! Tokens are grouped by expert, so that an expert's weights are read once a step. Which tokens share an expert changes no
//! bit, as `product` explains.

use std::ops::Range;

use super::Cpu;
use super::linear::grain;
use super::panels::{Panels, position};
use super::pool::Outputs;
use super::product::{self, ROWS, Scratch, TOKENS};
use super::simd::{self, Kernel, LANES_MAX, Simd};
use crate::weights::{Bf16Matrix, Experts, Routes, SwiGlu};

/// What the mixture of experts keeps between its phases, and from step to step.
#[derive(Debug, Default)]
pub(super) struct Mixture {
    logits: Vec<f32>,
    groups: Groups,
    activations: Panels,
    /// `[pairs, H]`: what each expert says of each of its tokens.
    results: Vec<f32>,
}

/// Pairs of a token and one of its experts, sorted by expert.
#[derive(Debug, Default)]
struct Groups {
    /// The token of each pair.
    tokens: Vec<u32>,
    /// The pair of each route, `[T, top_k]`.
    pairs: Vec<u32>,
    /// The experts that are hit, with their pairs.
    hit: Vec<(usize, Range<usize>)>,
}

impl Groups {
    fn fill(&mut self, routes: &Routes, experts: usize) {
        let mut ends = vec![0; experts];
        for &expert in &routes.experts {
            assert!((expert as usize) < experts, "a route to expert {expert} of {experts}");
            ends[expert as usize] += 1;
        }
        self.hit.clear();
        let mut end = 0;
        for (expert, slot) in ends.iter_mut().enumerate() {
            let start = end;
            end += *slot;
            *slot = start;
            if end > start {
                self.hit.push((expert, start..end));
            }
        }
        let mut next = ends;
        self.tokens.resize(routes.experts.len(), 0);
        self.pairs.clear();
        for (route, &expert) in routes.experts.iter().enumerate() {
            let pair = &mut next[expert as usize];
            self.tokens[*pair] = (route / routes.top_k) as u32;
            self.pairs.push(*pair as u32);
            *pair += 1;
        }
    }
}

impl Cpu {
    /// Sends each token to `routes.top_k` experts: the router's linear map, the largest logits, the softmax over those alone.
    ///
    /// `x`: `[T, H]`; `weight`: `[E, H]`; `bias`: `[E]`. Among equal logits the lower index goes first. Twin:
    /// [`reference::route`](crate::reference::route) after [`reference::linear`](crate::reference::linear).
    ///
    /// # Panics
    /// If lengths do not fit, or `top_k` is zero or above `E`.
    pub fn route(&mut self, x: &[f32], weight: &Bf16Matrix<'_>, bias: &[f32], routes: &mut Routes) {
        let (count, top_k) = (weight.rows(), routes.top_k);
        assert!((1..=count).contains(&top_k), "top_k {top_k} of {count} experts");
        let mut logits = std::mem::take(&mut self.mixture.logits);
        logits.resize(x.len() / weight.cols() * count, 0.0);
        self.linear(x, weight, Some(bias), &mut logits);
        routes.experts.clear();
        routes.weights.clear();
        for logits in logits.chunks_exact(count) {
            choose(logits, routes);
        }
        self.mixture.logits = logits;
    }

    /// The mixture of experts: `out[t] = sum over k of weights[t][k] * expert(experts[t][k])(x[t])`.
    ///
    /// `x`, `out`: `[T, H]`. Twin: [`reference::experts`](crate::reference::experts), within 1e-5 of the largest output.
    ///
    /// # Panics
    /// If lengths do not fit, or a route names an expert that is not there.
    pub fn experts(&mut self, x: &[f32], experts: &Experts<'_>, routes: &Routes, out: &mut [f32]) {
        let (hidden, intermediate) = (experts.hidden(), experts.intermediate());
        assert_eq!(x.len(), out.len(), "as many outputs as inputs");
        assert_eq!(x.len(), routes.tokens() * hidden, "{hidden} values for each of {} tokens", routes.tokens());
        let Self { pool, isa, panels, mixture, .. } = self;
        let isa = *isa;
        let Mixture { groups, activations, results, .. } = mixture;
        groups.fill(routes, experts.count());
        panels.fill(pool, isa, x, hidden);
        let pairs = groups.tokens.len();
        let tokens_each = pairs / groups.hit.len().max(1);

        let room = Outputs::new(activations.room(isa, pairs, intermediate));
        let blocks = (2 * intermediate).div_ceil(ROWS);
        pool.run(groups.hit.len() * blocks, grain(hidden, tokens_each), |items| {
            for item in items {
                let rows = item % blocks * ROWS..(item % blocks * ROWS + ROWS).min(2 * intermediate);
                let (expert, pairs) = groups.hit[item / blocks].clone();
                isa.run(GateUp { experts, expert, rows, pairs, tokens: &groups.tokens, panels, out: room });
            }
        });

        results.resize(pairs * hidden, 0.0);
        let room = Outputs::new(results);
        let blocks = hidden.div_ceil(ROWS);
        pool.run(groups.hit.len() * blocks, grain(intermediate, tokens_each), |items| {
            for item in items {
                let rows = item % blocks * ROWS..(item % blocks * ROWS + ROWS).min(hidden);
                let (expert, pairs) = groups.hit[item / blocks].clone();
                isa.run(Down { experts, expert, rows, pairs, panels: activations, out: room });
            }
        });

        pool.for_rows(out, hidden, 16_384 / hidden, |token, out| {
            out.fill(0.0);
            for route in token * routes.top_k..(token + 1) * routes.top_k {
                let result = &results[groups.pairs[route] as usize * hidden..][..hidden];
                let weight = routes.weights[route];
                out.iter_mut().zip(result).for_each(|(out, value)| *out += weight * value);
            }
        });
    }
}

/// Appends the `top_k` largest of `logits` and their softmax to `routes`.
fn choose(logits: &[f32], routes: &mut Routes) {
    let first = routes.experts.len();
    for _ in 0..routes.top_k {
        let chosen = &routes.experts[first..];
        let left = (0..logits.len()).filter(|&expert| !chosen.contains(&(expert as u32)));
        // NaN is the largest, and equals keep their order, as in the twin.
        let larger = |a: f32, b: f32| !a.is_nan() && (b.is_nan() || b > a);
        let best = left.reduce(|best, expert| if larger(logits[best], logits[expert]) { expert } else { best });
        routes.experts.push(best.expect("top_k is at most the number of experts") as u32);
    }
    let chosen = &routes.experts[first..];
    let max = logits[chosen[0] as usize];
    routes.weights.extend(chosen.iter().map(|&expert| (logits[expert as usize] - max).exp()));
    let weights = &mut routes.weights[first..];
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
}

/// Some gate and up rows of one expert with their activation, for all tokens of the expert.
struct GateUp<'a> {
    experts: &'a Experts<'a>,
    expert: usize,
    rows: Range<usize>,
    pairs: Range<usize>,
    tokens: &'a [u32],
    panels: &'a Panels,
    out: Outputs<'a>,
}

impl Kernel for GateUp<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let weights = self.experts.gate_up().expert(self.expert);
        let intermediate = self.experts.intermediate();
        let bias = bias(self.experts.gate_up_bias().row(self.expert), &self.rows);
        let mut scratch = Scratch::new();
        let mut sums = [[0.0; ROWS]; TOKENS];
        for first in self.pairs.clone().step_by(TOKENS) {
            let pairs = first..self.pairs.end.min(first + TOKENS);
            let mut xs: [&[f32]; TOKENS] = [&[]; TOKENS];
            pairs.clone().zip(&mut xs).for_each(|(pair, x)| *x = self.panels.row(self.tokens[pair] as usize));
            product::block(s, weights, self.rows.clone(), &xs[..pairs.len()], &mut sums, &mut scratch);
            for (pair, sums) in pairs.zip(&sums) {
                let gated = swiglu(s, sums, &bias, self.experts.swiglu());
                for (index, value) in (self.rows.start / 2..self.rows.end / 2).zip(gated) {
                    self.out.set(pair * intermediate + position(S::LANES, index), value);
                }
            }
        }
    }
}

/// Some down rows of one expert, for all tokens of the expert.
struct Down<'a> {
    experts: &'a Experts<'a>,
    expert: usize,
    rows: Range<usize>,
    pairs: Range<usize>,
    panels: &'a Panels,
    out: Outputs<'a>,
}

impl Kernel for Down<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let weights = self.experts.down().expert(self.expert);
        let hidden = self.experts.hidden();
        let bias = bias(self.experts.down_bias().row(self.expert), &self.rows);
        let mut scratch = Scratch::new();
        let mut sums = [[0.0; ROWS]; TOKENS];
        for first in self.pairs.clone().step_by(TOKENS) {
            let pairs = first..self.pairs.end.min(first + TOKENS);
            let mut xs: [&[f32]; TOKENS] = [&[]; TOKENS];
            pairs.clone().zip(&mut xs).for_each(|(pair, x)| *x = self.panels.row(pair));
            product::block(s, weights, self.rows.clone(), &xs[..pairs.len()], &mut sums, &mut scratch);
            for (pair, sums) in pairs.zip(&sums) {
                for (row, (sum, bias)) in self.rows.clone().zip(sums.iter().zip(&bias)) {
                    self.out.set(pair * hidden + row, sum + bias);
                }
            }
        }
    }
}

/// The biases of `rows`, widened.
fn bias(bytes: &[u8], rows: &Range<usize>) -> [f32; ROWS] {
    let (biases, _) = bytes.as_chunks::<2>();
    let mut widened = [0.0; ROWS];
    for (widened, &bias) in widened.iter_mut().zip(&biases[rows.clone()]) {
        *widened = half::bf16::from_le_bytes(bias).to_f32();
    }
    widened
}

/// The gated activation of interleaved gates and ups. Twin: `reference::swiglu`, within 1e-6 relative.
#[inline(always)]
fn swiglu<S: Simd>(s: S, sums: &[f32; ROWS], bias: &[f32; ROWS], activation: SwiGlu) -> [f32; ROWS / 2] {
    let (mut gates, mut ups) = ([0.0; LANES_MAX], [0.0; LANES_MAX]);
    for pair in 0..ROWS / 2 {
        gates[pair] = sums[2 * pair] + bias[2 * pair];
        ups[pair] = sums[2 * pair + 1] + bias[2 * pair + 1];
    }
    let limit = s.splat(activation.limit);
    let mut gated = [0.0; LANES_MAX];
    for first in (0..ROWS / 2).step_by(S::LANES) {
        // The value stands second in min and max: that keeps NaN.
        let gate = s.min(limit, s.load(&gates[first..]));
        let up = s.max(s.splat(-activation.limit), s.min(limit, s.load(&ups[first..])));
        let one = s.splat(1.0);
        let sigmoid = s.add(one, simd::exp(s, s.mul(s.splat(-activation.alpha), gate)));
        s.store(s.mul(s.add(up, one), s.div(gate, sigmoid)), &mut gated[first..]);
    }
    std::array::from_fn(|pair| gated[pair])
}
