//! The mixture of experts, in MXFP4 or in bf16.
//!
//! What: `stream[t] += sum over k of weights[t][k] * (down . swiglu(gate_up . x[t] + gate_up_bias)
//! + down_bias)` with the weights of expert `experts[t][k]`, in the order of the experts. Shapes:
//! `x`, `stream` `[T, H]`; `gate_up [E, 2 I, H]`, `down [E, H, I]` MXFP4; routes `[T, top_k]`.
//! Source: the gpt-oss model card; Shazeer et al. 2017, arXiv:1701.06538; SwiGLU: Shazeer 2020,
//! arXiv:2002.05202. Twin: `reference::experts`, within 1e-5 of the largest output with exact
//! arithmetic, and as far as rounding activations to integers leads with the others. Cost: `51 / 32
//! * H * I` bytes for each expert that is hit, `6 H I` operations for each token and each of its
//! experts; measured figures are in `docs/performance.md`.
//!
//! Tokens are grouped by expert, so that an expert's weights are read once a step. Which tokens
//! share an expert changes no bit: a token's sums have their own chains, and its experts are added
//! in the order of their numbers.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::{Block, Blocks};
use super::linear::grain;
use super::packed::{BAND, Format, GATED_ROWS, GROUP, PackedExperts};
use super::pool::Outputs;
use super::product::{self, Bf16F32, Mxfp4F32, Mxfp4Int8, NO_SUMS, Product, TOKENS};
use super::router::Groups;
use super::simd::{self, Kernel, LANES_MAX, Simd, Sums};
use super::{Cpu, Math};
use crate::weights::{MXFP4_BLOCK, Routes, SwiGlu};

/// What the mixture of experts keeps between its phases, and from step to step.
#[derive(Debug, Default)]
pub(super) struct Mixture {
    groups: Groups,
    /// What goes into the experts, rounded to 16 bits.
    outer: Blocks<2>,
    /// `[pairs, I]`: what lies between an expert's projections, for exact arithmetic.
    values: Vec<f32>,
    /// The same, rounded.
    inner: Blocks<2>,
}

/// What lies between the projections, rounded. A product of two numbers has few large values and
/// many small ones, of which eight bits would leave little: the model's answers were seen to move
/// fourteen times as far.
type Inner = Mxfp4Int8<2>;

/// Fewest bands of the second projection that a thread claims: an expert's weights are then read so
/// many bands long before the next expert's begin elsewhere in memory.
const DOWN_BANDS: usize = 2;

/// A form of activations between the projections.
trait Form: Product {
    /// Values of `X` that stand for a block of 32 activations.
    const PER_BLOCK: usize;

    /// Stores a block.
    fn store(from: &[f32; MXFP4_BLOCK], to: &mut [Self::X]);
}

impl Form for Mxfp4F32 {
    const PER_BLOCK: usize = MXFP4_BLOCK;

