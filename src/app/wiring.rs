//! From options to running rooms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;

use super::keys::{KeyTexts, keys};
use super::{AppError, Model, ResponseStorePlace, ServeOptions, memory};
use crate::actors::messages::Coalescing;
use crate::actors::service::Service;
use crate::actors::{self, SchedulingOptions, StartOptions};
use crate::clock::{self, Clock};
use crate::cost::CostModel;
use crate::engine::checkpoint::Checkpoint;
use crate::engine::place::{self, PlaceOptions, Placed};
use crate::engine::simulated::MadeUpWords;
use crate::http::observe::{LatencyTargets, ObservedState, ServerFacts, ShownSetting};
use crate::http::{self, Backend, HttpOptions, KeyRing, RequestDefaults, ServerHandle};
use crate::metrics::{Gpu, LogWatch, Metrics, ModelTags};
use crate::otel::SpanSender;
use crate::profile::{Profile, StreamProfile, built_in_names};
use crate::prompt::builder::{PromptBuilder, PromptSettings, PromptVersion};
use crate::prompt::tokenizer::Tokenizer;
use crate::source::{self, HubSettings, ModelFiles, TerminalProgress};
use crate::store::{ResponseStore, StoreError, StoreLimits};

const DAY_SECONDS: u64 = 24 * 3_600;

/// A server that is bound; its engine may still be loading.
pub(super) struct Wired {
    pub(super) service: Service,
    pub(super) server: ServerHandle,
    /// The keys that it checks, to be exchanged.
    pub(super) keys: KeyRing,
    /// What it keeps, to be brought to the disk at the end.
    pub(super) responses: ResponseStore,
}

/// A model that was found, its files opened.
pub(super) struct OpenedModel {
    files: ModelFiles,
    model: Model,
    keys: KeyRing,
}

/// Finds the model, and downloads what is missing of it: may take hours, and blocks its thread for
/// as long. What else can be wrong with the options is said before.
///
/// # Errors
/// [`AppError`].
pub(super) fn find(options: &ServeOptions) -> Result<OpenedModel, AppError> {
    let keys = KeyRing::new(keys(&KeyTexts::of(options))?);
    let mut progress = TerminalProgress::default();
    let hub = HubSettings { revision: options.revision.clone(), ..HubSettings::from_environment()? };
    let files = source::resolve(Some(&options.model), &hub, &mut |transfer| progress.show(transfer))?;
    drop(progress);
    let model = Model::open(&files, options.model_links)?;
    for warning in model.checkpoint.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(OpenedModel { files, model, keys })
}

