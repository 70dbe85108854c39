//! Several devices that compute one model together.
//!
//! Owns: a thread a rank, and in it the rank's engine: context, streams, KV memory, graphs.
//! Promises: all ranks compute the same batch with the same sums in the same order, so the tokens
//! are those of any run with as many ranks. A rank that fails fails the step for all, and none of
//! them waits for it. Rank 0 draws. Absent on purpose: what a rank computes (see [`CudaEngine`]).

use super::share::RankShare;
use super::{CudaEngine, CudaEngineError, CudaModel, CudaOptions};
use crate::batch::{Batch, EngineLimits, Sampled};
use crate::engine::checkpoint::{Checkpoint, LoadProgress};
use crate::engine::{Engine, EngineError, check_batch};
use antiphon_kernels::cuda::{Communicator, CudaError, Device};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

/// What a rank's thread is to do with its engine.
type Order = Box<dyn FnOnce(&mut CudaEngine) + Send>;

/// A rank's thread.
#[derive(Debug)]
struct Rank {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
    communicator: Arc<Communicator>,
}

impl Rank {
    fn start(mut engine: CudaEngine, communicator: Arc<Communicator>) -> Self {
        let (orders, given) = mpsc::channel::<Order>();
        let name = format!("cuda-rank-{}", communicator.rank());
        let work = move || given.into_iter().for_each(|order| order(&mut engine));
        let thread = thread::Builder::new().name(name).spawn(work).expect("the system gives a thread a device");
        Self { orders, thread, communicator }
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("a rank's thread ends when its sender is dropped: it catches what panics");
    }
}

/// Why a step failed.
enum RankFailure {
    Error(CudaError),
    Panic(Box<dyn std::any::Any + Send>),
}

/// A model on several devices.
#[derive(Debug)]
pub struct CudaRanks {
    ranks: Vec<Rank>,
    limits: EngineLimits,
    /// What the step reports that was begun.
    sampled: Option<Vec<Sampled>>,
}

impl CudaModel {
    /// Loads a model onto several devices, each with its rank's part; `progress` is told how many
    /// bytes are there.
    ///
    /// # Errors
    /// [`CudaEngineError`] as [`CudaModel::load`], and [`CudaEngineError::Ranks`] if the model has
    /// no equal parts.
    pub fn load_ranks(
        devices: Vec<Device>,
        checkpoint: &Checkpoint,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Vec<Arc<Self>>, CudaEngineError> {
        let ranks = devices.len();
        RankShare::check(checkpoint.config(), ranks)?;
        let mut before = 0;
        let mut models = Vec::new();
        for (rank, device) in devices.into_iter().enumerate() {
            let mut last = before;
            let told = &mut |LoadProgress { done_bytes, total_bytes }| {
                last = before + done_bytes;
                progress(LoadProgress { done_bytes: last, total_bytes });
            };
            models.push(Arc::new(Self::load_share(device, checkpoint, RankShare { rank, ranks }, told)?));
            before = last;
        }
        Ok(models)
    }
}

impl CudaRanks {
    /// Makes an engine for a model that was loaded by [`CudaModel::load_ranks`], with empty KV
    /// memory.
    ///
    /// # Errors
    /// [`CudaEngineError::Device`] if a device has not the memory or fails, or NCCL cannot connect
    /// them.
    ///
    /// # Panics
    /// As [`CudaEngine::new`], or if the models are not all ranks of one.
    pub fn new(models: &[Arc<CudaModel>], options: &CudaOptions) -> Result<Self, CudaEngineError> {
        assert!(models.iter().map(|model| model.share.rank).eq(0..options.ranks), "one model a rank");
        let devices: Vec<&Device> = models.iter().map(|model| &model.device).collect();
        let communicators = Communicator::connect(&devices)?;
        let mut engines = Vec::new();
        for (model, communicator) in models.iter().zip(communicators) {
            let communicator = Arc::new(communicator);
            let engine = CudaEngine::build(Arc::clone(model), options, Some(Arc::clone(&communicator)))?;
            engines.push((engine, communicator));
        }
        let limits = engines[0].0.limits;
        let ranks = engines.into_iter().map(|(engine, communicator)| Rank::start(engine, communicator)).collect();
        let made = Self { ranks, limits, sampled: None };
        // The first time two devices meet is not captured.
        made.on_all(|engine| engine.meet().and_then(|()| engine.capture_decode_steps())).map_err(|(_, error)| error)?;
        Ok(made)
    }

