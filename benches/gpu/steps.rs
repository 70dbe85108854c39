//! Whole steps of the engine: prefill of one prompt, decode of many sequences, as a server runs
//! them.

use crate::median;
use crate::models::{Model, dense_bytes, expert_bytes, layer_operations};
use crate::report::{Measured, Results, Roof};
use antiphon::batch::{Batch, BlockId, Draw, KvGroup, Sampling, SeqId, Slice, TokenId};
use antiphon::engine::Engine as _;
use antiphon::engine::cuda::{CudaEngine, CudaModel, CudaOptions, CudaPlan, MatrixInstruction};
use antiphon_kernels::cuda::Device;
use std::sync::Arc;
use std::time::Instant;

const BLOCK_TOKENS: usize = 16;
/// Decode steps that are timed, after two that are not.
const STEPS: usize = 48;
/// How many times the decode steps of a size are timed: one by one, and each given while the one
/// before is computed.
const WAYS: usize = 2;
/// Of the device's free memory, what a run may take.
const SHARE: f64 = 0.95;

/// Measures everything that fits the device's memory, prefill first.
pub(crate) fn measure(device: Device, model: &Model, results: &Results, roof: Roof) -> Result<(), String> {
    let (free, _) = device.memory().map_err(|error| error.to_string())?;
    let steps = if model.name == "tiny" { 3 } else { STEPS };
    let blocks = |sequences: usize| sequences * (model.context + WAYS * (steps + 2)).div_ceil(BLOCK_TOKENS);
    let longest = model.prompts.iter().copied().max().unwrap_or(0).max(model.context);
    let options = |sequences: usize| CudaOptions {
        block_tokens: BLOCK_TOKENS,
        global_blocks: blocks(sequences).max(longest.div_ceil(BLOCK_TOKENS)),
        sliding_blocks: blocks(sequences).max(longest.div_ceil(BLOCK_TOKENS)),
        step_tokens_max: longest.max(sequences),
        step_slices_max: sequences,
        partial_slots: 8192.min(sequences * (longest / 128 + 2) * 2),
        graphs: true,
        ranks: 1,
        prefill: MatrixInstruction::Mma,
    };
    let fits =
        |sequences: &usize| CudaPlan::of(&model.config, &options(*sequences)).total_bytes() as f64 <= free as f64 * SHARE;
    let batches: Vec<usize> = model.batches.iter().copied().filter(fits).collect();
    let Some(most) = batches.last().copied() else {
        let plan = CudaPlan::of(&model.config, &options(model.batches[0]));
        return Err(format!("{} does not fit: {plan}, {} MiB are free", model.name, free >> 20));
    };
    let has_wgmma = MatrixInstruction::Wgmma.is_served_by(device.facts());
    let start = Instant::now();
    let weights = Arc::new(CudaModel::noise(device, &model.config).map_err(|error| error.to_string())?);
    // Both ways to multiply in one run, on the same weights, so that the run decides between them.
    for (what, prefill) in [("prefill", MatrixInstruction::Mma), ("prefill, wgmma", MatrixInstruction::Wgmma)] {
        if prefill == MatrixInstruction::Wgmma && !has_wgmma {
            continue;
        }
        let options = CudaOptions { prefill, graphs: false, ..options(1) };
        let engine = CudaEngine::new(Arc::clone(&weights), &options).map_err(|error| error.to_string())?;
        let mut run = Run { engine, model, results, roof, blocks_each: blocks(1), filled: 0 };
        for tokens in model.prompts {
            run.prefill(what, *tokens)?;
        }
    }
    let engine = CudaEngine::new(weights, &options(most)).map_err(|error| error.to_string())?;
    println!("{}: weights and engine in {:.1} s", model.name, start.elapsed().as_secs_f64());
    let mut run = Run { engine, model, results, roof, blocks_each: blocks(1), filled: 0 };
    for sequences in batches {
        run.decode(sequences, steps)?;
    }
    Ok(())
}

