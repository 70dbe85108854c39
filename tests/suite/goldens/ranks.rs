//! Several devices that compute one model: the goldens' logits and continuations, the same bits
//! however a sequence is computed, captured steps, and a rank that fails. The devices are the
//! shim's and so is NCCL, unless the machine has its own.

use super::SLICINGS;
use super::cuda::{DISTANCE_MAX, MEDIAN_MAX, OPTIONS, bits, check_greedy, check_logits, decode, distance, longest};
use super::driver::{Driver, Sequence, Shows};
use super::files::Golden;
use antiphon::batch::Batch;
use antiphon::engine::Engine as _;
use antiphon::engine::cuda::{CudaModel, CudaOptions, CudaRanks};
use antiphon_cuda_shim::Fault;
use antiphon_kernels::cuda::{Device, nccl_version, probe};
use std::sync::Arc;

/// An engine on devices of its own.
struct Served {
    driver: Driver<CudaRanks>,
    models: Vec<Arc<CudaModel>>,
    shims: Vec<antiphon_cuda_shim::Device>,
}

impl Shows for CudaRanks {
    fn show(&mut self, batch: &Batch, logits: &mut dyn FnMut(usize, &[f32])) {
        self.inspect(batch, logits).unwrap();
    }
}

/// `None` on a machine of too few devices, or without NCCL.
fn serve(golden: &Golden, options: CudaOptions) -> Option<Served> {
    let ranks = options.ranks;
    let enough = || nccl_version().is_ok() && probe().is_ok_and(|cuda| cuda.devices.len() >= ranks);
    if antiphon_cuda_shim::on_the_driver() && !enough() {
        antiphon_cuda_shim::skipped(format_args!("this machine has not {ranks} devices and NCCL"));
        return None;
    }
    let shims = antiphon_cuda_shim::devices(ranks);
    let devices = shims.iter().map(|shim| Device::open(shim.ordinal()).unwrap()).collect();
    let models = CudaModel::load_ranks(devices, &golden.checkpoint, &mut |_| {}).unwrap();
    let engine = CudaRanks::new(&models, &options).unwrap();
    Some(Served { driver: Driver::over(engine, 1), models, shims })
}

const fn options(ranks: usize) -> CudaOptions {
    CudaOptions { ranks, ..OPTIONS }
}

fn check(golden: &Golden, ranks: usize) {
    let Some(mut served) = serve(golden, options(ranks)) else { return };
    // The embedded model's has none.
    if golden.cases.iter().any(|case| !case.logits.is_empty()) {
        check_logits(&mut served.driver, golden);
    }
    check_greedy(&mut served.driver, golden);
    let (graphs, replays) = served.driver.engine.graph_counts();
    assert!(graphs > 0 && replays > graphs, "{graphs} graphs, {replays} replays");
    if !served.shims[0].real() {
        let drawn: Vec<bool> = served.shims.iter().map(|shim| shim.launches_of("sample") > 0).collect();
        assert!(drawn[0] && !drawn[1..].contains(&true), "the first rank draws for all: {drawn:?}");
    }
}

#[test]
fn cuda_ranks_give_what_the_goldens_say() {
    check(&Golden::open("g1"), 2);
    // A vocabulary that three ranks do not share equally.
    check(&Golden::open("g2"), 3);
}

#[test]
fn cuda_ranks_serve_the_embedded_model() {
    check(&Golden::embedded(), 2);
}

#[test]
fn cuda_ranks_differ_from_one_device_by_rounding_alone() {
    // In this prompt every router's choice is clear, by 0.009 and more: no row may tip.
    let golden = Golden::open("g2");
    let prompt = &longest(&golden).prompt;
    let Some(mut served) = serve(&golden, options(3)) else { return };
    let together = served.driver.logits(prompt, usize::MAX);
    drop(served);
    let alone = super::cuda::serve(&golden, OPTIONS).driver.logits(prompt, usize::MAX);
    let mut distances: Vec<f64> = together.iter().zip(&alone).map(|(together, alone)| distance(together, alone)).collect();
    distances.sort_by(f64::total_cmp);
    let (median, worst) = (distances[distances.len() / 2], distances[distances.len() - 1]);
    assert!(median <= MEDIAN_MAX && worst <= DISTANCE_MAX, "median {median:.5}, worst {worst:.5}");
}

