//! Where a model is computed, and how much memory it may take.
//!
//! Owns: the choice between devices, what a device's refusal means for a start, the share of memory
//! that KV memory gets. Promises: a device that was named serves or the start fails; one that was
//! not named falls back to the CPU, with a line in the log. Absent on purpose: the command line,
//! actors, metrics.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use antiphon_kernels::cuda::{self, CudaError};

use super::checkpoint::{Checkpoint, LoadProgress};
use super::cpu::{CpuEngine, CpuOptions, Format, Isa, Math, MemoryPlan, available_bytes};
use super::cuda::{
    CudaEngine, CudaEngineError, CudaModel, CudaOptions, CudaPlan, CudaRanks, DeviceMemory, MatrixInstruction, check_experts,
};
use super::simulated::{MadeUpWords, SimulatedEngine, limits};
use super::warm_up::{Golden, compare};
use super::{Engine, EngineError, EngineFactory};
use crate::cost::CostModel;

/// Of the memory that is available, KV memory takes one part in so many unless told otherwise: the
/// weights of a large model must stay in memory beside it.
const KV_SHARE: u64 = 4;
/// KV memory unless told otherwise, at most: 80,000 tokens of gpt-oss-20b.
const KV_BYTES_MAX: u64 = 8 << 30;

/// Which device computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The first GPU if there is one that fits, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number, counted as the driver does.
    Cuda(u32),
}

/// What is asked of the place where a model is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaceOptions {
    /// Which device computes.
    pub device: Device,
    /// How many GPUs compute the model together, from the device's on.
    pub tensor_parallel: usize,
    /// KV memory; `None` takes what a GPU has left beside the weights, or on the CPU a quarter of
    /// what is free, 8 GiB at most.
    pub kv_bytes: Option<u64>,
    /// Most sequences of a step.
    pub sequences_max: usize,
    /// Most tokens of a step.
    pub step_tokens_max: usize,
    /// The share of a GPU's memory that may be used, in (0, 1].
    pub gpu_memory_utilization: f64,
    /// Which instruction multiplies steps of many tokens on a GPU.
    pub cuda_prefill: MatrixInstruction,
    /// Threads that compute on the CPU; `None` takes the machine's.
    pub threads: Option<usize>,
    /// How the CPU multiplies MXFP4 weights.
    pub cpu_math: Math,
    /// How the CPU keeps the dense weights.
    pub cpu_dense: Format,
    /// The instructions that the CPU computes with; `None` takes the fastest.
    pub cpu_isa: Option<Isa>,
    /// Whether the CPU's packed weights are kept in a file beside the checkpoint.
    pub keep_packed_weights: bool,
}

/// Where a model is computed.
pub struct Placed {
    /// Makes the engine, again and again.
    pub engine: EngineFactory,
    /// The GPUs that it takes, by rank; none for the CPU.
    pub gpus: Vec<PlacedGpu>,
}

/// A GPU that the engine computes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedGpu {
    /// Its number among the driver's devices.
    pub index: usize,
    /// What its driver calls it.
    pub name: String,
    /// Bytes of its memory that the engine takes when it is made and keeps: weights, KV, scratch.
    pub used_bytes: u64,
}

/// Why the model cannot be computed where it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The machine is too small.
    #[error("{model}: {message}; --kv-bytes takes less, and --running-max-count or --token-budget-tokens make it go further")]
    Memory {
        /// The model.
        model: String,
        /// What is needed, and what there is.
        message: String,
    },
    /// The device that was asked for cannot compute.
    #[error("--device cuda:{index}: {message}; expected --device auto or cpu")]
    Device {
        /// Which GPU.
        index: u32,
        /// Why not.
        message: String,
    },
    /// The device has not what was asked of it.
    #[error(transparent)]
    Engine(CudaEngineError),
    /// The devices that were asked for cannot compute together.
    #[error("--tensor-parallel {ranks}: {message}")]
    TensorParallel {
        /// How many GPUs.
        ranks: usize,
        /// Why not.
        message: String,
    },
}

