//! The whole engine on a CUDA device: the goldens' logits and continuations, the same bits however
//! a sequence is computed, captured steps, draws, failures. The device is the shim's, so this runs
//! without a GPU.

use super::driver::{Driver, Sequence, Shows};
use super::files::{Case, Golden, at, checkpoint};
use super::{SLICINGS, follow};
use antiphon::batch::{Batch, Sampled, Sampling, TokenId};
use antiphon::engine::Engine as _;
use antiphon::engine::cuda::{CudaEngine, CudaModel, CudaOptions};
use antiphon_kernels::cuda::{Device, MatrixInstruction, WGMMA_TOKENS, probe};
use std::sync::Arc;

/// Norm of the difference of a row's logits, relative to the norm of the row: of every row, from
/// the golden's or from what that is where one near tie of a router falls the other way. What
/// rounds how much is in `docs/adr/0020-f16-on-gpus.md`.
pub(super) const DISTANCE_MAX: f64 = 0.02;
/// Of the median row.
pub(super) const MEDIAN_MAX: f64 = 0.004;
/// Where the likeliest token leads by less, rounding to f16 may choose another.
const MARGIN_MIN: f32 = 0.1;

pub(super) const OPTIONS: CudaOptions = CudaOptions {
    block_tokens: 6,
    global_blocks: 400,
    sliding_blocks: 400,
    step_tokens_max: 600,
    step_slices_max: 16,
    partial_slots: 64,
    graphs: true,
    ranks: 1,
    prefill: MatrixInstruction::Mma,
};

/// An engine on a device of its own.
pub(super) struct Served {
    pub(super) driver: Driver<CudaEngine>,
    model: Arc<CudaModel>,
    pub(super) shim: antiphon_cuda_shim::Device,
}

pub(super) fn serve(golden: &Golden, options: CudaOptions) -> Served {
    let shim = antiphon_cuda_shim::device();
    let device = Device::open(shim.ordinal()).unwrap();
    let model = Arc::new(CudaModel::load(device, &golden.checkpoint, &mut |_| {}).unwrap());
    let engine = CudaEngine::new(Arc::clone(&model), &options).unwrap();
    Served { driver: Driver::over(engine, 1), model, shim }
}

pub(super) fn distance(logits: &[f32], expected: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = squares(&mut logits.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    difference / squares(&mut expected.iter().map(|value| f64::from(*value)))
}

/// Holds the logits of every prompt to the golden's, or to what these are where one near tie falls
/// the other way.
pub(super) fn check_logits(driver: &mut Driver<impl Shows>, golden: &Golden) {
    let (mut distances, mut turned) = (Vec::new(), 0);
    for case in &golden.cases {
        let rows = driver.logits(&case.prompt, usize::MAX);
        let first = if case.all_rows { 0 } else { rows.len() - 1 };
        assert_eq!(rows.len() - first, case.logits.len());
        for ((position, logits), expected) in rows.iter().enumerate().skip(first).zip(&case.logits) {
            let others = case.turned_logits(position).map(|other| distance(logits, other));
            let (own, nearest) = (distance(logits, expected), others.fold(f64::INFINITY, f64::min));
            assert!(own.min(nearest) <= DISTANCE_MAX, "{}, row {position}: {own:.4}, a tie turned {nearest:.4}", case.name);
            turned += usize::from(own > DISTANCE_MAX);
            distances.push(own.min(nearest));
        }
    }
    distances.sort_by(f64::total_cmp);
    let (median, worst) = (distances[distances.len() / 2], distances[distances.len() - 1]);
    let rows = format!("{} rows, {turned} of them with a tie turned", distances.len());
    let what = format!("{}: {rows}, median {median:.4}, worst {worst:.4}", golden.cases[0].name);
    eprintln!("{what}");
    assert!(median <= MEDIAN_MAX, "{what}");
}

/// Holds the continuation of every prompt to the golden's, or to what that is where one near tie
/// falls the other way.
pub(super) fn check_greedy(driver: &mut Driver<impl Shows>, golden: &Golden) {
    let compare = |case: &Case| follow(driver, case, 33, MARGIN_MIN, |step, token| case.turned_to(step, token));
    let compared: usize = golden.cases.iter().map(compare).sum();
    assert!(compared > 30, "only {compared} tokens had the margin to compare them");
}

fn check_captured_greedy(golden: &Golden) {
    let mut served = serve(golden, OPTIONS);
    check_greedy(&mut served.driver, golden);
    let (graphs, replays) = served.driver.engine.graph_counts();
    assert!(graphs > 0 && replays > graphs, "{graphs} graphs, {replays} replays");
}

#[test]
fn goldens_of_odd_shapes() {
    for name in ["g1", "g2", "g3", "g4"] {
        let golden = Golden::open(name);
        check_logits(&mut serve(&golden, OPTIONS).driver, &golden);
        check_captured_greedy(&golden);
    }
}

/// bf16 experts whose values are MXFP4's have the bits of the quantised model; others are refused,
/// and nothing is rounded.
#[test]
fn dequantised_experts_have_the_bits_of_the_quantised() {
    let (quantised, dequantised) = (Golden::open("g2"), Golden::dequantised("g2"));
    check_logits(&mut serve(&dequantised, OPTIONS).driver, &dequantised);
    let prompt = &quantised.cases[3].prompt;
    let logits = |golden: &Golden| serve(golden, OPTIONS).driver.logits(prompt, usize::MAX);
    assert_eq!(logits(&quantised), logits(&dequantised));
    let shim = antiphon_cuda_shim::device();
    let device = Device::open(shim.ordinal()).unwrap();
    let refused = CudaModel::load(device, &Golden::open("g5").checkpoint, &mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains("mlp.experts.gate_up_proj is bf16") && refused.contains("--device cpu"), "{refused}");
}

#[test]
fn small_trained_model() {
    let golden = Golden::tiny_logits();
    check_logits(&mut serve(&golden, OPTIONS).driver, &golden);
    check_captured_greedy(&Golden::tiny());
}

#[test]
fn embedded_model() {
    check_captured_greedy(&Golden::embedded());
}

pub(super) fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|logit| logit.to_bits()).collect()
}

