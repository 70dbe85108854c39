//! Steps of a CUDA engine: begun, and waited for.
//!
//! Promises: a step is queued whole, with its draws and the copy of what they gave, before it is
//! waited for, so that the next one can be queued behind it. A token that it awaits is read on the
//! device from the reports of the one before. The two steps have pinned memory of their own on the
//! host (a side). What does not fit into one round of draws, or needs logits on the host, is waited
//! for when it is begun.

use super::CudaEngine;
use super::layout::{StepRegions, StepSizes};
use super::rounds::{RoundRegions, RoundSizes, put_report, read_logprobs, reported_token};
use crate::batch::{Batch, BlockId, DrawError, EngineLimits, KvGroup, Sampled, TokenId};
use crate::engine::wanted::{Wanted, list_wanted};
use crate::engine::{Engine, EngineError, check_batch};
use antiphon_kernels::cuda::{CudaError, Queue, REPORT_WORDS, TOP_MAX, drawn_token};

/// Where a token is that the last step draws.
#[derive(Debug, Clone, Copy)]
pub(super) enum Drawn {
    /// In this row of the device's reports.
    Row(usize),
    /// On the host.
    Token(TokenId),
}

/// A step that was begun.
#[derive(Debug)]
pub(super) struct QueuedStep {
    slices: usize,
    side: usize,
    /// Rows whose reports come; `None` if nothing is left to wait for.
    rows: Option<Vec<Wanted>>,
    /// Those of them that may draw nothing.
    dead: Vec<usize>,
    sampled: Vec<Sampled>,
}

impl CudaEngine {
    /// Queues a step.
    pub(super) fn begin(&mut self, batch: &Batch) -> Result<(), CudaError> {
        assert!(self.under_way.len() < self.limits.steps_max, "{} steps are under way", self.under_way.len());
        let (slices, side) = (batch.slices.len(), self.side);
        if slices == 0 {
            self.under_way.push_back(QueuedStep { slices, side, rows: None, dead: Vec::new(), sampled: Vec::new() });
            return Ok(());
        }
        self.model.device.bind()?;
        self.fill_step(batch);
        let (mut sampled, mut wanted) = (Vec::with_capacity(slices), Vec::new());
        list_wanted(batch, &mut sampled, &mut wanted);
        let taken = self.round.fill(batch, &wanted, &self.model.config, &self.options);
        let is_on_device = |wanted: &Wanted| wanted.top_count.is_none_or(|count| count as usize <= TOP_MAX);
        let rows = if taken == wanted.len() && wanted.iter().all(is_on_device) {
            self.queue_step(batch, &wanted)?;
            self.note_drawn(slices, &wanted, |row, _| Drawn::Row(row));
            Some(wanted)
        } else {
            self.compute_rounds(batch, &wanted, taken, &mut sampled)?;
            let token = |wanted: &Wanted| sampled[wanted.report].token.and_then(Result::ok).unwrap_or(TokenId(0));
            self.note_drawn(slices, &wanted, |_, wanted| Drawn::Token(token(wanted)));
            None
        };
        let dead = self.round.take_dead();
        self.under_way.push_back(QueuedStep { slices, side, rows, dead, sampled });
        self.side = 1 - side;
        Ok(())
    }

