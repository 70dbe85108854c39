use super::rounds::{read_logprobs, reported_token};
use super::*;
use crate::batch::{Allowed, Draw, DrawError, Masks, PromptTargets, Sampling, SeqId, Slice, TokenId, TokenMasks};
use crate::engine::Engine;
use crate::engine::checkpoint::CheckpointFiles;
use antiphon_cuda_shim::{CHECKED_SCHEDULES, Planted, SCHEDULES};
use antiphon_kernels::cuda::{Element, MatrixInstruction, REPORT_WORDS, Region, RowDraw, SampleOperands, region_bytes, sample};
use std::path::Path;

fn golden(name: &str) -> Checkpoint {
    // Cargo says it when it runs a test; scripts/gpu-check does where there is no cargo.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let directory = Path::new(&root).join("tests/goldens").join(name);
    Checkpoint::open(&CheckpointFiles::directory(&directory).unwrap()).unwrap()
}

const OPTIONS: CudaOptions = CudaOptions {
    block_tokens: 16,
    global_blocks: 10,
    sliding_blocks: 20,
    step_tokens_max: 8,
    step_slices_max: 8,
    partial_slots: 4,
    graphs: true,
    ranks: 1,
    prefill: MatrixInstruction::Mma,
};

fn put<T: Element>(device: &Device, values: &[T]) -> Region<T> {
    let region = Arena::new(device, "a test", region_bytes::<T>(values.len())).unwrap().take(values.len());
    device.store(values, &region).unwrap();
    region
}

/// Numbers that a seed fixes, in [0, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }

    fn below(&mut self, count: u32) -> u32 {
        (self.next() * count as f32) as u32
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    fn draw(&mut self, vocab: u32) -> Draw {
        let tokens = |random: &mut Self, count| (0..count).map(|_| TokenId(random.below(vocab))).collect::<Vec<_>>();
        let mut logit_bias: Vec<(TokenId, f32)> =
            (0..self.below(4)).map(|token| (TokenId(token * 3), 1.0 - token as f32)).collect();
        logit_bias.push((TokenId(vocab + 7), 1.0));
        let sampling = Sampling {
            temperature: self.one_of(&[0.0, 0.3, 1.0, 1.7]),
            top_p: self.one_of(&[1.0, 0.9, 0.35, 0.01]),
            top_k: self.one_of(&[0, 1, 7, 40, 100_000]),
            min_p: self.one_of(&[0.0, 0.0, 0.05, 1.0]),
            seed: u64::from(self.below(1 << 20)) << 20,
            repetition_penalty: self.one_of(&[1.0, 1.3]),
            presence_penalty: self.one_of(&[0.0, 0.6]),
            frequency_penalty: self.one_of(&[0.0, -0.4]),
            logit_bias,
            stop_tokens: tokens(self, 2),
            min_tokens: self.below(4),
            logprobs: self.one_of(&[None, Some(0), Some(5), Some(20)]),
            prompt_logprobs: false,
            masks: None,
        };
        let history = if sampling.needs_history() { tokens(self, 30) } else { Vec::new() };
        Draw { sampling: Arc::new(sampling), generated_count: self.below(6), history, history_prompt_len: 12 }
    }
}

/// A batch of one-token slices with these draws.
fn batch_of(draws: Vec<Draw>) -> Batch {
    let slice = |(index, draw)| Slice {
        seq: SeqId(index as u64),
        tokens: index..index + 1,
        start: 0,
        global_blocks: 0..0,
        sliding_blocks: 0..0,
        sliding_first: 0,
        draw: Some(draw),
        drafts: 0,
        prompt_targets: None,
    };
    Batch { slices: draws.into_iter().enumerate().map(slice).collect(), ..Batch::default() }
}

