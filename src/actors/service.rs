//! The door to the actors: what http calls. Cheap to clone, callable from any thread and runtime.

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use tokio::sync::oneshot;

use crate::actors::budget::{Budget, Reserved};
use crate::actors::concurrency_limit::{ConcurrencyLimit, Pass};
use crate::actors::guard::log_failure;
use crate::actors::mail::{Cancel, CancelledBy, Detokenize, EndAll, Look, Prepare, Stop, Tokenize, Visitor};
use crate::actors::messages::{Accepted, Generate, KeyId, Refusal, ResponseInput};
use crate::actors::registry::{LiveEntry, Registry};
use crate::actors::request::RequestActor;
use crate::actors::scheduling::SchedulerActor;
use crate::actors::snapshot::{
    EndedRequest, EngineState, LiveRequest, ModelLimits, Phase, SchedulerLook, Snapshot, StepTrace, ViewSize,
};
use crate::actors::start::StartError;
use crate::actors::status::Status;
use crate::batch::TokenId;
use crate::clock::Clock;
use crate::metrics::{Metrics, RejectKind};
use crate::prompt::builder::PromptBuilder;
use crate::prompt::tokenizer::Tokenizer;

/// How long streams may take to hand over their last parts once they were ended by force.
const LAST_PARTS: Duration = Duration::from_secs(1);

/// How long one look at the scheduler may take: it answers between two steps' bookkeeping, in far
/// less.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A handle to the running actors.
#[derive(Debug, Clone)]
pub struct Service {
    inner: Arc<ServiceShared>,
}

/// What all handles share.
#[derive(Debug)]
pub(super) struct ServiceShared {
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) registry: Arc<Registry>,
    pub(super) budget: Arc<Budget>,
    pub(super) gate: Arc<ConcurrencyLimit>,
    /// Most sequences that wait.
    pub(super) waiting_max_count: usize,
    pub(super) status: Arc<Status>,
    pub(super) builder: Arc<PromptBuilder>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) requests: Addr<RequestActor>,
    pub(super) scheduler: Addr<SchedulerActor>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Requests that had to be ended before their time (with `server_shutdown`).
    pub ended_count: usize,
}

impl Service {
    pub(super) fn new(inner: ServiceShared) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// What all handles share, for this room's own tests.
    #[cfg(test)]
    pub(super) fn inner(&self) -> &ServiceShared {
        &self.inner
    }

    /// Asks for a response; answered once the scheduler took it or not, before any of it is
    /// computed.
    ///
    /// Dropping the future takes the request back, dropping [`Accepted::parts`] cancels it, in any
    /// phase.
    ///
    /// # Errors
    /// [`Refusal`]: what the client sent cannot be served, too much waits, or the server does not
    /// take requests now.
    pub async fn generate(&self, generate: Generate) -> Result<Accepted, Refusal> {
        let inner = &*self.inner;
        let record = inner.metrics.received(inner.clock.now());
        let let_in = self.available().and_then(|()| self.possible(&generate)).and_then(|()| self.uncrowded(&generate));
        let pass = match let_in.and_then(|()| self.pass()) {
            Ok(pass) => pass,
            Err(refusal) => {
                let kind = match refusal {
                    Refusal::Invalid { .. } | Refusal::TooLarge { .. } => RejectKind::Invalid,
                    Refusal::QueueFull { .. } => RejectKind::QueueFull,
                    Refusal::Unavailable { .. } | Refusal::Internal { .. } => RejectKind::Unavailable,
                };
                record.rejected(kind);
                return Err(refusal);
            }
        };
        let request_id = generate.request_id.clone();
        let Some(ticket) = inner.registry.enter(request_id.clone(), generate.owner, generate.session.clone()) else {
            record.rejected(RejectKind::Invalid);
            return Err(Refusal::Invalid {
                param: None,
                code: Some("duplicate_request_id"),
                message: format!("A request with the id {request_id:?} is running already; ids must be unique."),
            });
        };
        let (reply, answer) = oneshot::channel();
        let visitor = Visitor { ticket, record, memory: None };
        // If no RequestActor is left, the message is dropped, and with it `reply`.
        let _ = inner.requests.try_send(Prepare { generate, visitor, pass, reply });
        answer.await.unwrap_or_else(|_| {
            let message = "an actor dropped the request without an answer";
            Err(Refusal::Internal { error_id: log_failure(&request_id, message) })
        })
    }

