//! Rotary embedding and paged attention.

use crate::kv::{KvMemory, KvSlice, visible};
use crate::rope::Angles;

/// Turns the two halves of each head by the token's angles, in place:
/// `first[i], second[i] = first[i] cos[i] - second[i] sin[i], second[i] cos[i] + first[i] sin[i]`.
///
/// `x`: `[T, heads * head_dim]`, `first` the first half of a head, `second` the other; cos, sin:
/// `[T, head_dim / 2]`. Source: Su et al. 2021, arXiv:2104.09864, eq. 34, with the halves layout of
/// GPT-NeoX.
pub fn rotary(x: &mut [f32], heads: usize, head_dim: usize, angles: &Angles) {
    let half = head_dim / 2;
    for (t, token) in x.chunks_exact_mut(heads * head_dim).enumerate() {
        let cos = &angles.cos[t * half..][..half];
        let sin = &angles.sin[t * half..][..half];
        for head in token.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (first, second) = (head[i], head[half + i]);
                head[i] = first * cos[i] - second * sin[i];
                head[half + i] = second * cos[i] + first * sin[i];
            }
        }
    }
}

/// Attention over paged keys and values, with a learned sink in the softmax's denominator:
/// `p[j] = exp(s[j]) / (exp(sink) + sum over j of exp(s[j]))`, `s[j] = q . k[j] / sqrt(head_dim)`,
/// `out = sum over j of p[j] v[j]`, where `j` runs over the positions that the query's token sees.
///
/// `q`, out: `[T, heads * head_dim]`; `sinks`: `[heads]`; query head `h` reads KV head `h / (heads
/// / kv_heads)`. The keys and values of the slices' own tokens are stored already. Rows that no
/// slice names stay zero. Source: Xiao et al. 2023, arXiv:2309.17453 (sinks), Ainslie et al. 2023,
/// arXiv:2305.13245 (GQA); the gpt-oss model card.
#[must_use]
pub fn attention(q: &[f32], sinks: &[f32], window: Option<usize>, memory: &KvMemory, slices: &[KvSlice<'_>]) -> Vec<f32> {
    let layout = memory.layout();
    let (heads, head_dim) = (sinks.len(), layout.head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut out = vec![0.0; q.len()];
    for slice in slices {
        for (row, position) in slice.rows.clone().zip(slice.start..) {
            for (head, &sink) in sinks.iter().enumerate() {
                let kv_head = head / (heads / layout.kv_heads);
                let at = (row * heads + head) * head_dim;
                let query = &q[at..][..head_dim];
                let places: Vec<_> = visible(position, window).map(|seen| slice.locate(seen, layout.block_tokens)).collect();
                let scores = places.iter().map(|&(block, slot)| {
                    query.iter().zip(memory.key(block, kv_head, slot)).map(|(query, key)| query * key).sum::<f32>() * scale
                });
                let scores: Vec<f32> = scores.collect();
                let max = scores.iter().copied().fold(sink, f32::max);
                let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
                let total = weights.iter().sum::<f32>() + (sink - max).exp();
                for (&(block, slot), weight) in places.iter().zip(&weights) {
                    for (out, value) in out[at..].iter_mut().zip(memory.value(block, kv_head, slot)) {
                        *out += weight / total * value;
                    }
                }
            }
        }
    }
    out
}
