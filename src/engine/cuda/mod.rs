//! The engine that computes on a CUDA device: weights and activations in f16, MXFP4 experts, sums in f32.
//!
//! Owns: the weights on the device (a [`CudaModel`], kept when an engine is rebuilt), KV memory in two groups of layers, scratch
//! memory, captured graphs. Promises: the same bits for a token whatever else is in its batch, however its prompt was sliced and
//! wherever its blocks lie; device memory is taken when the model is loaded and the engine made, to the byte that [`CudaPlan`]
//! says, not when it steps. Absent on purpose: kernels, sequences, time.

mod error;
mod forward;
mod graphs;
mod layout;
mod memory;
mod ranks;
mod rounds;
mod scratch;
mod share;
mod weights;

pub use antiphon_kernels::cuda::Prefill;
pub use error::CudaEngineError;
pub use memory::{CudaOptions, CudaPlan, DeviceMemory};
pub use ranks::CudaRanks;

use super::checkpoint::{Checkpoint, Progress};
use super::config::ModelConfig;
use super::kv_pools::KvPools;
use super::sampling::Sampler;
use super::wanted::{Wanted, list_wanted};
use super::{Engine, EngineError, check_batch};
use crate::batch::{Batch, EngineLimits, Sampled};
use antiphon_kernels::cuda::{Arena, Communicator, CudaError, Device, KvRegion, Queue, REPORT_WORDS};
use graphs::Graphs;
use layout::{HostStep, StepRegions, StepSizes};
use memory::{block_bytes, head_shape};
use rounds::{HostRound, RoundRegions, RoundSizes, put_report, read_logprobs, reported_token, top_count};
use scratch::Scratch;
use share::Share;
use std::sync::Arc;
use weights::Weights;

/// A model's weights on a device, or a rank's part of them.
#[derive(Debug)]
pub struct CudaModel {
    config: ModelConfig,
    share: Share,
    device: Device,
    weights: Weights,
}

impl CudaModel {
    /// Packs the weights and copies them to the device; `progress` is told how many bytes are there.
    ///
    /// # Errors
    /// [`CudaEngineError`] if the device has not the memory or fails, or a weight is one that the kernels do not widen.
    pub fn load(device: Device, checkpoint: &Checkpoint, progress: &mut dyn FnMut(Progress)) -> Result<Self, CudaEngineError> {
        Self::load_share(device, checkpoint, Share::ALONE, progress)
    }

    fn load_share(
        device: Device,
        checkpoint: &Checkpoint,
        share: Share,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, CudaEngineError> {
        // To read a page that the file no longer has would end the process.
        checkpoint.check_unchanged()?;
        let weights = weights::load(&device, checkpoint, share, progress)?;
        Ok(Self { config: checkpoint.config().clone(), share, device, weights })
    }

    /// A model of this shape whose weights mean nothing: for measurements.
    ///
    /// # Errors
    /// [`CudaEngineError`] if the device has not the memory or fails.
    pub fn noise(device: Device, config: &ModelConfig) -> Result<Self, CudaEngineError> {
        let weights = weights::noise(&device, config)?;
        Ok(Self { config: config.clone(), share: Share::ALONE, device, weights })
    }
}

/// A GPT-OSS model on a CUDA device, or one rank of several.
#[derive(Debug)]
pub struct CudaEngine {
    // Before what they refer to, so that they are dropped first.
    graphs: Graphs,
    model: Arc<CudaModel>,
    /// The other ranks, if there are any.
    group: Option<Arc<Communicator>>,
    options: CudaOptions,
    limits: EngineLimits,
    /// One for each layer, as many blocks as its group has.
    kv: Vec<KvRegion>,
    scratch: Scratch,
    step: HostStep,
    round: HostRound,
    wanted: Vec<Wanted>,
    /// Reports what a device's report has no room for.
    sampler: Sampler,
}

impl CudaEngine {
    /// Makes an engine for a loaded model, with empty KV memory.
    ///
    /// An engine that was lost is replaced by making another from the same model; where the device is lost too, that fails.
    ///
    /// # Errors
    /// [`CudaEngineError::Device`] if the device has not the memory or fails.
    ///
    /// # Panics
    /// If an option but `partial_slots` is zero, or there is more than one rank.
    pub fn new(model: Arc<CudaModel>, options: &CudaOptions) -> Result<Self, CudaEngineError> {
        let mut engine = Self::build(model, options, None)?;
        engine.capture_decode_steps()?;
        Ok(engine)
    }