/// Places the engine on the device that `options` ask for; `model` names the model in messages.
///
/// # Errors
/// [`PlaceError`] if the device that was asked for cannot serve the model, or memory is too small.
pub fn place(options: &PlaceOptions, model: &str, checkpoint: &Arc<Checkpoint>) -> Result<Placed, PlaceError> {
    let ranks = options.tensor_parallel;
    if ranks > 1 {
        let refused = |message| PlaceError::TensorParallel { ranks, message };
        let first = match options.device {
            Device::Cpu => return Err(refused("several GPUs are needed, but --device is cpu".to_owned())),
            Device::Auto => 0,
            Device::Cuda(index) => index,
        };
        return cuda_engine(options, first, checkpoint).map_err(|error| refused(error.to_string()));
    }
    match options.device {
        Device::Cpu => {}
        Device::Cuda(index) => {
            let refused = |error| match error {
                CudaEngineError::Wgmma { .. } => PlaceError::Engine(error),
                error => PlaceError::Device { index, message: error.to_string() },
            };
            return cuda_engine(options, index, checkpoint).map_err(refused);
        }
        // What keeps the GPU from serving is worth a line; the CPU serves.
        Device::Auto => match cuda_engine(options, 0, checkpoint) {
            Ok(placed) => return Ok(placed),
            Err(error @ CudaEngineError::Wgmma { .. }) => return Err(PlaceError::Engine(error)),
            Err(CudaEngineError::Device(CudaError::None(reason))) => tracing::info!(%reason, "no GPU"),
            Err(error) => tracing::warn!(%error, "the GPU does not serve this model"),
        },
    }
    Ok(Placed { engine: cpu_engine(options, model, checkpoint)?, gpus: Vec::new() })
}

/// Places a simulated engine of `cost`, which says `words` in a vocabulary of `vocab_size` rows.
#[must_use]
pub fn simulated(options: &PlaceOptions, cost: &Arc<CostModel>, words: MadeUpWords, vocab_size: usize) -> Placed {
    let limits = limits(cost, options.kv_bytes, vocab_size, options.sequences_max, options.step_tokens_max);
    let CostModel { name, kind, source, .. } = &**cost;
    let kind = kind.name();
    tracing::warn!(cost_model = name, kind, source, "SIMULATED: steps wait as long as a cost model says, answers are made up");
    let (cost, words) = (Arc::clone(cost), Arc::new(words));
    let made = move || SimulatedEngine::new(limits, Arc::clone(&cost), Arc::clone(&words));
    Placed { engine: Box::new(move || Ok(Box::new(made()) as Box<dyn Engine>)), gpus: Vec::new() }
}

/// Compares every engine that `engine` makes with the model's goldens before it is given out.
#[must_use]
pub fn compared(engine: EngineFactory, goldens: Vec<Golden>) -> EngineFactory {
    Box::new(move || {
        let mut made = engine()?;
        if compare(made.as_mut(), &goldens)? {
            tracing::info!("the engine continues the model's golden as it should");
        }
        Ok(made)
    })
}

/// Opens the devices and plans their memory; the weights go there when the engine is built first,
/// and stay when it is rebuilt.
fn cuda_engine(options: &PlaceOptions, index: u32, checkpoint: &Arc<Checkpoint>) -> Result<Placed, CudaEngineError> {
    let (first, ranks) = (index as usize, options.tensor_parallel);
    let devices = open(first, ranks)?;
    let memory = least_memory(&devices, options.gpu_memory_utilization)?;
    let PlaceOptions { sequences_max, step_tokens_max, .. } = *options;
    let config = checkpoint.config();
    let cuda =
        CudaOptions::within(config, memory, options.kv_bytes, sequences_max, step_tokens_max, ranks, options.cuda_prefill)?;
    devices.iter().try_for_each(|device| cuda.check_device(device.facts()))?;
    check_experts(checkpoint)?;
    let plan = CudaPlan::of(config, &cuda);
    warn_if_cut(options.kv_bytes, plan.global_kv_bytes + plan.sliding_kv_bytes, sequences_max);
    let mut gpus = Vec::new();
    for (rank, device) in devices.iter().enumerate() {
        let (name, free_bytes) = (&device.facts().name, device.memory()?.0);
        tracing::info!(name, device = first + rank, rank, ranks, %plan, free_bytes, "computing on the GPU");
        gpus.push(PlacedGpu { index: first + rank, name: name.clone(), used_bytes: plan.total_bytes() });
    }
    let checkpoint = Arc::clone(checkpoint);
    let (devices, models) = (Cell::new(Some(devices)), RefCell::new(Vec::new()));
    let engine: EngineFactory = Box::new(move || {
        let failed = |error: CudaEngineError| EngineError::Device { slices: 0, message: error.to_string() };
        let mut models = models.borrow_mut();
        if models.is_empty() {
            // A load that failed has taken the devices along; they are opened anew.
            let devices = devices.take().map_or_else(|| open(first, ranks), Ok).map_err(failed)?;
            let mut tenths = 0;
            let mut progress = |progress| log_progress(progress, &mut tenths);
            *models = CudaModel::load_ranks(devices, &checkpoint, &mut progress).map_err(failed)?;
        }
        Ok(match &models[..] {
            [model] => Box::new(CudaEngine::new(Arc::clone(model), &cuda).map_err(failed)?) as Box<dyn Engine>,
            models => Box::new(CudaRanks::new(models, &cuda).map_err(failed)?),
        })
    });
    Ok(Placed { engine, gpus })
}

