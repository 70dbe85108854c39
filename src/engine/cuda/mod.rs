//! The engine that computes on a CUDA device: weights and activations in f16, MXFP4 experts, sums
//! in f32.
//!
//! Owns: the weights on the device (a [`CudaModel`], kept when an engine is rebuilt), KV memory in
//! two groups of layers, scratch memory, captured graphs. Promises: the same bits for a token
//! whatever else is in its batch, however its prompt was sliced and wherever its blocks lie. Device
//! memory is taken when the model is loaded and the engine made, to the byte that [`CudaPlan`]
//! says, not when it steps. Absent on purpose: kernels, sequences, time.

mod copies;
mod error;
mod forward;
mod graphs;
mod layout;
mod memory;
mod ranks;
mod rounds;
mod scratch;
mod share;
mod steps;
mod weights;

pub use antiphon_kernels::cuda::MatrixInstruction;
pub use error::CudaEngineError;
pub use memory::{CudaOptions, CudaPlan, DeviceMemory};
pub use ranks::CudaRanks;

use super::check_batch;
use super::checkpoint::{Checkpoint, Fingerprint, LoadProgress};
use super::config::ModelConfig;
use super::kv_pools::KvPools;
use super::sampling::Sampler;
use super::wanted::{Wanted, list_wanted};
use crate::batch::{Batch, EngineLimits};
use antiphon_kernels::cuda::{Arena, Communicator, CudaError, Device, KvRegion};
use copies::CopyStage;
use graphs::Graphs;
use layout::{HostStep, StepRegions, StepSizes};
use memory::{block_bytes, head_shape};
use rounds::{HostRound, RoundRegions, RoundSizes};
use scratch::Scratch;
use share::RankShare;
use std::collections::VecDeque;
use std::sync::Arc;
use steps::{Drawn, QueuedStep};
use weights::Weights;

pub(super) use weights::check_experts;

/// A model's weights on a device, or a rank's part of them.
#[derive(Debug)]
pub struct CudaModel {
    config: ModelConfig,
    share: RankShare,
    device: Device,
    weights: Weights,
    /// Of the checkpoint; zero of weights that mean nothing.
    fingerprint: Fingerprint,
}