    /// An engine without captured steps.
    fn build(model: Arc<CudaModel>, options: &CudaOptions, group: Option<Arc<Communicator>>) -> Result<Self, CudaEngineError> {
        let ranks = group.as_ref().map_or(1, |group| group.ranks());
        assert!(ranks == options.ranks && ranks == model.share.ranks, "{ranks} ranks: {options:?}, {:?}", model.share);
        let CudaOptions { block_tokens, full_blocks, sliding_blocks, step_tokens_max, step_slices_max, .. } = *options;
        let sizes = [block_tokens, full_blocks, sliding_blocks, step_tokens_max, step_slices_max];
        assert!(sizes.iter().all(|size| *size > 0), "no option of an engine may be zero: {options:?}");
        let (config, device) = (&model.config, &model.device);
        options.check_device(device.facts())?;
        let shape = head_shape(&model.share.config(config), block_tokens);
        let pools = KvPools { block_tokens, full_blocks, sliding_blocks };
        let kv_bytes = config.layers.iter().map(|group| KvRegion::bytes(shape, pools.blocks(*group))).sum();
        let mut arena = Arena::new(device, "KV memory", kv_bytes)?;
        let kv = config.layers.iter().map(|group| KvRegion::new(&mut arena, shape, pools.blocks(*group))).collect();
        Ok(Self {
            graphs: Graphs::default(),
            limits: pools.limits(config, step_tokens_max, step_slices_max, |group| block_bytes(config, block_tokens, group)),
            kv,
            scratch: Scratch::new(device, config, options, model.share)?,
            step: HostStep::default(),
            round: HostRound::new(config.vocab_size),
            wanted: Vec::new(),
            sampler: Sampler::new(config.vocab_size),
            options: *options,
            group,
            model,
        })
    }

    /// Captures a decode step for each size, so that none is captured while somebody waits.
    fn capture_decode_steps(&mut self) -> Result<(), CudaError> {
        self.model.device.bind()?;
        let most = self.options.logit_rows().min(self.options.step_tokens_max);
        for size in graphs::sizes(if self.options.graphs { most } else { 0 }) {
            let step = StepSizes::decode(size, &self.model.config, &self.options);
            let round = RoundSizes { rows: size, edits: self.options.edits(&self.model.config) };
            let regions = (StepRegions::of(&self.scratch.step, &step), RoundRegions::of(&self.scratch.round, &round));
            let graph = self.model.device.capture(|| {
                self.queue_layers(&regions.0, size)?;
                self.queue_logits(&regions.1, size)?;
                self.queue_draws(&regions.1, size)
            })?;
            self.graphs.keep(size, graph);
        }
        Ok(())
    }

    /// The shape of the model.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// How many graphs are captured, and how many steps were replays of one.
    #[must_use]
    pub fn graph_counts(&self) -> (usize, usize) {
        self.graphs.counts()
    }

    /// Which experts the last layer chose for the first `tokens` rows of the last step, `experts_per_token` a row: how many weights
    /// a step has read.
    ///
    /// # Errors
    /// [`CudaError`] if the device fails.
    ///
    /// # Panics
    /// If no step has so many rows.
    pub fn chosen_experts(&self, tokens: usize) -> Result<Vec<i32>, CudaError> {
        let top_k = self.model.config.experts_per_token;
        self.model.device.fetch(&self.scratch.routes.experts.slice(0..tokens * top_k))
    }

