//! Starts the actors, in the order in which they need each other.

use std::sync::Arc;
use std::thread;

use actix::dev::channel;
use actix::{Addr, Arbiter, Context, SyncArbiter};
use tokio::sync::mpsc;

use crate::actors::budget::Budget;
use crate::actors::compiler::Compiler;
use crate::actors::concurrency_limit::ConcurrencyLimit;
use crate::actors::engine_thread::{self, NewStore};
use crate::actors::masks::MaskThreads;
use crate::actors::options::{StartOptions, hash_key};
use crate::actors::prepare::TextWork;
use crate::actors::registry::Registry;
use crate::actors::request::RequestActor;
use crate::actors::scheduling::{SchedulerActor, SchedulerSetup};
use crate::actors::service::{Service, ServiceShared};
use crate::actors::status::Status;
use crate::actors::stream::StreamSetup;
use crate::actors::stream_threads::StreamThreads;
use crate::prompt::constraint::{Grammars, HeaderTables};

/// Why the actors cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The operating system gives no thread.
    #[error("cannot start a thread for {what}: {source}")]
    Thread {
        /// What it was for.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first engine could not be built, or cannot compute.
    #[error("cannot load the engine: {message}")]
    Engine {
        /// What it said.
        message: String,
    },
}

/// Starts everything and returns at once, while the engine loads on its own thread;
/// [`Service::loaded`] waits for it.
///
/// Must be called inside an actix `System`, which the actors' threads then belong to.
///
/// # Errors
/// [`StartError::Thread`]; nothing of what was started goes on.
pub fn start(options: StartOptions) -> Result<Service, StartError> {
    let watchdog_micros = u64::try_from(options.watchdog.as_micros()).unwrap_or(u64::MAX);
    let status = Arc::new(Status::new(options.clock.now(), watchdog_micros));
    let (reports, inbox) = mpsc::channel(1);
    let engine = |source| StartError::Thread { what: "the engine", source };
    let store = options.kv_store.map(|store| NewStore { options: store, key: hash_key().0 });
    let jobs = engine_thread::start(options.engine, reports, store).map_err(engine)?;
    let streams = |source| StartError::Thread { what: "the streams", source };
    let stream_threads = StreamThreads::start(options.stream_threads).map_err(streams)?;
    let budget = Arc::new(Budget::new(options.memory_budget_bytes));
    let scheduler = run_scheduler(SchedulerActor::new(SchedulerSetup {
        clock: options.clock,
        status: Arc::clone(&status),
        metrics: options.metrics.clone(),
        options: options.scheduling,
        stream: StreamSetup { clock: options.clock, metrics: options.metrics.clone(), slow_reader: options.slow_reader },
        stream_threads,
        budget: Arc::clone(&budget),
        jobs,
        reports: inbox,
    }))?;
    let grammars = Arc::new(Grammars::new(Arc::clone(&options.tokenizer)));
    let masks = |source| StartError::Thread { what: "the masks", source };
    let text = TextWork {
        builder: Arc::clone(&options.builder),
        tokenizer: Arc::clone(&options.tokenizer),
        date: options.date,
        masks: MaskThreads::start(&grammars).map_err(masks)?,
        headers: Arc::new(HeaderTables::new(Arc::clone(&grammars))),
        header_grammar: options.header_grammar,
        compiler: Arc::new(Compiler::new(grammars)),
    };
    let request = RequestActor {
        text,
        status: Arc::clone(&status),
        metrics: options.metrics.clone(),
        clock: options.clock,
        budget: Arc::clone(&budget),
        scheduler: scheduler.clone(),
    };
    let requests = SyncArbiter::start_with_thread_builder(
        options.text_threads.max(1),
        || thread::Builder::new().name("text".to_owned()),
        move || request.clone(),
    );
    Ok(Service::new(ServiceShared {
        clock: options.clock,
        metrics: options.metrics,
        registry: Arc::new(Registry::new(options.clock)),
        budget,
        gate: Arc::new(ConcurrencyLimit::new(options.preparing_max_count)),
        waiting_max_count: options.scheduling.waiting_max_count,
        status,
        builder: options.builder,
        tokenizer: options.tokenizer,
        requests,
        scheduler,
    }))
}

/// Runs the SchedulerActor on an Arbiter of its own, with a mailbox that has no capacity (see
/// `mail.rs`).
fn run_scheduler(actor: SchedulerActor) -> Result<Addr<SchedulerActor>, StartError> {
    let arbiter = Arbiter::try_new().map_err(|source| StartError::Thread { what: "the scheduler", source })?;
    let (sender, receiver) = channel::channel(0);
    arbiter.spawn_fn(move || {
        Context::with_receiver(receiver).run(actor);
    });
    Ok(Addr::new(sender))
}
