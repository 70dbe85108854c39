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
//! maximum and sums of its own, and joins those before it in order. So the order of operations for
//! a query follows from its position, the window and the block size, whatever else is computed
//! beside it. What a token does not see is never multiplied with a value, so that stale or broken
//! values in a block cannot leak in as `0 * NaN`.

use std::ops::Range;

use half::f16;

use super::Cpu;
use super::pool::Outputs;
use super::simd::{self, Kernel, LANES_MAX, Simd};
use crate::kv::{KvLayout, KvMemory, KvNumber, KvSlice, Planes, Stored, visible};

/// Tokens of a slice that one piece of work takes; a chunk's keys and values stay in L2 for all of
/// them.
const TOKENS: usize = 16;

/// Positions whose scores are turned into weights at once: enough that this costs little beside the
/// products, few enough that a head's keys of them fit into L1.
const CHUNK: usize = 128;

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
        let pieces: Vec<(&KvSlice<'_>, Range<usize>)> = slices.iter().flat_map(|slice| pieces(slice)).collect();
        let isa = self.isa;
        self.pool.run(pieces.len() * kv_heads, 1, |items| {
            for item in items {
                let (slice, tokens) = pieces[item / kv_heads].clone();
                isa.run(Piece { q, sinks, window, layout, planes, slice, tokens, kv_head: item % kv_heads, out });
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
fn pieces<'a, 'b>(slice: &'a KvSlice<'b>) -> impl Iterator<Item = (&'a KvSlice<'b>, Range<usize>)> {
    let len = slice.rows.len();
    (0..len).step_by(TOKENS).map(move |first| (slice, first..len.min(first + TOKENS)))
}

/// Some tokens of a slice on one KV head.
struct Piece<'a, N> {
    q: &'a [f32],
    sinks: &'a [f32],
    window: Option<usize>,
    layout: &'a KvLayout,
    planes: &'a Planes<N>,
    slice: &'a KvSlice<'a>,
    tokens: Range<usize>,
    kv_head: usize,
    out: Outputs<'a, f32>,
}

/// What a piece keeps while it goes from chunk to chunk; a row is a query: one head of one token.
struct State<'a, N> {
    /// The largest score so far.
    max: Vec<f32>,
    /// The sum of `exp(score - max)` so far.
    total: Vec<f32>,
    /// `[rows, value_stride]`: the sum of `exp(score - max) * value` so far.
    sum: Vec<f32>,
    chunk: Chunk<'a, N>,
}

/// A chunk's part of the KV memory, and what is computed from it.
struct Chunk<'a, N> {
    /// The first position.
    base: usize,
    /// Of each block, the head's keys.
    keys: Vec<&'a [N]>,
    /// Of each block, the head's values.
    values: Vec<&'a [N]>,
    /// Blocks and slots of the vectors of keys that a tile sees.
    vectors: Vec<(usize, usize)>,
    /// `[TILE, blocks * key_stride]`: scores, then their exponentials.
    scores: Vec<f32>,
    /// `[TILE, value_stride]`: the sum of `exp(score - max) * value`.
    sums: Vec<f32>,
}

impl<N: Number> Kernel for Piece<'_, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let layout = self.layout;
        let rows = self.tokens.len() * self.group();
        let blocks = (CHUNK / layout.block_tokens).max(1);
        let mut state = State {
            max: vec![f32::NEG_INFINITY; rows],
            total: vec![0.0; rows],
            sum: vec![0.0; rows * layout.value_stride()],
            chunk: Chunk {
                base: 0,
                keys: Vec::with_capacity(blocks),
                values: Vec::with_capacity(blocks),
                vectors: Vec::new(),
                scores: vec![0.0; TILE * blocks * layout.key_stride()],
                sums: vec![0.0; TILE * layout.value_stride()],
            },
        };
        let first = visible(self.slice.start + self.tokens.start, self.window).start / layout.block_tokens;
        let last = (self.slice.start + self.tokens.end - 1) / layout.block_tokens;
        for chunk in first / blocks..=last / blocks {
            let logical = first.max(chunk * blocks)..(last + 1).min((chunk + 1) * blocks);
            state.chunk.base = logical.start * layout.block_tokens;
            state.chunk.keys.clear();
            state.chunk.values.clear();
            for block in logical.map(|logical| self.slice.block(logical)) {
                state.chunk.keys.push(&self.planes.keys[layout.keys(block, self.kv_head)]);
                state.chunk.values.push(&self.planes.values[layout.values(block, self.kv_head)]);
            }
            let mut row = 0;
            self.tiles::<S, 8>(s, &mut row, &mut state);
            self.tiles::<S, 4>(s, &mut row, &mut state);
            self.tiles::<S, 2>(s, &mut row, &mut state);
            self.tiles::<S, 1>(s, &mut row, &mut state);
        }
        (0..rows).for_each(|row| self.finish(s, row, &state));
    }
}

