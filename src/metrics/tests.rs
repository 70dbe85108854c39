//! Counters agree with what happened; percentiles are exact; every demanded name is exposed.

use proptest::prelude::*;

use super::window::{Ended, Rate, Recent};
use super::*;
use crate::batch::BlockUse;
use crate::scheduler::DraftCounts;

fn tags() -> ModelTags {
    ModelTags {
        model_id: "gpt-oss-tiny".to_owned(),
        model_size: "tiny".to_owned(),
        dtype: "mxfp4".to_owned(),
        gpu_mode: "none".to_owned(),
        prompt_version: "SYS/v1".to_owned(),
    }
}

fn seconds(value: f64) -> Micros {
    Micros((value * 1e6) as u64)
}

#[test]
fn one_request_is_counted_once_under_every_name() {
    let metrics = Metrics::new(tags());
    let mut record = metrics.received(seconds(1.0));
    record.admitted(12);
    assert_eq!(metrics.stats(seconds(1.0)).requests, RequestCounts { total: 1, active: 1, ..RequestCounts::default() });
    record.first_content(seconds(1.25));
    record.first_content(seconds(9.0));
    record.tokens(0, 1, seconds(1.25));
    record.tokens(0, 2, seconds(1.5));
    assert_eq!(record.completion_tokens(), 3);
    record.ended(RequestOutcome::Length, seconds(2.0));

    let stats = metrics.stats(seconds(3.0));
    assert_eq!(stats.requests, RequestCounts { total: 1, success: 1, ..RequestCounts::default() });
    assert_eq!((stats.ttft.p50_ms, stats.e2e.p99_ms), (250.0, 1000.0));
    let text = metrics.exposition(Names::All, seconds(3.0));
    for line in [
        "ttft_ms_sum{dtype=\"mxfp4\",gpu_mode=\"none\",model_id=\"gpt-oss-tiny\",model_size=\"tiny\",prompt_version=\"SYS/v1\"} 250",
        "vllm:time_to_first_token_seconds_sum{engine=\"0\",model_name=\"gpt-oss-tiny\"} 0.25",
        "vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"gpt-oss-tiny\"} 1",
        "vllm:inter_token_latency_seconds_sum{engine=\"0\",model_name=\"gpt-oss-tiny\"} 0.25",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"gpt-oss-tiny\"} 1",
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"gpt-oss-tiny\"} 12",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_dropped_record_is_a_client_that_left() {
    let metrics = Metrics::new(tags());
    drop(metrics.received(Micros(0)));
    let mut record = metrics.received(Micros(0));
    record.admitted(1);
    drop(record);
    metrics.received(Micros(0)).rejected(RejectKind::QueueFull);
    metrics.received(Micros(0)).ended(RequestOutcome::Failed, Micros(10));
    let stats = metrics.stats(Micros(10));
    assert_eq!(stats.requests, RequestCounts { total: 2, cancelled: 1, failed: 1, ..RequestCounts::default() });
    assert_eq!(stats.rejected, 2);
    assert_eq!(stats.error_rate, 0.5);
}

#[test]
fn who_left_before_an_answer_was_not_refused() {
    let metrics = Metrics::new(tags());
    drop(metrics.received(Micros(0)));
    metrics.received(Micros(0)).rejected(RejectKind::QueueFull);
    metrics.received(Micros(0)).rejected(RejectKind::QueueFull);
    metrics.received(Micros(0)).rejected(RejectKind::Invalid);
    metrics.received(Micros(0)).rejected(RejectKind::Unavailable);
    let text = metrics.exposition(Names::All, Micros(0));
    for (kind, count) in [("abandoned", 1.0), ("queue_full", 2.0), ("invalid", 1.0), ("unavailable", 1.0)] {
        let kind = format!("kind=\"{kind}\"");
        assert_eq!(samples(&text, "antiphon_requests_rejected_total", &[&kind]), [count], "{kind}");
    }
    assert_eq!(samples(&text, "llm_admission_total", &["\"reject\""]), [4.0], "the one that left was not refused");
}

/// Numbers of which no two are alike, and no sum is one of them.
#[test]
fn a_step_s_tokens_are_counted_by_what_they_were() {
    let metrics = Metrics::new(tags());
    metrics.step_committed(StepRecord { slices_count: 3, prefill_tokens: 100, decode_tokens: 2, seconds: 0.25 }, seconds(1.0));
    metrics.step_committed(StepRecord { slices_count: 5, prefill_tokens: 40, decode_tokens: 7, seconds: 0.5 }, seconds(2.0));
    let text = metrics.exposition(Names::All, seconds(3.0));
    for (name, count) in [
        ("antiphon_prefill_tokens_total", 140.0),
        ("llm_prefill_tokens_total", 140.0),
        ("antiphon_generated_tokens_total", 9.0),
        ("llm_decode_tokens_total", 9.0),
        ("vllm:generation_tokens_total", 9.0),
        ("antiphon_step_tokens_sum", 149.0),
        ("antiphon_step_tokens_count", 2.0),
    ] {
        assert_eq!(samples(&text, name, &[]), [count], "{name}");
    }
}

#[test]
fn a_finished_stream_is_not_a_cancelled_one() {
    let metrics = Metrics::new(tags());
    let (first, second) = (metrics.stream_opened(), metrics.stream_opened());
    assert_eq!(metrics.stats(Micros(0)).stream_active, 2);
    first.finished();
    // Two that are finished and one that is left: the counts differ.
    metrics.stream_opened().finished();
    drop(second);
    let stats = metrics.stats(Micros(0));
    assert_eq!((stats.stream_active, stats.stream_cancelled), (0, 1));
}

#[test]
fn the_schedulers_totals_become_counters() {
    let metrics = Metrics::new(tags());
    let global_blocks = BlockUse { total_count: 8, free_count: 6, cached_count: 0 };
    let sliding_blocks = BlockUse { total_count: 4, free_count: 1, cached_count: 1 };
    let mut state = SchedulerCounts { global_blocks, sliding_blocks, ..SchedulerCounts::default() };
    for preemptions_total in [0, 3, 3, 5] {
        state.preemptions_total = preemptions_total;
        let [drafts_total, draft_tokens_total, accepted_tokens_total] = [2, 7, 3].map(|times| times * preemptions_total);
        state.drafts = DraftCounts { drafts_total, draft_tokens_total, accepted_tokens_total };
        metrics.scheduler(&state, 16, 0);
    }
    let text = metrics.exposition(Names::All, Micros(0));
    assert_eq!(samples(&text, "vllm:num_preemptions_total", &[]), [5.0]);
    for (name, total) in [("drafts", 10.0), ("draft_tokens", 35.0), ("accepted_tokens", 15.0)] {
        assert_eq!(samples(&text, &format!("vllm:spec_decode_num_{name}_total"), &[]), [total], "{name}");
    }
    assert_eq!(samples(&text, "vllm:kv_cache_usage_perc", &[]), [0.5], "the fuller group's");
    let size = ["block_size=\"16\"", "num_gpu_blocks=\"8\""];
    assert_eq!(samples(&text, "vllm:cache_config_info", &size), [1.0], "what vllm-router multiplies the usage with");
    for (group, ratio, in_use) in [("full", 0.25, 2.0), ("sliding", 0.5, 2.0)] {
        let group = format!("group=\"{group}\"");
        assert_eq!(samples(&text, "antiphon_kv_usage_ratio", &[&group]), [ratio]);
        assert_eq!(samples(&text, "antiphon_kv_blocks", &[&group, "state=\"in_use\""]), [in_use]);
    }
}

/// Each recorder is called a number of times of its own.
#[test]
fn each_recorder_counts_under_its_own_names() {
    let log = LogWatch::default();
    let metrics = Metrics::of(tags(), Vec::new(), log.clone());
    metrics.engine_restarted();
    (0..2).for_each(|_| metrics.nan_logits());
    (0..3).for_each(|_| metrics.request_panicked());
    (0..4).for_each(|_| metrics.connection_refused("all"));
    (0..5).for_each(|_| metrics.connection_refused("address"));
    (0..6).for_each(|_| metrics.prompt_looked_up(PromptCacheLookup::Hit, 40));
    (0..2).for_each(|_| metrics.prompt_looked_up(PromptCacheLookup::Miss, 41));
    (0..9).for_each(|_| log.dropped());
    assert_eq!(metrics.log().dropped_total(), 9);
    assert!(format!("{metrics:?}").contains("gpt-oss-tiny"), "it says whose numbers it holds");
    metrics.parser_recovered("a kind", 10);
    metrics.sessions_active(11);
    metrics.memory(1_000, 300);
    metrics.response_store(true);
    let stats = metrics.stats(seconds(2.5));
    assert_eq!((stats.uptime_seconds, stats.sessions_active), (2.5, 11));
    let prompts = PromptCounts { hits: 6, misses: 2, truncations: 0, hit_rate: 0.75, entries: 41 };
    assert_eq!(stats.prompts, prompts);
    // Twice: a scrape adds nothing.
    for _ in 0..2 {
        let text = metrics.exposition(Names::All, seconds(2.5));
        for (name, label, value) in [
            ("antiphon_engine_restarts_total", "", 1.0),
            ("antiphon_nan_logits_total", "", 2.0),
            ("antiphon_request_panics_total", "", 3.0),
            ("antiphon_connections_refused_total", "reason=\"all\"", 4.0),
            ("antiphon_connections_refused_total", "reason=\"address\"", 5.0),
            ("antiphon_prompt_cache_hits_total", "", 6.0),
            ("antiphon_prompt_cache_misses_total", "", 2.0),
            ("prompt_cache_hits", "", 6.0),
            ("prompt_cache_hit_rate", "", 0.75),
            ("antiphon_prompt_cache_hit_ratio", "", 0.75),
            ("antiphon_prompt_cache_entries", "", 41.0),
            ("antiphon_log_drops_total", "", 9.0),
            ("antiphon_parser_recoveries_total", "kind=\"a kind\"", 10.0),
        ] {
            assert_eq!(samples(&text, name, &[label]), [value], "{name}");
        }
        assert!(text.contains("process_open_fds "), "what the kernel says is there too");
    }
}

#[test]
fn the_names_that_break_the_rules_are_left_out_when_that_is_asked() {
    let metrics = Metrics::new(tags());
    let broken = ["vllm:time_to_first_token_seconds_sum", "ttft_ms_sum", "llm_tokens_per_sec", "vllm:num_preemptions_total"];
    let (all, lawful) = (metrics.exposition(Names::All, Micros(0)), metrics.exposition(Names::Prometheus, Micros(0)));
    for name in broken {
        assert!(samples(&all, name, &[]).len() == 1 && samples(&lawful, name, &[]).is_empty(), "{name}");
    }
    assert_eq!(samples(&lawful, "antiphon_ttft_seconds_count", &[]), [0.0]);
}

/// A number under several names has the same buckets under each, in the name's own unit.
#[test]
fn buckets_are_in_the_unit_of_the_name() {
    let metrics = Metrics::new(tags());
    let mut record = metrics.received(Micros(0));
    record.admitted(1);
    record.first_content(Micros(250_000));
    record.ended(RequestOutcome::Stop, Micros(300_001));
    let text = metrics.exposition(Names::All, Micros(300_001));
    for (name, below, bound) in [
        ("antiphon_ttft_seconds", "0.1", "0.25"),
        ("vllm:time_to_first_token_seconds", "0.1", "0.25"),
        ("ttft_ms", "100", "250"),
        ("llm_ttft_ms", "100", "250"),
        ("antiphon_e2e_seconds", "0.3", "0.5"),
        ("e2e_ms", "300", "500"),
    ] {
        let bucket = |bound| samples(&text, &format!("{name}_bucket"), &[&format!("le=\"{bound}\"")]);
        assert_eq!((bucket(below), bucket(bound)), (vec![0.0], vec![1.0]), "{name}");
    }
}

#[test]
fn a_request_that_ends_is_counted_by_how_and_only_a_good_one_is_timed() {
    let metrics = Metrics::new(tags());
    let ended = |outcome, took: u64| metrics.received(Micros(0)).ended(outcome, Micros(took));
    ended(RequestOutcome::Stop, 1_000);
    ended(RequestOutcome::Length, 3_000);
    ended(RequestOutcome::Failed, 50_000);
    ended(RequestOutcome::Cancelled, 60_000);
    let stats = metrics.stats(Micros(60_000));
    assert_eq!(stats.requests, RequestCounts { total: 4, success: 2, failed: 1, cancelled: 1, active: 0 });
    assert_eq!(stats.e2e, Percentiles { p50_ms: 1.0, p95_ms: 3.0, p99_ms: 3.0 });
    assert_eq!((stats.ttft, stats.error_rate, stats.qps), (Percentiles::default(), 0.25, 4.0));
    let text = metrics.exposition(Names::All, Micros(60_000));
    assert_eq!(samples(&text, "antiphon_e2e_seconds_count", &[]), [2.0]);
    for (reason, status) in [("stop", "success"), ("length", "success"), ("error", "failed"), ("abort", "cancelled")] {
        let reason_label = format!("finished_reason=\"{reason}\"");
        assert_eq!(samples(&text, "vllm:request_success_total", &[&reason_label]), [1.0], "{reason}: {status}");
    }
}

/// A client that leaves ends its request when its last token came, which is all that is known then.
#[test]
fn a_request_that_is_dropped_ended_with_its_last_token() {
    let metrics = Metrics::new(tags());
    let mut record = metrics.received(Micros(0));
    record.admitted(1);
    record.tokens(2, 1, seconds(30.0));
    record.tokens(0, 1, seconds(20.0));
    drop(record);
    let of_the_last_minute = |now| metrics.stats(seconds(now)).qps;
    assert_eq!((of_the_last_minute(90.0), of_the_last_minute(90.1)), (1.0 / 60.0, 0.0));
}

#[test]
fn a_step_counts_in_the_rates() {
    let metrics = Metrics::of(tags(), vec![Gpu { index: 3, name: "a GPU".to_owned(), used_bytes: 77 }], LogWatch::default());
    let step = |seconds| StepRecord { slices_count: 1, prefill_tokens: 5, decode_tokens: 8, seconds };
    metrics.step_committed(step(0.5), seconds(2.0));
    let stats = metrics.stats(seconds(4.0));
    assert_eq!((stats.tokens_per_second, stats.busy_share), (2.0, 0.125));
    let text = metrics.exposition(Names::All, seconds(4.0));
    assert_eq!(samples(&text, "gpu_utilization", &["gpu=\"3\""]), [0.125]);
    assert_eq!(samples(&text, "gpu_mem_used_bytes", &["gpu=\"3\""]), [77.0]);
    metrics.step_committed(step(100.0), seconds(5.0));
    assert_eq!(metrics.stats(seconds(6.0)).busy_share, 1.0, "no more than all of the time");
}

/// The values of a metric's samples that have all of these labels.
fn samples(text: &str, name: &str, labels: &[&str]) -> Vec<f64> {
    let of = |line: &&str| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label));
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a sample ends in a number");
    text.lines().filter(of).map(value).collect()
}

