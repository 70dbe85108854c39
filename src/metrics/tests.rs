//! Counters agree with what happened; percentiles are exact; every demanded name is exposed.

use proptest::prelude::*;

use super::window::{Ended, Rate, Recent};
use super::*;

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
    drop(second);
    let stats = metrics.stats(Micros(0));
    assert_eq!((stats.stream_active, stats.stream_cancelled), (0, 1));
}

#[test]
fn the_schedulers_totals_become_counters() {
    let metrics = Metrics::new(tags());
    let global_blocks = BlockUse { total_count: 8, free_count: 6, cached_count: 0 };
    let sliding_blocks = BlockUse { total_count: 4, free_count: 1, cached_count: 1 };
    let mut state = SchedulerGauges { global_blocks, sliding_blocks, block_tokens: 16, ..SchedulerGauges::default() };
    for preemptions_total in [0, 3, 3, 5] {
        state.preemptions_total = preemptions_total;
        metrics.scheduler(&state);
    }
    let text = metrics.exposition(Names::All, Micros(0));
    assert_eq!(samples(&text, "vllm:num_preemptions_total", &[]), [5.0]);
    assert_eq!(samples(&text, "vllm:kv_cache_usage_perc", &[]), [0.5], "the fuller group's");
    let size = ["block_size=\"16\"", "num_gpu_blocks=\"8\""];
    assert_eq!(samples(&text, "vllm:cache_config_info", &size), [1.0], "what vllm-router multiplies the usage with");
    for (group, ratio, in_use) in [("full", 0.25, 2.0), ("sliding", 0.5, 2.0)] {
        let group = format!("group=\"{group}\"");
        assert_eq!(samples(&text, "antiphon_kv_usage_ratio", &[&group]), [ratio]);
        assert_eq!(samples(&text, "antiphon_kv_blocks", &[&group, "state=\"in_use\""]), [in_use]);
    }
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
