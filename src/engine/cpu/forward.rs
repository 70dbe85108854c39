//! The order of operations in the model.
//!
//! Source: OpenAI's gpt-oss model card and reference implementation; `modeling_gpt_oss.py` of
//! transformers 5.23.

use super::CpuEngine;
use super::scratch::{Scratch, kv_slices};
use super::weights::Layer;
use crate::batch::{Batch, KvGroup};
use crate::engine::config::ModelConfig;
use antiphon_kernels::cpu::Cpu;
use antiphon_kernels::kv::{KvMemory, KvSlice};
use antiphon_kernels::rope::Angles;
use antiphon_kernels::weights::Routes;

impl CpuEngine {
    /// Runs the batch through all layers and leaves the residual stream in the scratch memory, `[T,
    /// hidden]`.
    ///
    /// `hidden` sees the stream before the first layer and after each layer.
    pub(super) fn forward(&mut self, batch: &Batch, hidden: &mut dyn FnMut(usize, &[f32])) {
        let config = self.checkpoint.config();
        let tokens = batch.tokens.len();
        self.cpu.begin_operation("embedding", 0);
        self.scratch.begin(batch, &self.rope);
        let mut step = ForwardStep::new(config, &mut self.cpu, &mut self.scratch, tokens);
        step.cpu.embed(&self.weights.embedding.view(), step.tokens, step.stream);
        hidden(0, step.stream);
        let global = kv_slices(batch, KvGroup::Global, step.global_blocks);
        let sliding = kv_slices(batch, KvGroup::Sliding, step.sliding_blocks);
        for (index, (layer, memory)) in self.weights.layers.iter().zip(&mut self.kv).enumerate() {
            let (slices, window) = match layer.group {
                KvGroup::Global => (&global, None),
                KvGroup::Sliding => (&sliding, Some(config.sliding_window_tokens)),
            };
            step.attention(layer, memory, slices, window);
            step.experts(layer);
            hidden(index + 1, step.stream);
        }
    }

    /// Computes the logits of the stream's `rows`, at most as many as the scratch memory has room
    /// for, from its first row on.
    pub(super) fn compute_logits(&mut self, rows: impl Iterator<Item = usize>) {
        self.cpu.begin_operation("norms", 0);
        let hidden = self.checkpoint.config().hidden;
        let Scratch { stream, picked, picked_normed, logits, .. } = &mut self.scratch;
        let mut count = 0;
        for (row, room) in rows.zip(picked.chunks_exact_mut(hidden)) {
            room.copy_from_slice(&stream[row * hidden..][..hidden]);
            count += 1;
        }
        let (picked, normed) = (&picked[..count * hidden], &mut picked_normed[..count * hidden]);
        let eps = self.checkpoint.config().rms_norm_eps;
        self.cpu.rms_norm(picked, &self.weights.final_norm, eps, normed);
        let output = &self.weights.output;
        self.cpu.begin_operation("lm_head", output.bytes());
        self.cpu.linear(normed, output, None, &mut logits[..count * output.rows()]);
    }
}

/// A step under way: the scratch memory cut to its number of tokens.
struct ForwardStep<'a> {
    config: &'a ModelConfig,
    cpu: &'a mut Cpu,
    stream: &'a mut [f32],
    normed: &'a mut [f32],
    projected: &'a mut [f32],
    queries: &'a mut [f32],
    keys: &'a mut [f32],
    values: &'a mut [f32],
    attended: &'a mut [f32],
    angles: &'a Angles,
    routes: &'a mut Routes,
    tokens: &'a [u32],
    global_blocks: &'a [u32],
    sliding_blocks: &'a [u32],
}

impl<'a> ForwardStep<'a> {
    fn new(config: &'a ModelConfig, cpu: &'a mut Cpu, scratch: &'a mut Scratch, tokens: usize) -> Self {
        let (hidden, query, kv) = (tokens * config.hidden, tokens * config.query_width(), tokens * config.kv_width());
        Self {
            config,
            cpu,
            stream: &mut scratch.stream[..hidden],
            normed: &mut scratch.normed[..hidden],
            projected: &mut scratch.projected[..query + 2 * kv],
            queries: &mut scratch.queries[..query],
            keys: &mut scratch.keys[..kv],
            values: &mut scratch.values[..kv],
            attended: &mut scratch.attended[..query],
            angles: &scratch.angles,
            routes: &mut scratch.routes,
            tokens: &scratch.tokens,
            global_blocks: &scratch.global_blocks,
            sliding_blocks: &scratch.sliding_blocks,
        }
    }

    /// Adds attention to the stream, and stores the step's keys and values.
    fn attention(&mut self, layer: &Layer, memory: &mut KvMemory, slices: &[KvSlice<'_>], window: Option<usize>) {
        let ModelConfig { heads, kv_heads, head_dim, rms_norm_eps, .. } = *self.config;
        let cpu = &mut *self.cpu;
        cpu.begin_operation("norms", 0);
        cpu.rms_norm(self.stream, &layer.attention_norm, rms_norm_eps, self.normed);
        let projections = &layer.projections;
        cpu.begin_operation("q, k, v", projections.weight.bytes());
        cpu.linear(self.normed, &projections.weight, projections.bias.as_deref(), self.projected);
        cpu.begin_operation("rotary embedding", 0);
        let (query, kv) = (self.config.query_width(), self.config.kv_width());
        for (token, row) in self.projected.chunks_exact(query + 2 * kv).enumerate() {
            self.queries[token * query..][..query].copy_from_slice(&row[..query]);
            self.keys[token * kv..][..kv].copy_from_slice(&row[query..][..kv]);
            self.values[token * kv..][..kv].copy_from_slice(&row[query + kv..]);
        }
        cpu.rotary(self.queries, heads, head_dim, self.angles);
        cpu.rotary(self.keys, kv_heads, head_dim, self.angles);
        cpu.begin_operation("KV store", 0);
        cpu.store_kv(memory, slices, self.keys, self.values);
        cpu.begin_operation(if window.is_some() { "attention, sliding" } else { "attention, full" }, 0);
        cpu.attention(self.queries, &layer.sinks, window, memory, slices, self.attended);
        cpu.begin_operation("o", layer.output.weight.bytes());
        cpu.linear_add(self.attended, &layer.output.weight, layer.output.bias.as_deref(), self.stream);
    }

    /// Adds the experts to the stream.
    fn experts(&mut self, layer: &Layer) {
        let cpu = &mut *self.cpu;
        cpu.begin_operation("norms", 0);
        cpu.rms_norm(self.stream, &layer.expert_norm, self.config.rms_norm_eps, self.normed);
        cpu.begin_operation("router", layer.router.bytes());
        cpu.route(self.normed, &layer.router, &layer.router_bias, self.routes);
        cpu.experts_add(self.normed, &layer.experts, self.routes, self.stream);
    }
}