    /// Waits for the oldest step under way.
    pub(super) fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), CudaError> {
        let mut step = self.under_way.pop_front().expect("a step is waited for that was begun");
        if let Some(rows) = &step.rows {
            self.read_reports(step.side, rows, &step.dead, &mut step.sampled)?;
        }
        sampled.append(&mut step.sampled);
        Ok(())
    }

    /// Takes over the batch for the host's side of the step.
    pub(super) fn fill_step(&mut self, batch: &Batch) {
        let drawn = &self.drawn;
        let awaited = |slice: usize| match drawn.get(slice).copied().flatten() {
            Some(Drawn::Row(row)) => drawn_token(row),
            Some(Drawn::Token(token)) => token.0,
            None => panic!("a token is awaited of slice {slice} of the step before, which draws none"),
        };
        self.step.fill(batch, awaited, &self.model.config, &self.options);
    }

    /// Keeps where the draws of a step of so many slices are, which the next step may await.
    fn note_drawn(&mut self, slices: usize, wanted: &[Wanted], place: impl Fn(usize, &Wanted) -> Drawn) {
        self.drawn.clear();
        self.drawn.resize(slices, None);
        for (row, wanted) in wanted.iter().enumerate().filter(|(_, wanted)| wanted.target.is_none()) {
            self.drawn[wanted.slice] = Some(place(row, wanted));
        }
    }

    /// Queues a step whose draws take one round; a decode step in one go from its graph.
    fn queue_step(&mut self, batch: &Batch, wanted: &[Wanted]) -> Result<(), CudaError> {
        let draws_all = wanted.len() == batch.slices.len();
        if self.step.is_decode()
            && draws_all
            && let Some(size) = self.graphs.size_of(wanted.len())
        {
            self.upload_step(&self.step_sizes(size))?;
            self.upload_round(wanted, &self.round_sizes(size))?;
            self.graphs.launch(size)?;
        } else {
            self.forward_now()?;
            self.queue_round(wanted)?;
        }
        self.queue_reports(wanted.len())
    }

    /// Computes a step round after round.
    fn compute_rounds(
        &mut self,
        batch: &Batch,
        wanted: &[Wanted],
        mut taken: usize,
        sampled: &mut [Sampled],
    ) -> Result<(), CudaError> {
        self.forward_now()?;
        let mut left = wanted;
        while taken > 0 {
            let (rows, rest) = left.split_at(taken);
            self.queue_round(rows)?;
            self.queue_reports(taken)?;
            let dead = self.round.take_dead();
            self.read_reports(self.side, rows, &dead, sampled)?;
            left = rest;
            taken = self.round.fill(batch, left, &self.model.config, &self.options);
        }
        Ok(())
    }

    /// Copies the step's lists and queues all layers.
    pub(super) fn forward_now(&mut self) -> Result<(), CudaError> {
        let sizes = self.step.sizes();
        self.upload_step(&sizes)?;
        self.queue_layers(&StepRegions::of(&self.scratch.step, &sizes), sizes.tokens)
    }

    /// Copies the round's lists and queues its logits and draws.
    fn queue_round(&mut self, rows: &[Wanted]) -> Result<(), CudaError> {
        if rows.is_empty() {
            return Ok(());
        }
        let sizes = self.round.sizes();
        self.upload_round(rows, &sizes)?;
        let regions = RoundRegions::of(&self.scratch.round, &sizes);
        self.queue_logits(&regions, rows.len())?;
        self.queue_draws(&regions, rows.len())
    }

    /// Queues the copy of the round's reports, which are here when the side is done.
    fn queue_reports(&mut self, rows: usize) -> Result<(), CudaError> {
        let draws = self.draws();
        let (device, side) = (&self.model.device, &mut self.scratch.sides[self.side]);
        if draws {
            device.download(&self.scratch.reports.slice(0..rows * REPORT_WORDS), &mut side.reports)?;
        }
        device.mark(&side.done)
    }

    /// Waits for the round and reports its rows.
    fn read_reports(&mut self, side: usize, rows: &[Wanted], dead: &[usize], sampled: &mut [Sampled]) -> Result<(), CudaError> {
        self.scratch.sides[side].done.wait()?;
        if !self.draws() {
            return Ok(());
        }
        for (index, wanted) in rows.iter().enumerate() {
            let words = &self.scratch.sides[side].reports.as_slice()[index * REPORT_WORDS..][..REPORT_WORDS];
            let token = if dead.contains(&index) { Err(DrawError::NothingAllowed) } else { reported_token(words) };
            let logprobs = match (token, wanted.top_count) {
                (Ok(_), Some(count)) if count as usize <= TOP_MAX => Some(read_logprobs(words, count)),
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

    /// Writes the step's lists for the device.
    pub(super) fn write_step(&mut self, sizes: &StepSizes) -> usize {
        let words = sizes.words();
        self.step.write(sizes, &mut self.scratch.sides[self.side].step.as_mut_slice()[..words]);
        words
    }

    /// Writes the lists of a round that takes `rows` from their front.
    pub(super) fn write_round(&mut self, rows: &[Wanted], sizes: &RoundSizes) -> usize {
        let words = sizes.words();
        self.round.write(rows, sizes, &mut self.scratch.sides[self.side].round.as_mut_slice()[..words]);
        words
    }

    fn upload_step(&mut self, sizes: &StepSizes) -> Result<(), CudaError> {
        let words = self.write_step(sizes);
        self.model.device.upload(Queue::Compute, &self.scratch.sides[self.side].step, &self.scratch.step, words)
    }

    pub(super) fn upload_round(&mut self, rows: &[Wanted], sizes: &RoundSizes) -> Result<(), CudaError> {
        let (words, masks) = (self.write_round(rows, sizes), self.round.masks());
        if !masks.is_empty() {
            let side = &mut self.scratch.sides[self.side].masks;
            side.as_mut_slice()[..masks.len()].copy_from_slice(masks);
            self.model.device.upload(Queue::Compute, side, &self.scratch.masks, masks.len())?;
        }
        self.model.device.upload(Queue::Compute, &self.scratch.sides[self.side].round, &self.scratch.round, words)
    }

    /// The logits of a row of the round that was computed last.
    pub(super) fn fetch_logits(&mut self, row: usize) -> Result<&[f32], CudaError> {
        let (device, vocab) = (&self.model.device, self.limits.vocab_size);
        device.download(&self.scratch.logits.slice(row * vocab..(row + 1) * vocab), &mut self.scratch.host_logits)?;
        device.synchronize()?;
        Ok(self.scratch.host_logits.as_slice())
    }

    /// The step's lists as the captured step of this size has them.
    pub(super) fn step_sizes(&self, size: usize) -> StepSizes {
        self.step.sizes_within(&StepSizes::decode(size, &self.model.config, &self.options))
    }

    pub(super) fn round_sizes(&self, size: usize) -> RoundSizes {
        RoundSizes { rows: size, ..self.round.sizes() }
    }
}

impl Engine for CudaEngine {
    fn limits(&self) -> EngineLimits {
        self.limits
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), EngineError> {
        check_batch(&self.limits, batch);
        let device = |error: CudaError| EngineError::Device { slices: batch.slices.len(), message: error.to_string() };
        self.begin(batch).map_err(device)
    }

    fn kv_form(&self) -> Option<String> {
        Some(self.copied_form())
    }

    fn read_block(&mut self, group: KvGroup, block: BlockId, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        self.append_block(group, block, bytes).map_err(|error| EngineError::Device { slices: 0, message: error.to_string() })
    }

    fn write_block(&mut self, group: KvGroup, block: BlockId, bytes: &[u8]) -> Result<(), EngineError> {
        self.take_block(group, block, bytes).map_err(|error| EngineError::Device { slices: 0, message: error.to_string() })
    }

    fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        let slices = self.under_way.front().map_or(0, |step| step.slices);
        self.finish(sampled).map_err(|error| {
            self.under_way.clear();
            EngineError::Device { slices, message: error.to_string() }
        })
    }
}

impl Drop for CudaEngine {
    /// What is queued reads memory that goes now. Several ranks have waited, or were parted (see
    /// [`super::CudaRanks`]).
    fn drop(&mut self) {
        if self.group.is_none() {
            // After a sticky error nothing runs any more.
            let _ = self.model.device.synchronize();
        }
    }
}
