//! What happened, counted: the recorder behind `/metrics`, `/stats` and `/health`.
//!
//! Owns: a Prometheus registry of its own and a bounded window of recent requests. Promises: every
//! admitted request ends in exactly one of success, failed and cancelled, because one
//! [`RequestRecord`] stands for it from its arrival to its end, so `requests_total = success +
//! failed + cancelled + active` holds at any moment. Time comes in as `now`.
//!
//! Absent on purpose: a global registry, labels with text from users, wire shapes.

mod expose;
mod families;
mod gpus;
mod ladder;
mod log_watch;
mod maker;
mod offload;
mod process;
mod record;
mod stats;
mod window;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::Micros;
use crate::scheduler::SchedulerCounts;

pub use expose::{EXPOSITION_TYPE, Names};
pub use ladder::LatencyCounts;
pub use log_watch::{LogWatch, Warning};
pub use process::Process;
pub use record::{RejectKind, RequestOutcome, RequestRecord, StreamRecord};
pub use stats::{Percentiles, PromptCounts, RequestCounts, Stats};

pub use gpus::Gpu;

use families::Families;
use ladder::Watched;
use window::{Rate, Recent};

/// What every number is labelled with; fixed while a model is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTags {
    /// The model's name, as `/v1/models` lists it.
    pub model_id: String,
    /// `20b`, `120b`, `tiny`, or what else the model is called by.
    pub model_size: String,
    /// How the weights are stored: `mxfp4`, `bf16`.
    pub dtype: String,
    /// `none` on a CPU, `single` on one GPU.
    pub gpu_mode: String,
    /// `SYS/v1` or `SYS/v2`.
    pub prompt_version: String,
}

/// A step that was computed and committed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// How many slices it had.
    pub slices_count: usize,
    /// Prompt tokens that it computed, recomputed ones included.
    pub prefill_tokens: usize,
    /// Tokens that it generated.
    pub decode_tokens: usize,
    /// How long the engine computed.
    pub seconds: f64,
}

/// What became of a prompt in the builder's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptCacheLookup {
    /// Found, with equal tokens.
    Hit,
    /// Not found, so it was built.
    Miss,
}

/// The recorder. Clones are cheap and count into the same numbers.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<MetricsShared>,
}

struct MetricsShared {
    tags: ModelTags,
    log: LogWatch,
    families: Families,
    recent: Mutex<Recent>,
    watched: Watched,
    generated: Mutex<Rate>,
    busy_micros: Mutex<Rate>,
    gpus: Vec<Gpu>,
    prompt_cache_entries: AtomicU64,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("tags", &self.inner.tags).finish_non_exhaustive()
    }
}

impl Metrics {
    /// A recorder with every count at zero.
    #[must_use]
    pub fn new(tags: ModelTags) -> Self {
        Self::of(tags, Vec::new(), LogWatch::default())
    }

    /// A recorder for an engine on `gpus` that also tells what `log` saw.
    #[must_use]
    pub fn of(tags: ModelTags, gpus: Vec<Gpu>, log: LogWatch) -> Self {
        let families = Families::new(&tags, &gpus);
        Self {
            inner: Arc::new(MetricsShared {
                tags,
                log,
                families,
                recent: Mutex::new(Recent::default()),
                watched: Watched::default(),
                generated: Mutex::new(Rate::default()),
                busy_micros: Mutex::new(Rate::default()),
                gpus,
                prompt_cache_entries: AtomicU64::new(0),
            }),
        }
    }

    /// What every number is labelled with.
    #[must_use]
    pub fn tags(&self) -> &ModelTags {
        &self.inner.tags
    }

    /// A request for a response arrived; the record is handed on with it. `now` begins its TTFT and
    /// E2E.
    pub fn received(&self, now: Micros) -> RequestRecord {
        RequestRecord::new(self.clone(), now)
    }

    /// A response begins to be streamed to its client; the record lives as long as the stream.
    pub fn stream_opened(&self) -> StreamRecord {
        StreamRecord::new(self.clone())
    }

