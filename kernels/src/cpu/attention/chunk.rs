//! A chunk of positions: its scores, and its weighted values.
//!
//! Keys and values of the next chunk are prefetched meanwhile: a head's part of a block is 2 KiB
//! long, which is too short for what the processor prefetches by itself.

use std::ops::Range;

use super::{Number, TILE};
use crate::cpu::simd::{self, LANES_MAX, Simd};
use crate::kv::KvLayout;

/// A chunk's part of the KV memory, and what is computed from it.
pub(super) struct Chunk<'a, N> {
    /// The first position.
    pub(super) base: usize,
    /// Of each block, the head's keys.
    pub(super) keys: Vec<&'a [N]>,
    /// Of each block, the head's values.
    pub(super) values: Vec<&'a [N]>,
    /// The same of the chunk that comes next, as long as it is to be brought near.
    pub(super) next_keys: Vec<&'a [N]>,
    pub(super) next_values: Vec<&'a [N]>,
    /// Blocks and slots of the vectors of keys that a tile sees.
    pub(super) vectors: Vec<(usize, usize)>,
    /// `[TILE, blocks * key_stride]`: scores, then their exponentials.
    pub(super) scores: Vec<f32>,
    /// `[TILE, value_stride]`: the sum of `exp(score - max) * value`.
    pub(super) sums: Vec<f32>,
}

impl<'a, N: Number> Chunk<'a, N> {
    /// Room for chunks of `blocks` blocks.
    pub(super) fn new(layout: &KvLayout, blocks: usize) -> Self {
        let places = || Vec::with_capacity(blocks);
        Self {
            base: 0,
            keys: places(),
            values: places(),
            next_keys: places(),
            next_values: places(),
            vectors: Vec::new(),
            scores: vec![0.0; TILE * blocks * layout.key_stride()],
            sums: vec![0.0; TILE * layout.value_stride()],
        }
    }

    /// Finds the vectors of keys that `seen` touches; those of a block begin at its first slot and
    /// never leave its padded rows.
    #[inline(always)]
    pub(super) fn find_vectors(&mut self, layout: &KvLayout, seen: Range<usize>, lanes: usize) {
        self.vectors.clear();
        for block in seen.start / layout.block_tokens..=(seen.end - 1) / layout.block_tokens {
            let slots = slots_of(layout, &seen, block);
            let first = slots.start / lanes * lanes;
            self.vectors.extend((first..slots.end).step_by(lanes).map(|slot| (block, slot)));
        }
    }

    /// Scores `B` vectors at once as long as there are so many; those that are left.
    #[inline(always)]
    pub(super) fn score_vectors<'v, S: Simd, const R: usize, const B: usize>(
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
        let nears = !self.next_keys.is_empty();
        for places in now {
            let mut keys: [&[N]; B] = [&[]; B];
            let mut next: [&[N]; B] = [&[]; B];
            for ((keys, next), (block, slot)) in keys.iter_mut().zip(&mut next).zip(places) {
                *keys = &self.keys[*block][*slot..];
                *next = self.next_keys.get(*block).map_or(*keys, |next| &next[*slot..]);
            }
            let mut products = [[s.splat(0.0); R]; B];
            for dim in 0..head_dim {
                let mut key = [s.splat(0.0); B];
                for (key, keys) in key.iter_mut().zip(&keys) {
                    *key = N::load(s, &keys[dim * stride..]);
                }
                if nears {
                    next.iter().for_each(|next| s.prefetch(next.as_ptr().wrapping_add(dim * stride)));
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
    pub(super) fn add_values<S: Simd, const R: usize>(&mut self, s: S, layout: &KvLayout, first: usize, seen: Range<usize>) {
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
                let next = self.next_values.get(block);
                for slot in slots_of(layout, seen, block) {
                    if let Some(next) = next {
                        s.prefetch(next.as_ptr().wrapping_add(slot * width + dim));
                    }
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
pub(super) fn mask(layout: &KvLayout, vectors: &[(usize, usize)], seen: &Range<usize>, lanes: usize, scores: &mut [f32]) {
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
pub(super) fn weigh<S: Simd>(s: S, places: impl Iterator<Item = usize> + Clone, scores: &mut [f32]) -> (f32, f32) {
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
