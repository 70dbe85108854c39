//! Every metric family: its names, its help, its buckets.
//!
//! Three sets of names stand beside each other. The plain ones and `llm_*` are those of the servers
//! that antiphon replaces, `vllm:*` are what autoscalers and routers read, `antiphon_*` keep to
//! Prometheus's own rules (base units, `_total`). A number with several names is recorded once.

use std::sync::Mutex;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, Registry};

use super::gpus::{Gpu, GpuFamilies};
use super::maker::{CounterNames, Gauges, HistogramNames, Maker};
use super::offload::OffloadFamilies;
use super::{ModelTags, RejectKind, RequestOutcome, gauge, lock};
use crate::scheduler::SchedulerCounts;

// Bounds of TTFT, ITL and E2E hold vLLM's, so that dashboards made for it stay usable.
const TTFT_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
    2560.0,
];
const ITL_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0,
];
const E2E_SECONDS: &[f64] = &[
    0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
    7680.0,
];
const STEP_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];
const COUNTS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0];

/// Handles of every family, by what they count.
pub(super) struct Families {
    pub(super) registry: Registry,
    pub(super) requests: RequestFamilies,
    pub(super) steps: StepFamilies,
    pub(super) state: StateFamilies,
    pub(super) offload: OffloadFamilies,
    pub(super) prompts: PromptFamilies,
    pub(super) faults: FaultFamilies,
    pub(super) gpus: GpuFamilies,
}

impl Families {
    pub(super) fn new(tags: &ModelTags, gpus: &[Gpu]) -> Self {
        let make = Maker::new(tags);
        let (requests, steps) = (RequestFamilies::new(&make), StepFamilies::new(&make));
        let (state, prompts, faults) = (StateFamilies::new(&make), PromptFamilies::new(&make), FaultFamilies::new(&make));
        let (gpus, offload) = (GpuFamilies::new(&make, gpus), OffloadFamilies::new(&make));
        constants(&make);
        Self { registry: make.into_registry(), requests, steps, state, offload, prompts, faults, gpus }
    }
}

/// Families whose values do not change.
fn constants(make: &Maker) {
    make.fact("antiphon_build_info", "Always 1; the label says the version.", "version", env!("CARGO_PKG_VERSION"));
}

/// What became of requests and streams.
pub(super) struct RequestFamilies {
    pub(super) received: IntCounter,
    pub(super) admitted: IntCounter,
    pub(super) active: IntGauge,
    pub(super) ended: IntCounterVec,
    pub(super) ended_by_reason: IntCounterVec,
    pub(super) rejected: IntCounterVec,
    pub(super) admission: IntCounterVec,
    pub(super) stream_active: IntGauge,
    pub(super) stream_cancelled: IntCounter,
    pub(super) ttft: HistogramNames,
    pub(super) itl: HistogramNames,
    pub(super) e2e: HistogramNames,
    pub(super) prompt_tokens: CounterNames<2>,
    pub(super) request_prompt_tokens: HistogramNames,
    pub(super) request_completion_tokens: HistogramNames,
    pub(super) sessions_active: IntGauge,
    pub(super) memory_budget: IntGauge,
    pub(super) memory_reserved: IntGauge,
    pub(super) response_store: IntGauge,
}

