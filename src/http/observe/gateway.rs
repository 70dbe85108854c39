//! What gateways and SGLang's clients ask a replica: which model it serves, how loaded it is, and
//! whether it really generates.
//!
//! Names and forms are SGLang's. SMG and vllm-router take a server with `/version` for vLLM and
//! read its load from `/metrics`; these routes serve what is pointed at an SGLang server instead. A
//! field that has no meaning here is left out.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use uuid::Uuid;

use crate::actors::budget::MEMORY_FULL;
use crate::actors::messages::{
    Accepted, AnswerOptions, AskedTokens, Coalescing, FinishKind, Generate, KeyId, PartKind, Refusal, ResponseInput,
    WrittenNumbers,
};
use crate::actors::snapshot::{ModelLimits, Snapshot};
use crate::batch::{Sampling, TokenId};
use crate::clock;
use crate::http::errors::ApiError;
use crate::http::observe::{ObservedState, json};
use crate::http::routes::get;

/// Mounts the routes; needs `web::Data<Observed>`.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(get("/server_info", server_info))
        .service(get("/get_server_info", server_info))
        .service(get("/model_info", model_info))
        .service(get("/get_model_info", model_info))
        .service(get("/v1/loads", loads))
        .service(get("/get_load", load))
        .service(get("/health_generate", health_generate));
}

/// `/server_info`, and its older name `/get_server_info`.
#[derive(Debug, Serialize)]
pub(super) struct ServerReport<'a> {
    version: &'static str,
    status: &'static str,
    model_path: &'a str,
    tokenizer_path: &'a str,
    served_model_name: &'a str,
    tp_size: usize,
    dp_size: usize,
    page_size: Option<usize>,
    context_length: Option<usize>,
    max_total_num_tokens: Option<usize>,
    max_prefill_tokens: Option<usize>,
    max_running_requests: Option<usize>,
    /// One entry a data-parallel rank, of which there is one.
    internal_states: [InternalState; 1],
}

#[derive(Debug, Serialize)]
struct InternalState {
    last_gen_throughput: f64,
}

/// `/model_info`, and its older name `/get_model_info`.
#[derive(Debug, Serialize)]
struct ModelInfoReport<'a> {
    model_path: &'a str,
    tokenizer_path: &'a str,
    is_generation: bool,
    model_type: &'static str,
    architectures: [&'static str; 1],
}

/// `/v1/loads`.
#[derive(Debug, Serialize)]
pub(super) struct LoadsReport {
    /// RFC 3339, UTC.
    timestamp: String,
    version: &'static str,
    dp_rank_count: usize,
    loads: [RankLoad; 1],
    aggregate: Aggregate,
}

/// The load of the only data-parallel rank.
#[derive(Debug, Clone, Serialize)]
struct RankLoad {
    dp_rank: usize,
    num_running_reqs: usize,
    num_waiting_reqs: usize,
    num_total_reqs: usize,
    num_used_tokens: usize,
    /// Tokens in use and prompt tokens that wait.
    num_total_tokens: usize,
    max_total_num_tokens: usize,
    token_usage: f64,
    gen_throughput: f64,
    utilization: f64,
    max_running_requests: usize,
}

#[derive(Debug, Serialize)]
struct Aggregate {
    total_running_reqs: usize,
    total_waiting_reqs: usize,
    total_reqs: usize,
    total_used_tokens: usize,
    total_tokens: usize,
    avg_token_usage: f64,
    avg_throughput: f64,
    avg_utilization: f64,
}

/// `/get_load`, the form before `/v1/loads`: one entry a rank.
#[derive(Debug, Serialize)]
pub(super) struct OldLoad {
    dp_rank: usize,
    num_reqs: usize,
    num_waiting_reqs: usize,
    num_tokens: usize,
}

async fn server_info(observed: web::Data<ObservedState>) -> HttpResponse {
    let (tags, gpus) = (observed.metrics.tags(), observed.metrics.gpus());
    json(
        StatusCode::OK,
        &server_report(&observed.service.snapshot(), observed.service.limits(), &tags.model_id, gpus.len().max(1)),
    )
}

/// `ranks_count`: how many devices compute each request together.
pub(super) fn server_report<'a>(
    snapshot: &Snapshot,
    limits: Option<ModelLimits>,
    model_id: &'a str,
    ranks_count: usize,
) -> ServerReport<'a> {
    ServerReport {
        version: crate::VERSION,
        status: if snapshot.ready { "ready" } else { "not_ready" },
        model_path: model_id,
        tokenizer_path: model_id,
        served_model_name: model_id,
        tp_size: ranks_count,
        dp_size: 1,
        page_size: limits.map(|limits| limits.block_tokens),
        context_length: limits.map(|limits| limits.context_tokens_max),
        max_total_num_tokens: limits.map(|limits| snapshot.scheduler.global_blocks.total_count * limits.block_tokens),
        max_prefill_tokens: limits.map(|limits| limits.step_tokens_max),
        max_running_requests: limits.map(|limits| limits.running_max_count),
        internal_states: [InternalState { last_gen_throughput: snapshot.step_tokens_per_second }],
    }
}

async fn model_info(observed: web::Data<ObservedState>) -> HttpResponse {
    let model_path = &observed.metrics.tags().model_id;
    json(
        StatusCode::OK,
        &ModelInfoReport {
            model_path,
            tokenizer_path: model_path,
            is_generation: true,
            model_type: "gpt_oss",
            architectures: ["GptOssForCausalLM"],
        },
    )
}

