//! PR-OBS01: the model's tags in everything that observes the server, and counters that agree with
//! what was done.

use serde_json::{Value, json};

use super::super::asking::JAY;
use super::super::bench::Bench;
use super::super::case::{Checks, Halt};
use super::super::exposition::Exposition;
use crate::client::{Api, Request};

const TAGS: [&str; 3] = ["model_id", "model_size", "dtype"];

pub(super) async fn health(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let health = bench.ask("/health").await?;
    for tag in TAGS {
        let (top, inner) = (&health[tag], &health["model"][tag]);
        checks.that(top.as_str().is_some_and(|text| !text.is_empty()), || format!("/health has no {tag}"));
        checks.that(top == inner, || format!("/health says {tag} {top}, and {inner} in model"));
    }
    for field in ["gpu_mode", "prompt_version"] {
        checks.that(health["model"][field].is_string(), || format!("/health has no model.{field}"));
    }
    for field in ["active_requests", "qps", "error_rate", "p95_ttft_ms", "p95_e2e_ms"] {
        checks.that(health["stats"][field].is_number(), || format!("/health has no stats.{field}"));
    }
    checks.that(health["version"].is_string() && health["profile"].is_string(), || {
        "/health has no version or profile".to_owned()
    });
    Ok(())
}

/// `/stats` names a model by its id, its size and the prompt's version.
fn name(health: &Value) -> String {
    let part = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{}_{}_{}", part(&health["model_id"]), part(&health["model_size"]), part(&health["model"]["prompt_version"]))
}

pub(super) async fn stats(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let name = name(&bench.ask("/health").await?);
    let read = async || -> Result<(Value, Value), Halt> {
        let stats = bench.ask("/stats").await?;
        let own = stats["model_metrics"][&name].clone();
        Ok((stats, own))
    };
    // An answer is counted when its request has ended, which is after its last byte.
    bench.idle().await?;
    let (before, own) = read().await?;
    checks.that(own.is_object(), || format!("model_metrics has no {name}: {}", before["model_metrics"]));
    bench.hear(Api::Chat, &bench.chat(JAY, &json!({"stream": true, "max_tokens": 32}))).await?;
    bench.idle().await?;
    let (after, own_after) = read().await?;
    for (field, grown) in [("total", 1), ("success", 1), ("failed", 0), ("cancelled", 0)] {
        let count = |metrics: &Value| metrics[field].as_u64();
        checks.same(&format!("model_metrics.{name}.{field}"), &count(&own_after), &count(&own).map(|count| count + grown));
    }
    let sum = ["success", "failed", "cancelled"].iter().filter_map(|field| own_after[*field].as_u64()).sum::<u64>();
    checks.same("success + failed + cancelled of an idle server", &Some(sum), &own_after["total"].as_u64());
    for field in ["p50_ttft_ms", "p95_ttft_ms", "p99_ttft_ms", "p50_e2e_ms", "p95_e2e_ms", "p99_e2e_ms", "uptime_seconds"] {
        checks.that(after[field].is_number(), || format!("/stats has no {field}"));
    }
    for pointer in ["/model_info/model_id", "/prompt_metrics/cache_hit_rate", "/gpu_routing/mode"] {
        checks.that(after.pointer(pointer).is_some(), || format!("/stats has no {pointer}"));
    }
    Ok(())
}

async fn exposed(bench: &Bench) -> Result<Exposition, Halt> {
    let whole = bench.client.call(&Request::get("/metrics")).await?;
    if whole.status != 200 {
        return Err(Halt::Fail(format!("GET /metrics answers {}", whole.status)));
    }
    Exposition::read(&whole.text()).map_err(|error| Halt::Fail(format!("/metrics: {error}")))
}

