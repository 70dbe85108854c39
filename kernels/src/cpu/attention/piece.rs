//! Some tokens of a slice on one KV head, and what is computed of them at once.

use std::ops::Range;

use super::chunk::{Chunk, mask, weigh};
use super::sums::{Sums, exp_of};
use super::{CHUNK, Number, SPAN_CHUNKS, TILE};
use crate::cpu::pool::Outputs;
use crate::cpu::simd::{Kernel, Simd};
use crate::kv::{KvLayout, KvSlice, Planes, visible};

/// Some tokens of a slice on one KV head.
pub(super) struct Piece<'a, N> {
    pub(super) q: &'a [f32],
    pub(super) sinks: &'a [f32],
    pub(super) window: Option<usize>,
    pub(super) layout: &'a KvLayout,
    pub(super) planes: &'a Planes<N>,
    pub(super) slice: &'a KvSlice<'a>,
    pub(super) tokens: Range<usize>,
    pub(super) kv_head: usize,
    pub(super) out: Outputs<'a, f32>,
}

/// One span of a piece.
pub(super) struct Part<'a, N> {
    pub(super) piece: Piece<'a, N>,
    pub(super) span: usize,
    pub(super) into: &'a mut Sums,
}

impl<N: Number> Kernel for Part<'_, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        *self.into = self.piece.span(s, self.span);
    }
}

/// The end of a piece, whose spans were computed one after the other or by several threads.
pub(super) struct Joined<'a, N> {
    pub(super) piece: Piece<'a, N>,
    pub(super) parts: &'a mut [Sums],
}

impl<N: Number> Kernel for Joined<'_, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (sums, later) = self.parts.split_first_mut().expect("a piece has a span");
        later.iter().for_each(|span| sums.join_span(s, span));
        self.piece.finish_all(s, sums);
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

    /// Blocks of a chunk.
    #[inline(always)]
    fn chunk_blocks(&self) -> usize {
        (CHUNK / self.layout.block_tokens).max(1)
    }

    /// The blocks that the tokens see, by their logical index.
    #[inline(always)]
    fn blocks(&self) -> Range<usize> {
        let [first, last] = [self.tokens.start, self.tokens.end - 1].map(|token| self.slice.start + token);
        visible(first, self.window).start / self.layout.block_tokens..last / self.layout.block_tokens + 1
    }

    /// The chunks of the blocks.
    #[inline(always)]
    fn chunks(&self) -> Range<usize> {
        let (blocks, each) = (self.blocks(), self.chunk_blocks());
        blocks.start / each..(blocks.end - 1) / each + 1
    }

    /// Into how many spans the chunks fall. A window is one.
    #[inline(always)]
    pub(super) fn spans(&self) -> usize {
        if self.window.is_some() { 1 } else { self.chunks().len().div_ceil(SPAN_CHUNKS) }
    }

    /// The head's keys and values in the blocks of chunk `chunk`, of those that the tokens see.
    #[inline(always)]
    fn read(&self, chunk: usize, keys: &mut Vec<&'a [N]>, values: &mut Vec<&'a [N]>) -> usize {
        let (all, each) = (self.blocks(), self.chunk_blocks());
        let blocks = all.start.max(chunk * each)..all.end.min((chunk + 1) * each);
        let first = blocks.start;
        keys.clear();
        values.clear();
        for block in blocks.map(|logical| self.slice.block(logical)) {
            keys.push(&self.planes.keys[self.layout.keys(block, self.kv_head)]);
            values.push(&self.planes.values[self.layout.values(block, self.kv_head)]);
        }
        first
    }

    /// What the tokens see in span `span`.
    #[inline(always)]
    fn span<S: Simd>(&self, s: S, span: usize) -> Sums {
        let mut sums = Sums::new(self.tokens.len() * self.group(), self.layout.value_stride());
        let mut chunk = Chunk::new(self.layout, self.chunk_blocks());
        let all = self.chunks();
        let chunks = if self.window.is_some() { all } else { span * SPAN_CHUNKS..all.end.min((span + 1) * SPAN_CHUNKS) };
        for number in chunks.clone() {
            chunk.base = self.read(number, &mut chunk.keys, &mut chunk.values) * self.layout.block_tokens;
            if number + 1 < chunks.end {
                self.read(number + 1, &mut chunk.next_keys, &mut chunk.next_values);
            }
            let mut row = 0;
            self.tiles::<S, 8>(s, &mut row, (&mut sums, &mut chunk));
            self.tiles::<S, 4>(s, &mut row, (&mut sums, &mut chunk));
            self.tiles::<S, 2>(s, &mut row, (&mut sums, &mut chunk));
            self.tiles::<S, 1>(s, &mut row, (&mut sums, &mut chunk));
        }
        sums
    }

    /// Stores all rows.
    #[inline(always)]
    fn finish_all<S: Simd>(&self, s: S, sums: &Sums) {
        (0..sums.max.len()).for_each(|row| self.finish(s, row, sums));
    }

    /// Takes tiles of `R` rows as long as there are so many.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(&self, s: S, row: &mut usize, (sums, chunk): (&mut Sums, &mut Chunk<'a, N>)) {
        while R <= S::TILE && *row + R <= sums.max.len() {
            self.tile::<S, R>(s, *row, (sums, chunk));
            // The first tile has brought the next chunk near.
            chunk.next_keys.clear();
            chunk.next_values.clear();
            *row += R;
        }
    }

    /// Adds what `R` rows see in the chunk.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&self, s: S, row: usize, (sums, chunk): (&mut Sums, &mut Chunk<'a, N>)) {
        const { assert!(R <= TILE) };
        let layout = self.layout;
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
                let width = layout.value_stride();
                sums.join(s, row + r, (weight.0, weight.1, &chunk.sums[r * width..][..width]));
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
    fn finish<S: Simd>(&self, s: S, row: usize, sums: &Sums) {
        let layout = self.layout;
        let (place, head) = self.place(row);
        let sink = self.sinks[head];
        let (seen_max, total, sum) = sums.row(row);
        let max = seen_max.max(sink);
        let shrink = exp_of(s, seen_max - max);
        let factor = shrink / (total * shrink + exp_of(s, sink - max));
        // SAFETY: a piece has its own tokens and heads, and the pool hands out every piece once.
        let out = unsafe { self.out.slice(place..place + layout.head_dim) };
        out.iter_mut().zip(sum).for_each(|(out, value)| *out = value * factor);
    }
}
