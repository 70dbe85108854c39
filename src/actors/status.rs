//! What the SchedulerActor last said of itself, for readers that must not wait for it.
//!
//! Written by the SchedulerActor alone, except `draining`. Read by any thread, from atomics and
//! from locks that are held for a copy only: a health probe is answered while the engine is stuck
//! and every mailbox is full.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use crate::actors::flight::FlightRecorder;
use crate::actors::snapshot::{EngineState, ModelLimits};
use crate::batch::Micros;
use crate::engine::kv_store::{KvStore, KvStoreCounts};
use crate::scheduler::SchedulerCounts;

/// The watchdog allows a step this many times the longest one seen, if that is more than its limit.
const WATCHDOG_STEPS: u64 = 10;

/// So long what one client was told is told to others: a second, which is what it is rounded to.
const RETRY_AFTER_MICROS: u64 = 1_000_000;

/// The shared state.
#[derive(Debug)]
pub(super) struct Status {
    engine: watch::Sender<EngineState>,
    fatal: OnceLock<String>,
    limits: OnceLock<ModelLimits>,
    /// Readiness says no, while requests are still taken.
    leaving: AtomicBool,
    draining: AtomicBool,
    heartbeat: AtomicU64,
    longest_step_micros: AtomicU64,
    restarts: AtomicU64,
    /// Bits of an f64.
    tokens_per_second: AtomicU64,
    counts: Mutex<SchedulerCounts>,
    /// Where evicted blocks go.
    store: OnceLock<Arc<KvStore>>,
    /// When a client that was refused was told to come back, in seconds, and when it was told.
    retry_after: Mutex<Option<(u64, Micros)>>,
    flight: FlightRecorder,
    watchdog_micros: u64,
}

impl Status {
    /// Loading, with a heartbeat `now`.
    pub(super) fn new(now: Micros, watchdog_micros: u64) -> Self {
        Self {
            engine: watch::Sender::new(EngineState::Loading),
            fatal: OnceLock::new(),
            limits: OnceLock::new(),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            heartbeat: AtomicU64::new(now.0),
            longest_step_micros: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            tokens_per_second: AtomicU64::new(0),
            counts: Mutex::new(SchedulerCounts::default()),
            store: OnceLock::new(),
            retry_after: Mutex::new(None),
            flight: FlightRecorder::default(),
            watchdog_micros,
        }
    }

    /// The last steps.
    pub(super) fn flight(&self) -> &FlightRecorder {
        &self.flight
    }

    /// What the engine is good for.
    pub(super) fn engine(&self) -> EngineState {
        *self.engine.borrow()
    }

    /// To wait for another state.
    pub(super) fn watch_engine(&self) -> watch::Receiver<EngineState> {
        self.engine.subscribe()
    }

    /// The engine is good for something else now. Dead is for ever.
    pub(super) fn set_engine(&self, state: EngineState) {
        self.engine.send_if_modified(|current| {
            let changes = *current != EngineState::Dead && *current != state;
            if changes {
                *current = state;
            }
            changes
        });
    }

    /// The engine is dead, and why.
    pub(super) fn set_dead(&self, message: String) {
        // The first reason is the one that counts.
        let _ = self.fatal.set(message);
        self.set_engine(EngineState::Dead);
    }

    /// Why the engine is dead.
    pub(super) fn fatal(&self) -> Option<&str> {
        self.fatal.get().map(String::as_str)
    }

    /// What the model can take, once loaded.
    pub(super) fn limits(&self) -> Option<ModelLimits> {
        self.limits.get().copied()
    }

    /// The engine is loaded for the first time.
    pub(super) fn set_limits(&self, limits: ModelLimits) {
        // A rebuilt engine has the same limits; the SchedulerActor checks.
        let _ = self.limits.set(limits);
    }

    /// Evicted blocks go to this store.
    pub(super) fn set_store(&self, store: Arc<KvStore>) {
        // There is one core, and it has one store.
        let _ = self.store.set(store);
    }

    /// What came of the store of evicted blocks; `None` without one.
    pub(super) fn store(&self) -> Option<KvStoreCounts> {
        self.store.get().map(|store| store.counts())
    }

    /// Whether requests are better sent elsewhere: a drain is announced, or has begun.
    pub(super) fn leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Send requests elsewhere from now on; those that come are taken.
    pub(super) fn set_leaving(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// Whether new requests are refused.
    pub(super) fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Refuse new requests from now on.
    pub(super) fn set_draining(&self) {
        self.set_leaving();
        self.draining.store(true, Ordering::SeqCst);
    }

    /// The scheduler makes progress.
    pub(super) fn beat(&self, now: Micros) {
        self.heartbeat.fetch_max(now.0, Ordering::Relaxed);
    }

    /// Since the last heartbeat.
    pub(super) fn heartbeat_age_micros(&self, now: Micros) -> u64 {
        now.since(Micros(self.heartbeat.load(Ordering::Relaxed)))
    }

    /// A step took so long.
    pub(super) fn observe_step(&self, micros: u64, tokens_per_second: f64) {
        self.longest_step_micros.fetch_max(micros, Ordering::Relaxed);
        self.tokens_per_second.store(tokens_per_second.to_bits(), Ordering::Relaxed);
    }

    /// How long the engine may take for one step before it counts as stuck.
    pub(super) fn watchdog_micros(&self) -> u64 {
        self.watchdog_micros.max(self.longest_step_micros.load(Ordering::Relaxed).saturating_mul(WATCHDOG_STEPS))
    }

    /// Tokens a second, as observed.
    pub(super) fn tokens_per_second(&self) -> f64 {
        f64::from_bits(self.tokens_per_second.load(Ordering::Relaxed))
    }

    /// Another engine was built after one died.
    pub(super) fn add_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Engines rebuilt so far.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// The scheduler's counts, all of one moment.
    pub(super) fn counts(&self) -> SchedulerCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After how many seconds a refused client is to come back, if the scheduler said so within the
    /// last second.
    pub(super) fn retry_after(&self, now: Micros) -> Option<u64> {
        let said = *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner);
        said.filter(|(_, at)| now.since(*at) < RETRY_AFTER_MICROS).map(|(seconds, _)| seconds)
    }

    /// The scheduler said so.
    pub(super) fn set_retry_after(&self, seconds: u64, now: Micros) {
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = Some((seconds, now));
    }

    /// New counts.
    pub(super) fn set_counts(&self, counts: SchedulerCounts) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}
