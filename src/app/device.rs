//! Where to compute, and how much memory it may take.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use antiphon_kernels::cuda::{self, CudaError};

use super::{AppError, Device, ServeOptions};
use crate::actors::EngineFactory;
use crate::engine::checkpoint::{Checkpoint, Progress};
use crate::engine::cpu::{CpuEngine, CpuOptions, Isa, MemoryPlan, available_bytes};
use crate::engine::cuda::{CudaEngine, CudaEngineError, CudaModel, CudaOptions, CudaPlan, DeviceMemory};
use crate::engine::{Engine, EngineError};

/// Of the memory that is available, KV memory takes one part in so many unless told otherwise: the weights of a large model
/// must stay in memory beside it.
const KV_SHARE: u64 = 4;
/// KV memory unless told otherwise, at most: 80,000 tokens of gpt-oss-20b.
const KV_BYTES_MAX: u64 = 8 << 30;

/// Makes the engine that `--device` asks for, again and again.
///
/// # Errors
/// [`AppError`] if the device that was asked for cannot serve the model, or memory is too small.
pub(super) fn engine(options: &ServeOptions, place: &str, checkpoint: &Arc<Checkpoint>) -> Result<EngineFactory, AppError> {
    match options.device {
        Device::Cpu => {}
        Device::Cuda(index) => {
            let refused = |error: CudaEngineError| AppError::Device { index, message: error.to_string() };
            return cuda_engine(options, index, checkpoint).map_err(refused);
        }
        // What keeps the GPU from serving is worth a line; the CPU serves.
        Device::Auto => match cuda_engine(options, 0, checkpoint) {
            Ok(factory) => return Ok(factory),
            Err(CudaEngineError::Device(CudaError::None(reason))) => tracing::info!(%reason, "no GPU"),
            Err(error) => tracing::warn!(%error, "the GPU does not serve this model"),
        },
    }
    cpu_engine(options, place, checkpoint)
}

/// Opens the device and plans its memory; the weights go there when the engine is built first, and stay when it is rebuilt.
fn cuda_engine(options: &ServeOptions, index: u32, checkpoint: &Arc<Checkpoint>) -> Result<EngineFactory, CudaEngineError> {
    let device = cuda::Device::open(index as usize)?;
    let (free, total) = device.memory()?;
    let utilization = options.gpu_memory_utilization;
    let memory = DeviceMemory { free_bytes: free as u64, total_bytes: total as u64, utilization };
    let batch = &options.profile.batch;
    let (sequences_max, step_tokens_max) = (batch.running_max_count.count(), batch.token_budget_tokens.count());
    let config = checkpoint.config();
    let cuda = CudaOptions::within(config, memory, options.kv_bytes, sequences_max, step_tokens_max)?;
    let (name, plan) = (&device.facts().name, CudaPlan::of(config, &cuda));
    tracing::info!(name, %plan, free_bytes = free, "computing on the GPU");
    let checkpoint = Arc::clone(checkpoint);
    let (device, model) = (Cell::new(Some(device)), RefCell::new(None));
    Ok(Box::new(move || {
        let failed = |error: CudaEngineError| EngineError::Device { slices: 0, message: error.to_string() };
        let mut model = model.borrow_mut();
        if model.is_none() {
            // A load that failed has taken the device along; another is opened.
            let device = device.take().map_or_else(|| cuda::Device::open(index as usize), Ok);
            let mut tenths = 0;
            let mut progress = |progress| log_progress(progress, &mut tenths);
            let loaded = CudaModel::load(device.map_err(|error| failed(error.into()))?, &checkpoint, &mut progress);
            *model = Some(Arc::new(loaded.map_err(failed)?));
        }
        let model = model.clone().expect("it was loaded above");
        let engine = CudaEngine::new(model, &cuda).map_err(failed)?;
        Ok(Box::new(engine) as Box<dyn Engine>)
    }))
}

/// Makes the CPU's engine from the same mapped weights each time.
fn cpu_engine(options: &ServeOptions, place: &str, checkpoint: &Arc<Checkpoint>) -> Result<EngineFactory, AppError> {
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
