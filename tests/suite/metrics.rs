//! The exposition: every demanded name is there, and only demanded names break Prometheus's rules.

use std::collections::BTreeSet;

use antiphon::batch::Micros;
use antiphon::metrics::{Metrics, ModelTags, Names, PromptCacheLookup, RejectKind, RequestOutcome, StepRecord};
use antiphon::scheduler::SchedulerCounts;

/// Names that the servers antiphon replaces, and vLLM, gave their metrics.
pub(crate) const DEMANDED: &[&str] = &[
    "requests_total",
    "requests_active",
    "stream_active",
    "stream_cancelled_total",
    "model_requests_total",
    "ttft_ms",
    "e2e_ms",
    "prompt_cache_hits",
    "prompt_cache_hit_rate",
    "llm_ttft_ms",
    "llm_e2e_ms",
    "llm_tokens_per_sec",
    "llm_prefill_tokens_total",
    "llm_decode_tokens_total",
    "llm_prefix_cache_hit_total",
    "llm_admission_total",
    "kv_bytes_in_use",
    "sessions_active",
    "gpu_utilization",
    "gpu_mem_used_bytes",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_success_total",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:spec_decode_num_drafts_total",
    "vllm:spec_decode_num_draft_tokens_total",
    "vllm:spec_decode_num_accepted_tokens_total",
];

/// The exposition of a server to which everything happened once.
fn exposition(names: Names) -> String {
    let metrics = Metrics::new(ModelTags {
        model_id: "openai/gpt-oss-20b".to_owned(),
        model_size: "20b".to_owned(),
        dtype: "mxfp4".to_owned(),
        gpu_mode: "none".to_owned(),
        prompt_version: "SYS/v1".to_owned(),
    });
    for outcome in RequestOutcome::ALL {
        let mut record = metrics.received(Micros(0));
        record.admitted(10);
        record.first_content(Micros(1000));
        record.tokens(0, 1, Micros(1000));
        record.tokens(0, 1, Micros(2000));
        record.ended(outcome, Micros(3000));
    }
    RejectKind::ALL.into_iter().for_each(|kind| metrics.received(Micros(0)).rejected(kind));
    metrics.step_committed(StepRecord { slices_count: 1, prefill_tokens: 9, decode_tokens: 1, seconds: 0.01 }, Micros(1000));
    metrics.scheduler(&SchedulerCounts { preemptions_total: 1, ..SchedulerCounts::default() }, 16, 0);
    metrics.prompt_looked_up(PromptCacheLookup::Hit, 1);
    metrics.parser_recovered("header", 1);
    metrics.exposition(names, Micros(4000))
}

#[test]
fn every_demanded_name_is_exposed() {
    let text = exposition(Names::All);
    for name in DEMANDED {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} has no TYPE line");
        let sample = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', '_', ' ']));
        assert!(text.lines().any(sample), "{name} has no sample");
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("process_")) {
        let labelled = line.starts_with("vllm:") && line.contains("model_name=\"openai/gpt-oss-20b\"")
            || ["model_id=", "model_size=", "dtype=", "gpu_mode=", "prompt_version="].iter().all(|label| line.contains(label));
        assert!(labelled, "{line} lacks the model's labels");
    }
}

/// Two of Prometheus's rules for names contradict demanded ones: no colon, no abbreviated unit.
/// What breaks them is exactly this; `scripts/check-metrics` has promtool say the same of a running
/// server.
#[test]
fn only_demanded_names_break_the_rules() {
    let families = |names| -> BTreeSet<String> {
        let text = exposition(names);
        let name = |line: &str| line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        text.lines().filter_map(name).collect()
    };
    let (all, lawful) = (families(Names::All), families(Names::Prometheus));
    assert!(lawful.is_subset(&all) && lawful.len() > 40, "{lawful:?}");
    for name in all.difference(&lawful) {
        let millis = ["ttft_ms", "e2e_ms", "llm_ttft_ms", "llm_e2e_ms", "llm_tokens_per_sec"].contains(&name.as_str());
        assert!(millis || name.starts_with("vllm:"), "{name} breaks a rule, and nobody demands it");
    }
    for name in lawful {
        let units = ["_ms", "_us", "_ns", "_sec", "_kb", "_mb", "_gb", "_pct"];
        assert!(!name.contains(':') && !units.iter().any(|unit| name.ends_with(unit)), "{name}");
    }
}