#[test]
fn qps_looks_back_a_minute_and_never_past_the_ring() {
    let mut recent = Recent::default();
    assert_eq!(recent.qps(seconds(5.0)), 0.0);
    for second in 0..120 {
        recent.add(ended(seconds(f64::from(second)), RequestOutcome::Stop));
    }
    assert!((recent.qps(seconds(119.0)) - 61.0 / 60.0).abs() < 1e-9);
    // 10,000 in one second: the ring holds the last 4,096, which took 0.4096 s; a second is the
    // shortest span.
    for step in 0..10_000 {
        recent.add(ended(Micros(200_000_000 + step * 100), RequestOutcome::Failed));
    }
    assert_eq!(recent.qps(Micros(201_000_000)), 4096.0);
    assert_eq!(recent.error_rate(Micros(201_000_000)), 1.0);
    assert_eq!(recent.error_rate(Micros(300_000_000)), 0.0);
}

fn ended(at: Micros, outcome: RequestOutcome) -> Ended {
    Ended { at, outcome, ttft_micros: None, e2e_micros: 1 }
}

#[test]
fn tokens_per_second_forget_after_ten_seconds() {
    let mut rate = Rate::default();
    rate.add(50, seconds(0.2));
    assert_eq!(rate.per_second(seconds(0.5)), 50.0);
    assert_eq!(rate.per_second(seconds(5.0)), 10.0);
    for second in 10..20 {
        rate.add(20, seconds(f64::from(second) + 0.5));
    }
    assert!((rate.per_second(seconds(20.0 - 1e-6)) - 20.0).abs() < 1e-3);
    assert_eq!(rate.per_second(seconds(60.0)), 0.0);
}

