//! `/console/live`: the server at one moment, for the console of the page.
//!
//! Promises: no prompt, no answer, no session's name; a bounded size; however many consoles are
//! open, the actors are asked five times a second at most, and not at all while none is. Without
//! the SchedulerActor it answers all the same, with `batch`, `queue` and `kv` null.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::actors::snapshot::{BlockMap, EndedRequest, LiveRequest, Owner, SchedulerLook, SequenceView, Timeline, ViewSize};
use crate::batch::Micros;
use crate::http::middleware::key::Access;
use crate::http::observe::health::HealthReport;
use crate::http::observe::timeline::FirstTextReasons;
use crate::http::observe::{Moment, ObservedState};
use crate::http::state::access;
use crate::metrics::{LatencyCounts, RequestOutcome};

/// An answer is good for so long; a request meanwhile gets the same one.
const FRESH_MICROS: u64 = 200_000;
/// How much of the scheduler is shown.
const SIZE: ViewSize = ViewSize { running_max_count: 256, waiting_max_count: 64, cells_max_count: 1_024 };
const LIVE_MAX_COUNT: usize = 128;
const ENDED_MAX_COUNT: usize = 64;

/// What was answered last. Its lock is held while an answer is made, so that requests meanwhile
/// wait for that one.
#[derive(Debug, Default)]
pub(super) struct Latest(Mutex<Option<Moments>>);

/// One look at the scheduler, and what was made of it for each viewer.
#[derive(Debug)]
struct Moments {
    at: Micros,
    look: Option<SchedulerLook>,
    answers: Vec<(Access, Bytes)>,
}

#[derive(Debug, Serialize)]
struct Console<'a> {
    at_ms: f64,
    health: HealthReport<'a>,
    engine: &'static str,
    draining: bool,
    heartbeat_age_ms: u64,
    totals: ShownTotals,
    counts: LiveCounts,
    tokens_per_second: f64,
    memory: MemoryUse,
    latency: Latency,
    batch: Option<Vec<SequenceRow>>,
    queue: Option<Vec<SequenceRow>>,
    kv: Option<Kv>,
    live: Vec<RequestRow>,
    ended: Vec<RequestRow>,
}

/// What only grows.
#[derive(Debug, Serialize)]
struct ShownTotals {
    requests: u64,
    success: u64,
    failed: u64,
    cancelled: u64,
    rejected: u64,
    steps: u64,
    prefill_tokens: u64,
    decode_tokens: u64,
    preemptions: u64,
    engine_restarts: u64,
    prompt_cache_hits: u64,
    prompt_cache_misses: u64,
}

/// What comes and goes.
#[derive(Debug, Serialize)]
struct LiveCounts {
    building: usize,
    waiting: usize,
    waiting_tokens: usize,
    prefill: usize,
    decode: usize,
    requests: usize,
    streams: usize,
    sessions: usize,
}

#[derive(Debug, Serialize)]
struct MemoryUse {
    rss_bytes: u64,
    kv_bytes: Option<usize>,
    kv_in_use_bytes: u64,
    context_tokens_max: Option<usize>,
}

/// Where each rung ends, in milliseconds, and how many fell on it since the console was opened.
#[derive(Debug, Serialize)]
struct Latency {
    ttft: Vec<(f64, u64)>,
    itl: Vec<(f64, u64)>,
}

#[derive(Debug, Serialize)]
struct SequenceRow {
    request_id: String,
    choice: u32,
    phase: &'static str,
    prompt_tokens: usize,
    computed_tokens: usize,
    generated_tokens: usize,
    max_tokens: u32,
    global_blocks: usize,
    sliding_blocks: usize,
    age_ms: f64,
}

#[derive(Debug, Serialize)]
struct Kv {
    block_tokens: usize,
    full: GroupBlocks,
    sliding: GroupBlocks,
}