/// Opens `ranks` devices from `first` on; what they need to compute together is there.
fn open(first: usize, ranks: usize) -> Result<Vec<cuda::Device>, CudaEngineError> {
    if ranks > 1 {
        let count = cuda::probe().map_err(CudaError::from)?.devices.len();
        if first + ranks > count {
            return Err(CudaEngineError::Devices { ranks, first, count });
        }
        tracing::info!(version = cuda::nccl_version()?, "found NCCL");
    }
    (first..first + ranks).map(|ordinal| Ok(cuda::Device::open(ordinal)?)).collect()
}

/// The memory of the device that has the least: all ranks take the same.
fn least_memory(devices: &[cuda::Device], utilization: f64) -> Result<DeviceMemory, CudaEngineError> {
    let of = |device: &cuda::Device| {
        let (free, total) = device.memory()?;
        Ok(DeviceMemory { free_bytes: free as u64, total_bytes: total as u64, utilization })
    };
    let every: Result<Vec<DeviceMemory>, CudaError> = devices.iter().map(of).collect();
    Ok(every?.into_iter().min_by_key(DeviceMemory::budget_bytes).expect("there is a device"))
}

/// Says when less KV memory is taken than was asked for.
fn warn_if_cut(asked_bytes: Option<u64>, used_bytes: u64, sequences_max: usize) {
    if let Some(message) = cut(asked_bytes, used_bytes, sequences_max) {
        tracing::warn!("{message}");
    }
}

/// What was asked, what is used and why, if that is less by more than rounding to whole blocks
/// explains.
fn cut(asked_bytes: Option<u64>, used_bytes: u64, sequences_max: usize) -> Option<String> {
    let asked = asked_bytes.filter(|asked| used_bytes < asked - asked / 10)?;
    let mebibytes = |bytes: u64| bytes >> 20;
    Some(format!(
        "--kv-bytes asks for {} MiB of KV memory, {} MiB are taken: running_max_count is {sequences_max}, and so many sequences \
         of the longest context need no more, or the device has no more",
        mebibytes(asked),
        mebibytes(used_bytes)
    ))
}

/// Makes the CPU's engine from the same mapped weights each time.
fn cpu_engine(options: &PlaceOptions, model: &str, checkpoint: &Arc<Checkpoint>) -> Result<EngineFactory, PlaceError> {
    let available = available_bytes().unwrap_or(u64::MAX);
    let kv_bytes = options.kv_bytes.unwrap_or_else(|| (available / KV_SHARE).min(KV_BYTES_MAX));
    let PlaceOptions { sequences_max, step_tokens_max, .. } = *options;
    let mut cpu = CpuOptions::within(checkpoint.config(), options.cpu_math, kv_bytes, sequences_max, step_tokens_max);
    cpu.threads = options.threads.unwrap_or(cpu.threads);
    (cpu.dense, cpu.isa, cpu.keep_packed) = (options.cpu_dense, options.cpu_isa, options.keep_packed_weights);
    let plan = MemoryPlan::of(checkpoint, &cpu);
    warn_if_cut(options.kv_bytes, plan.global_kv_bytes + plan.sliding_kv_bytes, sequences_max);
    plan.check(available).map_err(|error| PlaceError::Memory { model: model.to_owned(), message: error.to_string() })?;
    let isa = cpu.isa.unwrap_or(Isa::best());
    if isa.name() == "portable" {
        tracing::warn!("this CPU has no AVX2, or it is not to be used: the portable path is some ten times slower");
    }
    tracing::info!(threads = cpu.threads, isa = isa.name(), math = ?cpu.math, dense = ?cpu.dense, %plan, "computing on the CPU");
    tracing::debug!(ahead_bytes = ?isa.ahead(), "weights are prefetched");
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

/// Weights up to here are read in a moment, and no progress is logged.
const QUIET_BYTES: u64 = 1 << 30;

/// A line for every tenth of the weights, if that takes long enough to be asked about.
fn log_progress(progress: LoadProgress, tenths: &mut u64) {
    let now = progress.done_bytes * 10 / progress.total_bytes.max(1);
    if progress.total_bytes > QUIET_BYTES && now > *tenths {
        tracing::info!(done_bytes = progress.done_bytes, total_bytes = progress.total_bytes, "loading weights");
        *tenths = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kv_memory_that_is_cut_is_said() {
        let said = cut(Some(900 << 30), 256 << 20, 16).expect("most of it is not taken");
        assert!(
            said.starts_with("--kv-bytes asks for 921600 MiB of KV memory, 256 MiB are taken: running_max_count is 16"),
            "{said}"
        );
        assert_eq!(cut(Some(64 << 20), (64 << 20) - 4096, 16), None, "rounding to whole blocks is no cut");
        assert_eq!(cut(None, 1, 16), None, "nothing was asked");
    }
}
