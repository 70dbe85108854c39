//! The forward pass's operations on the CPU, over all tokens of a step.
//!
//! Owns: a thread pool, scratch memory, the choice of instruction set. Promises: the same bits for a token whatever else is
//! in the step, however many threads run, and however its prompt was sliced. Absent: weights, KV memory, the order of
//! operations.

use crate::kv::{KvMemory, KvSlice};
use crate::reference;
use crate::rope::Angles;
use crate::weights::{Bf16Matrix, Experts, Routes};

/// The CPU as a device that computes operations.
#[derive(Debug)]
pub struct Cpu {
    threads: usize,
}

impl Cpu {
    /// Computes with `threads` threads, the caller's among them, and the best instructions that this CPU has.
    ///
    /// # Panics
    /// If `threads` is zero.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "someone must compute");
        Self { threads }
    }

    /// How many threads compute, the caller's among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Gathers rows of the embedding table: `out[t] = table[tokens[t]]`.
    ///
    /// `table`: `[vocab, H]`; `out`: `[T, H]`. Twin: [`reference::embed`], equal.
    ///
    /// # Panics
    /// If a token is not in the table, or `out` has another length.
    pub fn embed(&mut self, table: &Bf16Matrix<'_>, tokens: &[u32], out: &mut [f32]) {
        out.copy_from_slice(&reference::embed(&reference::bf16_to_f32(table.bytes()), table.cols(), tokens));
    }

    /// Root-mean-square norm of each row: `out[t][i] = x[t][i] * scale[i] / sqrt(mean(x[t]^2) + eps)`.
    ///
    /// `x`, `out`: `[T, H]`; `scale`: `[H]`. Twin: [`reference::rms_norm`].
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn rms_norm(&mut self, x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
        out.copy_from_slice(&reference::rms_norm(x, scale, eps));
    }

    /// A linear map: `out[t][n] = bias[n] + sum over k of weight[n][k] * x[t][k]`.
    ///
    /// `x`: `[T, K]`; `weight`: `[N, K]`; `bias`: `[N]`; `out`: `[T, N]`. Twin: [`reference::linear`].
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn linear(&mut self, x: &[f32], weight: &Bf16Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
        out.copy_from_slice(&reference::linear(x, &reference::bf16_to_f32(weight.bytes()), weight.cols(), bias));
    }

    /// Turns the two halves of each head by the token's angles, in place.
    ///
    /// `x`: `[T, heads * head_dim]`; `angles`: `[T, head_dim / 2]`. Twin: [`reference::rotary`].
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn rotary(&mut self, x: &mut [f32], heads: usize, head_dim: usize, angles: &Angles) {
        reference::rotary(x, heads, head_dim, angles);
    }

    /// Attention over paged keys and values with sinks; see [`reference::attention`], its twin.
    ///
    /// `q`, `out`: `[T, heads * head_dim]`; `sinks`: `[heads]`. The keys and values of the slices' own tokens are stored
    /// already ([`KvMemory::store`]). Rows that no slice names become zero.
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
        out.copy_from_slice(&reference::attention(q, sinks, window, memory, slices));
    }

    /// Sends each token to `routes.top_k` experts: the router's linear map, the largest logits, the softmax over those alone.
    ///
    /// `x`: `[T, H]`; `weight`: `[E, H]`; `bias`: `[E]`. Twin: [`reference::route`] after [`reference::linear`].
    ///
    /// # Panics
    /// If lengths do not fit, or `top_k` is zero or above `E`.
    pub fn route(&mut self, x: &[f32], weight: &Bf16Matrix<'_>, bias: &[f32], routes: &mut Routes) {
        let mut logits = vec![0.0; x.len() / weight.cols() * weight.rows()];
        self.linear(x, weight, Some(bias), &mut logits);
        *routes = reference::route(&logits, weight.rows(), routes.top_k);
    }

    /// The mixture of experts: `out[t] = sum over k of weights[t][k] * expert(experts[t][k])(x[t])`.
    ///
    /// `x`, `out`: `[T, H]`. Twin: [`reference::experts`].
    ///
    /// # Panics
    /// If lengths do not fit, or a route names an expert that is not there.
    pub fn experts(&mut self, x: &[f32], experts: &Experts<'_>, routes: &Routes, out: &mut [f32]) {
        out.copy_from_slice(&reference::experts(x, experts, routes));
    }

    /// Adds `y` to the residual stream: `x[i] += y[i]`. Twin: [`reference::add`], equal.
    ///
    /// # Panics
    /// If their lengths differ.
    pub fn add(&mut self, x: &mut [f32], y: &[f32]) {
        reference::add(x, y);
    }

    /// Log-probabilities of one row of logits. Twin: [`reference::log_softmax`].
    ///
    /// # Panics
    /// If lengths differ.
    pub fn log_softmax(&mut self, logits: &[f32], out: &mut [f32]) {
        out.copy_from_slice(&reference::log_softmax(logits));
    }
}