impl<'a, N: Number> Piece<'a, N> {
    /// Query heads on the KV head.
    #[inline(always)]
    fn group(&self) -> usize {
        self.sinks.len() / self.layout.kv_heads
    }

    /// Where row `row` of the piece begins in `q` and `out`, and its head.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        let head = self.kv_head * self.group() + row % self.group();
        let token = self.slice.rows.start + self.tokens.start + row / self.group();
        ((token * self.sinks.len() + head) * self.layout.head_dim, head)
    }

    /// The positions of the chunk that row `row` sees, counted from the chunk's first.
    #[inline(always)]
    fn seen(&self, row: usize, chunk: &Chunk<'_, N>) -> Range<usize> {
        let position = self.slice.start + self.tokens.start + row / self.group();
        let seen = visible(position, self.window);
        let len = chunk.keys.len() * self.layout.block_tokens;
        let [start, end] = [seen.start, seen.end].map(|at| at.saturating_sub(chunk.base).min(len));
        start..end
    }

    /// Takes tiles of `R` rows as long as there are so many.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(&self, s: S, row: &mut usize, state: &mut State<'a, N>) {
        while R <= S::TILE && *row + R <= state.max.len() {
            self.tile::<S, R>(s, *row, state);
            *row += R;
        }
    }

    /// Adds what `R` rows see in the chunk.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&self, s: S, row: usize, state: &mut State<'a, N>) {
        const { assert!(R <= TILE) };
        let layout = self.layout;
        let chunk = &mut state.chunk;
        let mut seen: [Range<usize>; R] = [const { 0..0 }; R];
        seen.iter_mut().enumerate().for_each(|(r, seen)| *seen = self.seen(row + r, chunk));
        // Rows are ordered by position, so that the first sees the earliest and the last the
        // latest.
        let union = seen[0].start..seen[R - 1].end;
        if union.is_empty() {
            return;
        }
        chunk.find_vectors(layout, union, S::LANES);
        self.score::<S, R>(s, row, chunk);
        let stride = chunk.scores.len() / TILE;
        let mut weights = [(0.0, 0.0); R];
        for (r, (seen, weight)) in seen.iter().zip(&mut weights).enumerate() {
            let scores = &mut chunk.scores[r * stride..][..stride];
            mask(layout, &chunk.vectors, seen, S::LANES, scores);
            let places = chunk.vectors.iter().map(|(block, slot)| block * layout.key_stride() + slot);
            *weight = weigh(s, places, scores);
        }
        // What all see is computed side by side; what only some see, at the chunk's ends, row by
        // row.
        let common = seen[R - 1].start..seen[0].end.max(seen[R - 1].start);
        chunk.sums[..R * layout.value_stride()].fill(0.0);
        for (r, seen) in seen.iter().enumerate() {
            chunk.add_values::<S, 1>(s, layout, r, seen.start..common.start.min(seen.end));
        }
        chunk.add_values::<S, R>(s, layout, 0, common.clone());
        for (r, seen) in seen.iter().enumerate() {
            chunk.add_values::<S, 1>(s, layout, r, common.end.max(seen.start)..seen.end);
        }
        for (r, (seen, weight)) in seen.into_iter().zip(weights).enumerate() {
            if !seen.is_empty() {
                state.join(s, row + r, r, weight);
            }
        }
    }

    /// Computes the scores of `R` rows in the chunk's vectors.
    #[inline(always)]
    fn score<S: Simd, const R: usize>(&self, s: S, row: usize, chunk: &mut Chunk<'_, N>) {
        let head_dim = self.layout.head_dim;
        // Loops and not `from_fn`, whose closure is not always inlined; then vectors would go
        // through memory.
        let mut queries: [&[f32]; R] = [&[]; R];
        for (r, query) in queries.iter_mut().enumerate() {
            *query = &self.q[self.place(row + r).0..][..head_dim];
        }
        let stride = self.layout.key_stride();
        let vectors = std::mem::take(&mut chunk.vectors);
        let mut left = vectors.as_slice();
        // Few rows take more vectors, so that there are sums enough for every multiplier to be
        // busy.
        if R < S::TILE {
            left = chunk.score_vectors::<S, R, 4>(s, left, &queries, stride);
        }
        left = chunk.score_vectors::<S, R, 2>(s, left, &queries, stride);
        chunk.score_vectors::<S, R, 1>(s, left, &queries, stride);
        chunk.vectors = vectors;
    }

    /// Lets the sink join the denominator and stores the row.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, row: usize, state: &State<'_, N>) {
        let layout = self.layout;
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

