//! Where to compute, and how much memory it may take.

use std::cell::RefCell;
use std::sync::Arc;

use antiphon_kernels::cuda;

use super::{AppError, Device, ServeOptions};
use crate::actors::EngineFactory;
use crate::engine::Engine;
use crate::engine::checkpoint::{Checkpoint, Progress};
use crate::engine::cpu::{CpuEngine, CpuOptions, Isa, MemoryPlan, available_bytes};

/// Of the memory that is available, KV memory takes one part in so many unless told otherwise: the weights of a large model
/// must stay in memory beside it.
const KV_SHARE: u64 = 4;
/// KV memory unless told otherwise, at most: 80,000 tokens of gpt-oss-20b.
const KV_BYTES_MAX: u64 = 8 << 30;

/// Makes the CPU's engine, again and again from the same mapped weights.
///
/// # Errors
/// [`AppError`] if the device that was asked for cannot compute, or memory is too small.
pub(super) fn engine(options: &ServeOptions, place: &str, checkpoint: &Arc<Checkpoint>) -> Result<EngineFactory, AppError> {
    check_device(options.device)?;
    let batch = &options.profile.batch;
    let available = available_bytes().unwrap_or(u64::MAX);
    let kv_bytes = options.kv_bytes.unwrap_or_else(|| (available / KV_SHARE).min(KV_BYTES_MAX));
    let (sequences_max, step_tokens_max) = (batch.running_max_count.count(), batch.token_budget_tokens.count());
    let mut cpu = CpuOptions::within(checkpoint.config(), kv_bytes, sequences_max, step_tokens_max);
    cpu.threads = options.threads.unwrap_or(cpu.threads);
    (cpu.math, cpu.dense, cpu.isa) = (options.cpu_math, options.cpu_dense, options.cpu_isa);
    let plan = MemoryPlan::of(checkpoint, &cpu);
    plan.check(available).map_err(|error| AppError::Memory { place: place.to_owned(), message: error.to_string() })?;
    let isa = cpu.isa.unwrap_or(Isa::best());
    if isa.name() == "portable" {
        tracing::warn!("this CPU has no AVX2, or it is not to be used: the portable path is some ten times slower");
    }
    tracing::info!(threads = cpu.threads, isa = isa.name(), math = ?cpu.math, dense = ?cpu.dense, %plan, "computing on the CPU");
    let checkpoint = Arc::clone(checkpoint);
    // An engine after the first takes over its weights.
    let packed = RefCell::new(None);
    Ok(Box::new(move || {
        let checkpoint = Arc::clone(&checkpoint);
        let mut tenths = 0;
        let engine = match packed.take() {
            Some(weights) => CpuEngine::with_weights(checkpoint, weights, &cpu),
            None => CpuEngine::load(checkpoint, &cpu, &mut |progress| log_progress(progress, &mut tenths)),
        };
        packed.replace(Some(engine.weights()));
        Ok(Box::new(engine) as Box<dyn Engine>)
    }))
}

/// Weights up to here are read in a moment: nobody wants to see how.
const QUIET_BYTES: u64 = 1 << 30;

/// A line for every tenth of the weights, if that takes long enough to be asked about.
fn log_progress(progress: Progress, tenths: &mut u64) {
    let now = progress.done_bytes * 10 / progress.total_bytes.max(1);
    if progress.total_bytes > QUIET_BYTES && now > *tenths {
        tracing::info!(done_bytes = progress.done_bytes, total_bytes = progress.total_bytes, "loading weights");
        *tenths = now;
    }
}

/// Says what GPU there is; refuses one that was asked for, as long as there is no engine for it.
fn check_device(device: Device) -> Result<(), AppError> {
    match (device, cuda::probe()) {
        (Device::Cpu, _) => {}
        (Device::Auto, Ok(cuda)) => {
            let name = &cuda.devices[0].name;
            tracing::info!(name, "a GPU is there, but this version computes on the CPU alone");
        }
        (Device::Auto, Err(reason)) => tracing::info!(%reason, "no GPU"),
        (Device::Cuda(index), Ok(_)) => {
            return Err(AppError::Device { index, message: "this version computes on the CPU alone".to_owned() });
        }
        (Device::Cuda(index), Err(reason)) => return Err(AppError::Device { index, message: reason.to_string() }),
    }
    Ok(())
}
