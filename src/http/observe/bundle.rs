//! `/admin/debug/bundle`: what a call for help needs, in one document.
//!
//! No prompt, no answer, no key, no session's name: the document can be attached to a public
//! report.

use serde::Serialize;

use crate::actors::snapshot::{LiveRequest, Snapshot};
use crate::clock::unix_seconds;
use crate::http::observe::health::HealthReport;
use crate::http::observe::memory::{self, MemoryReport};
use crate::http::observe::stats::{self, StatsReport};
use crate::http::observe::timeline::FirstTextReasons;
use crate::http::observe::{ObservedState, ShownSetting};
use crate::metrics::Warning;

#[derive(Debug, Serialize)]
pub(super) struct Bundle<'a> {
    created: u64,
    version: &'static str,
    build: Build,
    settings: &'a [ShownSetting],
    health: HealthReport<'a>,
    stats: StatsReport<'a>,
    memory: MemoryReport<'a>,
    server: BundleServer,
    requests: Vec<BundleRequest>,
    log_drops_total: u64,
    warnings: Vec<BundleLine>,
}

#[derive(Debug, Serialize)]
struct Build {
    commit: Option<&'static str>,
    arch: &'static str,
    os: &'static str,
    debug: bool,
}

#[derive(Debug, Serialize)]
struct BundleServer {
    engine: &'static str,
    alive: bool,
    ready: bool,
    draining: bool,
    heartbeat_age_ms: u64,
    building: usize,
    requests_active: usize,
    streams_active: usize,
    waiting_tokens: usize,
    prefill_tokens_total: u64,
    decode_tokens_total: u64,
}

impl From<&Snapshot> for BundleServer {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            engine: snapshot.engine.name(),
            alive: snapshot.alive,
            ready: snapshot.ready,
            draining: snapshot.draining,
            heartbeat_age_ms: snapshot.heartbeat_age_ms,
            building: snapshot.building_count,
            requests_active: snapshot.requests_active,
            streams_active: snapshot.streams_active,
            waiting_tokens: snapshot.scheduler.waiting_tokens,
            prefill_tokens_total: snapshot.scheduler.prefill_tokens_total,
            decode_tokens_total: snapshot.scheduler.decode_tokens_total,
        }
    }
}

#[derive(Debug, Serialize)]
struct BundleRequest {
    request_id: String,
    phase: &'static str,
    age_ms: u64,
    prompt_tokens: usize,
    completion_tokens: u64,
    ttft: FirstTextReasons,
}

impl From<LiveRequest> for BundleRequest {
    fn from(live: LiveRequest) -> Self {
        Self {
            request_id: live.request_id,
            phase: live.phase.name(),
            age_ms: live.age_micros / 1_000,
            prompt_tokens: live.prompt_tokens,
            completion_tokens: live.completion_tokens,
            ttft: live.first_text.into(),
        }
    }
}

#[derive(Debug, Serialize)]
struct BundleLine {
    unix_seconds: u64,
    level: &'static str,
    message: String,
}

impl From<Warning> for BundleLine {
    fn from(warning: Warning) -> Self {
        let Warning { unix_seconds, level, message } = warning;
        Self { unix_seconds, level, message }
    }
}

/// `/admin/debug/bundle`.
pub(super) fn of(observed: &ObservedState) -> Bundle<'_> {
    let (moment, limits, tags) = (observed.look(), observed.service.limits(), observed.metrics.tags());
    let (snapshot, facts) = (&moment.snapshot, &observed.facts);
    Bundle {
        created: unix_seconds(),
        version: crate::VERSION,
        build: Build {
            commit: crate::COMMIT,
            arch: std::env::consts::ARCH,
            os: std::env::consts::OS,
            debug: cfg!(debug_assertions),
        },
        settings: &facts.settings,
        health: observed.health(snapshot, &moment.stats),
        stats: stats::report(snapshot, &moment.stats, limits, tags, observed.metrics.gpus()),
        memory: memory::report(snapshot, &moment.process, limits, facts.weights_bytes, &tags.gpu_mode),
        server: snapshot.into(),
        requests: observed.service.live_requests().into_iter().map(BundleRequest::from).collect(),
        log_drops_total: observed.metrics.log().dropped_total(),
        warnings: observed.metrics.log().warnings().into_iter().map(BundleLine::from).collect(),
    }
}