pub(super) fn longest(golden: &Golden) -> &Case {
    golden.cases.iter().max_by_key(|case| case.prompt.len()).unwrap()
}

#[test]
fn slices_blocks_and_chunks_do_not_show() {
    let golden = Golden::open("g1");
    let prompt = &longest(&golden).prompt;
    let expected = bits(&serve(&golden, OPTIONS).driver.logits(prompt, usize::MAX));
    let unsplit = CudaOptions { partial_slots: 0, block_tokens: 16, ..OPTIONS };
    for options in [OPTIONS, unsplit] {
        let mut served = serve(&golden, options);
        for slice_tokens in SLICINGS {
            let got = bits(&served.driver.logits(prompt, slice_tokens));
            assert!(got == expected, "slices of {slice_tokens}, {options:?}");
        }
    }
}

/// What the first session on a GPU has to show: wgmma and mma.sync give the same bits, however many
/// of a prompt's tokens go either way.
#[test]
fn wgmma_does_not_show() {
    let golden = Golden::open("g1");
    let prompt: Vec<TokenId> = longest(&golden).prompt.iter().cycle().take(2 * WGMMA_TOKENS + 5).copied().collect();
    let expected = bits(&serve(&golden, OPTIONS).driver.logits(&prompt, usize::MAX));
    if !probe().is_ok_and(|cuda| MatrixInstruction::Wgmma.is_served_by(&cuda.devices[0])) {
        return antiphon_cuda_shim::skipped("this machine's device has no wgmma");
    }
    let mut served = serve(&golden, CudaOptions { prefill: MatrixInstruction::Wgmma, ..OPTIONS });
    let names = ["linear_wgmma", "gate_up_wgmma_128", "down_wgmma_128", "gate_up_wgmma_64", "down_wgmma_64"];
    // How many slices have enough tokens for each; g1's eight experts get four pairs of a token, so
    // that they begin earlier.
    for (slice_tokens, slices) in
        [(usize::MAX, [1, 1, 1, 0, 0]), (WGMMA_TOKENS, [2, 2, 2, 0, 0]), (WGMMA_TOKENS - 1, [0, 0, 0, 2, 2]), (63, [0; 5])]
    {
        let before = names.map(|name| served.shim.launches_of(name));
        let got = bits(&served.driver.logits(&prompt, slice_tokens));
        assert!(got == expected, "slices of {slice_tokens}");
        let layers = golden.checkpoint.config().layers.len();
        for ((name, before), slices) in names.iter().zip(before).zip(slices) {
            let launched = served.shim.launches_of(name) - before;
            assert!(served.shim.real() || launched == slices * layers, "{launched} of {name} in slices of {slice_tokens}");
        }
    }
}

#[test]
fn the_rest_of_the_batch_does_not_show() {
    let golden = Golden::open("g2");
    let mut served = serve(&golden, OPTIONS);
    let driver = &mut served.driver;
    let prompts: Vec<&[TokenId]> = golden.cases.iter().map(|case| case.prompt.as_slice()).collect();
    let alone: Vec<Vec<u32>> = prompts.iter().map(|prompt| bits(&driver.logits(prompt, usize::MAX))).collect();
    let mut sequences: Vec<Sequence> = prompts.iter().map(|prompt| Sequence::new(prompt)).collect();
    let mut together: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let mut step = 0;
    while sequences.iter().any(|sequence| sequence.left() > 0) {
        let (mut batch, mut owner) = (Batch::default(), Vec::new());
        for (index, sequence) in sequences.iter_mut().enumerate() {
            let len = sequence.left().min((step * 5 + index * 3) % 11);
            if len > 0 {
                driver.add(&mut batch, sequence, len, None);
                owner.extend(std::iter::repeat_n(index, len));
            }
        }
        driver.engine.show(&batch, &mut |row, logits| {
            together[owner[row]].extend(logits.iter().map(|logit| logit.to_bits()));
        });
        sequences.iter_mut().for_each(|sequence| driver.slide(sequence));
        step += 1;
    }
    for (index, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert!(together == alone, "sequence {index} differs from what it is alone");
    }
}

