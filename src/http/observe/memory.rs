//! `/memory_stats`: where the memory goes.

use serde::Serialize;

use crate::actors::snapshot::{ModelLimits, Snapshot};
use crate::metrics::Process;

#[derive(Debug, Serialize)]
pub(super) struct MemoryReport<'a> {
    rss_bytes: u64,
    rss_peak_bytes: u64,
    virtual_bytes: u64,
    weights_bytes: u64,
    kv_pool_bytes: Option<usize>,
    kv_in_use_bytes: u64,
    prompt_cache_bytes: usize,
    budget_bytes: u64,
    budget_reserved_bytes: u64,
    open_fds: u64,
    threads: u64,
    gpu_mode: &'a str,
    /// One a GPU; this server computes on the CPU.
    gpus: [(); 0],
}

/// `/memory_stats`.
pub(super) fn report<'a>(
    snapshot: &Snapshot,
    process: &Process,
    limits: Option<ModelLimits>,
    weights_bytes: u64,
    gpu_mode: &'a str,
) -> MemoryReport<'a> {
    MemoryReport {
        rss_bytes: process.resident_bytes,
        rss_peak_bytes: process.resident_peak_bytes,
        virtual_bytes: process.virtual_bytes,
        weights_bytes,
        kv_pool_bytes: limits.map(|limits| limits.kv_bytes),
        kv_in_use_bytes: snapshot.kv_in_use_bytes,
        prompt_cache_bytes: snapshot.prompts.cache_bytes,
        budget_bytes: snapshot.memory_budget_bytes,
        budget_reserved_bytes: snapshot.memory_reserved_bytes,
        open_fds: process.open_fds,
        threads: process.threads,
        gpu_mode,
        gpus: [],
    }
}
