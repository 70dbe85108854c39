//! The thread on which the engine is built and computes.
//!
//! Owns: the engine and its factory. Promises: exactly one report for each job, in order, whatever the engine does: a panic is
//! caught here, the engine that panicked or failed is dropped, and the next [`Job::Build`] makes another one. Absent on purpose:
//! the decision whether to build again, which is the SchedulerActor's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use crate::actors::guard::panic_message;
use crate::batch::{Batch, BlockId, EngineLimits, Sampled, SeqId, Slice, TokenId};
use crate::engine::{Engine, EngineError};

/// Makes an engine. Called again after an engine died, so what is costly and not harmed by that (mapped weights) is kept by the
/// factory.
pub type EngineFactory = Box<dyn Fn() -> Result<Box<dyn Engine>, EngineError> + Send>;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Build an engine.
    Build,
    /// Compute a step.
    Step(Batch),
}

/// What came of a job.
#[derive(Debug)]
pub(super) enum Report {
    /// An engine is built, and has computed a token to show that it can.
    Built(EngineLimits),
    /// No engine could be built.
    NotBuilt {
        /// Why.
        message: String,
    },
    /// The step is computed.
    Done {
        /// The job's batch, to be filled again.
        batch: Batch,
        /// What was drawn.
        sampled: Vec<Sampled>,
    },
    /// The engine failed or panicked in the step, and is gone.
    Died {
        /// The job's batch, to be filled again.
        batch: Batch,
        /// What it said.
        message: String,
    },
}

/// Starts the thread; it ends when the sender of jobs is dropped.
///
/// # Errors
/// The operating system gives no thread.
pub(super) fn start(factory: EngineFactory, reports: tokio::sync::mpsc::Sender<Report>) -> std::io::Result<mpsc::Sender<Job>> {
    let (jobs, inbox) = mpsc::channel();
    thread::Builder::new().name("engine".to_owned()).spawn(move || run(&factory, &inbox, &reports))?;
    Ok(jobs)
}

fn run(factory: &EngineFactory, jobs: &mpsc::Receiver<Job>, reports: &tokio::sync::mpsc::Sender<Report>) {
    let mut engine: Option<Box<dyn Engine>> = None;
    while let Ok(job) = jobs.recv() {
        let report = match job {
            Job::Build => match build(factory) {
                Ok((built, limits)) => {
                    engine = Some(built);
                    Report::Built(limits)
                }
                Err(message) => Report::NotBuilt { message },
            },
            Job::Step(batch) => step(&mut engine, batch),
        };
        if reports.blocking_send(report).is_err() {
            break;
        }
    }
    discard(engine);
}

/// Builds an engine and lets it compute one token, so that an engine that is built but cannot compute counts as not built.
fn build(factory: &EngineFactory) -> Result<(Box<dyn Engine>, EngineLimits), String> {
    let built = catch_unwind(AssertUnwindSafe(|| {
        let mut engine = factory().map_err(|error| error.to_string())?;
        let limits = engine.limits();
        engine.execute(&probe(), &mut Vec::new()).map_err(|error| error.to_string())?;
        Ok((engine, limits))
    }));
    built.unwrap_or_else(|panic| Err(panic_message(&*panic)))
}

fn step(engine: &mut Option<Box<dyn Engine>>, batch: Batch) -> Report {
    let Some(running) = engine else {
        return Report::Died { batch, message: "no engine is built".to_owned() };
    };
    let mut sampled = Vec::with_capacity(batch.slices.len());
    let outcome = catch_unwind(AssertUnwindSafe(|| running.execute(&batch, &mut sampled)));
    let message = match outcome {
        Ok(Ok(())) => return Report::Done { batch, sampled },
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_message(&*panic),
    };
    discard(engine.take());
    Report::Died { batch, message }
}

/// Drops an engine; one that died may well panic in its drop too.
fn discard(engine: Option<Box<dyn Engine>>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(engine))) {
        tracing::warn!(message = panic_message(&*panic), "the engine panicked while it was dropped");
    }
}

/// One token in the first block of each group. Every block is free when an engine was just built: nothing is overwritten.
fn probe() -> Batch {
    Batch {
        tokens: vec![TokenId(0)],
        slices: vec![Slice {
            seq: SeqId(u64::MAX),
            tokens: 0..1,
            start: 0,
            full_blocks: 0..1,
            sliding_blocks: 0..1,
            sliding_first: 0,
            draw: None,
            prompt_targets: None,
        }],
        full_blocks: vec![BlockId(0)],
        sliding_blocks: vec![BlockId(0)],
    }
}