/// Measures what the host does for the lists of a decode step of 20b's shape. Nothing is computed,
/// so any device will do: the model has the heads, the context and the blocks of 20b, and almost no
/// weights.
pub(crate) fn measure_host(device: Device, model: &Model, results: &Results) -> Result<(), String> {
    let most = model.batches.last().copied().unwrap_or(1);
    let blocks_each = (model.context + 2).div_ceil(BLOCK_TOKENS);
    let options = CudaOptions {
        block_tokens: BLOCK_TOKENS,
        global_blocks: most * blocks_each,
        sliding_blocks: most * blocks_each,
        step_tokens_max: most,
        step_slices_max: most,
        partial_slots: 8192,
        graphs: true,
        ranks: 1,
        prefill: MatrixInstruction::Mma,
    };
    let weights = Arc::new(CudaModel::noise(device, &model.config).map_err(|error| error.to_string())?);
    let engine = CudaEngine::new(weights, &options).map_err(|error| error.to_string())?;
    let mut run = Run { engine, model, results, roof: Roof::default(), blocks_each, filled: 0 };
    for sequences in model.batches.iter().copied() {
        let mut batch = Batch::default();
        (0..sequences).for_each(|sequence| run.add(&mut batch, sequence, model.context, 1, true));
        run.host_work(sequences, &batch)?;
    }
    Ok(())
}

struct Run<'a> {
    engine: CudaEngine,
    model: &'a Model,
    results: &'a Results,
    roof: Roof,
    blocks_each: usize,
    /// Sequences whose context is computed.
    filled: usize,
}

