//! Measures the CUDA engine on this machine's device, part by part; `scripts/gpu-check` runs the
//! parts, each in a process of its own.
//!
//! `gpu facts|host|kernels|model FOLDER [MODEL]` adds to the results in a folder, `gpu report
//! FOLDER` makes tables of them. Weights are noise of a model's exact size, so no checkpoint is
//! needed. Tiny shapes run on the shim, in `scripts/cuda-check`.
#![expect(clippy::print_stdout, reason = "each measurement is shown as it comes")]

mod kernels;
mod models;
mod report;
mod steps;

use antiphon_kernels::cuda::{Arena, CudaError, Device, Pinned, Queue, Region, probe};
use report::{Results, roof};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str =
    "usage: gpu facts FOLDER | gpu host FOLDER | gpu kernels FOLDER MODEL | gpu model FOLDER MODEL | gpu report FOLDER";
/// What is copied to learn the bandwidth: many times the second-level cache.
const COPY_BYTES: usize = 4 << 30;

fn main() -> ExitCode {
    // `cargo bench` adds its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["facts", folder] => facts(Path::new(folder)),
        ["kernels", folder, model] => measure_kernels(Path::new(folder), model),
        ["model", folder, model] => measure_model(Path::new(folder), model),
        ["host", folder] => measure_host(Path::new(folder)),
        ["report", folder] => report::report(Path::new(folder)),
        _ => {
            println!("{USAGE}");
            return if args.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn open() -> Result<Device, String> {
    Device::open(0).map_err(|error| error.to_string())
}

fn measure_kernels(folder: &Path, model: &str) -> Result<(), String> {
    let results = Results::new(folder, &format!("kernels {model}"));
    kernels::measure(&open()?, &models::model(model)?, &results, roof(folder))
}

fn measure_host(folder: &Path) -> Result<(), String> {
    steps::measure_host(open()?, &models::host(), &Results::new(folder, "host"))
}

fn measure_model(folder: &Path, model: &str) -> Result<(), String> {
    let results = Results::new(folder, model);
    steps::measure(open()?, &models::model(model)?, &results, roof(folder))
}

/// The device, its driver, and how fast it copies.
fn facts(folder: &Path) -> Result<(), String> {
    let cuda = probe().map_err(|error| error.to_string())?;
    let device = open()?;
    let bandwidth = copy_bandwidth(&device).map_err(|error| error.to_string())?;
    let pair = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let one = device.facts();
    Results::new(folder, "facts").add_facts(&json!({
        "device": one.name, "memory_bytes": one.memory_bytes, "capability": pair(one.compute_capability),
        "driver": pair(cuda.driver_version), "devices": cuda.devices.len(), "embedded_code": antiphon_kernels::cuda::code::embedded(),
        "copy_bytes_per_second": bandwidth,
    }))
}

/// Bytes a second, read and written, of the fastest of ten copies.
fn copy_bandwidth(device: &Device) -> Result<f64, CudaError> {
    let (free, _) = device.memory()?;
    let words = (COPY_BYTES.min(free / 8)) / 4;
    let mut arena = Arena::new(device, "the copy", 8 * words + 1024)?;
    let (from, to): (Region<u32>, Region<u32>) = (arena.take(words), arena.take(words));
    fill(device, &from, |bits| bits)?;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        device.copy(&from, &to)?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(8.0 * words as f64 / best)
}

/// Fills a region with words that `of` makes of random ones; they repeat after 4 MiB.
fn fill(device: &Device, region: &Region<u32>, of: impl Fn(u32) -> u32) -> Result<(), CudaError> {
    let mut pattern = Pinned::new(device, region.len().clamp(1, 1 << 20))?;
    let mut state = 1_u64;
    for word in pattern.as_mut_slice() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *word = of((state >> 32) as u32);
    }
    let len = pattern.as_slice().len();
    for begin in (0..region.len()).step_by(len) {
        let end = region.len().min(begin + len);
        device.upload(Queue::Compute, &pattern, &region.slice(begin..end), end - begin)?;
    }
    device.synchronize()
}

/// The middle one.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
