//! The only wiring: load the model, start the actors, bind HTTP, drain in order.
//!
//! Owns: the order in which a server starts and stops. Promises: what cannot be served is refused
//! before the port is bound; the port is bound before the weights are read, so that a busy one is
//! known at once; a signal to stop lets running responses end. Absent on purpose: decisions, which
//! are the rooms'.

pub mod descriptors;
mod heap;
mod keys;
pub mod logging;
mod memory;
mod model;
mod options;
mod wiring;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

pub use crate::engine::kv_store::{KvStoreOptions, KvStorePlace};
pub use crate::http::{AllowedOrigin, Dialect, MetricsAccess};
pub use keys::{KeySources, KeyTexts, read_key_file};
pub use model::{Model, ModelError};
pub use options::{ResponseStorePlace, Secret, ServeOptions, ShownValue};

use crate::actors::StartError;
use crate::actors::service::Service;
use crate::engine::place::PlaceError;
use crate::http::{KeyError, ServeError, ServerHandle};
use crate::metrics::LogWatch;
use crate::source::SourceError;
use crate::store::{ResponseStore, StoreError};
use wiring::Wired;

/// How long clients may take to read the end of their answers when the drain's time is over.
const LAST_BYTES: Duration = Duration::from_secs(2);
/// How long the engine may take to finish its last step.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Why the server did not start, or stopped before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The model's files were not found, or not brought.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The model's files cannot be served.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model cannot be computed where it was asked for.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A key that no client could send.
    #[error("API key {place}: {error}")]
    ApiKey {
        /// Which of the keys, counted from one.
        place: usize,
        /// What is wrong with it.
        error: KeyError,
    },
    /// The actors did not start, or the engine did not load.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Responses cannot be kept where it was asked for.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The collector of spans has no address that can be asked.
    #[error("spans cannot be told: {message}")]
    Collector {
        /// What is wrong with the address.
        message: String,
    },
    /// No client can connect.
    #[error(transparent)]
    Listen(#[from] ServeError),
    /// The system does not tell us when to stop.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// The process may have too few files open.
    #[error(
        "this process may have {limit} files open, and a server needs {own} besides its connections; expected a hard limit of \
         {needed} for all connections that may be open (LimitNOFILE= of a unit, ulimit -Hn)"
    )]
    Descriptors {
        /// How many it may have.
        limit: u64,
        /// How many a server needs without connections.
        own: u64,
        /// How many it needs with all connections that may be open.
        needed: u64,
    },
    /// The engine died for good while serving.
    #[error("the engine died for good: {message}")]
    EngineDied {
        /// What it said.
        message: String,
    },
    /// The HTTP server ended without being asked to: no client can connect.
    #[error("the HTTP server ended by itself: {message}")]
    ServerDied {
        /// What it said.
        message: String,
    },
}

/// Serves until a signal asks to stop; `ready` is called once with the address that is bound, when
/// requests are taken.
///
/// SIGTERM drains, and SIGINT too unless the options leave it to the caller: running responses may
/// end until the drain's time is over, new ones are refused. A second signal ends the process at
/// once. SIGHUP has the files of keys read again.
///
/// # Errors
/// [`AppError`] if the server cannot start; nothing is left half started.
pub fn serve(options: &ServeOptions, log: &LogWatch, ready: Box<dyn FnOnce(SocketAddr) + Send>) -> Result<(), AppError> {
    heap::fix_thresholds();
    // Before the runtime, which panics where it gets no descriptor.
    let mut options = options.clone();
    descriptors::fit(&mut options)?;
    actix::System::new().block_on(run(&options, log, ready))
}

/// Starts a server on a thread of its own, for this process to call its actors without HTTP
/// between; it ends with the process. Signals are left to the caller, and so is the log.
///
/// # Errors
/// [`AppError`] if it cannot start.
///
/// # Panics
/// If the system gives no thread.
pub fn serve_beside(options: ServeOptions) -> Result<Service, AppError> {
    let (told, waiting) = channel();
    let run = async move || {
        let started = async {
            let found = wiring::find(&options)?;
            let Wired { service, server, .. } = wiring::start(&options, &LogWatch::default(), found)?;
            service.loaded().await?;
            Ok((service, server))
        };
        match started.await {
            Ok((service, _server)) => {
                let dies = service.clone();
                // The caller gave up, so the service is dropped.
                let _ = told.send(Ok(service));
                let message = dies.died().await;
                tracing::error!(message, "the engine of the service beside died");
            }
            Err(error) => _ = told.send(Err(error)),
        }
    };
    let body = move || actix::System::new().block_on(run());
    thread::Builder::new().name("service".to_owned()).spawn(body).expect("the system has a thread for the service");
    waiting.recv().expect("it tells what came of it before it ends")
}