/// Draws rows on the device, with everything of the engine but the model around it.
fn draw_on_device(device: &Device, logits: &[f32], batch: &Batch, config: &ModelConfig) -> Vec<u32> {
    let (mut sampled, mut wanted) = (Vec::new(), Vec::new());
    list_wanted(batch, &mut sampled, &mut wanted);
    let mut round = HostRound::new(config.vocab_size);
    assert_eq!(round.fill(batch, &wanted, config, &OPTIONS), wanted.len());
    let sizes = round.sizes();
    let mut words = vec![0; sizes.words()];
    round.write(&wanted, &sizes, &mut words);
    let regions = RoundRegions::of(&put(device, &words), &sizes);
    let reports = put(device, &vec![0_u32; wanted.len() * REPORT_WORDS]);
    let (on_device, masks) = (put(device, logits), put(device, if round.masks().is_empty() { &[0] } else { round.masks() }));
    let saved = put(device, &vec![0.0_f32; sizes.edits.max(1)]);
    let operands = SampleOperands {
        logits: &on_device,
        draws: &regions.draws,
        edits: &regions.edits,
        saved: &saved,
        masks: &masks,
        reports: &reports,
    };
    sample(device, operands, wanted.len(), config.vocab_size).unwrap();
    let words = device.fetch(&reports).unwrap();
    assert!(device.fetch(&on_device).unwrap().iter().zip(logits).all(|(a, b)| a.to_bits() == b.to_bits()), "logits stay");
    words
}

#[test]
fn the_device_draws_what_the_sampler_draws() {
    let shim = antiphon_cuda_shim::device();
    let device = Device::open(shim.ordinal()).unwrap();
    let mut random = Random(3);
    for vocab in [33, 640, 1500] {
        let config = ModelConfig { vocab_size: vocab, ..golden("g2").config().clone() };
        for case in 0..8 {
            let rows = 5;
            // Coarse logits tie often.
            let logits: Vec<f32> = (0..rows * vocab)
                .map(|_| if case % 2 == 0 { random.next() * 12.0 - 6.0 } else { (random.next() * 9.0).floor() / 2.0 })
                .collect();
            let batch = batch_of((0..rows).map(|_| random.draw(vocab as u32)).collect());
            let mut sampler = Sampler::new(vocab);
            shim.schedule(SCHEDULES[case % SCHEDULES.len()]);
            let words = draw_on_device(&device, &logits, &batch, &config);
            for ((words, logits), slice) in words.chunks_exact(REPORT_WORDS).zip(logits.chunks_exact(vocab)).zip(&batch.slices)
            {
                let draw = slice.draw.as_ref().unwrap();
                let expected = sampler.draw(logits, draw);
                assert_eq!(reported_token(words), expected, "{vocab}, case {case}: {draw:?}");
                let (Ok(token), Some(count)) = (expected, draw.sampling.logprobs) else { continue };
                let (got, expected) = (read_logprobs(words, count), sampler.logprobs(logits, token, count));
                assert_eq!((got.chosen.rank, got.chosen.token), (expected.chosen.rank, token));
                assert_eq!(got.top.len(), expected.top.len());
                for (got, expected) in got.top.iter().zip(&expected.top).chain([(&got.chosen, &expected.chosen)]) {
                    assert_eq!(got.token, expected.token);
                    assert!((got.logprob - expected.logprob).abs() < 1e-4, "{got:?}, expected {expected:?}");
                }
            }
        }
    }
}

#[test]
fn draws_are_the_same_bits_under_every_schedule_and_race_free() {
    let shim = antiphon_cuda_shim::device();
    let device = Device::open(shim.ordinal()).unwrap();
    let config = ModelConfig { vocab_size: 100, ..golden("g2").config().clone() };
    let mut random = Random(5);
    let logits: Vec<f32> = (0..300).map(|_| random.next() * 8.0).collect();
    let sampling =
        |top_k, top_p| Sampling { temperature: 0.8, top_k, top_p, min_p: 0.01, logprobs: Some(3), ..Sampling::default() };
    let draws = [sampling(0, 1.0), sampling(9, 0.7), Sampling { presence_penalty: 1.0, ..Sampling::default() }];
    let draw = |sampling| Draw {
        sampling: Arc::new(sampling),
        generated_count: 3,
        history: vec![TokenId(4), TokenId(4), TokenId(9)],
        history_prompt_len: 1,
    };
    let batch = batch_of(draws.into_iter().map(draw).collect());
    let expected = draw_on_device(&device, &logits, &batch, &config);
    shim.check(true);
    for schedule in CHECKED_SCHEDULES {
        shim.schedule(schedule);
        assert_eq!(draw_on_device(&device, &logits, &batch, &config), expected, "{schedule:?}");
    }
    assert_eq!(shim.races(), 0, "{}", shim.message());
}