impl CudaModel {
    /// Packs the weights and copies them to the device; `progress` is told how many bytes are
    /// there.
    ///
    /// # Errors
    /// [`CudaEngineError`] if the device has not the memory or fails, or a weight is one that the
    /// kernels do not widen.
    pub fn load(
        device: Device,
        checkpoint: &Checkpoint,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, CudaEngineError> {
        Self::load_share(device, checkpoint, RankShare::ALONE, progress)
    }

    fn load_share(
        device: Device,
        checkpoint: &Checkpoint,
        share: RankShare,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, CudaEngineError> {
        // To read a page that the file no longer has would end the process.
        checkpoint.check_unchanged()?;
        let weights = weights::load(&device, checkpoint, share, progress)?;
        // Its pages were read just now.
        let fingerprint = checkpoint.fingerprint("keys and values");
        Ok(Self { config: checkpoint.config().clone(), share, device, weights, fingerprint })
    }

    /// A model of this shape whose weights mean nothing: for measurements.
    ///
    /// # Errors
    /// [`CudaEngineError`] if the device has not the memory or fails.
    pub fn noise(device: Device, config: &ModelConfig) -> Result<Self, CudaEngineError> {
        let weights = weights::noise(&device, config)?;
        Ok(Self { config: config.clone(), share: RankShare::ALONE, device, weights, fingerprint: Fingerprint::default() })
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
    /// Where blocks pass that are copied to the host and back.
    copy_stage: Option<CopyStage>,
    scratch: Scratch,
    step: HostStep,
    round: HostRound,
    /// Steps that were begun and not waited for, oldest first.
    under_way: VecDeque<QueuedStep>,
    /// Where the tokens are that the slices of the last step draw.
    drawn: Vec<Option<Drawn>>,
    /// Which of the host's two sides the next step takes.
    side: usize,
    /// Reports what a device's report has no room for.
    sampler: Sampler,
}

impl CudaEngine {
    /// Makes an engine for a loaded model, with empty KV memory.
    ///
    /// An engine that was lost is replaced by making another from the same model; where the device
    /// is lost too, that fails.
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
        let CudaOptions { block_tokens, global_blocks, sliding_blocks, step_tokens_max, step_slices_max, .. } = *options;
        let sizes = [block_tokens, global_blocks, sliding_blocks, step_tokens_max, step_slices_max];
        assert!(sizes.iter().all(|size| *size > 0), "no option of an engine may be zero: {options:?}");
        let (config, device) = (&model.config, &model.device);
        options.check_device(device.facts())?;
        let shape = head_shape(&model.share.config(config), block_tokens);
        let pools = KvPools { block_tokens, global_blocks, sliding_blocks };
        let kv_bytes = config.layers.iter().map(|group| KvRegion::bytes(shape, pools.blocks(*group))).sum();
        let mut arena = Arena::new(device, "KV memory", kv_bytes)?;
        let kv = config.layers.iter().map(|group| KvRegion::new(&mut arena, shape, pools.blocks(*group))).collect();
        let limits = pools.limits(config, step_tokens_max, step_slices_max, |group| block_bytes(config, block_tokens, group));
        // Of several ranks only the first one has what was drawn, and what takes several rounds is
        // waited for round by round.
        let steps_max = if group.is_none() && step_slices_max <= options.logit_rows() { 2 } else { 1 };
        Ok(Self {
            graphs: Graphs::default(),
            limits: EngineLimits { steps_max, ..limits },
            kv,
            copy_stage: None,
            scratch: Scratch::new(device, config, options, model.share)?,
            step: HostStep::default(),
            round: HostRound::new(config.vocab_size),
            under_way: VecDeque::new(),
            drawn: Vec::new(),
            side: 0,
            sampler: Sampler::new(config.vocab_size),
            options: *options,
            group,
            model,
        })
    }

    /// Captures a decode step for each size, so that none is captured while a client waits.
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

    /// Which experts the last layer chose for the first `tokens` rows of the last step,
    /// `experts_per_token` a row: how many weights a step has read.
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
    /// Stores keys and values as any step does. Of several ranks the first one shows them.
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
        assert!(self.under_way.is_empty(), "a step is shown while another is under way");
        self.model.device.bind()?;
        self.fill_step(batch);
        // What is shown is not drawn.
        self.drawn.clear();
        self.forward_now()?;
        let wanted = |row| Wanted { row, slice: 0, report: 0, target: None, draw: 0, top_count: None };
        let every: Vec<Wanted> = (0..batch.tokens.len()).map(wanted).collect();
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

    /// Prepares a decode step on the host as any step is, and sends nothing: what the host does for
    /// a step's lists.
    ///
    /// # Panics
    /// If the batch is not one that the engine's limits allow, no size of a captured step holds it,
    /// or a step is under way.
    pub fn prepare(&mut self, batch: &Batch) {
        check_batch(&self.limits, batch);
        assert!(self.under_way.is_empty(), "a step is prepared while another is under way");
        self.fill_step(batch);
        let mut wanted = Vec::new();
        list_wanted(batch, &mut Vec::with_capacity(batch.slices.len()), &mut wanted);
        let taken = self.round.fill(batch, &wanted, &self.model.config, &self.options);
        let size = self.graphs.size_of(taken).expect("a captured size holds the batch");
        self.write_step(&self.step_sizes(size));
        self.write_round(&wanted, &self.round_sizes(size));
    }

    /// Whether it draws: of several ranks the first one does, and the next step tells the others.
    fn draws(&self) -> bool {
        self.model.share.rank == 0
    }
}

#[cfg(test)]
mod tests;