    /// Cancels a request; true if it had anything left to compute. Its blocks are free when this
    /// returns; its stream ends with
    /// [`FinishKind::Cancelled`](crate::actors::messages::FinishKind::Cancelled).
    pub async fn cancel(&self, request_id: &str) -> bool {
        self.cancel_where(request_id, |_| true).await
    }

    /// As [`Service::cancel`], for the owner of the request alone: another's is as good as none.
    pub async fn cancel_own(&self, request_id: &str, owner: KeyId) -> bool {
        self.cancel_where(request_id, |live| live.owner == owner).await
    }

    async fn cancel_where(&self, request_id: &str, may: impl Fn(&LiveEntry) -> bool) -> bool {
        let Some(live) = self.inner.registry.find(request_id).filter(|live| may(live)) else { return false };
        // The mark comes first: a request that the scheduler has not seen yet ends when it does.
        live.set_cancelled();
        let building = live.phase() == Phase::Building;
        let (freed, done) = oneshot::channel();
        let message = Cancel { response: live.response, by: CancelledBy::Id, freed };
        // If the scheduler is gone, the message is dropped, and `done` resolves.
        let _ = self.inner.scheduler.try_send(message);
        done.await.unwrap_or(false) || building
    }

    /// The tokens of an input, as [`Service::generate`] would build them; on the text threads,
    /// behind their bound. `memory` is what the input holds.
    ///
    /// # Errors
    /// As [`Service::generate`].
    pub async fn tokenize(
        &self,
        input: ResponseInput,
        owner: KeyId,
        memory: Option<Reserved>,
    ) -> Result<Vec<TokenId>, Refusal> {
        let pass = self.pass()?;
        let answer = self.inner.requests.send(Tokenize { input, owner, memory, pass }).await;
        answer.unwrap_or_else(|error| Err(Refusal::Internal { error_id: log_failure("/tokenize", &error.to_string()) }))
    }

    /// The text of tokens, which hold `memory`; bytes that are no UTF-8 become U+FFFD. On the text
    /// threads, behind their bound.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a token that is not in the vocabulary; else as
    /// [`Service::generate`].
    pub async fn detokenize(&self, tokens: Vec<TokenId>, memory: Option<Reserved>) -> Result<String, Refusal> {
        let pass = self.pass()?;
        let answer = self.inner.requests.send(Detokenize { tokens, memory, pass }).await;
        answer.unwrap_or_else(|error| Err(Refusal::Internal { error_id: log_failure("/detokenize", &error.to_string()) }))
    }