#[test]
fn slices_do_not_show_with_cuda_ranks() {
    let golden = Golden::open("g1");
    let prompt = &longest(&golden).prompt;
    let Some(mut served) = serve(&golden, options(2)) else { return };
    let expected = bits(&served.driver.logits(prompt, usize::MAX));
    for slice_tokens in SLICINGS {
        assert!(bits(&served.driver.logits(prompt, slice_tokens)) == expected, "slices of {slice_tokens}");
    }
}

#[test]
fn captured_steps_of_cuda_ranks_give_what_queued_ones_give() {
    let golden = Golden::open("g1");
    let Some(mut captured) = serve(&golden, options(2)) else { return };
    let given = decode(&mut captured.driver, &golden, 6);
    assert!(captured.driver.engine.graph_counts().1 >= 5, "{:?}", captured.driver.engine.graph_counts());
    drop(captured);
    let Some(mut queued) = serve(&golden, CudaOptions { graphs: false, ..options(2) }) else { return };
    assert_eq!(given, decode(&mut queued.driver, &golden, 6));
    assert_eq!(queued.driver.engine.graph_counts(), (0, 0));
}

/// A step in which the rank at `failing` fails; what the engine says of it.
fn failed_step(served: &mut Served, golden: &Golden, failing: usize, fault: Fault) -> String {
    // Captured steps first: an abort must not wait for graphs that are not dropped.
    decode(&mut served.driver, golden, 2);
    served.shims[failing].fail_launch(9, fault);
    let (mut batch, prompt) = (Batch::default(), &golden.cases[0].prompt);
    served.driver.add(&mut batch, &mut Sequence::new(prompt), prompt.len(), None);
    served.driver.engine.execute(&batch, &mut Vec::new()).unwrap_err().to_string()
}

#[test]
fn a_refused_launch_on_one_of_the_cuda_ranks_loses_the_step_for_all() {
    let golden = Golden::open("g1");
    for failing in [0, 1] {
        let Some(mut served) = serve(&golden, options(2)) else { return };
        if served.shims[0].real() {
            return antiphon_cuda_shim::skipped("only the stand-in fails when it is told to");
        }
        let prompt = &golden.cases[0].prompt;
        let expected = bits(&served.driver.logits(prompt, usize::MAX));
        let error = failed_step(&mut served, &golden, failing, Fault::Refused);
        assert!(error.contains(&format!("rank {failing}: ")) && error.contains("launching a kernel"), "{error}");
        // The group is parted: it computes no more until it is made anew.
        let mut batch = Batch::default();
        served.driver.add(&mut batch, &mut Sequence::new(prompt), prompt.len(), None);
        let error = served.driver.engine.execute(&batch, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("the group was aborted"), "{error}");
        let Served { driver, models, shims: _shims } = served;
        drop(driver);
        let mut rebuilt = Driver::over(CudaRanks::new(&models, &options(2)).unwrap(), 1);
        assert_eq!(bits(&rebuilt.logits(prompt, usize::MAX)), expected);
    }
}

#[test]
fn a_lost_device_of_the_cuda_ranks_is_not_built_again() {
    let golden = Golden::open("g1");
    let Some(mut served) = serve(&golden, options(2)) else { return };
    if served.shims[0].real() {
        return antiphon_cuda_shim::skipped("only the stand-in fails when it is told to");
    }
    let error = failed_step(&mut served, &golden, 1, Fault::Kernel);
    assert!(error.contains("rank 1: ") && error.contains("must be started anew"), "{error}");
    let Served { driver, models, shims: _shims } = served;
    drop(driver);
    let error = CudaRanks::new(&models, &options(2)).unwrap_err().to_string();
    assert!(error.contains("must be started anew"), "{error}");
}
