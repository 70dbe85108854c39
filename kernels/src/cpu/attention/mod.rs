//! Paged attention with sinks, grouped queries and a window.
//!
//! What: `p[j] = exp(s[j]) / (exp(sink) + sum over j of exp(s[j]))`, `s[j] = q . k[j] /
//! sqrt(head_dim)`, `out = sum over j of p[j] v[j]`, where `j` runs over the positions that the
//! token sees. Shapes: `q`, `out` `[T, heads * head_dim]`, `sinks [heads]`, keys and values as
//! `KvLayout` says. Source: one pass with a running maximum, Milakov & Gimelshein 2018,
//! arXiv:1805.02867, and Dao et al. 2022, arXiv:2205.14135; the sink joins the denominator last.
//! Twin: `reference::attention`, within 1e-5 of the largest value.
//! Cost: `8 head_dim` bytes for each KV head and position seen (`4 head_dim` in f16), shared by the
//! query heads of a group and by up to [`TOKENS`] tokens; `4 head_dim` operations for each query
//! head and position. Measured figures are in `kernels/README.md`.
//!
//! Keys are taken by chunks of [`CHUNK`] positions, which begin at multiples of it. A chunk has a
//! maximum and sums of its own, and joins those before it in order. Without a window
//! [`SPAN_CHUNKS`] chunks make a span, which joins those before it in order too, so that a long
//! context can be computed by many threads. So the order of operations for a query follows from its
//! position, the window and the block size, whatever else is computed beside it. What a token does
//! not see is never multiplied with a value, so that stale or broken values in a block cannot leak
//! in as `0 * NaN`.

use std::ops::Range;

use half::f16;

use super::Cpu;
use super::pool::Outputs;
use super::simd::Simd;
use crate::kv::{KvLayout, KvMemory, KvNumber, KvSlice, Planes, Stored};

mod chunk;
mod piece;
mod store;
mod sums;

use piece::{Joined, Part, Piece};
use sums::Sums;

/// Tokens of a slice that one piece of work takes; a chunk's keys and values stay in L2 for all of
/// them.
const TOKENS: usize = 16;

/// Positions whose scores are turned into weights at once: enough that this costs little beside the
/// products, few enough that a head's keys of them fit into L1.
const CHUNK: usize = 128;

/// Chunks of a span: 2,048 positions, which one thread reads in some 50 us. What is added for each
/// span is a hundredth of that.
const SPAN_CHUNKS: usize = 16;

/// Pieces of work that each thread should have; where there are fewer, spans are computed apart.
const PIECES_EACH: usize = 8;

/// Query rows that are computed side by side, where there are registers for their sums.
const TILE: usize = 8;

impl Cpu {
    /// Attention over paged keys and values with sinks.
    ///
    /// `q`, `out`: `[T, heads * head_dim]`; `sinks`: `[heads]`; query head `h` reads KV head `h /
    /// (heads / kv_heads)`. The keys and values of the slices' own tokens are stored already
    /// ([`KvMemory::store`]). Rows that no slice names become zero.
    /// Twin: [`reference::attention`](crate::reference::attention), within 1e-5 of the largest
    /// value.
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
        match memory.stored() {
            Stored::F32(planes) => self.attend(q, sinks, window, (layout, planes), slices, out),
            Stored::F16(planes) => self.attend(q, sinks, window, (layout, planes), slices, out),
        }
    }

    /// The same for keys and values in one kind of number.
    fn attend<N: Number>(
        &mut self,
        q: &[f32],
        sinks: &[f32],
        window: Option<usize>,
        (layout, planes): (&KvLayout, &Planes<N>),
        slices: &[KvSlice<'_>],
        out: Outputs<'_, f32>,
    ) {
        let kv_heads = layout.kv_heads;
        let runs: Vec<(&KvSlice<'_>, Range<usize>)> = slices.iter().flat_map(|slice| runs(slice)).collect();
        let isa = self.isa;
        let piece = |number: usize| {
            let (slice, tokens) = runs[number / kv_heads].clone();
            Piece { q, sinks, window, layout, planes, slice, tokens, kv_head: number % kv_heads, out }
        };
        let pieces = runs.len() * kv_heads;
        let compute = |number: usize, span: usize, into: &mut Sums| isa.run(Part { piece: piece(number), span, into });
        let join = |number: usize, parts: &mut [Sums]| isa.run(Joined { piece: piece(number), parts });
        // The spans of all pieces, and where those of each piece begin.
        let few = self.threads() > 1 && pieces < PIECES_EACH * self.threads();
        let (mut spans, mut firsts): (Vec<(usize, usize)>, Vec<usize>) = (Vec::new(), Vec::new());
        for number in 0..if few { pieces } else { 0 } {
            firsts.push(spans.len());
            spans.extend((0..piece(number).spans()).map(|span| (number, span)));
        }
        if spans.len() <= firsts.len() {
            return self.pool.run(pieces, 1, |items| {
                for number in items {
                    let mut parts: Vec<Sums> = (0..piece(number).spans()).map(|_| Sums::default()).collect();
                    parts.iter_mut().enumerate().for_each(|(span, into)| compute(number, span, into));
                    join(number, &mut parts);
                }
            });
        }
        let mut parts: Vec<Sums> = spans.iter().map(|_| Sums::default()).collect();
        let places = Outputs::new(&mut parts);
        self.pool.run(spans.len(), 1, |items| {
            for item in items {
                let (number, span) = spans[item];
                // SAFETY: the pool hands out every item once.
                let into = unsafe { &mut places.slice(item..item + 1)[0] };
                compute(number, span, into);
            }
        });
        self.pool.run(pieces, 1, |items| {
            for number in items {
                let end = firsts.get(number + 1).copied().unwrap_or(spans.len());
                // SAFETY: a piece has its own spans, and the pool hands out every piece once.
                join(number, unsafe { places.slice(firsts[number]..end) });
            }
        });
    }
}

/// A kind of number that keys and values are kept in.
trait Number: KvNumber + Send + Sync {
    /// The first vector of `from`, exactly.
    fn load<S: Simd>(s: S, from: &[Self]) -> S::V;
}

impl Number for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self]) -> S::V {
        s.load(from)
    }
}

impl Number for f16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self]) -> S::V {
        s.load_half(from)
    }
}

/// A slice and each run of at most [`TOKENS`] of its tokens, counted from the slice's start.
fn runs<'a, 'b>(slice: &'a KvSlice<'b>) -> impl Iterator<Item = (&'a KvSlice<'b>, Range<usize>)> {
    let len = slice.rows.len();
    (0..len).step_by(TOKENS).map(move |first| (slice, first..len.min(first + TOKENS)))
}