impl RequestFamilies {
    fn new(make: &Maker) -> Self {
        let rejected = RejectKind::ALL.map(RejectKind::name);
        let reasons = RequestOutcome::ALL.map(RequestOutcome::reason);
        Self {
            received: make.counter("antiphon_requests_received_total", "Requests that arrived, refused ones too."),
            admitted: make.counter("requests_total", "Requests that were admitted."),
            active: make.gauge("requests_active", "Admitted requests that have not ended."),
            ended: make.labelled(
                "model_requests_total",
                "Admitted requests that ended, by status.",
                "status",
                &["success", "failed", "cancelled"],
            ),
            ended_by_reason: make.labelled(
                "vllm:request_success_total",
                "Admitted requests that ended, by reason.",
                "finished_reason",
                &reasons,
            ),
            rejected: make.labelled(
                "antiphon_requests_rejected_total",
                "Requests that were refused before a byte was sent, by kind.",
                "kind",
                &rejected,
            ),
            admission: make.labelled(
                "llm_admission_total",
                "What admission decided.",
                "action",
                &["accept", "shrink", "route", "reject"],
            ),
            stream_active: make.gauge("stream_active", "Streams that are open."),
            stream_cancelled: make.counter("stream_cancelled_total", "Streams that ended before they were finished."),
            ttft: make.spread(
                &["antiphon_ttft_seconds", "vllm:time_to_first_token_seconds", "ttft_ms", "llm_ttft_ms"],
                "Time from a request's arrival to its first content.",
                TTFT_SECONDS,
            ),
            itl: make.spread(
                &["antiphon_itl_seconds", "vllm:inter_token_latency_seconds"],
                "Gap between two token events of one choice.",
                ITL_SECONDS,
            ),
            e2e: make.spread(
                &["antiphon_e2e_seconds", "vllm:e2e_request_latency_seconds", "e2e_ms", "llm_e2e_ms"],
                "Time from a request's arrival to its successful end.",
                E2E_SECONDS,
            ),
            prompt_tokens: make
                .counts(["antiphon_prompt_tokens_total", "vllm:prompt_tokens_total"], "Prompt tokens of admitted requests."),
            request_prompt_tokens: make.spread(
                &["antiphon_request_prompt_tokens", "vllm:request_prompt_tokens"],
                "Prompt tokens of an admitted request.",
                COUNTS,
            ),
            request_completion_tokens: make.spread(
                &["antiphon_request_completion_tokens", "vllm:request_generation_tokens"],
                "Tokens generated for a request that ended.",
                COUNTS,
            ),
            sessions_active: make.gauge("sessions_active", "Sessions (X-Session-ID) that are alive."),
            memory_budget: make.gauge("antiphon_memory_budget_bytes", "What bodies, prompts and answers may hold in memory."),
            memory_reserved: make.gauge("antiphon_memory_reserved_bytes", "What of the memory budget is reserved."),
            response_store: make.gauge("antiphon_response_store_up", "1, or 0 while the response store cannot be written."),
        }
    }
}

/// What steps computed.
pub(super) struct StepFamilies {
    pub(super) committed: IntCounter,
    pub(super) seconds: HistogramNames,
    pub(super) slices: HistogramNames,
    pub(super) tokens: HistogramNames,
    pub(super) prefill_tokens: CounterNames<2>,
    pub(super) generated_tokens: CounterNames<3>,
    pub(super) tokens_per_second: Gauges<2>,
}

impl StepFamilies {
    fn new(make: &Maker) -> Self {
        Self {
            committed: make.counter("antiphon_steps_total", "Steps committed."),
            seconds: make.spread(&["antiphon_step_seconds"], "How long the engine computed a step.", STEP_SECONDS),
            slices: make.spread(&["antiphon_step_slices"], "Slices of a step.", COUNTS),
            tokens: make.spread(&["antiphon_step_tokens"], "Tokens of a step.", COUNTS),
            prefill_tokens: make.counts(
                ["antiphon_prefill_tokens_total", "llm_prefill_tokens_total"],
                "Prompt tokens computed, recomputed ones included.",
            ),
            generated_tokens: make.counts(
                ["antiphon_generated_tokens_total", "vllm:generation_tokens_total", "llm_decode_tokens_total"],
                "Tokens generated.",
            ),
            tokens_per_second: make.gauges(
                ["antiphon_generated_tokens_per_second", "llm_tokens_per_sec"],
                "Tokens generated per second over the last ten seconds.",
            ),
        }
    }
}

