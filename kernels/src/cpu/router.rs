//! The router's choice, and which tokens each expert gets.
//!
//! What: the largest `top_k` of `W x + b`, and the softmax over those alone.
//! Shapes: `x [T, H]`, `W [E, H]`, routes `[T, top_k]`.
//! Source: the gpt-oss model card; Shazeer et al. 2017, arXiv:1701.06538.
//! Twin: `reference::route` after `reference::linear`, equal for equal logits.
//! Cost: as a linear map of `E` rows.

use std::ops::Range;

use super::Cpu;
use super::packed::Packed;
use crate::weights::Routes;

/// Pairs of a token and one of its experts, sorted by expert.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// The token of each pair.
    pub(super) tokens: Vec<u32>,
    /// The weight of each pair.
    pub(super) weights: Vec<f32>,
    /// The experts that are hit, with their pairs.
    pub(super) hit: Vec<(usize, Range<usize>)>,
}

impl Groups {
    /// Sorts the routes.
    pub(super) fn fill(&mut self, routes: &Routes, experts: usize) {
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
        self.weights.resize(routes.experts.len(), 0.0);
        for (route, &expert) in routes.experts.iter().enumerate() {
            let pair = &mut next[expert as usize];
            self.tokens[*pair] = (route / routes.top_k) as u32;
            self.weights[*pair] = routes.weights[route];
            *pair += 1;
        }
    }
}

impl Cpu {
    /// Sends each token to `routes.top_k` experts: the router's linear map, the largest logits, the
    /// softmax over those alone.
    ///
    /// `x`: `[T, H]`; `weight`: `[E, H]`; `bias`: `[E]`. Among equal logits the lower index goes
    /// first. Twin: [`reference::route`](crate::reference::route) after
    /// [`reference::linear`](crate::reference::linear).
    ///
    /// # Panics
    /// If lengths do not fit, or `top_k` is zero or above `E`.
    pub fn route(&mut self, x: &[f32], weight: &Packed, bias: &[f32], routes: &mut Routes) {
        let (count, top_k) = (weight.rows(), routes.top_k);
        assert!((1..=count).contains(&top_k), "top_k {top_k} of {count} experts");
        let mut logits = std::mem::take(&mut self.logits);
        logits.resize(x.len() / weight.cols() * count, 0.0);
        self.linear(x, weight, Some(bias), &mut logits);
        routes.experts.clear();
        routes.weights.clear();
        for logits in logits.chunks_exact(count) {
            choose(logits, routes);
        }
        self.logits = logits;
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