    /// Computes a step and shows every row of the step and its logits `[V]`; draws nothing.
    ///
    /// Stores keys and values as [`Engine::execute`] does. Of several ranks the first one shows them.
    ///
    /// # Errors
    /// [`CudaError`] if the device fails.
    ///
    /// # Panics
    /// If the batch is not one that the engine's limits allow.
    pub fn inspect(&mut self, batch: &Batch, logits: &mut dyn FnMut(usize, &[f32])) -> Result<(), CudaError> {
        check_batch(&self.limits, batch);
        if batch.tokens.is_empty() {
            return Ok(());
        }
        self.model.device.bind()?;
        self.step.fill(batch, &self.model.config, &self.options);
        self.forward_now()?;
        let every: Vec<Wanted> = (0..batch.tokens.len()).map(|row| Wanted { row, slice: 0, report: 0, target: None }).collect();
        for rows in every.chunks(self.options.logit_rows()) {
            let sizes = RoundSizes { rows: rows.len(), edits: 0 };
            self.upload_round(rows, &sizes)?;
            self.queue_logits(&RoundRegions::of(&self.scratch.round, &sizes), rows.len())?;
            if self.draws() {
                for (index, wanted) in rows.iter().enumerate() {
                    logits(wanted.row, self.fetch_logits(index)?);
                }
            } else {
                self.model.device.synchronize()?;
            }
        }
        Ok(())
    }

    /// Prepares a decode step on the host as [`Engine::execute`] does, and sends nothing: how much a device waits for between steps.
    ///
    /// # Panics
    /// If the batch is not one that the engine's limits allow, or no size of a captured step holds it.
    pub fn prepare(&mut self, batch: &Batch) {
        check_batch(&self.limits, batch);
        self.step.fill(batch, &self.model.config, &self.options);
        let mut wanted = std::mem::take(&mut self.wanted);
        list_wanted(batch, &mut Vec::with_capacity(batch.slices.len()), &mut wanted);
        let taken = self.round.fill(batch, &wanted, &self.model.config, &self.options);
        let size = self.graphs.size_of(taken).expect("a captured size holds the batch");
        self.write_step(&self.step_sizes(size));
        self.write_round(&wanted, &self.round_sizes(size));
        self.wanted = wanted;
    }

    /// Whether it draws: of several ranks the first one does, and the next step tells the others.
    fn draws(&self) -> bool {
        self.model.share.rank == 0
    }

    /// Copies the step's lists and queues all layers.
    fn forward_now(&mut self) -> Result<(), CudaError> {
        let sizes = self.step.sizes();
        self.upload_step(&sizes)?;
        self.queue_layers(&StepRegions::of(&self.scratch.step, &sizes), sizes.tokens)
    }

    /// Writes the step's lists for the device.
    fn write_step(&mut self, sizes: &StepSizes) -> usize {
        let words = sizes.words();
        self.step.write(sizes, &mut self.scratch.host_step.as_mut_slice()[..words]);
        words
    }

    /// Writes the lists of a round that takes `rows` from their front.
    fn write_round(&mut self, rows: &[Wanted], sizes: &RoundSizes) -> usize {
        let words = sizes.words();
        self.round.write(rows, sizes, &mut self.scratch.host_round.as_mut_slice()[..words]);
        words
    }

    fn upload_step(&mut self, sizes: &StepSizes) -> Result<(), CudaError> {
        let words = self.write_step(sizes);
        self.model.device.upload(Queue::Compute, &self.scratch.host_step, &self.scratch.step, words)
    }

    fn upload_round(&mut self, rows: &[Wanted], sizes: &RoundSizes) -> Result<(), CudaError> {
        let words = self.write_round(rows, sizes);
        self.model.device.upload(Queue::Compute, &self.scratch.host_round, &self.scratch.round, words)
    }

    fn fetch_logits(&mut self, row: usize) -> Result<&[f32], CudaError> {
        let (device, vocab) = (&self.model.device, self.limits.vocab_size);
        device.download(&self.scratch.logits.slice(row * vocab..(row + 1) * vocab), &mut self.scratch.host_logits)?;
        device.synchronize()?;
        Ok(self.scratch.host_logits.as_slice())
    }

