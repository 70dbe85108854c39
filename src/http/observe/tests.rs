//! The reports: their keys are those of the wire format, and a probe says why it says no.

use serde_json::{Value, json};

use crate::actors::snapshot::{BuilderCounts, EngineState, SchedulerCounts};
use crate::batch::{BlockUse, Micros};
use crate::http::observe::*;
use crate::metrics::{ModelTags, Percentiles, RequestOutcome};

const LIMITS: ModelLimits = ModelLimits {
    context_tokens_max: 8192,
    vocab_size: 2048,
    block_tokens: 16,
    step_tokens_max: 256,
    running_max_count: 10,
    kv_bytes: 4096,
};

fn tags() -> ModelTags {
    ModelTags {
        model_id: "gpt-oss-20b".to_owned(),
        model_size: "20b".to_owned(),
        dtype: "mxfp4".to_owned(),
        gpu_mode: "none".to_owned(),
        prompt_version: "SYS/v1".to_owned(),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        engine: EngineState::Ready,
        draining: false,
        heartbeat_age_ms: 12,
        alive: true,
        ready: true,
        scheduler: SchedulerCounts {
            waiting_count: 1,
            prefill_count: 2,
            decode_count: 3,
            global_blocks: BlockUse { total_count: 6, free_count: 2, cached_count: 1 },
            sliding_blocks: BlockUse { total_count: 4, free_count: 2, cached_count: 0 },
            ..SchedulerCounts::default()
        },
        kv_in_use_bytes: 640,
        requests_active: 6,
        streams_active: 5,
        building_count: 0,
        sessions_active: 2,
        memory_budget_bytes: 1_000,
        memory_reserved_bytes: 10,
        engine_restarts_total: 0,
        step_tokens_per_second: 0.0,
        prompts: BuilderCounts { cache_hits: 1, cache_misses: 3, cache_size: 3, cache_bytes: 99 },
    }
}