/// Starts the actors, binds the port.
///
/// # Errors
/// [`AppError`]; what was started so far ends with the process.
pub(super) fn start(options: &ServeOptions, log: &LogWatch, found: OpenedModel) -> Result<Wired, AppError> {
    let OpenedModel { files, model, keys } = found;
    let full_name = files.name.clone();
    let (checkpoint, tokenizer) = (Arc::new(model.checkpoint), Arc::new(model.tokenizer));
    let simulated = options.simulated.as_ref().map(|cost| simulate(options, cost, &tokenizer, &checkpoint));
    let is_simulated = simulated.is_some();
    let Placed { engine, gpus } = match simulated {
        Some(placed) => placed,
        None => {
            let Placed { engine, gpus } = place::place(&place_options(options), &files.name, &checkpoint)?;
            Placed { engine: place::compared(engine, model.goldens), gpus }
        }
    };
    let tags = ModelTags {
        model_id: files.model_id.clone(),
        model_size: files.model_size.clone(),
        dtype: checkpoint.expert_form().dtype().to_owned(),
        gpu_mode: if is_simulated { SIMULATED } else { gpu_mode(gpus.len()) }.to_owned(),
        prompt_version: options.prompt_version.clone(),
    };
    let gpus = gpus.into_iter().map(|gpu| Gpu { index: gpu.index, name: gpu.name, used_bytes: gpu.used_bytes });
    let (clock, metrics) = (Clock::start(), Metrics::of(tags.clone(), gpus.collect(), log.clone()));
    let settings = PromptSettings {
        model_id: files.model_id,
        version: PromptVersion::from_name(&options.prompt_version).unwrap_or_default(),
        cache_max_bytes: options.prompt_cache_bytes,
    };
    let (queue, memory_budget_bytes) = (&options.profile.queue, memory::budget_bytes(options));
    let service = actors::start(StartOptions {
        engine,
        builder: Arc::new(PromptBuilder::new(Arc::clone(&tokenizer), settings)),
        tokenizer,
        metrics: metrics.clone(),
        clock,
        scheduling: scheduling(&options.profile, options.prefix_cache),
        kv_store: options.kv_store.clone(),
        date: options.system_date.clone(),
        header_grammar: options.header_grammar,
        text_threads: options.text_threads_count,
        preparing_max_count: queue.preparing_max_count.count(),
        stream_threads: options.stream_threads_count,
        memory_budget_bytes,
        slow_reader: Duration::from_secs(options.profile.stream.slow_reader_seconds.get()),
        watchdog: Duration::from_secs(options.watchdog_seconds),
    })?;
    let facts = facts(options, checkpoint.tensor_bytes());
    let mut observed = ObservedState::new(service.clone(), metrics.clone(), clock, facts);
    observed.metrics_access = options.metrics_access;
    let responses = response_store(options)?;
    observed.responses = responses.clone();
    let observed = Data::new(observed);
    let backend = Backend { service: service.clone(), metrics, clock };
    let mut http = http_options(options, tags, keys.clone(), &checkpoint);
    http.body_max_bytes = memory::body_max_bytes(options, memory_budget_bytes);
    http.unlisted_names = source::names(&options.model, &full_name);
    http.responses = responses.clone();
    http.spans = options
        .otlp_endpoint
        .as_deref()
        .map(SpanSender::start)
        .transpose()
        .map_err(|error| AppError::Collector { message: error.to_string() })?;
    let server = http::serve(backend, http, observed, |_| {})?;
    Ok(Wired { service, server, keys, responses })
}

/// Where responses are kept. A file that is damaged begins anew.
fn response_store(options: &ServeOptions) -> Result<ResponseStore, StoreError> {
    let limits =
        StoreLimits { bytes_max: options.response_store_bytes, age_max_seconds: DAY_SECONDS * options.response_store_days };
    match &options.response_store {
        ResponseStorePlace::Off => Ok(ResponseStore::off()),
        ResponseStorePlace::Memory => Ok(ResponseStore::in_memory(limits)),
        ResponseStorePlace::File(path) => ResponseStore::open(path, limits, clock::unix_seconds()),
    }
}

fn place_options(options: &ServeOptions) -> PlaceOptions {
    let batch = &options.profile.batch;
    PlaceOptions {
        device: options.device,
        tensor_parallel: options.tensor_parallel,
        kv_bytes: options.kv_bytes,
        sequences_max: batch.running_max_count.count(),
        step_tokens_max: batch.token_budget_tokens.count(),
        gpu_memory_utilization: options.gpu_memory_utilization,
        cuda_prefill: options.cuda_prefill,
        threads: options.threads,
        cpu_math: options.cpu_math,
        cpu_dense: options.cpu_dense,
        cpu_isa: options.cpu_isa,
        keep_packed_weights: options.keep_packed_weights,
    }
}

/// The tag `gpu_mode` of a model whose steps are not computed.
const SIMULATED: &str = "simulated";

/// An engine that takes as long as `cost` says, and answers with words of the model's vocabulary.
fn simulate(options: &ServeOptions, cost: &CostModel, tokenizer: &Tokenizer, checkpoint: &Checkpoint) -> Placed {
    let control = tokenizer.control();
    // A chat's prompt ends with the role; behind it comes the channel of what is for the reader.
    let mut said = tokenizer.encode_text("assistant");
    said.drain(..said.len().saturating_sub(1));
    said.push(control.channel);
    tokenizer.encode_text_into("final", &mut said);
    said.push(control.message);
    let words = MadeUpWords {
        header: said.windows(2).map(|pair| (pair[0], pair[1])).collect(),
        text: tokenizer.encode_text(&format!("This answer is made up: the server simulates {}. ", cost.name)),
        end: control.return_,
        answer_tokens: cost.engine.answer_tokens.count(),
    };
    place::simulated(&place_options(options), &Arc::new(cost.clone()), words, checkpoint.config().vocab_size)
}

