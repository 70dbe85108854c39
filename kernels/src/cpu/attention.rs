//! Paged attention with sinks, grouped queries and a window.
//!
//! What: `p[j] = exp(s[j]) / (exp(sink) + sum over j of exp(s[j]))`, `s[j] = q . k[j] / sqrt(head_dim)`,
//! `out = sum over j of p[j] v[j]`, where `j` runs over the positions that the token sees.
//! Shapes: `q`, `out` `[T, heads * head_dim]`, `sinks [heads]`, keys and values as `KvLayout` says.
//! Source: one pass with a running maximum, Milakov & Gimelshein 2018, arXiv:1805.02867, and Dao et al. 2022,
//! arXiv:2205.14135; the sink joins the denominator last.
//! Twin: `reference::attention`, within 1e-5 of the largest value.
//! Cost: `8 head_dim` bytes for each KV head and position seen, shared by the query heads of a group and by up to
//! [`TOKENS`] tokens; `4 head_dim` operations for each query head and position. Measured figures are in `kernels/README.md`.
//!
//! The running maximum moves from KV block to KV block, so the order of operations for a query follows from its position,
//! the window and the block size. What a token does not see is never multiplied, so that stale or broken values in a block
//! cannot leak in as `0 * NaN`.

use std::ops::Range;

use super::Cpu;
use super::pool::Outputs;
use super::simd::{self, Kernel, LANES_MAX, Simd};
use crate::kv::{KvMemory, KvSlice, visible};

/// Tokens of a slice that one piece of work takes; a block's keys and values stay in L1 for all of them.
const TOKENS: usize = 8;

/// Query heads that are computed side by side.
const TILE: usize = 8;

impl Cpu {
    /// Attention over paged keys and values with sinks.
    ///
    /// `q`, `out`: `[T, heads * head_dim]`; `sinks`: `[heads]`; query head `h` reads KV head `h / (heads / kv_heads)`. The keys
    /// and values of the slices' own tokens are stored already ([`KvMemory::store`]). Rows that no slice names become zero.
    /// Twin: [`reference::attention`](crate::reference::attention), within 1e-5 of the largest value.
    ///
    /// # Panics
    /// If lengths do not fit, or a block table does not cover what a token sees.
    pub fn attention(
        &mut self,
        q: &[f32],
        sinks: &[f32],
        window: Option<usize>,
        memory: &KvMemory,
        slices: &[KvSlice<'_>],
        out: &mut [f32],
    ) {
        let layout = memory.layout();
        let (heads, kv_heads) = (sinks.len(), layout.kv_heads);
        assert!(heads.is_multiple_of(kv_heads), "{heads} query heads on {kv_heads} KV heads");
        assert_eq!(q.len(), out.len(), "as many outputs as queries");
        let rows = q.len() / (heads * layout.head_dim);
        let named = slices.iter().all(|slice| slice.rows.end <= rows);
        assert!(named, "a slice names a row that is not among the {rows} of the step");
        out.fill(0.0);
        let out = Outputs::new(out);
        let pieces: Vec<(&KvSlice<'_>, Range<usize>)> = slices.iter().flat_map(|slice| pieces(slice)).collect();
        let isa = self.isa;
        self.pool.run(pieces.len() * kv_heads, 1, |items| {
            for item in items {
                let (slice, tokens) = pieces[item / kv_heads].clone();
                isa.run(Piece { q, sinks, window, memory, slice, tokens, kv_head: item % kv_heads, out });
            }
        });
    }
}

/// A slice and each run of at most [`TOKENS`] of its tokens, counted from the slice's start.
fn pieces<'a, 'b>(slice: &'a KvSlice<'b>) -> impl Iterator<Item = (&'a KvSlice<'b>, Range<usize>)> {
    let len = slice.rows.len();
    (0..len).step_by(TOKENS).map(move |first| (slice, first..len.min(first + TOKENS)))
}

/// Some tokens of a slice on one KV head.
struct Piece<'a> {
    q: &'a [f32],
    sinks: &'a [f32],
    window: Option<usize>,
    memory: &'a KvMemory,
    slice: &'a KvSlice<'a>,
    tokens: Range<usize>,
    kv_head: usize,
    out: Outputs<'a, f32>,
}

/// What a piece keeps while it goes from block to block; a row is a query: one head of one token.
struct State {
    /// The largest score so far.
    max: Vec<f32>,
    /// The sum of `exp(score - max)` so far.
    total: Vec<f32>,
    /// `[rows, value_stride]`: the sum of `exp(score - max) * value` so far.
    sum: Vec<f32>,
    /// `[TILE, key_stride]`: a block's scores, then their exponentials.
    scores: Vec<f32>,
}

impl Kernel for Piece<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let layout = self.memory.layout();
        let group = self.sinks.len() / layout.kv_heads;
        let rows = self.tokens.len() * group;
        let mut state = State {
            max: vec![f32::NEG_INFINITY; rows],
            total: vec![0.0; rows],
            sum: vec![0.0; rows * layout.value_stride()],
            scores: vec![0.0; TILE * layout.key_stride()],
        };
        let first = visible(self.slice.start + self.tokens.start, self.window).start / layout.block_tokens;
        let last = (self.slice.start + self.tokens.end - 1) / layout.block_tokens;
        for logical in first..=last {
            let block = self.slice.block(logical);
            let base = logical * layout.block_tokens;
            for (index, token) in self.tokens.clone().enumerate() {
                let seen = visible(self.slice.start + token, self.window);
                let slots = seen.start.max(base)..seen.end.min(base + layout.block_tokens);
                if slots.is_empty() {
                    continue;
                }
                let slots = slots.start - base..slots.end - base;
                let mut head = 0;
                while head + TILE <= group {
                    self.attend::<S, TILE>(s, block, slots.clone(), index * group + head, &mut state);
                    head += TILE;
                }
                while head < group {
                    self.attend::<S, 1>(s, block, slots.clone(), index * group + head, &mut state);
                    head += 1;
                }
            }
        }
        (0..rows).for_each(|row| self.finish(s, row, &state));
    }
}

