//! Whether the server is well: for probes, and for people.

use serde::Serialize;

use crate::actors::snapshot::{EngineState, Snapshot};
use crate::http::observe::ServerFacts;
use crate::metrics::{ModelTags, Stats};

/// What the operator wants to see, from the profile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyTargets {
    /// 95th percentile of TTFT.
    pub ttft_p95_ms: f64,
    /// 95th percentile of E2E.
    pub e2e_p95_ms: f64,
    /// Share of requests that may fail.
    pub error_rate_max: f64,
}

impl Default for LatencyTargets {
    fn default() -> Self {
        Self { ttft_p95_ms: 7_000.0, e2e_p95_ms: 20_000.0, error_rate_max: 0.005 }
    }
}

/// Below this score the status is `degraded`: one latency target may be missed, the error rate may
/// not.
const HEALTHY_SCORE: f64 = 0.75;

#[derive(Debug, Serialize)]
pub(super) struct HealthReport<'a> {
    status: &'static str,
    /// One is all well, zero is not serving.
    health_score: f64,
    /// What the score is missing points for.
    problems: Vec<String>,
    version: &'static str,
    model_id: &'a str,
    model_size: &'a str,
    dtype: &'a str,
    model: ModelReport<'a>,
    profile: &'a str,
    stats: Load,
}

/// The model's tags.
#[derive(Debug, Serialize)]
pub(super) struct ModelReport<'a> {
    model_id: &'a str,
    model_size: &'a str,
    dtype: &'a str,
    gpu_mode: &'a str,
    prompt_version: &'a str,
}

impl<'a> From<&'a ModelTags> for ModelReport<'a> {
    fn from(tags: &'a ModelTags) -> Self {
        let ModelTags { model_id, model_size, dtype, gpu_mode, prompt_version } = tags;
        Self { model_id, model_size, dtype, gpu_mode, prompt_version }
    }
}

#[derive(Debug, Serialize)]
struct Load {
    active_requests: u64,
    qps: f64,
    error_rate: f64,
    p95_ttft_ms: f64,
    p95_e2e_ms: f64,
}

/// `/health`.
///
/// `store_problem`: why responses are not kept at this moment, if they are not. Answers go on, so
/// the score stays.
pub(super) fn report<'a>(
    snapshot: &Snapshot,
    stats: &Stats,
    store_problem: Option<&str>,
    facts: &'a ServerFacts,
    tags: &'a ModelTags,
) -> HealthReport<'a> {
    let mut problems = Vec::new();
    let mut health_score = 1.0;
    if let Some(reason) = not_ready(snapshot) {
        problems.push(reason.to_owned());
        health_score = 0.0;
    }
    let targets = &facts.targets;
    for (name, found, most, weight) in [
        ("error_rate", stats.error_rate, targets.error_rate_max, 0.5),
        ("p95_ttft_ms", stats.ttft.p95_ms, targets.ttft_p95_ms, 0.25),
        ("p95_e2e_ms", stats.e2e.p95_ms, targets.e2e_p95_ms, 0.25),
    ] {
        if found > most {
            problems.push(format!("{name} {found} is above {most}"));
            health_score = f64::max(0.0, health_score - weight);
        }
    }
    problems.extend(store_problem.map(|reason| format!("responses are not kept: {reason}")));
    HealthReport {
        status: if health_score >= HEALTHY_SCORE { "healthy" } else { "degraded" },
        health_score,
        problems,
        version: crate::VERSION,
        model_id: &tags.model_id,
        model_size: &tags.model_size,
        dtype: &tags.dtype,
        model: tags.into(),
        profile: &facts.profile,
        stats: Load {
            active_requests: stats.requests.active,
            qps: stats.qps,
            error_rate: stats.error_rate,
            p95_ttft_ms: stats.ttft.p95_ms,
            p95_e2e_ms: stats.e2e.p95_ms,
        },
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Liveness {
    status: &'static str,
    heartbeat_age_ms: u64,
}

/// `/health/live`: no for an answer means that only a restart helps.
pub(super) fn liveness(snapshot: &Snapshot) -> Liveness {
    let status = match (snapshot.alive, snapshot.engine) {
        (true, _) => "live",
        (false, EngineState::Dead) => "engine_dead",
        (false, _) => "stuck",
    };
    Liveness { status, heartbeat_age_ms: snapshot.heartbeat_age_ms }
}

#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// `/health/ready`: no for an answer means that requests should go elsewhere.
pub(super) fn readiness(snapshot: &Snapshot) -> Readiness {
    let reason = not_ready(snapshot);
    Readiness { status: if reason.is_none() { "ready" } else { "not_ready" }, reason }
}

/// Why requests should go elsewhere, in the words of the 503 that they would get here.
fn not_ready(snapshot: &Snapshot) -> Option<&'static str> {
    if snapshot.ready {
        return None;
    }
    Some(match snapshot.engine {
        EngineState::Dead => "engine_dead",
        _ if snapshot.draining => "draining",
        EngineState::Loading => "loading",
        EngineState::Restarting => "engine_restarting",
        EngineState::Ready => "stuck",
    })
}