/// The scheduler's state.
pub(super) struct StateFamilies {
    waiting: Gauges<2>,
    waiting_tokens: IntGauge,
    running: Gauges<2>,
    blocks: GaugeVec,
    kv_usage: GaugeVec,
    fullest: Gauges<1>,
    cache_config: GaugeVec,
    kv_bytes: Gauges<2>,
    preemptions: CounterNames<2>,
    prefix_queries: CounterNames<2>,
    prefix_hits: CounterNames<2>,
    prefix_hits_by_reason: IntCounterVec,
    drafts: CounterNames<2>,
    draft_tokens: CounterNames<2>,
    accepted_draft_tokens: CounterNames<2>,
    /// Held while the scheduler's totals are counted.
    counting: Mutex<()>,
}

impl StateFamilies {
    fn new(make: &Maker) -> Self {
        let families = Self {
            waiting: make.gauges(["antiphon_sequences_waiting", "vllm:num_requests_waiting"], "Sequences that wait."),
            waiting_tokens: make.gauge("antiphon_waiting_tokens", "Prompt tokens that wait."),
            running: make.gauges(["antiphon_sequences_running", "vllm:num_requests_running"], "Sequences that run."),
            blocks: make.labelled_gauges("antiphon_kv_blocks", "KV blocks, by group and state.", &["group", "state"]),
            kv_usage: make.labelled_gauges(
                "antiphon_kv_usage_ratio",
                "Share of a group's KV blocks that sequences hold, 0 to 1.",
                &["group"],
            ),
            fullest: make.gauges(
                ["vllm:kv_cache_usage_perc"],
                "Share of the KV blocks that sequences hold, 0 to 1; of the fuller group, whose blocks run out first.",
            ),
            cache_config: make.labelled_gauges(
                "vllm:cache_config_info",
                "Always 1; the labels say how large the KV cache is, in blocks of the layers that see every token.",
                &["block_size", "num_gpu_blocks"],
            ),
            kv_bytes: make
                .gauges(["antiphon_kv_in_use_bytes", "kv_bytes_in_use"], "Bytes of the KV blocks that sequences hold."),
            preemptions: make.counts(
                ["antiphon_preemptions_total", "vllm:num_preemptions_total"],
                "How often a running sequence gave its blocks back.",
            ),
            prefix_queries: make.counts(
                ["antiphon_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"],
                "Prompt tokens that were looked up in the prefix cache.",
            ),
            prefix_hits: make.counts(
                ["antiphon_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"],
                "Prompt tokens that were found in the prefix cache.",
            ),
            prefix_hits_by_reason: make.labelled(
                "llm_prefix_cache_hit_total",
                "Sequences that found a part of their tokens in the prefix cache: as new prompts, or as they were resumed after a \
                 preemption.",
                "reason",
                &["prefix", "resumed"],
            ),
            drafts: make.counts(
                ["antiphon_drafts_total", "vllm:spec_decode_num_drafts_total"],
                "How often tokens of an answer were guessed before they were drawn.",
            ),
            draft_tokens: make.counts(
                ["antiphon_draft_tokens_total", "vllm:spec_decode_num_draft_tokens_total"],
                "Tokens of answers that were guessed before they were drawn.",
            ),
            accepted_draft_tokens: make.counts(
                ["antiphon_accepted_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"],
                "Guessed tokens that were what was drawn.",
            ),
            counting: Mutex::new(()),
        };
        // Every group and state is exposed from the start.
        families.set(&SchedulerCounts::default(), 0, 0);
        families
    }