    /// A step, round after round; a decode step in one go from its graph.
    fn compute(&mut self, batch: &Batch, sampled: &mut Vec<Sampled>) -> Result<(), CudaError> {
        self.model.device.bind()?;
        self.step.fill(batch, &self.model.config, &self.options);
        let mut wanted = std::mem::take(&mut self.wanted);
        list_wanted(batch, sampled, &mut wanted);
        let computed = self.compute_rounds(batch, &wanted, sampled);
        self.wanted = wanted;
        computed
    }

    fn compute_rounds(&mut self, batch: &Batch, wanted: &[Wanted], sampled: &mut [Sampled]) -> Result<(), CudaError> {
        let mut taken = self.round.fill(batch, wanted, &self.model.config, &self.options);
        let draws_all = taken == wanted.len() && taken == batch.slices.len();
        if self.step.is_decode()
            && draws_all
            && let Some(size) = self.graphs.size_of(taken)
        {
            self.replay(size, wanted)?;
            return self.read_reports(batch, wanted, sampled);
        }
        self.forward_now()?;
        let mut left = wanted;
        while taken > 0 {
            let (rows, rest) = left.split_at(taken);
            let sizes = self.round.sizes();
            self.upload_round(rows, &sizes)?;
            let regions = RoundRegions::of(&self.scratch.round, &sizes);
            self.queue_logits(&regions, taken)?;
            self.queue_draws(&regions, taken)?;
            self.read_reports(batch, rows, sampled)?;
            left = rest;
            taken = self.round.fill(batch, left, &self.model.config, &self.options);
        }
        self.model.device.synchronize()
    }

    /// Runs a decode step from the graph of this size.
    fn replay(&mut self, size: usize, wanted: &[Wanted]) -> Result<(), CudaError> {
        self.upload_step(&self.step_sizes(size))?;
        self.upload_round(wanted, &self.round_sizes(size))?;
        self.graphs.launch(size)
    }

    /// The step's lists as the captured step of this size has them.
    fn step_sizes(&self, size: usize) -> StepSizes {
        self.step.sizes_within(&StepSizes::decode(size, &self.model.config, &self.options))
    }

    fn round_sizes(&self, size: usize) -> RoundSizes {
        RoundSizes { rows: size, ..self.round.sizes() }
    }

    /// Waits for the round and reports its rows.
    fn read_reports(&mut self, batch: &Batch, rows: &[Wanted], sampled: &mut [Sampled]) -> Result<(), CudaError> {
        if !self.draws() {
            return self.model.device.synchronize();
        }
        let reports = self.scratch.reports.slice(0..rows.len() * REPORT_WORDS);
        self.model.device.download(&reports, &mut self.scratch.host_reports)?;
        self.model.device.synchronize()?;
        for (index, wanted) in rows.iter().enumerate() {
            let words = &self.scratch.host_reports.as_slice()[index * REPORT_WORDS..][..REPORT_WORDS];
            let token = reported_token(words);
            let logprobs = match (token, top_count(batch, *wanted)) {
                (Ok(_), Some(count)) if count as usize <= antiphon_kernels::cuda::TOP_MAX => Some(read_logprobs(words, count)),
                (Ok(token), Some(count)) => {
                    self.fetch_logits(index)?;
                    Some(self.sampler.logprobs(self.scratch.host_logits.as_slice(), token, count))
                }
                _ => None,
            };
            put_report(*wanted, token, logprobs, sampled);
        }
        Ok(())
    }
}

impl Engine for CudaEngine {
    fn limits(&self) -> EngineLimits {
        self.limits
    }

    fn execute(&mut self, batch: &Batch, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        check_batch(&self.limits, batch);
        if batch.tokens.is_empty() {
            return Ok(());
        }
        self.compute(batch, sampled)
            .map_err(|error| EngineError::Device { slices: batch.slices.len(), message: error.to_string() })
    }
}

#[cfg(test)]
mod tests;