/// The tag `gpu_mode` of a model on so many GPUs.
fn gpu_mode(gpus_count: usize) -> &'static str {
    match gpus_count {
        0 => "none",
        1 => "single",
        _ => "tensor_parallel",
    }
}

fn scheduling(profile: &Profile, prefix_cache: bool) -> SchedulingOptions {
    let (batch, queue) = (&profile.batch, &profile.queue);
    SchedulingOptions {
        token_budget_tokens: batch.token_budget_tokens.count(),
        prefill_slice_tokens: batch.prefill_slice_tokens.count(),
        running_max_count: batch.running_max_count.count(),
        waiting_max_count: queue.waiting_max_count.count(),
        waiting_max_tokens: queue.waiting_max_tokens.count(),
        prefill_window: Duration::from_millis(batch.prefill_window_ms.get()),
        decode_window: Duration::from_millis(batch.decode_window_ms.get()),
        waiting_max: Duration::from_secs(queue.waiting_max_seconds.get()),
        priority_level: Duration::from_secs(queue.priority_seconds.get()),
        growth_reserve_percent: batch.growth_reserve_percent.count(),
        draft_budget_tokens: batch.draft_budget_tokens.count(),
        itl_target: Duration::from_millis(batch.itl_target_ms.get()),
        prefix_cache,
    }
}

fn coalescing(stream: &StreamProfile) -> Coalescing {
    Coalescing { max_ms: stream.coalesce_max_ms.get(), max_chars: stream.coalesce_max_chars.count() }
}

/// How each built-in profile gathers text: what a request that names one gets.
fn profile_coalescing(own: &Profile) -> BTreeMap<String, Coalescing> {
    let built_in = built_in_names().into_iter().filter_map(|name| Profile::load(name).ok());
    built_in.chain([own.clone()]).map(|profile| (profile.name.clone(), coalescing(&profile.stream))).collect()
}

fn http_options(options: &ServeOptions, tags: ModelTags, keys: KeyRing, checkpoint: &Checkpoint) -> HttpOptions {
    let (drawn, assumed) = (checkpoint.sampling_defaults(), RequestDefaults::default());
    let mut http = HttpOptions::new(tags);
    http.host.clone_from(&options.host);
    http.port = options.port;
    http.workers_count = options.http_workers_count;
    http.keys = keys;
    http.metrics_access = options.metrics_access;
    http.allowed_hosts.clone_from(&options.allowed_hosts);
    http.cors_origins.clone_from(&options.cors_origins);
    http.aliases.clone_from(&options.served_model_names);
    http.sampling = RequestDefaults {
        temperature: drawn.temperature.unwrap_or(assumed.temperature),
        top_p: drawn.top_p.unwrap_or(assumed.top_p),
        top_k: drawn.top_k.unwrap_or(assumed.top_k),
    };
    http.simulated = options.simulated.as_ref().map(|cost| cost.name.clone());
    http.dialect = options.sse_dialect;
    http.coalescing = coalescing(&options.profile.stream);
    http.profiles = profile_coalescing(&options.profile);
    http.connections_max_count = options.connections_max_count;
    http.address_connections_max_count = options.address_connections_max_count;
    http.stream_keep_alive = Duration::from_secs(options.keep_alive_seconds);
    http
}

fn facts(options: &ServeOptions, weights_bytes: u64) -> ServerFacts {
    let targets = &options.profile.targets;
    let shown = options.shown.iter().map(|value| ShownSetting {
        name: value.name.to_owned(),
        value: value.value.clone(),
        from: value.from.clone(),
    });
    ServerFacts {
        profile: options.profile.name.clone(),
        targets: LatencyTargets {
            ttft_p95_ms: targets.ttft_p95_ms.get() as f64,
            e2e_p95_ms: targets.e2e_p95_ms.get() as f64,
            error_rate_max: targets.error_rate_max.get(),
        },
        weights_bytes,
        settings: shown.collect(),
    }
}