impl Piece<'_> {
    /// Where row `row` of the piece begins in `q` and `out`, and its head.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        let heads = self.sinks.len();
        let group = heads / self.memory.layout().kv_heads;
        let head = self.kv_head * group + row % group;
        let token = self.slice.rows.start + self.tokens.start + row / group;
        ((token * heads + head) * self.memory.layout().head_dim, head)
    }

    /// Adds what `R` rows of one token see in a block, the slots `slots`.
    #[inline(always)]
    fn attend<S: Simd, const R: usize>(&self, s: S, block: u32, slots: Range<usize>, row: usize, state: &mut State) {
        let layout = self.memory.layout();
        let (head_dim, key_stride, value_stride) = (layout.head_dim, layout.key_stride(), layout.value_stride());
        let keys = &self.memory.keys()[layout.keys(block, self.kv_head)];
        let values = &self.memory.values()[layout.values(block, self.kv_head)];
        // Loops and not `from_fn`, whose closure is not always inlined; then vectors would go through memory.
        let mut queries: [&[f32]; R] = [&[]; R];
        for (r, query) in queries.iter_mut().enumerate() {
            *query = &self.q[self.place(row + r).0..][..head_dim];
        }
        let scores = &mut state.scores[..R * key_stride];
        let scale = s.splat(1.0 / (head_dim as f32).sqrt());
        // Whole vectors of slots; those that are not seen are masked below, and never beyond the padded row.
        let vectors = slots.start / S::LANES * S::LANES..slots.end.next_multiple_of(S::LANES);
        for slot in vectors.clone().step_by(S::LANES) {
            let mut products = [s.splat(0.0); R];
            for dim in 0..head_dim {
                let key = s.load(&keys[dim * key_stride + slot..]);
                for r in 0..R {
                    products[r] = s.fma(s.splat(queries[r][dim]), key, products[r]);
                }
            }
            for r in 0..R {
                s.store(s.mul(products[r], scale), &mut scores[r * key_stride + slot..]);
            }
        }
        for r in 0..R {
            let scores = &mut scores[r * key_stride..][..key_stride];
            scores[vectors.start..slots.start].fill(f32::NEG_INFINITY);
            scores[slots.end..vectors.end].fill(f32::NEG_INFINITY);
            let sum = &mut state.sum[(row + r) * value_stride..][..value_stride];
            weigh(s, &mut scores[vectors.clone()], &mut state.max[row + r], &mut state.total[row + r], sum);
        }
        for dim in (0..value_stride).step_by(S::LANES) {
            let mut sums = [s.splat(0.0); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = s.load(&state.sum[(row + r) * value_stride + dim..]);
            }
            for slot in slots.clone() {
                let value = s.load(&values[slot * value_stride + dim..]);
                for r in 0..R {
                    sums[r] = s.fma(s.splat(scores[r * key_stride + slot]), value, sums[r]);
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                s.store(sums, &mut state.sum[(row + r) * value_stride + dim..]);
            }
        }
    }

    /// Lets the sink join the denominator and stores the row.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, row: usize, state: &State) {
        let layout = self.memory.layout();
        let (place, head) = self.place(row);
        let sink = self.sinks[head];
        let max = state.max[row].max(sink);
        let shrink = exp_of(s, state.max[row] - max);
        let factor = shrink / (state.total[row] * shrink + exp_of(s, sink - max));
        let sum = &state.sum[row * layout.value_stride()..][..layout.head_dim];
        // SAFETY: a piece has its own tokens and heads, and the pool hands out every piece once.
        let out = unsafe { self.out.slice(place..place + layout.head_dim) };
        out.iter_mut().zip(sum).for_each(|(out, value)| *out = value * factor);
    }
}

/// Turns a block's scores into exponentials relative to the largest score so far, and brings what was added up before to
/// that maximum.
#[inline(always)]
fn weigh<S: Simd>(s: S, scores: &mut [f32], max: &mut f32, total: &mut f32, sum: &mut [f32]) {
    let mut largest = s.splat(*max);
    for scores in scores.chunks_exact(S::LANES) {
        largest = s.max(s.load(scores), largest);
    }
    let mut lanes = [f32::NEG_INFINITY; LANES_MAX];
    s.store(largest, &mut lanes);
    let new_max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if new_max != *max {
        let shrink = exp_of(s, *max - new_max);
        *total *= shrink;
        for sum in sum.chunks_exact_mut(S::LANES) {
            s.store(s.mul(s.load(sum), s.splat(shrink)), sum);
        }
        *max = new_max;
    }
    let mut added = s.splat(0.0);
    for scores in scores.chunks_exact_mut(S::LANES) {
        let weight = simd::exp(s, s.sub(s.load(scores), s.splat(new_max)));
        added = s.add(added, weight);
        s.store(weight, scores);
    }
    *total += s.sum(added);
}

/// `e^x` of one number, by the vector's code.
#[inline(always)]
fn exp_of<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; LANES_MAX];
    s.store(simd::exp(s, s.splat(x)), &mut lanes);
    lanes[0]
}