    /// A step was committed.
    pub fn step_committed(&self, step: StepRecord, now: Micros) {
        let steps = &self.inner.families.steps;
        steps.committed.inc();
        steps.seconds.observe(step.seconds);
        steps.slices.observe(step.slices_count as f64);
        steps.tokens.observe((step.prefill_tokens + step.decode_tokens) as f64);
        steps.prefill_tokens.add(step.prefill_tokens as u64);
        steps.generated_tokens.add(step.decode_tokens as u64);
        lock(&self.inner.generated).add(step.decode_tokens as u64, now);
        lock(&self.inner.busy_micros).add((step.seconds * 1e6) as u64, now);
    }

    /// The GPUs that the engine computes on; none on a CPU.
    #[must_use]
    pub fn gpus(&self) -> &[Gpu] {
        &self.inner.gpus
    }

    /// What the log saw.
    #[must_use]
    pub fn log(&self) -> &LogWatch {
        &self.inner.log
    }

    /// Takes over the scheduler's counts, which the reader of a scrape has asked for.
    /// `block_tokens`: tokens in a KV block, zero while no engine has said; `kv_in_use_bytes`: what
    /// sequences hold of the KV memory.
    pub fn scheduler(&self, counts: &SchedulerCounts, block_tokens: usize, kv_in_use_bytes: u64) {
        self.inner.families.state.set(counts, block_tokens, kv_in_use_bytes);
        self.inner.families.offload.set(counts);
    }

    /// A prompt was looked up in the builder's cache, which then holds `entries_count` prompts.
    pub fn prompt_looked_up(&self, lookup: PromptCacheLookup, entries_count: usize) {
        match lookup {
            PromptCacheLookup::Hit => self.inner.families.prompts.hits.inc(),
            PromptCacheLookup::Miss => self.inner.families.prompts.misses.inc(),
        }
        self.inner.prompt_cache_entries.store(entries_count as u64, Ordering::Relaxed);
    }

    /// The harmony parser went on after malformed output; `kind` is the parser's name for what it
    /// met.
    pub fn parser_recovered(&self, kind: &'static str, count: u64) {
        self.inner.families.faults.parser_recoveries.with_label_values(&[kind]).inc_by(count);
    }

    /// The engine was rebuilt after a failure.
    pub fn engine_restarted(&self) {
        self.inner.families.faults.engine_restarts.inc();
    }

    /// A sequence's logits were not finite.
    pub fn nan_logits(&self) {
        self.inner.families.faults.nan_logits.inc();
    }

    /// The text work of one request panicked and was caught.
    pub fn request_panicked(&self) {
        self.inner.families.faults.request_panics.inc();
    }

    /// A connection was turned away; `reason` is the bound that was reached, `all` or `address`.
    pub fn connection_refused(&self, reason: &'static str) {
        self.inner.families.faults.connections_refused.with_label_values(&[reason]).inc();
    }

    /// How many sessions (`X-Session-ID`) are alive.
    pub fn sessions_active(&self, count: usize) {
        self.inner.families.requests.sessions_active.set(gauge(count));
    }

    /// Whether the response store can be written.
    pub fn response_store(&self, is_up: bool) {
        self.inner.families.requests.response_store.set(is_up.into());
    }

    /// What requests may hold in memory, and what of it is reserved.
    pub fn memory(&self, budget_bytes: u64, reserved_bytes: u64) {
        let requests = &self.inner.families.requests;
        requests.memory_budget.set(i64::try_from(budget_bytes).unwrap_or(i64::MAX));
        requests.memory_reserved.set(i64::try_from(reserved_bytes).unwrap_or(i64::MAX));
    }

    /// The numbers of `/stats`.
    #[must_use]
    pub fn stats(&self, now: Micros) -> Stats {
        Stats::read(&self.inner, now)
    }

    /// TTFT and ITL in fine steps, for a plot; counted from the first call until ten seconds after
    /// the last.
    #[must_use]
    pub fn latencies(&self, now: Micros) -> LatencyCounts {
        self.inner.watched.look(now)
    }

    /// The text of `/metrics`, of type [`EXPOSITION_TYPE`], with the families of these `names`.
    #[must_use]
    pub fn exposition(&self, names: Names, now: Micros) -> String {
        expose::text(&self.inner, names, now)
    }
}

/// Locks for a few instructions; a panic inside one cannot leave counts half written, so poison is
/// ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A count as a gauge's value.
fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