async fn loads(request: HttpRequest, observed: web::Data<ObservedState>) -> Result<HttpResponse, ApiError> {
    observed.check_metrics(&request)?;
    let report = loads_report(&observed.service.snapshot(), observed.service.limits(), clock::utc_timestamp());
    Ok(json(StatusCode::OK, &report))
}

/// A look at the load; zeros where the engine is not there yet.
pub(super) fn loads_report(snapshot: &Snapshot, limits: Option<ModelLimits>, timestamp: String) -> LoadsReport {
    let rank = rank_load(snapshot, limits);
    let aggregate = Aggregate {
        total_running_reqs: rank.num_running_reqs,
        total_waiting_reqs: rank.num_waiting_reqs,
        total_reqs: rank.num_total_reqs,
        total_used_tokens: rank.num_used_tokens,
        total_tokens: rank.num_total_tokens,
        avg_token_usage: rank.token_usage,
        avg_throughput: rank.gen_throughput,
        avg_utilization: rank.utilization,
    };
    LoadsReport { timestamp, version: crate::VERSION, dp_rank_count: 1, loads: [rank], aggregate }
}

fn rank_load(snapshot: &Snapshot, limits: Option<ModelLimits>) -> RankLoad {
    let scheduler = &snapshot.scheduler;
    let (block_tokens, running_max_count) = limits.map_or((0, 0), |limits| (limits.block_tokens, limits.running_max_count));
    let running = scheduler.prefill_count + scheduler.decode_count;
    // A block of the full group holds each of a sequence's tokens; the sliding group's are a window
    // of the same ones.
    let used_tokens = scheduler.global_blocks.in_use_count() * block_tokens;
    RankLoad {
        dp_rank: 0,
        num_running_reqs: running,
        num_waiting_reqs: scheduler.waiting_count,
        num_total_reqs: running + scheduler.waiting_count,
        num_used_tokens: used_tokens,
        num_total_tokens: used_tokens + scheduler.waiting_tokens,
        max_total_num_tokens: scheduler.global_blocks.total_count * block_tokens,
        token_usage: scheduler.global_blocks.in_use_share().max(scheduler.sliding_blocks.in_use_share()),
        gen_throughput: snapshot.step_tokens_per_second,
        utilization: if running_max_count == 0 { 0.0 } else { running as f64 / running_max_count as f64 },
        max_running_requests: running_max_count,
    }
}

async fn load(request: HttpRequest, observed: web::Data<ObservedState>) -> Result<HttpResponse, ApiError> {
    observed.check_metrics(&request)?;
    Ok(json(StatusCode::OK, &old_load(&observed.service.snapshot(), observed.service.limits())))
}

/// One entry for the only rank.
pub(super) fn old_load(snapshot: &Snapshot, limits: Option<ModelLimits>) -> [OldLoad; 1] {
    let rank = rank_load(snapshot, limits);
    [OldLoad {
        dp_rank: rank.dp_rank,
        num_reqs: rank.num_total_reqs,
        num_waiting_reqs: rank.num_waiting_reqs,
        num_tokens: rank.num_total_tokens,
    }]
}

#[derive(Debug, Serialize)]
struct Generated {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `/health_generate`: 200 once a token was generated for this probe, or while the queue or the
/// memory is full of work that advances.
async fn health_generate(observed: web::Data<ObservedState>) -> HttpResponse {
    let reason = match observed.service.generate(one_token()).await {
        Ok(accepted) => failure(accepted).await,
        // Its steps are watched: a scheduler that stops is not ready.
        Err(Refusal::QueueFull { .. } | Refusal::Unavailable { code: MEMORY_FULL, .. })
            if observed.service.snapshot().ready =>
        {
            None
        }
        Err(refusal) => Some(ApiError::Refused(refusal).to_string()),
    };
    match reason {
        None => json(StatusCode::OK, &Generated { status: "generates", reason }),
        Some(_) => json(StatusCode::SERVICE_UNAVAILABLE, &Generated { status: "does_not_generate", reason }),
    }
}

/// The cheapest request that goes through every actor.
fn one_token() -> Generate {
    Generate {
        request_id: format!("health-{}", Uuid::new_v4().simple()),
        inputs: vec![ResponseInput::Tokens(vec![TokenId(0)])],
        choices_count: 1,
        max_tokens: Some(1),
        cuts_at_context: false,
        sampling: Sampling::default(),
        written: WrittenNumbers::default(),
        seed: None,
        form: None,
        stop_strings: Vec::new(),
        ignore_eos: true,
        answer: AnswerOptions::default(),
        tokens: AskedTokens::default(),
        cut: None,
        coalescing: Coalescing { max_ms: 0, max_chars: 0 },
        session: None,
        owner: KeyId::default(),
        cache_salt: None,
        has_cache_key: false,
        priority: 0,
        memory: None,
    }
}

/// Why the answer did not come to its end.
async fn failure(mut accepted: Accepted) -> Option<String> {
    while let Some(part) = accepted.parts.recv().await {
        if let PartKind::Finished(finish) = part.kind {
            return match finish.kind {
                FinishKind::Length => None,
                FinishKind::Failed { message, .. } => Some(message),
                FinishKind::Cancelled => Some("the probe's request was cancelled".to_owned()),
                FinishKind::Stop { .. } | FinishKind::ToolCalls | FinishKind::Repetition => {
                    Some("the probe's request ended without its token".to_owned())
                }
            };
        }
    }
    Some("the answer ended without an end".to_owned())
}
