//! The router and the experts.

use std::cmp::Ordering;

use super::{bf16_to_f32, linear, mxfp4_to_f32};
use crate::weights::{Experts, Routes, SwiGlu};

/// Sends each token to the `top_k` experts with the largest router logits; their weights are the
/// softmax over those alone.
///
/// `logits`: `[T, count]`, from [`linear`]. Among equals the lower index goes first; NaN counts as
/// the largest, as in PyTorch's `topk`, and makes the token's weights NaN, so that it is seen at
/// the end and not lost.
///
/// # Panics
/// If `top_k` is zero or above `count`.
#[must_use]
pub fn route(logits: &[f32], count: usize, top_k: usize) -> Routes {
    assert!((1..=count).contains(&top_k), "top_k {top_k} of {count} experts");
    let mut routes = Routes::new(top_k);
    for logits in logits.chunks_exact(count) {
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| descending(logits[a], logits[b]));
        let chosen = &order[..top_k];
        let max = logits[chosen[0]];
        let weights: Vec<f32> = chosen.iter().map(|&expert| (logits[expert] - max).exp()).collect();
        let total: f32 = weights.iter().sum();
        routes.experts.extend(chosen.iter().map(|&expert| expert as u32));
        routes.weights.extend(weights.iter().map(|weight| weight / total));
    }
    routes
}

/// The order of [`route`]: NaN, then the larger; `0.0` and `-0.0` are equals.
fn descending(a: f32, b: f32) -> Ordering {
    b.is_nan().cmp(&a.is_nan()).then(b.partial_cmp(&a).unwrap_or(Ordering::Equal))
}

/// The gated activation of a row of interleaved gates (even) and ups (odd):
/// `out[i] = (up + 1) * gate / (1 + exp(-alpha * gate))`, with `gate = min(x[2 i], limit)` and
/// `up = clamp(x[2 i + 1], -limit, limit)`. NaN stays NaN.
///
/// `x`: `[2 I]`; out: `[I]`. Source: Shazeer 2020, arXiv:2002.05202, with the clamp and the added
/// one of gpt-oss.
#[must_use]
pub fn swiglu(x: &[f32], activation: SwiGlu) -> Vec<f32> {
    let SwiGlu { alpha, limit } = activation;
    let (pairs, _) = x.as_chunks::<2>();
    let one = |&[gate, up]: &[f32; 2]| {
        let gate = if gate > limit { limit } else { gate };
        let up = up.clamp(-limit, limit);
        (up + 1.0) * (gate / (1.0 + (-alpha * gate).exp()))
    };
    pairs.iter().map(one).collect()
}

/// One expert on one token: `down . swiglu(gate_up . x + gate_up_bias) + down_bias`.
///
/// `x`, out: `[H]`.
#[must_use]
pub fn expert(x: &[f32], experts: &Experts<'_>, expert: usize) -> Vec<f32> {
    let gate_up = mxfp4_to_f32(&experts.gate_up().expert(expert));
    let gate_up_bias = bf16_to_f32(experts.gate_up_bias().row(expert));
    let inner = swiglu(&linear(x, &gate_up, experts.hidden(), Some(&gate_up_bias)), experts.swiglu());
    let down = mxfp4_to_f32(&experts.down().expert(expert));
    let down_bias = bf16_to_f32(experts.down_bias().row(expert));
    linear(&inner, &down, experts.intermediate(), Some(&down_bias))
}

/// The mixture of experts: `out[t] = sum over k of weights[t][k] * expert(experts[t][k])(x[t])`.
///
/// `x`, out: `[T, H]`.
#[must_use]
pub fn experts(x: &[f32], experts: &Experts<'_>, routes: &Routes) -> Vec<f32> {
    let hidden = experts.hidden();
    let mut out = vec![0.0; x.len()];
    for (t, row) in x.chunks_exact(hidden).enumerate() {
        let chosen = t * routes.top_k..(t + 1) * routes.top_k;
        for (&index, weight) in routes.experts[chosen.clone()].iter().zip(&routes.weights[chosen]) {
            let result = expert(row, experts, index as usize);
            for (out, value) in out[t * hidden..][..hidden].iter_mut().zip(result) {
                *out += weight * value;
            }
        }
    }
    out
}
