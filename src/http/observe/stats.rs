//! `/stats`: counts since the start, and rates and percentiles of the recent past.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::actors::snapshot::{DraftCounts, ModelLimits, OffloadCounts, PrefixCounts, Snapshot};
use crate::batch::BlockUse;
use crate::http::observe::health::ModelReport;
use crate::metrics::{Gpu, ModelTags, RequestCounts, Stats};

#[derive(Debug, Serialize)]
pub(super) struct StatsReport<'a> {
    requests_total: u64,
    requests_success: u64,
    requests_failed: u64,
    requests_cancelled: u64,
    requests_rejected: u64,
    active_requests: u64,
    stream_active: u64,
    stream_cancelled_total: u64,
    sessions_active: usize,
    qps: f64,
    error_rate: f64,
    p50_ttft_ms: f64,
    p95_ttft_ms: f64,
    p99_ttft_ms: f64,
    p50_e2e_ms: f64,
    p95_e2e_ms: f64,
    p99_e2e_ms: f64,
    tokens_per_second: f64,
    uptime_seconds: f64,
    model_metrics: BTreeMap<String, ModelMetrics>,
    prompt_metrics: PromptMetrics,
    model_info: ModelInfo<'a>,
    gpu_routing: GpuRouting<'a>,
    kv: GroupedBlocks,
    prefix_cache: PrefixCacheCounts,
    kv_store: Option<KvStoreReport>,
    speculation: SpeculationCounts,
    scheduler: SequenceCounts,
}

#[derive(Debug, Serialize)]
struct ModelMetrics {
    total: u64,
    success: u64,
    failed: u64,
    cancelled: u64,
}

#[derive(Debug, Serialize)]
struct PromptMetrics {
    cache_hits: u64,
    cache_misses: u64,
    truncations: u64,
    total_builds: u64,
    cache_hit_rate: f64,
    cache_size: usize,
}

#[derive(Debug, Serialize)]
struct ModelInfo<'a> {
    #[serde(flatten)]
    tags: ModelReport<'a>,
    context_tokens_max: Option<usize>,
    vocab_size: Option<usize>,
}

/// The GPUs that compute. All of them compute every request, so there is nothing to choose.
#[derive(Debug, Serialize)]
struct GpuRouting<'a> {
    mode: &'a str,
    gpus: Vec<GpuReport<'a>>,
}

#[derive(Debug, Serialize)]
struct GpuReport<'a> {
    index: usize,
    name: &'a str,
    mem_used_bytes: u64,
    utilization: f64,
}

impl<'a> GpuReport<'a> {
    fn of(gpu: &'a Gpu, stats: &Stats) -> Self {
        Self { index: gpu.index, name: &gpu.name, mem_used_bytes: gpu.used_bytes, utilization: stats.busy_share }
    }
}

/// KV blocks of both groups together, and of each.
#[derive(Debug, Serialize)]
struct GroupedBlocks {
    #[serde(flatten)]
    both: KvBlocks,
    full: KvBlocks,
    sliding: KvBlocks,
}

/// KV blocks; `total = free + cached + in_use`.
#[derive(Debug, Serialize)]
struct KvBlocks {
    total: usize,
    free: usize,
    cached: usize,
    in_use: usize,
}

impl KvBlocks {
    fn of(blocks: BlockUse) -> Self {
        Self { total: blocks.total_count, free: blocks.free_count, cached: blocks.cached_count, in_use: blocks.in_use_count() }
    }
}

/// What prompts found computed by earlier ones, since the start.
#[derive(Debug, Serialize)]
struct PrefixCacheCounts {
    queried_tokens: u64,
    hit_tokens: u64,
    /// The share of the queried tokens that were found, 0 to 1.
    hit_rate: f64,
    hits: u64,
    resumed: u64,
}

impl PrefixCacheCounts {
    fn of(counts: PrefixCounts) -> Self {
        let PrefixCounts { queried_tokens_total, hit_tokens_total, hits_total, resumed_total } = counts;
        Self {
            queried_tokens: queried_tokens_total,
            hit_tokens: hit_tokens_total,
            hit_rate: hit_tokens_total as f64 / queried_tokens_total.max(1) as f64,
            hits: hits_total,
            resumed: resumed_total,
        }
    }
}

/// What is kept outside of KV memory, and what came back, since the start.
#[derive(Debug, Serialize)]
struct KvStoreReport {
    places: usize,
    stored: usize,
    spilled_blocks: u64,
    written_bytes: u64,
    dropped_blocks: u64,
    /// Sequences of which blocks came back.
    hits: u64,
    restored_blocks: u64,
    restored_tokens: u64,
    read_bytes: u64,
    failed_blocks: u64,
    /// Sequences that were computed because that was faster.
    declined: u64,
}