    /// How many graphs each rank has captured, and how many steps were replays of one.
    ///
    /// # Panics
    /// If the ranks differ: that is a bug.
    #[must_use]
    pub fn graph_counts(&self) -> (usize, usize) {
        let counts = self.on_all(|engine| Ok(engine.graph_counts())).unwrap_or_else(|(_, error)| panic!("{error}"));
        assert!(counts.iter().all(|count| *count == counts[0]), "the ranks went different ways: {counts:?}");
        counts[0]
    }

    /// Computes a step as [`CudaEngine::inspect`] does.
    ///
    /// # Errors
    /// [`CudaError`] if a device fails.
    ///
    /// # Panics
    /// If the batch is not one that the engine's limits allow.
    pub fn inspect(&mut self, batch: &Batch, logits: &mut dyn FnMut(usize, &[f32])) -> Result<(), CudaError> {
        let batch = Arc::new(batch.clone());
        let shown = self.on_all(move |engine| {
            let mut rows = Vec::new();
            engine.inspect(&batch, &mut |row, logits| rows.push((row, logits.to_vec())))?;
            Ok(rows)
        });
        let shown = shown.map_err(|(_, error)| error)?;
        shown[0].iter().for_each(|(row, values)| logits(*row, values));
        Ok(())
    }

    /// What every rank's `work` gives, in the order of the ranks; or the first failure and whose it
    /// was. The ranks are parted then, and have to be made anew.
    fn on_all<T: Send + 'static>(
        &self,
        work: impl Fn(&mut CudaEngine) -> Result<T, CudaError> + Send + Sync + 'static,
    ) -> Result<Vec<T>, (usize, CudaError)> {
        let work = Arc::new(work);
        let (done, answers) = mpsc::channel();
        for (index, rank) in self.ranks.iter().enumerate() {
            let (work, done) = (Arc::clone(&work), done.clone());
            rank.order(Box::new(move |engine| {
                let answer = match catch_unwind(AssertUnwindSafe(|| work(engine))) {
                    Ok(answer) => answer.map_err(RankFailure::Error),
                    Err(panic) => Err(RankFailure::Panic(panic)),
                };
                // The thread that asked waits for every answer.
                let _ = done.send((index, answer));
            }));
        }
        let mut given: Vec<Option<T>> = self.ranks.iter().map(|_| None).collect();
        let (mut failed, mut aborts) = (None, Vec::new());
        for _ in &self.ranks {
            let (index, answer) = answers.recv().expect("every rank answers once");
            match answer {
                Ok(value) => given[index] = Some(value),
                Err(failure) if failed.is_none() => {
                    failed = Some((index, failure));
                    aborts = self.abort();
                }
                // They fail because the first one did.
                Err(_) => {}
            }
        }
        let Some((index, failure)) = failed else {
            return Ok(given.into_iter().map(|value| value.expect("it was given above")).collect());
        };
        // An abort ends once the graphs are gone that captured a collective.
        self.ranks.iter().for_each(|rank| rank.order(Box::new(|engine| engine.graphs.clear())));
        aborts.into_iter().for_each(|abort| drop(abort.join()));
        match failure {
            RankFailure::Error(error) => Err((index, error)),
            RankFailure::Panic(panic) => resume_unwind(panic),
        }
    }

    /// Frees every rank from the collective that it waits in, a thread each.
    fn abort(&self) -> Vec<JoinHandle<()>> {
        let abort = |rank: &Rank| {
            let communicator = Arc::clone(&rank.communicator);
            thread::spawn(move || communicator.abort())
        };
        self.ranks.iter().map(abort).collect()
    }
}

impl Drop for CudaRanks {
    fn drop(&mut self) {
        // Threads end when their sender of orders is dropped; each drops its engine, graphs first,
        // before its communicator goes.
        for Rank { orders, thread, communicator } in self.ranks.drain(..) {
            drop(orders);
            let _ = thread.join();
            drop(communicator);
        }
    }
}

impl Engine for CudaRanks {
    fn limits(&self) -> EngineLimits {
        self.limits
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), EngineError> {
        check_batch(&self.limits, batch);
        let (slices, batch) = (batch.slices.len(), Arc::new(batch.clone()));
        let given = self.on_all(move |engine| {
            let mut sampled = Vec::new();
            engine.begin(&batch)?;
            engine.finish(&mut sampled).map(|()| sampled)
        });
        let given = given.map_err(|(rank, error)| EngineError::Device { slices, message: format!("rank {rank}: {error}") })?;
        self.sampled = given.into_iter().next();
        Ok(())
    }

    fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        sampled.append(&mut self.sampled.take().expect("a step is waited for that was begun"));
        Ok(())
    }
}