/// A group's blocks; `total = free + cached + in_use`.
#[derive(Debug, Serialize)]
struct GroupBlocks {
    total: usize,
    free: usize,
    cached: usize,
    in_use: usize,
    blocks_per_cell: usize,
    /// How many blocks of each cell sequences hold.
    cells: Vec<usize>,
    /// The entry of `batch` that holds a cell's first block; -1 for none of those shown.
    holders: Vec<i64>,
}

#[derive(Debug, Serialize)]
struct RequestRow {
    request_id: String,
    phase: &'static str,
    /// `active`, `stop`, `length`, `cancelled`, `failed` or `refused`.
    outcome: &'static str,
    received_ms: f64,
    age_ms: f64,
    prompt_tokens: usize,
    completion_tokens: u64,
    queued_ms: Option<f64>,
    prefill_ms: Option<f64>,
    first_token_ms: Option<f64>,
    first_text_ms: Option<f64>,
    last_token_ms: Option<f64>,
    ttft: FirstTextReasons,
}

/// The handler.
pub(super) async fn live(request: HttpRequest, observed: Data<ObservedState>) -> HttpResponse {
    let json = observed.console.answer(&observed, access(&request)).await;
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).insert_header((CACHE_CONTROL, "no-store")).body(json)
}

impl Latest {
    async fn answer(&self, observed: &ObservedState, viewer: Access) -> Bytes {
        let mut latest = self.0.lock().await;
        let now = observed.clock.now();
        if latest.as_ref().is_none_or(|latest| now.since(latest.at) >= FRESH_MICROS) {
            let look = observed.service.look(SIZE).await;
            *latest = Some(Moments { at: observed.clock.now(), look, answers: Vec::new() });
        }
        let Moments { look, answers, .. } = latest.as_mut().expect("one was just made, or is fresh");
        if let Some((_, json)) = answers.iter().find(|(other, _)| *other == viewer) {
            return json.clone();
        }
        let json = Bytes::from(serde_json::to_vec(&console(observed, look.clone(), viewer)).expect("a report is JSON"));
        answers.push((viewer, json.clone()));
        json
    }
}

/// The server as `viewer` may see it: the requests of other keys are counted and have no name,
/// unless an admin asks.
fn console(observed: &ObservedState, look: Option<SchedulerLook>, viewer: Access) -> Console<'_> {
    let now = observed.clock.now();
    let moment = observed.look();
    let Moment { snapshot, stats, process } = &moment;
    let (scheduler, limits) = (snapshot.scheduler, observed.service.limits());
    let (batch, queue, kv) = look.map_or((None, None, None), |look| {
        let (batch, queue) = (
            sequences(&look.view.running, look.running, viewer, now),
            sequences(&look.view.waiting, look.waiting, viewer, now),
        );
        let (full, sliding) = (blocks(look.view.global), blocks(look.view.sliding));
        (Some(batch), Some(queue), Some(Kv { block_tokens: look.view.block_tokens, full, sliding }))
    });
    let live = observed.service.live_requests().into_iter();
    let ended = observed.service.recent_requests(usize::MAX).into_iter();
    Console {
        at_ms: millis(now.0),
        health: observed.health(snapshot, stats),
        engine: snapshot.engine.name(),
        draining: snapshot.draining,
        heartbeat_age_ms: snapshot.heartbeat_age_ms,
        totals: ShownTotals {
            requests: stats.requests.total,
            success: stats.requests.success,
            failed: stats.requests.failed,
            cancelled: stats.requests.cancelled,
            rejected: stats.rejected,
            steps: scheduler.steps_total,
            prefill_tokens: scheduler.prefill_tokens_total,
            decode_tokens: scheduler.decode_tokens_total,
            preemptions: scheduler.preemptions_total,
            engine_restarts: snapshot.engine_restarts_total,
            prompt_cache_hits: stats.prompts.hits,
            prompt_cache_misses: stats.prompts.misses,
        },
        counts: LiveCounts {
            building: snapshot.building_count,
            waiting: scheduler.waiting_count,
            waiting_tokens: scheduler.waiting_tokens,
            prefill: scheduler.prefill_count,
            decode: scheduler.decode_count,
            requests: snapshot.requests_active,
            streams: snapshot.streams_active,
            sessions: snapshot.sessions_active,
        },
        tokens_per_second: stats.tokens_per_second,
        memory: MemoryUse {
            rss_bytes: process.resident_bytes,
            kv_bytes: limits.map(|limits| limits.kv_bytes),
            kv_in_use_bytes: snapshot.kv_in_use_bytes,
            context_tokens_max: limits.map(|limits| limits.context_tokens_max),
        },
        latency: latency(observed.metrics.latencies(now)),
        batch,
        queue,
        kv,
        live: live.filter(|live| viewer.sees(live.owner)).take(LIVE_MAX_COUNT).map(RequestRow::live).collect(),
        ended: ended.filter(|ended| viewer.sees(ended.request.owner)).take(ENDED_MAX_COUNT).map(RequestRow::ended).collect(),
    }
}