    pub(super) fn set(&self, scheduler: &SchedulerCounts, block_tokens: usize, kv_in_use_bytes: u64) {
        self.waiting.set(scheduler.waiting_count as f64);
        self.waiting_tokens.set(gauge(scheduler.waiting_tokens));
        self.running.set((scheduler.prefill_count + scheduler.decode_count) as f64);
        for (group, blocks) in [("full", scheduler.global_blocks), ("sliding", scheduler.sliding_blocks)] {
            let counts = [("free", blocks.free_count), ("cached", blocks.cached_count), ("in_use", blocks.in_use_count())];
            for (label, count) in counts {
                self.blocks.with_label_values(&[group, label]).set(count as f64);
            }
            self.kv_usage.with_label_values(&[group]).set(blocks.in_use_share());
        }
        self.fullest.set(scheduler.global_blocks.in_use_share().max(scheduler.sliding_blocks.in_use_share()));
        if block_tokens > 0 {
            let labels = [block_tokens, scheduler.global_blocks.total_count].map(|count| count.to_string());
            self.cache_config.with_label_values(&labels).set(1.0);
        }
        self.kv_bytes.set(kv_in_use_bytes as f64);
        // The scheduler counts since the start; the counters take the difference.
        let _alone = lock(&self.counting);
        let (found, drafts) = (&scheduler.prefix_cache, &scheduler.drafts);
        for (counter, total) in [
            (&self.preemptions, scheduler.preemptions_total),
            (&self.prefix_queries, found.queried_tokens_total),
            (&self.prefix_hits, found.hit_tokens_total),
            (&self.drafts, drafts.drafts_total),
            (&self.draft_tokens, drafts.draft_tokens_total),
            (&self.accepted_draft_tokens, drafts.accepted_tokens_total),
        ] {
            counter.add(total.saturating_sub(counter.get()));
        }
        for (reason, total) in [("prefix", found.hits_total), ("resumed", found.resumed_total)] {
            let hits = self.prefix_hits_by_reason.with_label_values(&[reason]);
            hits.inc_by(total.saturating_sub(hits.get()));
        }
    }
}

/// The prompt builder and its cache.
pub(super) struct PromptFamilies {
    pub(super) hits: IntCounter,
    pub(super) misses: IntCounter,
    /// Never counted: a prompt beyond the context is refused. Dashboards ask for the name.
    pub(super) truncations: IntCounter,
    pub(super) hits_gauge: IntGauge,
    pub(super) hit_rate: Gauges<2>,
    pub(super) entries: IntGauge,
}

impl PromptFamilies {
    fn new(make: &Maker) -> Self {
        Self {
            hits: make.counter("antiphon_prompt_cache_hits_total", "Prompts found in the builder's cache."),
            misses: make.counter("antiphon_prompt_cache_misses_total", "Prompts that had to be built."),
            truncations: make.counter("antiphon_prompt_truncations_total", "Prompts cut to fit the context."),
            hits_gauge: make.gauge("prompt_cache_hits", "Prompts found in the builder's cache since the start."),
            hit_rate: make.gauges(
                ["antiphon_prompt_cache_hit_ratio", "prompt_cache_hit_rate"],
                "Share of prompts found in the builder's cache, 0 to 1.",
            ),
            entries: make.gauge("antiphon_prompt_cache_entries", "Prompts in the builder's cache."),
        }
    }
}

/// What went wrong and was survived.
pub(super) struct FaultFamilies {
    pub(super) parser_recoveries: IntCounterVec,
    pub(super) engine_restarts: IntCounter,
    pub(super) nan_logits: IntCounter,
    pub(super) request_panics: IntCounter,
    pub(super) log_drops: IntCounter,
    pub(super) connections_refused: IntCounterVec,
}

impl FaultFamilies {
    fn new(make: &Maker) -> Self {
        Self {
            parser_recoveries: make.labelled(
                "antiphon_parser_recoveries_total",
                "How often the harmony parser went on after malformed output, by kind.",
                "kind",
                &[],
            ),
            engine_restarts: make.counter("antiphon_engine_restarts_total", "How often the engine was rebuilt."),
            nan_logits: make.counter("antiphon_nan_logits_total", "Sequences whose logits were not finite."),
            request_panics: make.counter("antiphon_request_panics_total", "Panics caught at the border of one request."),
            log_drops: make.counter("antiphon_log_drops_total", "Log lines that could not be written."),
            connections_refused: make.labelled(
                "antiphon_connections_refused_total",
                "Connections turned away because too many were open, in all or from one address.",
                "reason",
                &["all", "address"],
            ),
        }
    }
}
