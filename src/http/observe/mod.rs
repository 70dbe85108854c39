//! Routes that watch the server: health for probes, `/stats`, `/metrics`, `/memory_stats`, the
//! debug bundle, the last steps.
//!
//! Promises: everything is answered from atomics and the recorder, never through an actor's
//! mailbox, so that it answers while everything else is stuck; `/console/live` alone asks an actor
//! too, and answers without it after a second. Absent on purpose: prompts, answers, keys; nothing
//! that a user wrote is shown.

mod bundle;
mod console;
mod gateway;
mod health;
mod memory;
mod stats;
mod timeline;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::Serialize;

use crate::actors::service::Service;
use crate::actors::snapshot::{ModelLimits, Snapshot};
use crate::clock::Clock;
use crate::http::errors::ApiError;
use crate::http::middleware::key::MetricsAccess;
use crate::http::routes::get;
use crate::http::state::access;
use crate::http::wire::error::{WireError, quoted};
use crate::metrics::{EXPOSITION_TYPE, Metrics, Names, Process, Stats};
use crate::store::ResponseStore;

use health::HealthReport;
pub use health::LatencyTargets;

/// After how many seconds a probe or a client should come back: about an engine's rebuilding.
pub(in crate::http) const RETRY_SECONDS: u64 = 5;

/// What the routes read; mounted as `web::Data`, one for all workers.
#[derive(Debug)]
pub struct ObservedState {
    /// The actors.
    pub service: Service,
    /// The recorder.
    pub metrics: Metrics,
    /// The server's clock.
    pub clock: Clock,
    /// What does not change.
    pub facts: ServerFacts,
    /// Where responses are kept.
    pub responses: ResponseStore,
    /// Which key opens what tells of the server as a whole.
    pub metrics_access: MetricsAccess,
    console: console::Latest,
}

/// What does not change while the server runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServerFacts {
    /// The profile's name.
    pub profile: String,
    /// The profile's targets.
    pub targets: LatencyTargets,
    /// Bytes of the weights, mapped or copied.
    pub weights_bytes: u64,
    /// The effective settings in the order of the command line's help; secrets redacted by its
    /// maker.
    pub settings: Vec<ShownSetting>,
}

/// A setting as it took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownSetting {
    /// Its name on the command line, without dashes before it.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where the value came from.
    pub from: String,
}

/// The server at one moment, as these routes see it.
struct Moment {
    snapshot: Snapshot,
    stats: Stats,
    process: Process,
}

impl ObservedState {
    /// The paths of probes.
    pub(in crate::http) const PROBES: [&str; 3] = ["/health", "/health/live", "/health/ready"];

    /// What the routes read.
    #[must_use]
    pub fn new(service: Service, metrics: Metrics, clock: Clock, facts: ServerFacts) -> Self {
        let metrics_access = MetricsAccess::default();
        Self {
            service,
            metrics,
            clock,
            facts,
            responses: ResponseStore::off(),
            metrics_access,
            console: console::Latest::default(),
        }
    }

    /// Whether a request may see the server as a whole.
    fn check_metrics(&self, request: &HttpRequest) -> Result<(), ApiError> {
        if self.metrics_access == MetricsAccess::Admin { check_admin(request) } else { Ok(()) }
    }

    /// What a probe of one of [`ObservedState::PROBES`] is told: 200 if all is well, else 503, and
    /// a report as JSON.
    pub(in crate::http) fn probe(&self, path: &str) -> (StatusCode, String) {
        let snapshot = self.service.snapshot();
        match path {
            "/health/live" => reported(snapshot.alive, &health::liveness(&snapshot)),
            "/health/ready" => reported(snapshot.ready, &health::readiness(&snapshot)),
            _ => {
                let stats = self.metrics.stats(self.clock.now());
                reported(snapshot.ready, &self.health(&snapshot, &stats))
            }
        }
    }

    fn health(&self, snapshot: &Snapshot, stats: &Stats) -> HealthReport<'_> {
        let store_problem = self.responses.problem();
        health::report(snapshot, stats, store_problem.as_deref(), &self.facts, self.metrics.tags())
    }

    fn look(&self) -> Moment {
        Moment { snapshot: self.service.snapshot(), stats: self.metrics.stats(self.clock.now()), process: Process::read() }
    }
}

