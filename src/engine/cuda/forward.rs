//! The order of operations in the model: what is queued for a step.
//!
//! Nothing here waits or copies, so that all of it can be captured. Source: OpenAI's gpt-oss model card and reference
//! implementation.

use super::CudaEngine;
use super::layout::{GroupRegions, StepRegions};
use super::rounds::RoundRegions;
use super::weights::Layer;
use crate::batch::KvGroup;
use antiphon_kernels::cuda::{
    self, AttentionOperands, CudaError, Into, KvRegion, Parts, Region, SampleOperands, attention_combine, combine_norm, embed,
    linear, rope_store, route,
};
use antiphon_kernels::weights::SwiGlu;

impl CudaEngine {
    /// Queues all layers for `tokens` rows; the residual stream is left without the last layer's experts, which
    /// [`Self::queue_logits`] adds to the rows that it picks.
    pub(super) fn queue_layers(&self, step: &StepRegions, tokens: usize) -> Result<(), CudaError> {
        let (device, config, scratch) = (&self.model.device, &self.model.config, &self.scratch);
        let weights = &self.model.weights;
        embed(device, &weights.embedding, &step.tokens, config.hidden, tokens, &scratch.stream)?;
        for (index, (layer, kv)) in weights.layers.iter().zip(&self.kv).enumerate() {
            let group = match layer.group {
                KvGroup::Full => &step.groups[0],
                KvGroup::Sliding => &step.groups[1],
            };
            self.queue_norm((index > 0).then(|| self.routed()), None, &layer.attention_norm, tokens)?;
            self.queue_attention(layer, kv, step, group, tokens)?;
            self.queue_norm(None, None, &layer.expert_norm, tokens)?;
            route(device, &scratch.normed, config.hidden, &layer.router, tokens, &step.token_count, &scratch.routes)?;
            let swiglu = SwiGlu { alpha: config.swiglu_alpha, limit: config.swiglu_limit };
            cuda::experts(
                device,
                &scratch.normed,
                &layer.gate_up,
                &layer.down,
                swiglu,
                &scratch.routes,
                tokens,
                &scratch.experts,
            )?;
        }
        Ok(())
    }

    /// What the experts of the layer before have left.
    fn routed(&self) -> Parts<'_> {
        let Self { scratch, model, .. } = self;
        let top_k = model.config.experts_per_token;
        Parts::Experts { outputs: &scratch.experts.outputs, weights: &scratch.routes.weights, top_k }
    }

    fn queue_norm(
        &self,
        parts: Option<Parts<'_>>,
        rows: Option<&Region<u32>>,
        scale: &Region<f32>,
        count: usize,
    ) -> Result<(), CudaError> {
        let (scratch, eps) = (&self.scratch, self.model.config.rms_norm_eps);
        let out = if rows.is_some() { &scratch.picked } else { &scratch.normed };
        combine_norm(&self.model.device, &scratch.stream, parts, rows, scale, eps, count, out)
    }

    /// Stores the step's keys and values and adds attention to the stream.
    fn queue_attention(
        &self,
        layer: &Layer,
        kv: &KvRegion,
        step: &StepRegions,
        group: &GroupRegions,
        tokens: usize,
    ) -> Result<(), CudaError> {
        let (device, scratch) = (&self.model.device, &self.scratch);
        linear(device, &scratch.normed, &layer.qkv, layer.qkv_bias.as_ref(), tokens, Into::Place, &scratch.qkv)?;
        let angles = &self.model.weights.angles;
        rope_store(device, &scratch.qkv, angles, &step.positions, &group.slots, tokens, &scratch.queries, kv)?;
        let operands = AttentionOperands {
            queries: &scratch.queries,
            sinks: &layer.sinks,
            blocks: &step.words,
            partials: &scratch.partials,
            out: &scratch.attended,
        };
        for is_prefill in [false, true] {
            if let Some(work) = group.items(is_prefill) {
                cuda::attention(device, operands, kv, work, is_prefill)?;
            }
        }
        if let Some(work) = group.splits() {
            attention_combine(device, operands, kv, work)?;
        }
        linear(device, &scratch.attended, &layer.output, layer.output_bias.as_ref(), tokens, Into::Sum, &scratch.stream)
    }

    /// Queues the logits of the round's rows.
    pub(super) fn queue_logits(&self, round: &RoundRegions, rows: usize) -> Result<(), CudaError> {
        let (weights, scratch) = (&self.model.weights, &self.scratch);
        self.queue_norm(Some(self.routed()), Some(&round.rows), &weights.final_norm, rows)?;
        linear(&self.model.device, &scratch.picked, &weights.output, None, rows, Into::Place, &scratch.logits)
    }

    /// Queues the round's draws.
    pub(super) fn queue_draws(&self, round: &RoundRegions, rows: usize) -> Result<(), CudaError> {
        let scratch = &self.scratch;
        let operands = SampleOperands {
            logits: &scratch.logits,
            draws: &round.draws,
            edits: &round.edits,
            saved: &scratch.saved,
            // The batch has no masks of a grammar yet; a row whose mask is -1 reads none.
            masks: &scratch.reports,
            reports: &scratch.reports,
        };
        cuda::sample(&self.model.device, operands, rows, self.limits.vocab_size)
    }
}