/// Bugs in the kernel that draws: another token, or a race that the checker sees.
#[test]
fn bugs_planted_in_the_draw_are_found() {
    let bugs = [
        ("sample-no-barrier", "= value;\n    __syncthreads();\n    T sum", "= value;\n    T sum"),
        ("sample-next-token", "__ffs((int)beyond) - 1", "__ffs((int)beyond)"),
        ("sample-past-the-end", "end = min(vocab, begin + range);", "end = begin + range;"),
    ];
    for (name, from, to) in bugs {
        let shim = antiphon_cuda_shim::device();
        if shim.real() {
            return antiphon_cuda_shim::skipped("nothing is planted in a driver");
        }
        let config = ModelConfig { vocab_size: 1500, ..golden("g2").config().clone() };
        let mut random = Random(7);
        let logits: Vec<f32> = (0..4 * 1500).map(|_| random.next() * 8.0).collect();
        let sampling = Sampling { temperature: 0.9, top_k: 40, top_p: 0.8, ..Sampling::default() };
        let draw = |sampling: &Sampling| Draw {
            sampling: Arc::new(sampling.clone()),
            generated_count: 3,
            history: Vec::new(),
            history_prompt_len: 0,
        };
        let batch = batch_of([&sampling, &Sampling::default(), &sampling, &Sampling::default()].map(draw).into());
        let expected = draw_on_device(&Device::open(shim.ordinal()).unwrap(), &logits, &batch, &config);
        shim.plant(Planted { name, file: "sample.cu", from, to });
        shim.check(true);
        let device = Device::open(shim.ordinal()).unwrap();
        let got = CHECKED_SCHEDULES.map(|schedule| {
            shim.schedule(schedule);
            let attempt = || draw_on_device(&device, &logits, &batch, &config);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)).ok()
        });
        let is_found = shim.races() > 0 || got.iter().any(|words| words.as_ref() != Some(&expected));
        assert!(is_found, "{name}: not noticed");
    }
}

/// Allows the same in every draw.
#[derive(Debug)]
struct Fixed(Allowed);

impl TokenMasks for Fixed {
    fn drawn(&self, _: u32, _: TokenId) {}

    fn allowed(&self, _: u32) -> Allowed {
        self.0.clone()
    }
}