pub(super) async fn metrics(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    let metrics = exposed(bench).await?;
    checks.figure("families", metrics.families() as f64, "");
    let health = bench.ask("/health").await?;
    for family in ["requests_total", "requests_active", "stream_active", "stream_cancelled_total", "model_requests_total"] {
        let mut series = metrics.labels_of(family).peekable();
        checks.that(series.peek().is_some(), || format!("/metrics has no {family}"));
        for labels in series {
            for tag in TAGS {
                let (found, expected) = (labels.get(tag).map(String::as_str), health[tag].as_str());
                checks.that(found.is_some() && found == expected, || {
                    format!("{family} has the {tag} {found:?}, not {expected:?}")
                });
            }
            checks.that(labels.contains_key("gpu_mode") && labels.contains_key("prompt_version"), || {
                format!("{family} has no gpu_mode or prompt_version")
            });
        }
    }
    for family in ["ttft_ms", "e2e_ms", "llm_ttft_ms", "llm_e2e_ms"] {
        checks.that(metrics.labels_of(&format!("{family}_count")).next().is_some(), || format!("/metrics has no {family}"));
    }
    for family in [
        "prompt_cache_hits",
        "prompt_cache_hit_rate",
        "llm_tokens_per_sec",
        "llm_prefill_tokens_total",
        "llm_decode_tokens_total",
        "llm_admission_total",
        "kv_bytes_in_use",
        "sessions_active",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
    ] {
        checks.that(metrics.labels_of(family).next().is_some(), || format!("/metrics has no {family}"));
    }
    Ok(())
}

pub(super) async fn counters(bench: &Bench, checks: &mut Checks) -> Result<(), Halt> {
    const ANSWERED: u64 = 5;
    const CANCELLED: u64 = 3;
    bench.idle().await?;
    let (before, stats_before) = (exposed(bench).await?, bench.ask("/stats").await?);
    let mut tokens = 0;
    for _ in 0..ANSWERED {
        let answer = bench.whole(Api::Chat, &bench.chat(JAY, &json!({"max_tokens": 40}))).await?;
        tokens += Bench::count(&answer, "/usage/completion_tokens")?;
    }
    for _ in 0..CANCELLED {
        let request = Request::post_json(Api::Completions.path(), &bench.endless());
        let mut stream = bench.open(Api::Completions, &request).await?;
        stream.chunks(2).await?;
        drop(stream);
        bench.idle().await?;
    }
    let refused =
        bench.client.call(&Request::post_json(Api::Chat.path(), &bench.chat(JAY, &json!({"temperature": -1})))).await?;
    checks.same("the status of a bad request", &refused.status, &400);
    bench.idle().await?;
    let (after, stats) = (exposed(bench).await?, bench.ask("/stats").await?);
    let grown = |name: &str, labels: &[(&str, &str)]| {
        let value = |metrics: &Exposition| metrics.value(name, labels).unwrap_or(0.0);
        value(&after) - value(&before)
    };
    let all = (ANSWERED + CANCELLED) as f64;
    for (name, labels, expected) in [
        ("requests_total", &[][..], all),
        ("model_requests_total", &[("status", "success")][..], ANSWERED as f64),
        ("model_requests_total", &[("status", "cancelled")], CANCELLED as f64),
        ("model_requests_total", &[("status", "failed")], 0.0),
        ("stream_cancelled_total", &[], CANCELLED as f64),
        ("e2e_ms_count", &[], ANSWERED as f64),
        ("antiphon_requests_rejected_total", &[("kind", "invalid")], 1.0),
    ] {
        checks.same(&format!("{name}{labels:?} grew by"), &grown(name, labels), &expected);
    }
    checks.that(grown("llm_decode_tokens_total", &[]) >= tokens as f64, || {
        format!("llm_decode_tokens_total grew by {}, and {tokens} were sent", grown("llm_decode_tokens_total", &[]))
    });
    for (name, expected) in
        [("requests_total", ANSWERED + CANCELLED), ("requests_success", ANSWERED), ("requests_cancelled", CANCELLED)]
    {
        let count = |stats: &Value| Bench::count(stats, &format!("/{name}"));
        checks.same(&format!("{name} of /stats grew by"), &(count(&stats)? - count(&stats_before)?), &expected);
    }
    checks.same("requests_active of an idle server", &after.value("requests_active", &[]), &Some(0.0));
    checks.same("stream_active of an idle server", &after.value("stream_active", &[]), &Some(0.0));
    Ok(())
}
