//! What a model would take where it would be served, planned as its engine plans it.

use antiphon_kernels::cuda::{self, CudaDevice};

use super::{Page, mebibytes};
use crate::app::ServeOptions;
use crate::cli::failure::CommandFailure;
use crate::engine::checkpoint::Outline;
use crate::engine::cpu::{CpuOptions, MemoryPlan};
use crate::engine::cuda::{CudaOptions, CudaPlan, DeviceMemory};
use crate::engine::place::Device;

/// Writes the plan for the device that is asked for. A model that does not fit there is an answer,
/// not a failure.
///
/// # Errors
/// If a GPU is asked for by number, is not here, and nothing is said of its memory.
pub(super) fn describe(
    page: &mut Page,
    outline: &Outline,
    options: &ServeOptions,
    device_memory: Option<u64>,
) -> Result<(), CommandFailure> {
    let tensors = outline.tensors();
    let bytes: usize = tensors.iter().map(|tensor| tensor.bytes).sum();
    page.line("tensors", &format!("{}, {} MiB", tensors.len(), mebibytes(bytes as u64)));
    let first = match options.device {
        Device::Cpu => {
            on_cpu(page, outline, options);
            return Ok(());
        }
        Device::Cuda(index) => Some(index as usize),
        Device::Auto => None,
    };
    // As a server does: the CPU takes what a GPU does not serve that was not asked for.
    let falls_back = first.is_none() && options.tensor_parallel == 1;
    let gpu = match device_memory {
        Some(bytes) => Ok(PlannedGpu { place: "a GPU of that memory".to_owned(), bytes, devices: Vec::new() }),
        None => found(first.unwrap_or(0), options.tensor_parallel),
    };
    match gpu {
        Ok(gpu) => {
            if !on_gpu(page, outline, options, &gpu) && falls_back {
                on_cpu(page, outline, options);
            }
            Ok(())
        }
        Err(_) if falls_back => {
            on_cpu(page, outline, options);
            Ok(())
        }
        Err(reason) => Err(anyhow::anyhow!("{reason}; --device-memory SIZE plans for a GPU that is not here").into()),
    }
}

/// What is planned for: the GPU that has the least memory of those that would compute, none of it
/// in use.
struct PlannedGpu {
    place: String,
    bytes: u64,
    /// Those that are here.
    devices: Vec<CudaDevice>,
}

/// The GPUs of this machine from `first` on.
fn found(first: usize, ranks: usize) -> Result<PlannedGpu, String> {
    let place = if ranks > 1 { format!("cuda:{first} to cuda:{}", first + ranks - 1) } else { format!("cuda:{first}") };
    let devices = cuda::probe().map_err(|reason| format!("{place}: {reason}"))?.devices;
    let wanted = devices.get(first..first + ranks);
    let devices = wanted.ok_or_else(|| format!("{place}: the driver sees {} GPUs", devices.len()))?.to_vec();
    let bytes = devices.iter().map(|device| device.memory_bytes as u64).min().expect("at least one GPU computes");
    Ok(PlannedGpu { place: format!("{place}, nothing else on it"), bytes, devices })
}

/// Writes a GPU's plan, or why there is none; whether there is one.
fn on_gpu(page: &mut Page, outline: &Outline, options: &ServeOptions, gpu: &PlannedGpu) -> bool {
    let utilization = options.gpu_memory_utilization;
    let memory = DeviceMemory { free_bytes: gpu.bytes, total_bytes: gpu.bytes, utilization };
    let (used, all) = (mebibytes(memory.budget_bytes()), mebibytes(gpu.bytes));
    let (config, ranks, batch) = (outline.config(), options.tensor_parallel, &options.profile.batch);
    let each = if ranks > 1 { format!(", each of {ranks}") } else { String::new() };
    page.line("planned for", &format!("{}: {used} of {all} MiB may be used{each}", gpu.place));
    let (sequences_max, step_tokens_max) = (batch.running_max_count.count(), batch.token_budget_tokens.count());
    let layout =
        CudaOptions::within(config, memory, options.kv_bytes, sequences_max, step_tokens_max, ranks, options.cuda_prefill);
    let checked = |layout: CudaOptions| gpu.devices.iter().try_for_each(|device| layout.check_device(device)).map(|()| layout);
    match layout.and_then(checked) {
        Ok(layout) => {
            page.line("memory", &CudaPlan::of(config, &layout).to_string());
            say_kv(page, layout.global_blocks, layout.block_tokens);
            true
        }
        Err(error) => {
            page.line("not served", &error.to_string());
            false
        }
    }
}

/// Writes the CPU's plan.
fn on_cpu(page: &mut Page, outline: &Outline, options: &ServeOptions) {
    let batch = &options.profile.batch;
    let (running, budget) = (batch.running_max_count.count(), batch.token_budget_tokens.count());
    let layout = CpuOptions::within(outline.config(), options.cpu_math, options.kv_bytes.unwrap_or(0), running, budget);
    let layout = CpuOptions { dense: options.cpu_dense, ..layout };
    page.line("planned for", "the CPU");
    let label = if options.kv_bytes.is_some() { "memory" } else { "memory at least" };
    page.line(label, &MemoryPlan::of(outline, &layout).to_string());
    say_kv(page, layout.global_blocks, layout.block_tokens);
}

fn say_kv(page: &mut Page, blocks: usize, block_tokens: usize) {
    page.line("KV holds", &format!("{} tokens in {blocks} blocks of {block_tokens}", blocks * block_tokens));
}