#[test]
fn broken_rows_and_masks_are_reported() {
    let shim = antiphon_cuda_shim::device();
    let device = Device::open(shim.ordinal()).unwrap();
    let config = ModelConfig { vocab_size: 40, ..golden("g2").config().clone() };
    let draw = |temperature| Draw {
        sampling: Arc::new(Sampling { temperature, ..Sampling::default() }),
        generated_count: 0,
        history: Vec::new(),
        history_prompt_len: 0,
    };
    let mut logits = vec![0.0; 4 * 40];
    (logits[7], logits[40 + 39], logits[3 * 40 + 30]) = (f32::NAN, f32::INFINITY, 5.0);
    logits[80..120].fill(f32::NEG_INFINITY);
    let batch = batch_of((0..4).map(|row| draw(row as f32 / 2.0)).collect());
    let words = draw_on_device(&device, &logits, &batch, &config);
    let tokens: Vec<_> = words.chunks_exact(REPORT_WORDS).map(reported_token).collect();
    assert_eq!(tokens[..3], [Err(DrawError::NotFinite); 3]);
    assert!(tokens[3].is_ok());
    // A grammar that allows two tokens, the likeliest not among them, between rows without one.
    let masked = |sampling: Sampling| {
        let masks = Some(Masks(Arc::new(Fixed(Allowed::Only([1 << 3, 1 << (33 - 32)].into())))));
        Draw { sampling: Arc::new(Sampling { masks, ..sampling }), ..draw(0.0) }
    };
    let row = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0];
    let logits: Vec<f32> = (0..3 * 40).map(|at| row.get(at % 40).copied().unwrap_or(-1.0)).collect();
    let greedy = batch_of(vec![draw(0.0), masked(Sampling::default()), draw(0.0)]);
    let words = draw_on_device(&device, &logits, &greedy, &config);
    let tokens: Vec<_> = words.chunks_exact(REPORT_WORDS).map(reported_token).collect();
    assert_eq!(tokens, [7, 3, 7].map(|token| Ok(TokenId(token))));
    // One that allows all but the likeliest, with a stop token that waits.
    let excepting = |sampling: Sampling| {
        let masks = Some(Masks(Arc::new(Fixed(Allowed::Except([7, 70].map(TokenId).into())))));
        Draw { sampling: Arc::new(Sampling { masks, min_tokens: 1, stop_tokens: vec![TokenId(0)], ..sampling }), ..draw(0.0) }
    };
    let greedy = batch_of(vec![draw(0.0), excepting(Sampling::default()), draw(0.0)]);
    let tokens: Vec<_> =
        draw_on_device(&device, &logits, &greedy, &config).chunks_exact(REPORT_WORDS).map(reported_token).collect();
    assert_eq!(tokens, [7, 1, 7].map(|token| Ok(TokenId(token))));
    for seed in 0..8 {
        let sampling = Sampling { temperature: 1.0, seed, top_p: 0.9, ..Sampling::default() };
        for draw in [masked(sampling.clone()), excepting(sampling)] {
            let batch = batch_of(vec![draw]);
            let token = reported_token(&draw_on_device(&device, &logits[..40], &batch, &config)).unwrap();
            assert_eq!(Sampler::new(40).draw(&logits[..40], batch.slices[0].draw.as_ref().unwrap()), Ok(token));
        }
    }
}

#[test]
fn a_step_takes_masks_captured_or_not() {
    let shim = antiphon_cuda_shim::device();
    let checkpoint = golden("g4");
    let model = Arc::new(CudaModel::load(Device::open(shim.ordinal()).unwrap(), &checkpoint, &mut |_| {}).unwrap());
    let draw = |allowed: Option<Allowed>| {
        let masks = allowed.map(|allowed| Masks(Arc::new(Fixed(allowed))));
        let sampling = Arc::new(Sampling { masks, ..Sampling::default() });
        Draw { sampling, generated_count: 0, history: Vec::new(), history_prompt_len: 0 }
    };
    let only = |token: u32| {
        let mut words = vec![0; 20];
        words[(token / 32) as usize] = 1 << (token % 32);
        Some(Allowed::Only(words.into()))
    };
    for graphs in [true, false] {
        let mut engine = CudaEngine::new(Arc::clone(&model), &CudaOptions { graphs, ..OPTIONS }).unwrap();
        let mut step = |draws: Vec<Draw>| {
            let mut batch = batch_of(draws);
            for (index, slice) in batch.slices.iter_mut().enumerate() {
                batch.tokens.push(TokenId(1));
                batch.global_blocks.push(crate::batch::BlockId(index as u32));
                batch.sliding_blocks.push(crate::batch::BlockId(index as u32));
                (slice.global_blocks, slice.sliding_blocks) = (index..index + 1, index..index + 1);
            }
            let mut sampled = Vec::new();
            engine.execute(&batch, &mut sampled).unwrap();
            sampled.iter().map(|report| report.token.unwrap()).collect::<Vec<_>>()
        };
        let free = step(vec![draw(None)])[0].unwrap();
        let tokens = step(vec![draw(only(7)), draw(None), draw(Some(Allowed::Nothing)), draw(only(333))]);
        let expected = [Ok(TokenId(7)), Ok(free), Err(DrawError::NothingAllowed), Ok(TokenId(333))];
        assert_eq!(tokens, expected, "graphs: {graphs}");
        assert_eq!(step(vec![draw(None), draw(None)]), [Ok(free); 2], "a step's masks are its own");
    }
}

