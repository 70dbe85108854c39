//! The order of operations in the model: what is queued for a step.
//!
//! Nothing here waits or copies, so that all of it can be captured. Source: OpenAI's gpt-oss model
//! card and reference implementation.

use super::layout::{GroupRegions, StepRegions};
use super::rounds::RoundRegions;
use super::share::RankShare;
use super::weights::Layer;
use super::{CudaEngine, CudaModel};
use crate::batch::KvGroup;
use antiphon_kernels::cuda::{
    self, AttentionOperands, CudaError, KvRegion, Output, Parts, Region, SampleOperands, attention_combine, combine_norm,
    embed, linear, rope_store, route, sum_routed,
};
use antiphon_kernels::weights::SwiGlu;

impl CudaEngine {
    /// Meets the other ranks: NCCL connects two devices when they first have something to say to
    /// each other, for small messages and for large ones in different ways. It takes memory
    /// then, and a rank waits for the other on the host, where no abort reaches it.
    pub(super) fn meet(&self) -> Result<(), CudaError> {
        self.model.device.bind()?;
        self.gather(1, 1)?;
        self.gather(1, self.scratch.gathered.len() / self.model.share.ranks)?;
        self.model.device.synchronize()
    }

    /// Queues all layers for `tokens` rows; the residual stream is left without the last layer's
    /// experts, which [`Self::queue_logits`] adds to the rows that it picks.
    pub(super) fn queue_layers(&self, step: &StepRegions, tokens: usize) -> Result<(), CudaError> {
        let (device, config, scratch) = (&self.model.device, &self.model.config, &self.scratch);
        let weights = &self.model.weights;
        embed(device, &weights.embedding, &step.tokens, &scratch.reports, config.hidden, tokens, &scratch.stream)?;
        for (index, (layer, kv)) in weights.layers.iter().zip(&self.kv).enumerate() {
            let group = match layer.group {
                KvGroup::Global => &step.groups[0],
                KvGroup::Sliding => &step.groups[1],
            };
            self.queue_norm((index > 0).then(|| self.routed(tokens)), None, &layer.attention_norm, tokens)?;
            self.queue_attention(layer, kv, step, group, tokens)?;
            self.queue_norm(self.group.is_some().then(|| self.routed(tokens)), None, &layer.expert_norm, tokens)?;
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
            if self.group.is_some() {
                let own = self.own_part(tokens, config.hidden);
                sum_routed(device, &scratch.experts.outputs, &scratch.routes, config.hidden, tokens, &own)?;
                self.gather(tokens, config.hidden)?;
            }
        }
        // The logits of every round are gathered where the last layer's sums are now.
        if self.group.is_some() {
            self.queue_norm(Some(self.routed(tokens)), None, &weights.final_norm, tokens)
        } else {
            Ok(())
        }
    }

    /// What the experts of the layer before have left; with several ranks, what these have given
    /// last.
    fn routed(&self, tokens: usize) -> Parts<'_> {
        let Self { scratch, model, group, .. } = self;
        let top_k = model.config.experts_per_token;
        match group {
            None => Parts::Experts { outputs: &scratch.experts.outputs, weights: &scratch.routes.weights, top_k },
            Some(group) => Parts::Ranks { outputs: &scratch.gathered, ranks: group.ranks(), rows: tokens },
        }
    }

    /// Where this rank puts its part of what is gathered: `[rows, width]`.
    fn own_part(&self, rows: usize, width: usize) -> Region<f32> {
        let rank = self.model.share.rank;
        self.scratch.gathered.slice(rank * rows * width..(rank + 1) * rows * width)
    }

    /// Queues that every rank gets all parts, if there are several.
    fn gather(&self, rows: usize, width: usize) -> Result<(), CudaError> {
        let Some(group) = &self.group else { return Ok(()) };
        group.all_gather(&self.model.device, &self.scratch.gathered.slice(0..group.ranks() * rows * width))
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
        let (qkv_bias, arranged) = (layer.qkv_bias.as_ref(), scratch.arranged.as_ref());
        linear(device, &scratch.normed, &layer.qkv, qkv_bias, tokens, Output::Replace, &scratch.qkv, arranged)?;
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
        let hidden = self.model.config.hidden;
        let (into, y) = match &self.group {
            None => (Output::Add, scratch.stream.clone()),
            Some(_) => (Output::Replace, self.own_part(tokens, hidden)),
        };
        // The bias is added once, by the first rank.
        let bias = layer.output_bias.as_ref().filter(|_| self.draws());
        linear(device, &scratch.attended, &layer.output, bias, tokens, into, &y, arranged)?;
        self.gather(tokens, hidden)
    }

    /// Queues the logits of the round's rows.
    pub(super) fn queue_logits(&self, round: &RoundRegions, rows: usize) -> Result<(), CudaError> {
        let (weights, scratch) = (&self.model.weights, &self.scratch);
        let CudaModel { device, config, share, .. } = &*self.model;
        let left = self.group.is_none().then(|| self.routed(0));
        self.queue_norm(left, Some(&round.rows), &weights.final_norm, rows)?;
        if self.group.is_none() {
            return linear(device, &scratch.picked, &weights.output, None, rows, Output::Replace, &scratch.logits, None);
        }
        let width = share.vocab_rows(config);
        linear(device, &scratch.picked, &weights.output, None, rows, Output::Replace, &self.own_part(rows, width), None)?;
        self.gather(rows, width)?;
        if !self.draws() {
            return Ok(());
        }
        for rank in 0..share.ranks {
            let tokens = RankShare { rank, ..*share }.vocab(config);
            let part = scratch.gathered.slice(rank * rows * width..(rank + 1) * rows * width);
            device.copy_columns(&part, width, &scratch.logits, config.vocab_size, tokens, rows)?;
        }
        Ok(())
    }

    /// Queues the round's draws.
    pub(super) fn queue_draws(&self, round: &RoundRegions, rows: usize) -> Result<(), CudaError> {
        if !self.draws() {
            return Ok(());
        }
        let scratch = &self.scratch;
        let operands = SampleOperands {
            logits: &scratch.logits,
            draws: &round.draws,
            edits: &round.edits,
            saved: &scratch.saved,
            masks: &scratch.masks,
            reports: &scratch.reports,
        };
        cuda::sample(&self.model.device, operands, rows, self.limits.vocab_size)
    }
}