fn value(report: &impl Serialize) -> Value {
    serde_json::to_value(report).expect("a report is JSON")
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn health_has_the_demanded_keys() {
    let (facts, tags) = (ServerFacts { profile: "balanced".to_owned(), ..ServerFacts::default() }, tags());
    let report = value(&health::report(&snapshot(), &Stats::default(), None, &facts, &tags));
    for key in ["status", "health_score", "version", "model_id", "model_size", "dtype", "model", "profile", "stats"] {
        assert!(report.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(
        (&report["status"], &report["health_score"], &report["profile"]),
        (&json!("healthy"), &json!(1.0), &json!("balanced"))
    );
    assert_eq!(keys(&report["model"]), ["model_id", "model_size", "dtype", "gpu_mode", "prompt_version"]);
    assert_eq!(keys(&report["stats"]), ["active_requests", "qps", "error_rate", "p95_ttft_ms", "p95_e2e_ms"]);
}

#[test]
fn missed_targets_lower_the_score_and_are_named() {
    let (facts, tags) = (ServerFacts::default(), tags());
    let report = |stats: &Stats| value(&health::report(&snapshot(), stats, None, &facts, &tags));
    let slow = Percentiles { p50_ms: 1.0, p95_ms: 30_000.0, p99_ms: 30_000.0 };
    let late = report(&Stats { e2e: slow, ..Stats::default() });
    assert_eq!((&late["status"], &late["health_score"]), (&json!("healthy"), &json!(0.75)));
    assert_eq!(late["problems"], json!(["p95_e2e_ms 30000 is above 20000"]));
    assert_eq!(report(&Stats { e2e: slow, ttft: slow, ..Stats::default() })["status"], "degraded");
    assert_eq!(report(&Stats { error_rate: 0.01, ..Stats::default() })["status"], "degraded");
    let worst = report(&Stats { e2e: slow, ttft: slow, error_rate: 1.0, ..Stats::default() });
    assert_eq!(worst["health_score"], 0.0);
}

/// Answers go on without the store, so the server is well enough to be sent requests.
#[test]
fn a_store_that_fails_is_a_problem_that_costs_no_points() {
    let (facts, tags) = (ServerFacts::default(), tags());
    let report = value(&health::report(&snapshot(), &Stats::default(), Some("no space"), &facts, &tags));
    assert_eq!((&report["health_score"], &report["problems"]), (&json!(1.0), &json!(["responses are not kept: no space"])));
}

#[test]
fn a_probe_says_why_it_says_no() {
    let no = Snapshot { ready: false, ..snapshot() };
    let cases = [
        (Snapshot { engine: EngineState::Loading, ..no }, "loading"),
        (Snapshot { draining: true, ..no }, "draining"),
        (Snapshot { engine: EngineState::Restarting, ..no }, "engine_restarting"),
        (Snapshot { engine: EngineState::Dead, alive: false, ..no }, "engine_dead"),
        (Snapshot { alive: false, heartbeat_age_ms: 60_000, ..no }, "stuck"),
    ];
    for (snapshot, reason) in cases {
        assert_eq!(value(&health::readiness(&snapshot)), json!({"status": "not_ready", "reason": reason}));
        let (facts, tags) = (ServerFacts::default(), tags());
        let report = value(&health::report(&snapshot, &Stats::default(), None, &facts, &tags));
        assert_eq!((&report["status"], &report["problems"]), (&json!("degraded"), &json!([reason])));
        assert_eq!(report["health_score"], 0.0);
        let failing = Stats { error_rate: 1.0, ..Stats::default() };
        assert_eq!(
            value(&health::report(&snapshot, &failing, None, &facts, &tags))["health_score"],
            0.0,
            "nothing is below zero"
        );
    }
    assert_eq!(value(&health::readiness(&snapshot())), json!({"status": "ready"}));
    assert_eq!(value(&health::liveness(&snapshot())), json!({"status": "live", "heartbeat_age_ms": 12}));
    assert_eq!(value(&health::liveness(&cases[3].0))["status"], "engine_dead");
    assert_eq!(value(&health::liveness(&cases[4].0)), json!({"status": "stuck", "heartbeat_age_ms": 60_000}));
    let (status, _) = reported(false, &json!({}));
    let response = unstored(status).finish();
    assert_eq!((response.status().as_u16(), response.headers().get(RETRY_AFTER).is_some()), (503, true));
}

#[test]
fn stats_have_the_demanded_keys_and_add_up() {
    let metrics = Metrics::new(tags());
    let mut records: Vec<_> = (0..3).map(|_| metrics.received(Micros(0))).collect();
    records.iter_mut().for_each(|record| record.admitted(4));
    records.pop().expect("three").ended(RequestOutcome::Stop, Micros(2_000));
    drop(records.pop());
    let (stats, tags) = (metrics.stats(Micros(1_000_000)), tags());
    let report = value(&stats::report(&snapshot(), &stats, Some(LIMITS), &tags, &[]));
    for key in [
        "requests_total",
        "requests_success",
        "requests_failed",
        "requests_cancelled",
        "active_requests",
        "stream_active",
        "stream_cancelled_total",
        "qps",
        "error_rate",
        "p50_ttft_ms",
        "p95_ttft_ms",
        "p99_ttft_ms",
        "p50_e2e_ms",
        "p95_e2e_ms",
        "p99_e2e_ms",
        "uptime_seconds",
        "model_metrics",
        "prompt_metrics",
        "model_info",
        "gpu_routing",
        "kv",
    ] {
        assert!(report.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(
        report["model_metrics"],
        json!({"gpt-oss-20b_20b_SYS/v1": {"total": 3, "success": 1, "failed": 0, "cancelled": 1}})
    );
    assert_eq!(
        (&report["requests_total"], &report["active_requests"], &report["p50_e2e_ms"]),
        (&json!(3), &json!(1), &json!(2.0))
    );
    let full = json!({"total": 6, "free": 2, "cached": 1, "in_use": 3});
    let sliding = json!({"total": 4, "free": 2, "cached": 0, "in_use": 2});
    let both = json!({"total": 10, "free": 4, "cached": 1, "in_use": 5, "full": full, "sliding": sliding});
    assert_eq!(report["kv"], both);
    assert_eq!(report["gpu_routing"], json!({"mode": "none", "gpus": []}));
    assert_eq!(
        keys(&report["prompt_metrics"]),
        ["cache_hits", "cache_misses", "truncations", "total_builds", "cache_hit_rate", "cache_size"]
    );
    assert_eq!((&report["model_info"]["model_id"], &report["model_info"]["vocab_size"]), (&json!("gpt-oss-20b"), &json!(2048)));
}

#[test]
fn memory_tells_where_it_goes() {
    let report = value(&memory::report(&snapshot(), &Process::read(), Some(LIMITS), 777, "none"));
    assert_eq!(
        (&report["weights_bytes"], &report["kv_pool_bytes"], &report["prompt_cache_bytes"]),
        (&json!(777), &json!(4096), &json!(99))
    );
    assert!(report["rss_bytes"].as_u64() > Some(100_000) && report["gpus"] == json!([]));
}

#[test]
fn the_scrape_sees_the_snapshot() {
    let metrics = Metrics::new(tags());
    hand_over(&snapshot(), Some(LIMITS), &metrics);
    let text = metrics.exposition(Names::All, Micros(0));
    let sample = |name: &str| text.lines().find(|line| line.starts_with(&format!("{name}{{"))).expect("it is exposed");
    for (name, value) in
        [("antiphon_sequences_waiting", 1), ("antiphon_sequences_running", 5), ("antiphon_kv_in_use_bytes", 640)]
    {
        assert!(sample(name).ends_with(&format!(" {value}")), "{}", sample(name));
    }
    assert!(sample("vllm:cache_config_info").contains("block_size=\"16\""), "{}", sample("vllm:cache_config_info"));
}

#[test]
fn gateways_read_the_load_and_who_this_is() {
    let loads = value(&gateway::loads_report(&snapshot(), Some(LIMITS), "2025-11-22T08:30:00Z".to_owned()));
    assert_eq!(keys(&loads), ["timestamp", "version", "dp_rank_count", "loads", "aggregate"]);
    let rank = json!({
        "dp_rank": 0, "num_running_reqs": 5, "num_waiting_reqs": 1, "num_total_reqs": 6, "num_used_tokens": 48,
        "num_total_tokens": 48, "max_total_num_tokens": 96, "token_usage": 0.5, "gen_throughput": 0.0,
        "utilization": 0.5, "max_running_requests": 10,
    });
    assert_eq!(loads["loads"], json!([rank]));
    assert_eq!(loads["aggregate"]["total_running_reqs"], 5);
    assert_eq!(loads["aggregate"]["total_waiting_reqs"], 1);
    let old = value(&gateway::old_load(&snapshot(), Some(LIMITS)));
    assert_eq!(old, json!([{"dp_rank": 0, "num_reqs": 6, "num_waiting_reqs": 1, "num_tokens": 48}]));
    let loading = value(&gateway::loads_report(&snapshot(), None, String::new()));
    assert_eq!(loading["loads"][0]["max_running_requests"], 0, "the engine is not there yet");

    let server = value(&gateway::server_report(&snapshot(), Some(LIMITS), "gpt-oss-20b", 2));
    for (key, expected) in [
        ("model_path", json!("gpt-oss-20b")),
        ("served_model_name", json!("gpt-oss-20b")),
        ("tp_size", json!(2)),
        ("dp_size", json!(1)),
        ("page_size", json!(16)),
        ("context_length", json!(8192)),
        ("max_total_num_tokens", json!(96)),
        ("max_prefill_tokens", json!(256)),
        ("max_running_requests", json!(10)),
    ] {
        assert_eq!(server[key], expected, "{key}");
    }
}