#[test]
fn the_plan_is_what_is_taken() {
    let shim = antiphon_cuda_shim::device();
    if shim.real() {
        return antiphon_cuda_shim::skipped("a driver does not say what a process has taken");
    }
    let checkpoint = golden("g4");
    let device = Device::open(shim.ordinal()).unwrap();
    let before = shim.memory_used() as u64;
    let model = Arc::new(CudaModel::load(device, &checkpoint, &mut |_| {}).unwrap());
    let mut engine = CudaEngine::new(model, &OPTIONS).unwrap();
    let plan = CudaPlan::of(checkpoint.config(), &OPTIONS);
    let taken = shim.memory_used() as u64 - before;
    assert_eq!(taken, plan.total_bytes(), "{plan}");
    let limits = engine.limits();
    assert_eq!((limits.global_blocks * limits.global_block_bytes) as u64, plan.global_kv_bytes);
    // A step, captured or not, takes nothing more.
    let draw = Draw { sampling: Arc::new(Sampling::default()), generated_count: 0, history: Vec::new(), history_prompt_len: 0 };
    let mut batch = batch_of(vec![draw]);
    batch.tokens.push(TokenId(1));
    (batch.global_blocks, batch.sliding_blocks) = (vec![crate::batch::BlockId(9)], vec![crate::batch::BlockId(19)]);
    (batch.slices[0].global_blocks, batch.slices[0].sliding_blocks) = (0..1, 0..1);
    engine.execute(&batch, &mut Vec::new()).unwrap();
    assert_eq!(shim.memory_used() as u64 - before, taken);
    assert_eq!(engine.graph_counts(), (OPTIONS.step_slices_max, 1), "captured when it was made");
}

#[test]
fn each_of_several_devices_takes_what_the_plan_says() {
    if antiphon_cuda_shim::on_the_driver() {
        return antiphon_cuda_shim::skipped("a driver does not say what a process has taken");
    }
    let (shims, checkpoint) = (antiphon_cuda_shim::devices(3), golden("g2"));
    let devices: Vec<Device> = shims.iter().map(|shim| Device::open(shim.ordinal()).unwrap()).collect();
    let before: Vec<usize> = shims.iter().map(antiphon_cuda_shim::Device::memory_used).collect();
    let mut told = Vec::new();
    let models = CudaModel::load_ranks(devices, &checkpoint, &mut |progress| told.push(progress)).unwrap();
    let options = CudaOptions { ranks: 3, ..OPTIONS };
    let engine = CudaRanks::new(&models, &options).unwrap();
    let plan = CudaPlan::of(checkpoint.config(), &options);
    for (shim, before) in shims.iter().zip(before) {
        assert_eq!((shim.memory_used() - before) as u64, plan.total_bytes(), "{plan}");
    }
    let limits = engine.limits();
    assert_eq!(
        (limits.global_blocks * limits.global_block_bytes) as u64,
        3 * plan.global_kv_bytes,
        "a block lies on all devices"
    );
    let last = told.last().unwrap();
    // Norms, biases of attention and sinks are not told of.
    assert!(told.is_sorted_by_key(|progress| progress.done_bytes) && last.done_bytes * 10 > last.total_bytes * 9, "{last:?}");
    assert!(last.done_bytes <= checkpoint.tensor_bytes(), "what every rank has is counted once: {last:?}");
}