fn sequences(views: &[SequenceView], owners: Vec<Owner>, viewer: Access, now: Micros) -> Vec<SequenceRow> {
    let sequence = |(view, owner): (&SequenceView, Owner)| SequenceRow {
        request_id: if viewer.sees(owner.key) { owner.request_id } else { format!("other {}", view.seq.0) },
        choice: owner.choice,
        phase: if view.decoding { "decode" } else { "prefill" },
        prompt_tokens: view.prompt_tokens,
        computed_tokens: view.computed_tokens,
        generated_tokens: view.generated_tokens,
        max_tokens: view.max_tokens,
        global_blocks: view.global_blocks,
        sliding_blocks: view.sliding_blocks,
        age_ms: millis(now.since(view.arrived)),
    };
    views.iter().zip(owners).map(sequence).collect()
}

fn blocks(map: BlockMap) -> GroupBlocks {
    let in_use: usize = map.cells.iter().map(|cell| cell.in_use_count).sum();
    let holder = |holder: Option<usize>| holder.and_then(|holder| i64::try_from(holder).ok()).unwrap_or(-1);
    GroupBlocks {
        total: map.total_count,
        free: map.free_count,
        cached: map.total_count - map.free_count - in_use,
        in_use,
        blocks_per_cell: map.blocks_per_cell,
        holders: map.cells.iter().map(|cell| holder(cell.holder)).collect(),
        cells: map.cells.into_iter().map(|cell| cell.in_use_count).collect(),
    }
}

fn latency(latencies: LatencyCounts) -> Latency {
    let rungs = |rungs: Vec<(u64, u64)>| rungs.into_iter().map(|(end, count)| (millis(end), count)).collect();
    Latency { ttft: rungs(latencies.ttft), itl: rungs(latencies.itl) }
}

impl RequestRow {
    fn live(request: LiveRequest) -> Self {
        Self::of(request, "active")
    }

    fn ended(ended: EndedRequest) -> Self {
        let outcome = outcome_name(ended.outcome);
        Self::of(ended.request, outcome)
    }

    fn of(request: LiveRequest, outcome: &'static str) -> Self {
        let Timeline { received, queued_micros, prefill_micros, decode_micros, first_text_micros, sending_micros } =
            request.timeline;
        Self {
            request_id: request.request_id,
            phase: request.phase.name(),
            outcome,
            received_ms: millis(received.0),
            age_ms: millis(request.age_micros),
            prompt_tokens: request.prompt_tokens,
            completion_tokens: request.completion_tokens,
            queued_ms: queued_micros.map(millis),
            prefill_ms: prefill_micros.map(millis),
            first_token_ms: decode_micros.map(millis),
            first_text_ms: first_text_micros.map(millis),
            last_token_ms: sending_micros.map(millis),
            ttft: request.first_text.into(),
        }
    }
}

/// How a request ended.
pub(super) fn outcome_name(outcome: Option<RequestOutcome>) -> &'static str {
    match outcome {
        Some(RequestOutcome::Stop) => "stop",
        Some(RequestOutcome::Length) => "length",
        Some(RequestOutcome::Failed) => "failed",
        Some(RequestOutcome::Cancelled) => "cancelled",
        None => "refused",
    }
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}
