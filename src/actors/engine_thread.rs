//! The thread on which the engine is built and computes.
//!
//! Owns: the engine and its factory, and the steps that it was given. Promises: exactly one report
//! for each [`EngineJob::Build`] and [`EngineJob::Wait`], in order, whatever the engine does. A
//! panic is caught here. The engine that panicked or failed is dropped with all steps that it was
//! given, and the next [`EngineJob::Build`] makes another one. Absent on purpose: the decision
//! whether to build again, which is the SchedulerActor's.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use crate::actors::guard::panic_message;
use crate::batch::{Batch, EngineLimits, Sampled};
use crate::engine::warm_up::warm_up;
use crate::engine::{Engine, EngineError, EngineFactory};

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum EngineJob {
    /// Build an engine.
    Build,
    /// Begin a step, after those that were begun before.
    Step(Batch),
    /// Wait for the oldest step, and report it.
    Wait,
}

/// What came of a job.
#[derive(Debug)]
pub(super) enum JobReport {
    /// An engine is built, and has drawn a token to show that it can.
    Built(EngineLimits),
    /// No engine could be built.
    NotBuilt {
        /// Why.
        message: String,
    },
    /// The step is computed.
    Done {
        /// The step's batch, to be filled again.
        batch: Batch,
        /// What was drawn.
        sampled: Vec<Sampled>,
    },
    /// The engine failed or panicked in the step, and is gone, with every step after it.
    Died {
        /// The step's batch, to be filled again.
        batch: Batch,
        /// What it said.
        message: String,
    },
}

/// Starts the thread; it ends when the sender of jobs is dropped.
///
/// # Errors
/// The operating system gives no thread.
pub(super) fn start(
    factory: EngineFactory,
    reports: tokio::sync::mpsc::Sender<JobReport>,
) -> std::io::Result<mpsc::Sender<EngineJob>> {
    let (jobs, inbox) = mpsc::channel();
    thread::Builder::new().name("engine".to_owned()).spawn(move || run(&factory, &inbox, &reports))?;
    Ok(jobs)
}

fn run(factory: &EngineFactory, jobs: &mpsc::Receiver<EngineJob>, reports: &tokio::sync::mpsc::Sender<JobReport>) {
    let mut station = Station::default();
    while let Ok(job) = jobs.recv() {
        let report = match job {
            EngineJob::Build => match build(factory) {
                Ok((built, limits)) => {
                    station.engine = Some(built);
                    JobReport::Built(limits)
                }
                Err(message) => JobReport::NotBuilt { message },
            },
            EngineJob::Step(batch) => {
                station.begin(batch);
                continue;
            }
            EngineJob::Wait => station.finish(),
        };
        if reports.blocking_send(report).is_err() {
            break;
        }
    }
    discard(station.engine);
}

/// Builds an engine and lets it draw one token, so that an engine that is built but cannot compute,
/// or computes no numbers, counts as not built.
fn build(factory: &EngineFactory) -> Result<(Box<dyn Engine>, EngineLimits), String> {
    let built = catch_unwind(AssertUnwindSafe(|| {
        let mut engine = factory().map_err(|error| error.to_string())?;
        let limits = engine.limits();
        warm_up(engine.as_mut()).map_err(|error| error.to_string())?;
        Ok((engine, limits))
    }));
    built.unwrap_or_else(|panic| Err(panic_message(&*panic)))
}

/// The engine, and the steps that it was given, oldest first, each with what went wrong when it was
/// begun.
#[derive(Default)]
struct Station {
    engine: Option<Box<dyn Engine>>,
    under_way: VecDeque<(Batch, Result<(), String>)>,
}

impl Station {
    fn begin(&mut self, batch: Batch) {
        let begun = match self.under_way.back() {
            // The earlier step lost the KV memory, so this one cannot run.
            Some((_, Err(_))) => Err("the step before could not be begun".to_owned()),
            _ => self.attempt(|engine| engine.begin(&batch)),
        };
        self.under_way.push_back((batch, begun));
    }

    /// Waits for the oldest step. One that could not be begun is reported when its turn comes,
    /// after those that could.
    fn finish(&mut self) -> JobReport {
        let (batch, begun) = self.under_way.pop_front().expect("a step is waited for that was begun");
        let mut sampled = Vec::with_capacity(batch.slices.len());
        match begun.and_then(|()| self.attempt(|engine| engine.finish(&mut sampled))) {
            Ok(()) => JobReport::Done { batch, sampled },
            Err(message) => {
                self.under_way.clear();
                discard(self.engine.take());
                JobReport::Died { batch, message }
            }
        }
    }

    fn attempt(&mut self, work: impl FnOnce(&mut dyn Engine) -> Result<(), EngineError>) -> Result<(), String> {
        let engine = self.engine.as_mut().ok_or("no engine is built")?;
        match catch_unwind(AssertUnwindSafe(|| work(engine.as_mut()))) {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(panic) => Err(panic_message(&*panic)),
        }
    }
}

/// Drops an engine; one that died may well panic in its drop too.
fn discard(engine: Option<Box<dyn Engine>>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(engine))) {
        tracing::warn!(message = panic_message(&*panic), "the engine panicked while it was dropped");
    }
}