#[test]
fn a_model_that_ranks_cannot_share_is_refused() {
    let config = golden("g2").config().clone();
    let memory = DeviceMemory { free_bytes: 2 << 30, total_bytes: 2 << 30, utilization: 0.5 };
    let error =
        |ranks| CudaOptions::within(&config, memory, None, 16, 64, ranks, MatrixInstruction::Mma).unwrap_err().to_string();
    assert_eq!(
        error(2),
        "the model has 3 key and value heads, which 2 devices cannot share equally; expected a number that divides 3 key and value \
         heads and 6 experts"
    );
    let config = ModelConfig { experts: 7, ..config.clone() };
    let error = CudaOptions::within(&config, memory, None, 16, 64, 3, MatrixInstruction::Mma).unwrap_err().to_string();
    assert!(error.starts_with("the model has 7 experts, which 3 devices"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_with_what_would_help() {
    let config = golden("g1").config().clone();
    let memory = |free_bytes| DeviceMemory { free_bytes, total_bytes: 2 << 30, utilization: 0.5 };
    let options = CudaOptions::within(&config, memory(2 << 30), None, 16, 64, 1, MatrixInstruction::Mma).unwrap();
    let plan = CudaPlan::of(&config, &options);
    assert!(plan.total_bytes() <= 1 << 30, "{plan}");
    let error = CudaOptions::within(&config, memory(1 << 30), None, 16, 64, 1, MatrixInstruction::Mma).unwrap_err().to_string();
    assert!(error.contains("--gpu-memory-utilization") && error.contains("weights 2 MiB"), "{error}");
    let wide = ModelConfig { head_dim: 256, ..config };
    let error = CudaOptions::within(&wide, memory(2 << 30), None, 16, 64, 1, MatrixInstruction::Mma).unwrap_err().to_string();
    assert_eq!(error, "head_dim is 256, and the CUDA kernels serve at most 128; --device cpu serves it");
}

#[test]
fn prompt_targets_report_and_do_not_draw() {
    let slice = Slice {
        seq: SeqId(1),
        tokens: 0..2,
        start: 0,
        global_blocks: 0..0,
        sliding_blocks: 0..0,
        sliding_first: 0,
        draw: None,
        drafts: 0,
        prompt_targets: Some(Box::new(PromptTargets { tokens: vec![TokenId(5), TokenId(6)], top_count: 2 })),
    };
    let batch = Batch { tokens: vec![TokenId(0), TokenId(5)], slices: vec![slice], ..Batch::default() };
    let (mut sampled, mut wanted) = (Vec::new(), Vec::new());
    list_wanted(&batch, &mut sampled, &mut wanted);
    let mut round = HostRound::new(40);
    let config = ModelConfig { vocab_size: 40, ..golden("g2").config().clone() };
    assert_eq!(round.fill(&batch, &wanted, &config, &OPTIONS), 2);
    let mut words = vec![0; round.sizes().words()];
    round.write(&wanted, &round.sizes(), &mut words);
    assert_eq!(words[..2], [0, 1]);
    let expected = RowDraw { is_draw: 0, wants_logprobs: 1, target: 6, top_count: 2, ..RowDraw::default() };
    assert_eq!(words[4 + 20..4 + 40], expected.words());
}

#[test]
fn a_slice_with_drafts_draws_after_each_of_them_with_an_index_of_its_own() {
    let sampling = Arc::new(Sampling { temperature: 1.0, logprobs: Some(1), ..Sampling::default() });
    let slice = Slice {
        seq: SeqId(1),
        tokens: 0..4,
        start: 7,
        global_blocks: 0..0,
        sliding_blocks: 0..0,
        sliding_first: 0,
        draw: Some(Draw { sampling, generated_count: 5, history: Vec::new(), history_prompt_len: 0 }),
        drafts: 2,
        prompt_targets: None,
    };
    let batch = Batch { tokens: [1, 2, 3, 4].map(TokenId).into(), slices: vec![slice], ..Batch::default() };
    let (mut sampled, mut wanted) = (Vec::new(), Vec::new());
    list_wanted(&batch, &mut sampled, &mut wanted);
    assert_eq!(sampled.len(), 3);
    assert_eq!(wanted.iter().map(|wanted| (wanted.row, wanted.report)).collect::<Vec<_>>(), [(1, 0), (2, 1), (3, 2)]);
    let mut round = HostRound::new(40);
    let config = ModelConfig { vocab_size: 40, ..golden("g2").config().clone() };
    assert_eq!(round.fill(&batch, &wanted, &config, &OPTIONS), 3);
    let mut words = vec![0; round.sizes().words()];
    round.write(&wanted, &round.sizes(), &mut words);
    let index = RowDraw { index: u32::MAX, ..RowDraw::default() }.words().iter().position(|word| *word == u32::MAX);
    let index = 4 + index.expect("a draw has an index");
    assert_eq!([0, 20, 40].map(|row| words[row + index]), [5, 6, 7]);
}