/// Mounts the routes; needs `web::Data<Observed>`.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(get(ObservedState::PROBES[0], probe))
        .service(get(ObservedState::PROBES[1], probe))
        .service(get(ObservedState::PROBES[2], probe))
        .service(get("/stats", stats))
        .service(get("/metrics", metrics))
        .service(get("/memory_stats", memory_stats))
        .service(get("/admin/debug/bundle", debug_bundle))
        .service(get("/debug/timeline", debug_timeline))
        .service(get("/console/live", console::live))
        .configure(gateway::configure);
}

/// The probes that are not answered where connections are accepted (see `accept`).
async fn probe(request: HttpRequest, observed: web::Data<ObservedState>) -> HttpResponse {
    let (status, report) = observed.probe(request.path());
    unstored(status).content_type("application/json").body(report)
}

async fn stats(request: HttpRequest, observed: web::Data<ObservedState>) -> Result<HttpResponse, ApiError> {
    observed.check_metrics(&request)?;
    let moment = observed.look();
    let limits = observed.service.limits();
    let (tags, gpus) = (observed.metrics.tags(), observed.metrics.gpus());
    Ok(json(StatusCode::OK, &stats::report(&moment.snapshot, &moment.stats, limits, tags, gpus)))
}

/// `?names=prometheus` leaves out the families that other servers named against Prometheus's rules.
async fn metrics(request: HttpRequest, observed: web::Data<ObservedState>) -> Result<HttpResponse, ApiError> {
    observed.check_metrics(&request)?;
    let names = names(request.query_string())?;
    hand_over(&observed.service.snapshot(), observed.service.limits(), &observed.metrics);
    observed.metrics.response_store(observed.responses.problem().is_none());
    let text = observed.metrics.exposition(names, observed.clock.now());
    Ok(HttpResponse::Ok().content_type(EXPOSITION_TYPE).insert_header((CACHE_CONTROL, "no-store")).body(text))
}

/// What a scrape tells of this moment.
fn hand_over(snapshot: &Snapshot, limits: Option<ModelLimits>, metrics: &Metrics) {
    metrics.scheduler(&snapshot.scheduler, limits.map_or(0, |limits| limits.block_tokens), snapshot.kv_in_use_bytes);
    metrics.sessions_active(snapshot.sessions_active);
    metrics.memory(snapshot.memory_budget_bytes, snapshot.memory_reserved_bytes);
}

fn names(query: &str) -> Result<Names, WireError> {
    match query.split('&').filter_map(|pair| pair.strip_prefix("names=")).next_back() {
        None | Some("all") => Ok(Names::All),
        Some("prometheus") => Ok(Names::Prometheus),
        Some(other) => {
            Err(WireError::Unfit { param: "names".to_owned(), found: quoted(other), expected: "all or prometheus".to_owned() })
        }
    }
}

async fn memory_stats(request: HttpRequest, observed: web::Data<ObservedState>) -> Result<HttpResponse, ApiError> {
    observed.check_metrics(&request)?;
    let report = memory::report(
        &observed.service.snapshot(),
        &Process::read(),
        observed.service.limits(),
        observed.facts.weights_bytes,
        &observed.metrics.tags().gpu_mode,
    );
    Ok(json(StatusCode::OK, &report))
}

async fn debug_bundle(request: HttpRequest, observed: web::Data<ObservedState>) -> Result<HttpResponse, ApiError> {
    check_admin(&request)?;
    Ok(json(StatusCode::OK, &bundle::of(&observed)))
}

async fn debug_timeline(request: HttpRequest, observed: web::Data<ObservedState>) -> Result<HttpResponse, ApiError> {
    check_admin(&request)?;
    Ok(json(StatusCode::OK, &timeline::of(&observed)))
}

fn check_admin(request: &HttpRequest) -> Result<(), ApiError> {
    if access(request).is_admin { Ok(()) } else { Err(ApiError::AdminOnly) }
}

fn reported(well: bool, report: &impl Serialize) -> (StatusCode, String) {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, serde_json::to_string(report).expect("a report is JSON"))
}

fn json(status: StatusCode, report: &impl Serialize) -> HttpResponse {
    unstored(status).json(report)
}

/// The head of an answer that holds for this moment.
fn unstored(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header((RETRY_AFTER, RETRY_SECONDS));
    }
    // What was true a moment ago must not be answered from a cache.
    response.insert_header((CACHE_CONTROL, "no-store"));
    response
}

#[cfg(test)]
mod tests;
