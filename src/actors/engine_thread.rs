//! The thread on which the engine is built and computes.
//!
//! Owns: the engine and its factory, and the steps that it was given. Promises: exactly one report
//! for each [`EngineJob::Build`] and [`EngineJob::Wait`], in order, whatever the engine does. A
//! panic is caught here. Copies run between the steps that were sent before and after them, and one
//! that fails loses the step after it. The engine that panicked or failed is dropped with all steps
//! that it was given, and the next [`EngineJob::Build`] makes another one. Absent on purpose: the
//! decision whether to build again, which is the SchedulerActor's.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::actors::guard::panic_message;
use crate::actors::offload::CopyJob;
use crate::batch::{Batch, EngineLimits, Sampled, Spill, StoredBlock};
use crate::engine::kv_store::{KvStore, KvStoreOptions, OpenedStore};
use crate::engine::warm_up::warm_up;
use crate::engine::{Engine, EngineError, EngineFactory};

/// How long the end of the process waits for blocks to be stored.
const KEEP_MAX: Duration = Duration::from_secs(5);

/// A store that is to be opened with the first engine.
#[derive(Debug)]
pub(super) struct NewStore {
    pub(super) options: KvStoreOptions,
    /// The key of its hashes, if it is new.
    pub(super) key: [u64; 2],
}

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum EngineJob {
    /// Build an engine.
    Build,
    /// Begin a step, after those that were begun before.
    Step(Batch),
    /// Wait for the oldest step, and report it.
    Wait,
    /// Copy blocks, after the steps that were begun and before the next one.
    Copy(CopyJob),
    /// Store these blocks, in a bounded time: the last job.
    Keep(Vec<Spill>),
}

/// What came of a job.
#[derive(Debug)]
pub(super) enum JobReport {
    /// An engine is built, and has drawn a token to show that it can.
    Built {
        /// What it can.
        limits: EngineLimits,
        /// The store for its blocks, with the first engine.
        store: Option<OpenedStore>,
    },
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
    store: Option<NewStore>,
) -> std::io::Result<mpsc::Sender<EngineJob>> {
    let (jobs, inbox) = mpsc::channel();
    thread::Builder::new().name("engine".to_owned()).spawn(move || run(&factory, &inbox, &reports, store))?;
    Ok(jobs)
}

fn run(
    factory: &EngineFactory,
    jobs: &mpsc::Receiver<EngineJob>,
    reports: &tokio::sync::mpsc::Sender<JobReport>,
    mut new_store: Option<NewStore>,
) {
    let mut station = Station::default();
    while let Ok(job) = jobs.recv() {
        let report = match job {
            EngineJob::Build => match build(factory) {
                Ok((built, limits)) => {
                    let new_store = new_store.take();
                    let store = new_store.and_then(|new| KvStore::open(&new.options, built.as_ref(), new.key));
                    station.built(built, store.as_ref());
                    JobReport::Built { limits, store }
                }
                Err(message) => JobReport::NotBuilt { message },
            },
            EngineJob::Step(batch) => {
                station.begin(batch);
                continue;
            }
            EngineJob::Copy(job) => {
                station.copy(job);
                continue;
            }
            EngineJob::Keep(spills) => {
                station.keep(&spills);
                continue;
            }
            EngineJob::Wait => station.finish(),
        };
        if reports.blocking_send(report).is_err() {
            break;
        }
    }
    discard(station.engine.take());
    if let Some(store) = station.store {
        store.close(station.kept_until.unwrap_or_else(Instant::now));
    }
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
    store: Option<Arc<KvStore>>,
    /// Why copies failed that the next step needs.
    not_copied: Option<String>,
    /// Till when what is to be kept is written.
    kept_until: Option<Instant>,
}

impl Station {
    fn built(&mut self, engine: Box<dyn Engine>, store: Option<&OpenedStore>) {
        self.engine = Some(engine);
        self.not_copied = None;
        self.store = store.map(|opened| Arc::clone(&opened.store)).or(self.store.take());
    }

    fn copy(&mut self, CopyJob { spills, restores }: CopyJob) {
        let Some(store) = self.store.clone() else { return };
        let copied = self.attempt(|engine| {
            for Spill { block, stored } in spills {
                let mut bytes = Vec::new();
                engine.read_block(stored.group, block, &mut bytes)?;
                store.offer(stored, bytes);
            }
            restores.into_iter().try_for_each(|(group, block, bytes)| engine.write_block(group, block, &bytes))
        });
        // The first error is the one that counts, and no later copy mends it.
        if let Err(message) = copied {
            self.not_copied.get_or_insert(message);
        }
    }

    /// Writes as many of these as may be in [`KEEP_MAX`]; the rest is computed again one day.
    fn keep(&mut self, spills: &[Spill]) {
        let Some(store) = self.store.clone() else { return };
        let until = Instant::now() + KEEP_MAX;
        self.kept_until = Some(until);
        let (count, mut blocks) = (spills.len(), spills.iter().map(|spill| spill.block));
        let kept = self.attempt(|engine| {
            let read = |stored: &StoredBlock| {
                let mut bytes = Vec::new();
                let read = engine.read_block(stored.group, blocks.next()?, &mut bytes);
                read.is_ok().then_some(bytes)
            };
            let kept_count = store.keep(spills.iter().map(|spill| spill.stored.clone()), until, read);
            tracing::info!(kept_count, count, "cached KV blocks go to the KV store");
            Ok(())
        });
        if let Err(message) = kept {
            tracing::warn!(message, "cached KV blocks are not kept");
        }
    }

    fn begin(&mut self, batch: Batch) {
        let begun = match self.under_way.back() {
            _ if self.not_copied.is_some() => Err(self.not_copied.take().unwrap_or_default()),
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