impl KvStoreReport {
    /// `None` without a store.
    fn of(counts: OffloadCounts) -> Option<Self> {
        (counts.places_count > 0).then_some(Self {
            places: counts.places_count,
            stored: counts.stored_count,
            spilled_blocks: counts.spilled_total,
            written_bytes: counts.written_bytes_total,
            dropped_blocks: counts.dropped_total,
            hits: counts.hits_total,
            restored_blocks: counts.restored_total,
            restored_tokens: counts.restored_tokens_total,
            read_bytes: counts.read_bytes_total,
            failed_blocks: counts.failed_total,
            declined: counts.declined_total,
        })
    }
}

/// What was guessed of answers before it was drawn, since the start.
#[derive(Debug, Serialize)]
struct SpeculationCounts {
    drafts: u64,
    draft_tokens: u64,
    accepted_tokens: u64,
    /// The share of the drafted tokens that were right, 0 to 1.
    acceptance_rate: f64,
}

impl SpeculationCounts {
    fn of(counts: DraftCounts) -> Self {
        let DraftCounts { drafts_total, draft_tokens_total, accepted_tokens_total } = counts;
        Self {
            drafts: drafts_total,
            draft_tokens: draft_tokens_total,
            accepted_tokens: accepted_tokens_total,
            acceptance_rate: accepted_tokens_total as f64 / draft_tokens_total.max(1) as f64,
        }
    }
}

#[derive(Debug, Serialize)]
struct SequenceCounts {
    waiting: usize,
    prefill: usize,
    decode: usize,
    steps_total: u64,
    preemptions_total: u64,
    engine_restarts_total: u64,
}

/// `/stats`.
pub(super) fn report<'a>(
    snapshot: &Snapshot,
    stats: &Stats,
    limits: Option<ModelLimits>,
    tags: &'a ModelTags,
    gpus: &'a [Gpu],
) -> StatsReport<'a> {
    let scheduler = snapshot.scheduler;
    let key = format!("{}_{}_{}", tags.model_id, tags.model_size, tags.prompt_version);
    let RequestCounts { total, success, failed, cancelled, active } = stats.requests;
    StatsReport {
        requests_total: total,
        requests_success: success,
        requests_failed: failed,
        requests_cancelled: cancelled,
        requests_rejected: stats.rejected,
        active_requests: active,
        stream_active: stats.stream_active,
        stream_cancelled_total: stats.stream_cancelled,
        sessions_active: snapshot.sessions_active,
        qps: stats.qps,
        error_rate: stats.error_rate,
        p50_ttft_ms: stats.ttft.p50_ms,
        p95_ttft_ms: stats.ttft.p95_ms,
        p99_ttft_ms: stats.ttft.p99_ms,
        p50_e2e_ms: stats.e2e.p50_ms,
        p95_e2e_ms: stats.e2e.p95_ms,
        p99_e2e_ms: stats.e2e.p99_ms,
        tokens_per_second: stats.tokens_per_second,
        uptime_seconds: stats.uptime_seconds,
        model_metrics: BTreeMap::from([(key, ModelMetrics { total, success, failed, cancelled })]),
        prompt_metrics: prompts(snapshot, stats),
        model_info: ModelInfo {
            tags: tags.into(),
            context_tokens_max: limits.map(|limits| limits.context_tokens_max),
            vocab_size: limits.map(|limits| limits.vocab_size),
        },
        gpu_routing: GpuRouting { mode: &tags.gpu_mode, gpus: gpus.iter().map(|gpu| GpuReport::of(gpu, stats)).collect() },
        kv: GroupedBlocks {
            both: KvBlocks::of(scheduler.blocks()),
            full: KvBlocks::of(scheduler.global_blocks),
            sliding: KvBlocks::of(scheduler.sliding_blocks),
        },
        prefix_cache: PrefixCacheCounts::of(scheduler.prefix_cache),
        kv_store: KvStoreReport::of(scheduler.offload),
        speculation: SpeculationCounts::of(scheduler.drafts),
        scheduler: SequenceCounts {
            waiting: scheduler.waiting_count,
            prefill: scheduler.prefill_count,
            decode: scheduler.decode_count,
            steps_total: scheduler.steps_total,
            preemptions_total: scheduler.preemptions_total,
            engine_restarts_total: snapshot.engine_restarts_total,
        },
    }
}

fn prompts(snapshot: &Snapshot, stats: &Stats) -> PromptMetrics {
    let prompts = stats.prompts;
    PromptMetrics {
        cache_hits: prompts.hits,
        cache_misses: prompts.misses,
        truncations: prompts.truncations,
        // Every prompt is asked of the builder, found built or not.
        total_builds: prompts.hits + prompts.misses,
        cache_hit_rate: prompts.hit_rate,
        cache_size: snapshot.prompts.cache_size,
    }
}