impl Run<'_> {
    fn step(&mut self, batch: &Batch) -> Result<f64, String> {
        let (start, mut sampled) = (Instant::now(), Vec::new());
        self.engine.execute(batch, &mut sampled).map_err(|error| error.to_string())?;
        let seconds = start.elapsed().as_secs_f64();
        let drawn = sampled.iter().all(|one| one.token.is_some_and(|token| token.is_ok()));
        if drawn { Ok(seconds) } else { Err("a logit is not finite".to_owned()) }
    }

    /// Tokens `start .. start + len` of a sequence whose blocks are its own, in the same order in
    /// both groups.
    fn add(&self, batch: &mut Batch, sequence: usize, start: usize, len: usize, draws: bool) {
        let (vocab, window) = (self.model.config.vocab_size, self.model.config.sliding_window_tokens);
        let first_block = sequence * self.blocks_each;
        let block = |logical: usize| BlockId((first_block + logical) as u32);
        let end_block = (start + len).div_ceil(BLOCK_TOKENS);
        let sliding_first = (start + 1).saturating_sub(window) / BLOCK_TOKENS;
        let draw = draws.then(|| Draw {
            sampling: Arc::new(Sampling::default()),
            generated_count: 0,
            history: Vec::new(),
            history_prompt_len: 0,
        });
        let (global, sliding, tokens) = (batch.global_blocks.len(), batch.sliding_blocks.len(), batch.tokens.len());
        batch.global_blocks.extend((0..end_block).map(block));
        batch.sliding_blocks.extend((sliding_first..end_block).map(block));
        let token = |position: usize| TokenId(((sequence * 7919 + position) * 104_729 % vocab) as u32);
        batch.tokens.extend((start..start + len).map(token));
        batch.slices.push(Slice {
            seq: SeqId(sequence as u64),
            tokens: tokens..tokens + len,
            start,
            global_blocks: global..batch.global_blocks.len(),
            sliding_blocks: sliding..batch.sliding_blocks.len(),
            sliding_first,
            draw,
            drafts: 0,
            prompt_targets: None,
        });
    }

    fn prefill(&mut self, what: &str, tokens: usize) -> Result<(), String> {
        let mut batch = Batch::default();
        self.add(&mut batch, 0, 0, tokens, true);
        self.step(&batch)?;
        let mut times = (0..5).map(|_| self.step(&batch)).collect::<Result<Vec<_>, _>>()?;
        let config = &self.model.config;
        let seconds = median(&mut times);
        let products = tokens as f64 * layer_operations(config) + 2.0 * (config.vocab_size * config.hidden) as f64;
        self.put(what, format!("{tokens} tokens"), (seconds, times[0]), self.weights_read(tokens)?, products, tokens)
    }

    fn decode(&mut self, sequences: usize, steps: usize) -> Result<(), String> {
        let context = self.model.context;
        for sequence in self.filled..sequences {
            let mut batch = Batch::default();
            self.add(&mut batch, sequence, 0, context, false);
            self.step(&batch)?;
        }
        self.filled = sequences;
        let (mut times, mut last) = (Vec::new(), Batch::default());
        for step in 0..steps + 2 {
            let mut batch = Batch::default();
            (0..sequences).for_each(|sequence| self.add(&mut batch, sequence, context + step, 1, true));
            times.push(self.step(&batch)?);
            last = batch;
        }
        self.host_work(sequences, &last)?;
        let mut times = times.split_off(2);
        let seconds = median(&mut times);
        let config = &self.model.config;
        let products = sequences as f64 * (layer_operations(config) + 2.0 * (config.vocab_size * config.hidden) as f64);
        let bytes = |run: &Self, context: usize| {
            Ok::<_, String>(run.weights_read(sequences)? + sequences as f64 * run.kv_read(context))
        };
        let size = format!("batch {sequences}, context {context}");
        self.put("decode", size.clone(), (seconds, times[0]), bytes(self, context + steps / 2)?, products, sequences)?;
        let from = context + steps + 2;
        let mean = self.decode_ahead(sequences, from, steps)?;
        let bytes = bytes(self, from + steps / 2)?;
        self.put("decode, steps given ahead", format!("{size}, mean"), (mean, mean), bytes, products, sequences)
    }

    /// Seconds of a decode step where each is given while the one before is computed, the mean of
    /// `steps` after two more. Its tokens are spread as those of steps in turn, so that as many
    /// experts are hit: what was drawn from noise may be the same for all.
    fn decode_ahead(&mut self, sequences: usize, start: usize, steps: usize) -> Result<f64, String> {
        let wait = |engine: &mut CudaEngine| engine.finish(&mut Vec::new()).map_err(|error| error.to_string());
        let mut began = Instant::now();
        for step in 0..steps + 2 {
            let mut batch = Batch::default();
            (0..sequences).for_each(|sequence| self.add(&mut batch, sequence, start + step, 1, true));
            self.engine.begin(&batch).map_err(|error| error.to_string())?;
            if step > 0 {
                wait(&mut self.engine)?;
            }
            if step == 2 {
                began = Instant::now();
            }
        }
        wait(&mut self.engine)?;
        Ok(began.elapsed().as_secs_f64() / steps as f64)
    }

    /// What the host does for a step's lists, beside the driver's calls, with nothing under way on
    /// the device.
    fn host_work(&mut self, sequences: usize, batch: &Batch) -> Result<(), String> {
        let time = |run: &mut Self| {
            let start = Instant::now();
            run.engine.prepare(batch);
            start.elapsed().as_secs_f64()
        };
        let mut times: Vec<f64> = (0..32).map(|_| time(self)).collect();
        let (what, size) =
            ("host, lists of a decode step".to_owned(), format!("batch {sequences}, context {}", self.model.context));
        let (seconds, fastest, note) = (median(&mut times), times[0], String::new());
        let one = Measured { what, size, seconds, fastest, bytes: 0.0, operations: 0.0, tokens: None, note };
        self.results.add(self.roof, &one)
    }

    fn put(
        &self,
        what: &str,
        size: String,
        times: (f64, f64),
        bytes: f64,
        operations: f64,
        tokens: usize,
    ) -> Result<(), String> {
        let hit = self.experts_hit(tokens)?;
        let (seconds, fastest) = times;
        let note = format!("{hit} experts of the last layer hit");
        let one = Measured { what: what.to_owned(), size, seconds, fastest, bytes, operations, tokens: Some(tokens), note };
        self.results.add(self.roof, &one)
    }

    /// Experts that the last layer chose in the last step.
    fn experts_hit(&self, tokens: usize) -> Result<usize, String> {
        let mut chosen = self.engine.chosen_experts(tokens).map_err(|error| error.to_string())?;
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen.len())
    }

    /// Bytes of weights that the last step had to read, if every layer chose as many experts as the
    /// last.
    fn weights_read(&self, tokens: usize) -> Result<f64, String> {
        let config = &self.model.config;
        let experts = (config.layers.len() * self.experts_hit(tokens)?) as f64;
        Ok(dense_bytes(config) + experts * expert_bytes(config))
    }

    /// Bytes of keys and values that a decoding token reads.
    fn kv_read(&self, context: usize) -> f64 {
        let config = &self.model.config;
        let seen = |group: &KvGroup| match group {
            KvGroup::Global => context,
            KvGroup::Sliding => context.min(config.sliding_window_tokens),
        };
        let positions: usize = config.layers.iter().map(seen).sum();
        (positions * 4 * config.kv_heads * config.head_dim) as f64
    }
}