impl<N> State<'_, N> {
    /// Lets row `r` of the tile, with its maximum and total in the chunk, join row `row` of the
    /// piece.
    #[inline(always)]
    fn join<S: Simd>(&mut self, s: S, row: usize, r: usize, (chunk_max, chunk_total): (f32, f32)) {
        let max = self.max[row].max(chunk_max);
        let (old, new) = (exp_of(s, self.max[row] - max), exp_of(s, chunk_max - max));
        self.max[row] = max;
        self.total[row] = self.total[row] * old + chunk_total * new;
        let width = self.chunk.sums.len() / TILE;
        let (sums, added) = (&mut self.sum[row * width..][..width], &self.chunk.sums[r * width..][..width]);
        for (sum, added) in sums.chunks_exact_mut(S::LANES).zip(added.chunks_exact(S::LANES)) {
            s.store(s.fma(s.load(added), s.splat(new), s.mul(s.load(sum), s.splat(old))), sum);
        }
    }
}

impl<N: Number> Chunk<'_, N> {
    /// Finds the vectors of keys that `seen` touches; those of a block begin at its first slot and
    /// never leave its padded rows.
    #[inline(always)]
    fn find_vectors(&mut self, layout: &KvLayout, seen: Range<usize>, lanes: usize) {
        self.vectors.clear();
        for block in seen.start / layout.block_tokens..=(seen.end - 1) / layout.block_tokens {
            let slots = slots_of(layout, &seen, block);
            let first = slots.start / lanes * lanes;
            self.vectors.extend((first..slots.end).step_by(lanes).map(|slot| (block, slot)));
        }
    }

    /// Scores `B` vectors at once as long as there are so many; those that are left.
    #[inline(always)]
    fn score_vectors<'v, S: Simd, const R: usize, const B: usize>(
        &mut self,
        s: S,
        vectors: &'v [(usize, usize)],
        queries: &[&[f32]; R],
        stride: usize,
    ) -> &'v [(usize, usize)] {
        let head_dim = queries[0].len();
        let scale = s.splat(1.0 / (head_dim as f32).sqrt());
        let row_len = self.scores.len() / TILE;
        let (now, left) = vectors.as_chunks::<B>();
        for places in now {
            let mut keys: [&[N]; B] = [&[]; B];
            for (keys, (block, slot)) in keys.iter_mut().zip(places) {
                *keys = &self.keys[*block][*slot..];
            }
            let mut products = [[s.splat(0.0); R]; B];
            for dim in 0..head_dim {
                let mut key = [s.splat(0.0); B];
                for (key, keys) in key.iter_mut().zip(&keys) {
                    *key = N::load(s, &keys[dim * stride..]);
                }
                for r in 0..R {
                    let query = s.splat(queries[r][dim]);
                    for b in 0..B {
                        products[b][r] = s.fma(query, key[b], products[b][r]);
                    }
                }
            }
            for (products, (block, slot)) in products.into_iter().zip(places) {
                for (r, product) in products.into_iter().enumerate() {
                    s.store(s.mul(product, scale), &mut self.scores[r * row_len + block * stride + slot..]);
                }
            }
        }
        left
    }

    /// Adds the weighted values of the positions `seen` to the sums of the tile's rows `first ..
    /// first + R`.
    #[inline(always)]
    fn add_values<S: Simd, const R: usize>(&mut self, s: S, layout: &KvLayout, first: usize, seen: Range<usize>) {
        if seen.is_empty() {
            return;
        }
        let mut dim = 0;
        // Few rows take more dimensions at once.
        if R < S::TILE {
            dim = self.add_dims::<S, R, 4>(s, layout, first, &seen, dim);
        }
        dim = self.add_dims::<S, R, 2>(s, layout, first, &seen, dim);
        self.add_dims::<S, R, 1>(s, layout, first, &seen, dim);
    }

    /// The same for the dimensions from `dim` on, `D` vectors at once as long as there are so many;
    /// the first that is left.
    #[inline(always)]
    fn add_dims<S: Simd, const R: usize, const D: usize>(
        &mut self,
        s: S,
        layout: &KvLayout,
        first: usize,
        seen: &Range<usize>,
        mut dim: usize,
    ) -> usize {
        let (width, key_stride) = (layout.value_stride(), layout.key_stride());
        let row_len = self.scores.len() / TILE;
        while dim + D * S::LANES <= width {
            let mut sums = [[s.splat(0.0); D]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (d, sum) in sums.iter_mut().enumerate() {
                    *sum = s.load(&self.sums[(first + r) * width + dim + d * S::LANES..]);
                }
            }
            for block in seen.start / layout.block_tokens..=(seen.end - 1) / layout.block_tokens {
                for slot in slots_of(layout, seen, block) {
                    let mut value = [s.splat(0.0); D];
                    for (d, value) in value.iter_mut().enumerate() {
                        *value = N::load(s, &self.values[block][slot * width + dim + d * S::LANES..]);
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let weight = s.splat(self.scores[(first + r) * row_len + block * key_stride + slot]);
                        for (sum, value) in sums.iter_mut().zip(value) {
                            *sum = s.fma(weight, value, *sum);
                        }
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (d, sum) in sums.into_iter().enumerate() {
                    s.store(sum, &mut self.sums[(first + r) * width + dim + d * S::LANES..]);
                }
            }
            dim += D * S::LANES;
        }
        dim
    }
}

/// The slots of the chunk's block `block` among the positions `seen`.
#[inline(always)]
fn slots_of(layout: &KvLayout, seen: &Range<usize>, block: usize) -> Range<usize> {
    let base = block * layout.block_tokens;
    let [start, end] = [seen.start, seen.end].map(|at| at.saturating_sub(base).min(layout.block_tokens));
    start..end
}

/// Hides the scores of what is not seen.
#[inline(always)]
fn mask(layout: &KvLayout, vectors: &[(usize, usize)], seen: &Range<usize>, lanes: usize, scores: &mut [f32]) {
    for &(block, slot) in vectors {
        let slots = slots_of(layout, seen, block);
        let scores = &mut scores[block * layout.key_stride() + slot..][..lanes];
        let [start, end] = [slots.start, slots.end].map(|at| at.saturating_sub(slot).min(lanes));
        scores[..start].fill(f32::NEG_INFINITY);
        scores[end.max(start)..].fill(f32::NEG_INFINITY);
    }
}

/// Turns scores into exponentials relative to the largest of them; the largest, and the sum of the
/// exponentials.
#[inline(always)]
fn weigh<S: Simd>(s: S, places: impl Iterator<Item = usize> + Clone, scores: &mut [f32]) -> (f32, f32) {
    let mut largest = s.splat(f32::NEG_INFINITY);
    for place in places.clone() {
        largest = s.max(s.load(&scores[place..]), largest);
    }
    let mut lanes = [f32::NEG_INFINITY; LANES_MAX];
    s.store(largest, &mut lanes);
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut total = s.splat(0.0);
    for place in places {
        let weight = simd::exp(s, s.sub(s.load(&scores[place..]), s.splat(max)));
        total = s.add(total, weight);
        s.store(weight, &mut scores[place..]);
    }
    (max, s.sum(total))
}

/// `e^x` of one number, by the vector's code.
#[inline(always)]
fn exp_of<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; LANES_MAX];
    s.store(simd::exp(s, s.splat(x)), &mut lanes);
    lanes[0]
}