    #[inline(always)]
    fn store(from: &[f32; MXFP4_BLOCK], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Form for Bf16F32 {
    const PER_BLOCK: usize = MXFP4_BLOCK;

    #[inline(always)]
    fn store(from: &[f32; MXFP4_BLOCK], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl<const PARTS: usize> Form for Mxfp4Int8<PARTS> {
    const PER_BLOCK: usize = 1;

    #[inline(always)]
    fn store(from: &[f32; MXFP4_BLOCK], to: &mut [Block<PARTS>]) {
        to[0] = Block::new(from, Self::OFFSET);
    }
}

impl Cpu {
    /// The mixture of experts, added to what `stream` holds:
    /// `stream[t] += sum over k of weights[t][k] * expert(experts[t][k])(x[t])`.
    ///
    /// `x`, `stream`: `[T, H]`. Twin: [`reference::experts`](crate::reference::experts), within
    /// 1e-5 of the largest output with [`Math::Exact`].
    ///
    /// # Panics
    /// If lengths do not fit, or a route names an expert that is not there.
    pub fn experts_add(&mut self, x: &[f32], experts: &PackedExperts, routes: &Routes, stream: &mut [f32]) {
        let hidden = experts.hidden;
        assert_eq!(x.len(), stream.len(), "as many outputs as inputs");
        assert_eq!(x.len(), routes.tokens() * hidden, "{hidden} values for each of {} tokens", routes.tokens());
        self.begin_operation("experts: groups, rounding", 0);
        let mut mixture = std::mem::take(&mut self.mixture);
        let Mixture { groups, outer, values, inner } = &mut mixture;
        groups.fill(routes, experts.count);
        match self.math {
            // bf16 weights have no form in integers: whatever is asked for, they are multiplied
            // with what was computed.
            _ if experts.gate_up.format() == Format::Bf16 => {
                self.unrounded_experts_add::<Bf16F32>(x, experts, groups, values, stream);
            }
            Math::Exact => self.unrounded_experts_add::<Mxfp4F32>(x, experts, groups, values, stream),
            Math::Int16 => self.rounded_experts_add(x, experts, groups, outer, inner, stream),
            Math::Fast => {
                let mut outer = std::mem::take(&mut self.blocks);
                self.rounded_experts_add(x, experts, groups, &mut outer, inner, stream);
                self.blocks = outer;
            }
        }
        self.mixture = mixture;
    }

    /// The mixture of experts of what is not rounded.
    fn unrounded_experts_add<P: Form<X = f32>>(
        &mut self,
        x: &[f32],
        experts: &PackedExperts,
        groups: &Groups,
        values: &mut Vec<f32>,
        stream: &mut [f32],
    ) {
        let (hidden, intermediate) = (experts.hidden, experts.intermediate);
        values.resize(groups.tokens.len() * intermediate, 0.0);
        self.gate_up::<P, P>(experts, groups, |token| &x[token * hidden..][..hidden], values);
        self.down::<P>(experts, groups, |pair| &values[pair * intermediate..][..intermediate], stream);
    }

    /// The mixture of experts of what is rounded into `outer`, to `PARTS` times eight bits, and
    /// between the projections into `inner`.
    fn rounded_experts_add<const PARTS: usize>(
        &mut self,
        x: &[f32],
        experts: &PackedExperts,
        groups: &Groups,
        outer: &mut Blocks<PARTS>,
        inner: &mut Blocks<2>,
        stream: &mut [f32],
    ) {
        outer.fill(&mut self.pool, self.isa, x, experts.hidden, Mxfp4Int8::<PARTS>::OFFSET);
        let room = inner.room(groups.tokens.len(), experts.intermediate);
        self.gate_up::<Mxfp4Int8<PARTS>, Inner>(experts, groups, |token| outer.row(token), room);
        self.down::<Inner>(experts, groups, |pair| inner.row(pair), stream);
    }

    /// The first projection and the activation of every pair, into `room`: `[pairs, I]` in the form
    /// of `Q`.
    fn gate_up<'x, P: Product, Q: Form>(
        &mut self,
        experts: &PackedExperts,
        groups: &Groups,
        row: impl Fn(usize) -> &'x [P::X] + Copy + Sync,
        room: &mut [Q::X],
    ) where
        P::X: Sync + 'x,
        Q::X: Send,
    {
        self.begin_operation("experts: gate_up", groups.hit.len() * experts.gate_up.bytes() / experts.count);
        let units = experts.intermediate / MXFP4_BLOCK;
        let pairs_each = groups.tokens.len() / groups.hit.len().max(1);
        let out = Outputs::new(room);
        let isa = self.isa;
        self.pool.run(groups.hit.len() * units, grain(experts.hidden, pairs_each) / (GATED_ROWS / BAND), |items| {
            for item in items {
                let (expert, pairs) = groups.hit[item / units].clone();
                let unit = item % units;
                isa.run(GateUp::<P, Q, _> {
                    experts,
                    expert,
                    unit,
                    pairs,
                    tokens: &groups.tokens,
                    row,
                    out,
                    form: PhantomData,
                });
            }
        });
    }

    /// The second projection of every pair, weighted and added to the streams of their tokens.
    fn down<'x, P: Form>(
        &mut self,
        experts: &PackedExperts,
        groups: &Groups,
        row: impl Fn(usize) -> &'x [P::X] + Copy + Sync,
        stream: &mut [f32],
    ) where
        P::X: Sync + 'x,
    {
        self.begin_operation("experts: down", groups.hit.len() * experts.down.bytes() / experts.count);
        let out = Outputs::new(stream);
        let isa = self.isa;
        let pairs = groups.tokens.len();
        self.pool.run(experts.hidden / BAND, grain(experts.intermediate, pairs).max(DOWN_BANDS), |bands| {
            isa.run(Down::<P, _> { experts, groups, bands, row, out, form: PhantomData });
        });
    }
}

/// The gates and ups of a block of one expert's activations, for all tokens of the expert.
struct GateUp<'a, P: Product, Q: Form, F> {
    experts: &'a PackedExperts,
    expert: usize,
    unit: usize,
    pairs: Range<usize>,
    tokens: &'a [u32],
    row: F,
    out: Outputs<'a, Q::X>,
    form: PhantomData<P>,
}

impl<'x, P: Product<X: 'x>, Q: Form, F: Fn(usize) -> &'x [P::X]> Kernel for GateUp<'_, P, Q, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const BANDS: usize = GATED_ROWS / BAND;
        let Self { experts, .. } = self;
        let width = experts.intermediate / MXFP4_BLOCK * Q::PER_BLOCK;
        let first_band = (self.expert * 2 * experts.intermediate + self.unit * GATED_ROWS) / BAND;
        let bias = &experts.gate_up_bias[first_band * BAND..][..GATED_ROWS];
        let mut sums = [NO_SUMS; BANDS];
        for first in self.pairs.clone().step_by(TOKENS) {
            let pairs = first..self.pairs.end.min(first + TOKENS);
            let mut xs: [&[P::X]; TOKENS] = [&[]; TOKENS];
            pairs.clone().zip(&mut xs).for_each(|(pair, x)| *x = (self.row)(self.tokens[pair] as usize));
            for (band, sums) in sums.iter_mut().enumerate() {
                product::band::<S, P>(s, experts.gate_up.band(first_band + band), &xs[..pairs.len()], sums);
            }
            for (index, pair) in pairs.enumerate() {
                let mut block = [0.0; MXFP4_BLOCK];
                for (band, sums) in sums.iter().enumerate() {
                    let bias = &bias[band * BAND..];
                    swiglu(s, &sums[index], bias, experts.swiglu, &mut block[band * GROUP..]);
                }
                let at = pair * width + self.unit * Q::PER_BLOCK;
                // SAFETY: the pool hands out every unit of every expert once, and a pair belongs to
                // one expert.
                Q::store(&block, unsafe { self.out.slice(at..at + Q::PER_BLOCK) });
            }
        }
    }
}