#[test]
fn this_process_is_read_from_proc() {
    let process = Process::read();
    assert!(process.resident_bytes > 100_000 && process.resident_bytes <= process.resident_peak_bytes);
    assert!(process.threads >= 1 && process.open_fds >= 3 && process.max_fds >= process.open_fds);
    assert!((1.5e9..1e11).contains(&process.start_unix_seconds));
}

proptest! {
    /// Nearest rank: at least the share of values lies at or below, and one rank lower would not
    /// do.
    #[test]
    fn percentiles_are_exact(micros in prop::collection::vec(0_u64..10_000_000, 1..400)) {
        let found = Percentiles::of(micros.clone());
        for (percent, value) in [(50, found.p50_ms), (95, found.p95_ms), (99, found.p99_ms)] {
            let at_or_below = micros.iter().filter(|sample| **sample as f64 / 1e3 <= value).count();
            let below = micros.iter().filter(|sample| (**sample as f64 / 1e3) < value).count();
            prop_assert!(at_or_below * 100 >= micros.len() * percent);
            prop_assert!(below * 100 < micros.len() * percent);
        }
    }

    /// Whatever happens to requests, in whatever order, their counts add up.
    #[test]
    fn counts_add_up(ends in prop::collection::vec(0_u8..7, 0..60)) {
        let metrics = Metrics::new(tags());
        let mut held = Vec::new();
        for (index, end) in ends.iter().enumerate() {
            let now = Micros(index as u64);
            let mut record = metrics.received(now);
            match end {
                0 => record.rejected(RejectKind::Invalid),
                1 => drop(record),
                2 => { record.admitted(1); held.push(record); }
                3 => { record.admitted(1); drop(record); }
                4 => { record.admitted(1); record.ended(RequestOutcome::Stop, now); }
                5 => { record.admitted(1); record.ended(RequestOutcome::Failed, now); }
                _ => record.ended(RequestOutcome::Failed, now),
            }
            let stats = metrics.stats(now);
            let counts = stats.requests;
            prop_assert_eq!(counts.total, counts.success + counts.failed + counts.cancelled + counts.active);
            prop_assert_eq!(counts.active, held.len() as u64);
            prop_assert_eq!(counts.total + stats.rejected, index as u64 + 1);
        }
    }
}