async fn run(options: &ServeOptions, log: &LogWatch, ready: Box<dyn FnOnce(SocketAddr) + Send>) -> Result<(), AppError> {
    let mut stop = StopSignals::listen(options.interrupt_stops)?;
    // Listened for from the start: a hangup that came while the model is loaded would end the
    // process.
    let hangups = signal(SignalKind::hangup()).map_err(AppError::Signals)?;
    let searched = options.clone();
    let found = tokio::select! {
        found = spawn_blocking(move || wiring::find(&searched)) => found.expect("the search is not called off")?,
        // A download cannot be called off either; it goes on where it was at the next start.
        code = stop.next() => std::process::exit(code),
    };
    let Wired { service, mut server, keys, responses } = wiring::start(options, log, found)?;
    let current = KeyTexts::of(options);
    tokio::spawn(keys::keep_current(options.key_sources.clone(), current, keys, hangups));
    tokio::spawn(heap::keep_trimmed(Arc::clone(service.budget())));
    let address = server.addresses()[0];
    tokio::select! {
        loaded = service.loaded() => loaded.map(|_| ())?,
        message = server.died() => return Err(AppError::ServerDied { message }),
        // The engine's thread cannot be called off, and nothing is running yet that could be lost.
        code = stop.next() => std::process::exit(code),
    }
    ready(address);
    let asked = async {
        let code = stop.next().await;
        tracing::info!(signal = code - SIGNAL_BASE, "draining");
        if options.drain_delay_seconds > 0 {
            // A balancer sees readiness at its next probe; until then it sends requests here.
            service.announce_drain();
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(options.drain_delay_seconds)) => {}
                code = stop.next() => std::process::exit(code),
            }
        }
    };
    tokio::select! {
        () = asked => {}
        message = service.died() => {
            // Every request was given its error; without this its reader would see a cut stream
            // instead.
            shut_down(service, Some(server), responses, Duration::ZERO).await;
            return Err(AppError::EngineDied { message });
        }
        message = server.died() => {
            // It cannot be stopped once more: its connections end with the process.
            shut_down(service, None, responses, Duration::ZERO).await;
            return Err(AppError::ServerDied { message });
        }
    }
    tokio::select! {
        () = shut_down(service, Some(server), responses, Duration::from_secs(options.drain_timeout_seconds)) => Ok(()),
        code = stop.next() => std::process::exit(code),
    }
}

/// Lets running responses end, then takes everything down in the order in which it depends on each
/// other. Clients that do not read what is left of their answers have the rest of the drain's time
/// for it, or [`LAST_BYTES`].
async fn shut_down(service: Service, server: Option<ServerHandle>, responses: ResponseStore, drain: Duration) {
    let deadline = Instant::now() + drain;
    service.begin_drain();
    let drained = service.drained(drain).await;
    if drained.ended_count > 0 {
        tracing::warn!(ended_count = drained.ended_count, "requests were ended before their time");
    }
    if let Some(server) = server {
        let left = deadline.saturating_duration_since(Instant::now()).max(LAST_BYTES);
        if tokio::time::timeout(left, server.stop()).await.is_err() {
            tracing::warn!("connections whose clients do not read are cut");
        }
    }
    // Its thread has no panics of its own.
    let _ = spawn_blocking(move || responses.flush()).await;
    if tokio::time::timeout(STOP_MAX, service.stop()).await.is_err() {
        tracing::warn!("the engine did not finish its last step");
    }
    tracing::info!("stopped");
}

/// The exit code of a process that a signal ended is this much above the signal's number.
const SIGNAL_BASE: i32 = 128;

/// The signals that ask a server to stop.
struct StopSignals {
    terminate: Signal,
    interrupt: Option<Signal>,
}

impl StopSignals {
    fn listen(interrupt_stops: bool) -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(AppError::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: interrupt_stops.then(|| listen(SignalKind::interrupt())).transpose()?,
        })
    }

    /// Waits for the next one; the exit code that it stands for.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SIGNAL_BASE + SignalKind::terminate().as_raw_value(),
            Some(_) = async { self.interrupt.as_mut()?.recv().await } => SIGNAL_BASE + SignalKind::interrupt().as_raw_value(),
        }
    }
}