/// Some bands of outputs, of all experts.
struct Down<'a, P: Product, F> {
    experts: &'a PackedExperts,
    groups: &'a Groups,
    bands: Range<usize>,
    row: F,
    out: Outputs<'a, f32>,
    form: PhantomData<P>,
}

impl<'x, P: Product<X: 'x>, F: Fn(usize) -> &'x [P::X]> Kernel for Down<'_, P, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { experts, groups, .. } = self;
        let hidden = experts.hidden;
        let mut sums = NO_SUMS;
        for (expert, all) in &groups.hit {
            for band in self.bands.clone() {
                let rows = experts.down.band(expert * hidden / BAND + band);
                let bias = &experts.down_bias[expert * hidden + band * BAND..][..BAND];
                for first in all.clone().step_by(TOKENS) {
                    let pairs = first..all.end.min(first + TOKENS);
                    let mut xs: [&[P::X]; TOKENS] = [&[]; TOKENS];
                    pairs.clone().zip(&mut xs).for_each(|(pair, x)| *x = (self.row)(pair));
                    product::band::<S, P>(s, rows, &xs[..pairs.len()], &mut sums);
                    for (pair, sums) in pairs.zip(&sums) {
                        let (token, weight) = (groups.tokens[pair] as usize, groups.weights[pair]);
                        let at = token * hidden + band * BAND;
                        // SAFETY: the pool hands out every band once, so no other thread touches
                        // these rows of any token.
                        let out = unsafe { self.out.slice(at..at + BAND) };
                        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                            *out += weight * (sum + bias);
                        }
                    }
                }
            }
        }
    }
}

/// The gated activation of a band, sixteen gates and their ups, and its biases. Twin:
/// `reference::swiglu`, within 1e-6 relative.
#[inline(always)]
fn swiglu<S: Simd>(s: S, sums: &Sums, bias: &[f32], activation: SwiGlu, out: &mut [f32]) {
    const { assert!(GROUP <= LANES_MAX && LANES_MAX.is_multiple_of(GROUP)) };
    let limit = s.splat(activation.limit);
    for first in (0..GROUP).step_by(S::LANES) {
        let biased = |row: usize| s.add(s.load(&sums[row..]), s.load(&bias[row..]));
        // The value stands second in min and max: that keeps NaN.
        let gate = s.min(limit, biased(first));
        let up = s.max(s.splat(-activation.limit), s.min(limit, biased(GROUP + first)));
        let one = s.splat(1.0);
        let sigmoid = s.add(one, simd::exp(s, s.mul(s.splat(-activation.alpha), gate)));
        s.store(s.mul(s.add(up, one), s.div(gate, sigmoid)), &mut out[first..]);
    }
}