    /// What requests may hold in memory, all together.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.inner.budget
    }

    /// The bytes of a token, those of its spelling if it is a control token; empty if it is not in
    /// the vocabulary. Cheap.
    #[must_use]
    pub fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        self.inner.tokenizer.bytes_of(token).to_vec()
    }

    /// The server at this moment; from atomics, never through a mailbox, so that it answers while
    /// everything else is stuck.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        let (status, now) = (&inner.status, inner.clock.now());
        let (engine, draining, age) = (status.engine(), status.leaving(), status.heartbeat_age_micros(now));
        let alive = engine != EngineState::Dead && age <= status.watchdog_micros();
        let mut scheduler = status.counts();
        if let Some(store) = status.store() {
            scheduler.offload.dropped_total = store.dropped_total;
            scheduler.offload.written_bytes_total = store.written_bytes_total;
            scheduler.offload.read_bytes_total = store.read_bytes_total;
        }
        let blocks = scheduler.blocks();
        let kv_bytes = status.limits().map_or(0, |limits| limits.kv_bytes);
        Snapshot {
            engine,
            draining,
            heartbeat_age_ms: age / 1_000,
            alive,
            ready: alive && engine == EngineState::Ready && !draining,
            scheduler,
            kv_in_use_bytes: share(kv_bytes, blocks.in_use_count(), blocks.total_count),
            requests_active: inner.registry.count(),
            streams_active: inner.registry.streams_count(),
            building_count: inner.gate.inside_count(),
            sessions_active: inner.registry.sessions_active(now),
            memory_budget_bytes: inner.budget.most_bytes(),
            memory_reserved_bytes: inner.budget.reserved_bytes(),
            engine_restarts_total: status.restarts(),
            step_tokens_per_second: status.tokens_per_second(),
            prompts: inner.builder.counts(),
        }
    }

    /// The requests that have not ended, oldest first.
    #[must_use]
    pub fn live_requests(&self) -> Vec<LiveRequest> {
        self.inner.registry.describe(self.inner.clock.now())
    }

    /// The requests that ended last, latest first, at most `count`.
    #[must_use]
    pub fn recent_requests(&self, count: usize) -> Vec<EndedRequest> {
        self.inner.registry.recent(count)
    }

    /// The last steps that ended, oldest first, a few thousand at most.
    #[must_use]
    pub fn steps(&self) -> Vec<StepTrace> {
        self.inner.status.flight().steps()
    }

    /// What the scheduler looks like now, for the console; `None` if there is no engine, or if the
    /// SchedulerActor does not answer in time. Goes through its mailbox: the caller bounds how
    /// often.
    pub async fn look(&self, size: ViewSize) -> Option<SchedulerLook> {
        let (reply, answer) = oneshot::channel();
        // If the scheduler is gone, the message is dropped, and `answer` resolves.
        let _ = self.inner.scheduler.try_send(Look { size, reply });
        tokio::time::timeout(LOOK_MAX, answer).await.ok()?.ok()
    }

    /// What the model can take; `None` until the engine is loaded.
    #[must_use]
    pub fn limits(&self) -> Option<ModelLimits> {
        self.inner.status.limits()
    }

    /// Waits until the engine is loaded and has computed its first token.
    ///
    /// # Errors
    /// [`StartError::Engine`] if it cannot be built or cannot compute.
    pub async fn loaded(&self) -> Result<ModelLimits, StartError> {
        let mut engine = self.inner.status.watch_engine();
        // The sender lives in `status`, which this handle keeps.
        let _ = engine.wait_for(|state| *state != EngineState::Loading).await;
        let message = || self.inner.status.fatal().unwrap_or("it died").to_owned();
        self.inner.status.limits().ok_or_else(|| StartError::Engine { message: message() })
    }

    /// Waits until the engine is dead for good, and says why: the process is to exit with code 70,
    /// so that its supervisor starts it anew. All requests have been ended with an error by
    /// then.
    pub async fn died(&self) -> String {
        let mut engine = self.inner.status.watch_engine();
        // As in `loaded`.
        let _ = engine.wait_for(|state| *state == EngineState::Dead).await;
        self.inner.status.fatal().unwrap_or("the engine died").to_owned()
    }

    /// Readiness says no from now on, so that balancers send requests elsewhere; those that still
    /// come are taken.
    pub fn announce_drain(&self) {
        self.inner.status.set_leaving();
    }

    /// Takes no new request from now on ([`Refusal::Unavailable`], `draining`); running ones go on.
    pub fn begin_drain(&self) {
        self.inner.status.set_draining();
    }

    /// Waits until every request has ended; those that are still live after `deadline` are ended
    /// with an error (`server_shutdown`), and their readers get a second to take it. Call
    /// [`Service::begin_drain`] before.
    pub async fn drained(&self, deadline: Duration) -> Drained {
        let registry = &self.inner.registry;
        if tokio::time::timeout(deadline, registry.emptied()).await.is_ok() {
            return Drained { ended_count: 0 };
        }
        let ended_count = registry.count();
        // If the scheduler is gone, there is nothing to end.
        let _ = self.inner.scheduler.try_send(EndAll);
        // A reader that still does not take its last parts loses them.
        let _ = tokio::time::timeout(LAST_PARTS, registry.emptied()).await;
        Drained { ended_count }
    }

    /// Drops the engine, after the step that it computes, and stops the actors. The last thing to
    /// call; if the engine hangs, so does this.
    pub async fn stop(&self) {
        let (stopped, done) = oneshot::channel();
        // If the scheduler is gone, the message is dropped, and `done` resolves.
        let _ = self.inner.scheduler.try_send(Stop { stopped });
        let _ = done.await;
    }

    /// Whether requests are taken now.
    fn available(&self) -> Result<(), Refusal> {
        let status = &self.inner.status;
        let code = match status.engine() {
            _ if status.draining() => "draining",
            EngineState::Ready => return Ok(()),
            EngineState::Loading => "loading",
            EngineState::Restarting => "engine_restarting",
            EngineState::Dead => "engine_dead",
        };
        Err(Refusal::Unavailable { retry_after_seconds: 1, code })
    }

    /// Whether new work of any kind is taken, that which generates nothing too.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] with the code `draining`.
    pub fn takes_work(&self) -> Result<(), Refusal> {
        let refusal = Refusal::Unavailable { retry_after_seconds: 1, code: "draining" };
        if self.inner.status.draining() { Err(refusal) } else { Ok(()) }
    }

    /// Refuses a request of more sequences than may ever wait: to come back later would not help
    /// it.
    fn possible(&self, generate: &Generate) -> Result<(), Refusal> {
        let (count, max_count) = (generate.sequences_count(), self.inner.waiting_max_count);
        if count <= max_count {
            return Ok(());
        }
        let prompts_count = generate.inputs.len();
        Err(Refusal::Invalid {
            param: Some(if prompts_count > max_count { "prompt".into() } else { "n".into() }),
            code: None,
            message: format!(
                "{} choices of {prompts_count} prompts are {count} sequences, and at most {max_count} may wait on this server \
                 (queue.waiting_max_count of its profile); ask for fewer at once.",
                generate.choices_count
            ),
        })
    }

    /// Refuses what the scheduler would refuse anyway, before any text work is done for it: under a
    /// storm of requests that is what keeps the answer quick. The scheduler decides, its counts may
    /// be a request behind, and it says when to come back: once a second a request goes on to it
    /// although the queue is full.
    fn uncrowded(&self, generate: &Generate) -> Result<(), Refusal> {
        let status = &self.inner.status;
        let waiting_count = status.counts().waiting_count;
        match status.retry_after(self.inner.clock.now()) {
            Some(retry_after_seconds) if waiting_count + generate.sequences_count() > self.inner.waiting_max_count => {
                Err(Refusal::QueueFull {
                    retry_after_seconds,
                    message: format!("{waiting_count} requests wait already; try again later."),
                })
            }
            _ => Ok(()),
        }
    }

    /// The right to have text work done.
    fn pass(&self) -> Result<Pass, Refusal> {
        let gate = &self.inner.gate;
        gate.enter().ok_or_else(|| Refusal::QueueFull {
            // Text work takes milliseconds; what the scheduler said is longer, if it refuses as
            // well.
            retry_after_seconds: self.inner.status.retry_after(self.inner.clock.now()).unwrap_or(1),
            message: format!("{} prompts are being prepared already; try again later.", gate.max_count()),
        })
    }
}

/// `part` of `whole` of so many bytes.
fn share(bytes: usize, part: usize, whole: usize) -> u64 {
    (bytes as u64).checked_div(whole as u64).map_or(0, |bytes_each| bytes_each * part as u64)
}