/// Decodes all of a golden's prompts side by side and returns what each step reports.
pub(super) fn decode(driver: &mut Driver<impl Shows>, golden: &Golden, steps: usize) -> Vec<Vec<Sampled>> {
    let mut sequences: Vec<Sequence> = golden.cases.iter().map(|case| Sequence::new(&case.prompt)).collect();
    let mut reports = Vec::new();
    for _ in 0..steps {
        let mut batch = Batch::default();
        for (index, sequence) in sequences.iter_mut().enumerate() {
            sequence.seq = index as u64;
            let len = sequence.left();
            let warm = Sampling { temperature: 1.0, seed: index as u64, logprobs: Some(3), ..Sampling::default() };
            driver.add(&mut batch, sequence, len, Some(if index % 2 == 0 { Sampling::default() } else { warm }));
        }
        let sampled = driver.execute(&batch);
        for (sequence, sampled) in sequences.iter_mut().zip(&sampled) {
            sequence.tokens.push(sampled.token.unwrap().unwrap());
            driver.slide(sequence);
        }
        reports.push(sampled);
    }
    reports
}

#[test]
fn captured_steps_give_what_queued_ones_give() {
    let golden = Golden::open("g1");
    let mut captured = serve(&golden, OPTIONS);
    let given = decode(&mut captured.driver, &golden, 6);
    assert!(captured.driver.engine.graph_counts().1 >= 5, "{:?}", captured.driver.engine.graph_counts());
    // The machine's own driver has one device for both.
    drop(captured);
    let mut queued = serve(&golden, CudaOptions { graphs: false, ..OPTIONS });
    assert_eq!(given, decode(&mut queued.driver, &golden, 6));
    assert_eq!(queued.driver.engine.graph_counts(), (0, 0));
}

#[test]
fn a_refused_launch_loses_the_step_and_not_the_model() {
    let golden = Golden::open("g2");
    let mut served = serve(&golden, OPTIONS);
    if served.shim.real() {
        return antiphon_cuda_shim::skipped("only the stand-in fails when it is told to");
    }
    let case = &golden.cases[0];
    let expected = bits(&served.driver.logits(&case.prompt, usize::MAX));
    served.shim.fail_launch(9, antiphon_cuda_shim::Fault::Refused);
    let mut batch = Batch::default();
    served.driver.add(&mut batch, &mut Sequence::new(&case.prompt), case.prompt.len(), None);
    let error = served.driver.engine.execute(&batch, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("the device failed in a step of 1 slices") && error.contains("launching a kernel"), "{error}");
    let Served { driver, model, shim: _shim } = served;
    drop(driver);
    let mut rebuilt = Driver::over(CudaEngine::new(model, &OPTIONS).unwrap(), 1);
    assert_eq!(bits(&rebuilt.logits(&case.prompt, usize::MAX)), expected);
}

#[test]
fn a_weight_that_f16_does_not_hold_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(at("tests/goldens/g2")).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
    }
    let path = directory.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
    let name = "model.layers.1.self_attn.k_proj.weight";
    let begin = 8 + header_bytes + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    // -65,536 as bf16, the first beyond.
    bytes[begin + 6..begin + 8].copy_from_slice(&0xc780_u16.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let shim = antiphon_cuda_shim::device();
    let device = Device::open(shim.ordinal()).unwrap();
    let error = CudaModel::load(device, &checkpoint(directory.path()), &mut |_| {}).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{name} has a weight of -65536, and the CUDA kernels keep it in f16, at most 65,504; --device cpu serves it")
    );
}

#[test]
fn a_lost_device_is_not_built_again() {
    let golden = Golden::open("g2");
    let served = serve(&golden, OPTIONS);
    let Served { mut driver, model, shim } = served;
    if shim.real() {
        return antiphon_cuda_shim::skipped("only the stand-in fails when it is told to");
    }
    shim.fail_launch(9, antiphon_cuda_shim::Fault::Kernel);
    let mut batch = Batch::default();
    let prompt = &golden.cases[0].prompt;
    driver.add(&mut batch, &mut Sequence::new(prompt), prompt.len(), None);
    let error = driver.engine.execute(&batch, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("must be started anew"), "{error}");
    drop(driver);
    let error = CudaEngine::new(model, &OPTIONS).unwrap_err().to_string();
    assert!(error.contains("must be started anew"), "{error}");
}
