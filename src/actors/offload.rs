//! What the SchedulerActor does about blocks that are kept outside of KV memory.
//!
//! Owns: the store, once it is open, and what was read from it until it is copied. Promises: what
//! the core asks to be copied goes to the engine's thread before the step that was planned with it;
//! reading does not wait for that thread. Absent on purpose: which blocks, which is the core's.

use std::sync::Arc;

use actix::{Addr, Message};

use crate::actors::scheduling::SchedulerActor;
use crate::actors::status::Status;
use crate::actors::stepper::Stepper;
use crate::batch::{BlockId, KvCopies, KvGroup, Micros, SeqId, Spill, StoredBlock};
use crate::engine::kv_store::{KvStore, OpenedStore, ReadBlock};
use crate::scheduler::{HashKey, SchedulerLimits};

/// What the engine's thread copies before a step.
#[derive(Debug, Default)]
pub(super) struct CopyJob {
    /// To the store.
    pub(super) spills: Vec<Spill>,
    /// Into KV memory.
    pub(super) restores: Vec<(KvGroup, BlockId, Vec<u8>)>,
}

/// What came of a fetch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Fetched {
    pub(super) seq: SeqId,
    pub(super) blocks: Vec<ReadBlock>,
}

/// The store, and what was read for a sequence that waits.
#[derive(Debug, Default)]
pub(super) struct Offloading {
    store: Option<Arc<KvStore>>,
    /// What the store holds, until there is a core to be told.
    stored: Vec<StoredBlock>,
    /// Where replies go.
    address: Option<Addr<SchedulerActor>>,
    read: Option<Fetched>,
}

impl Offloading {
    /// Replies go to the actor at `address`.
    pub(super) fn answers_to(&mut self, address: Addr<SchedulerActor>) {
        self.address = Some(address);
    }

    /// The first engine is built, and this store for it, if it is to have one.
    pub(super) fn opened(&mut self, opened: Option<OpenedStore>) {
        if let Some(OpenedStore { store, blocks }) = opened {
            self.store = Some(store);
            self.stored = blocks;
        }
    }

    /// The limits of a core that finds what is stored.
    pub(super) fn limits(&self, core: SchedulerLimits) -> SchedulerLimits {
        let key = self.store.as_ref().map(|store| HashKey(store.key()));
        SchedulerLimits { prefix_cache: core.prefix_cache.map(|own| key.unwrap_or(own)), ..core }
    }

    /// Tells a core of the store.
    pub(super) fn attach(&mut self, stepper: &mut Stepper, status: &Status) {
        if let Some(store) = &self.store {
            stepper.offload_to(store.places(), std::mem::take(&mut self.stored));
            status.set_store(Arc::clone(store));
        }
    }

    /// Begins what is to be copied beside a step. What the engine's thread has of it, if anything,
    /// goes to it before the step.
    pub(super) fn begin(&mut self, stepper: &mut Stepper) -> Option<CopyJob> {
        let store = self.store.as_ref()?;
        let KvCopies { spills, restores, fetch, forget_stored } = stepper.take_copies();
        if forget_stored {
            store.forget();
        }
        let mut job = CopyJob { spills, restores: Vec::new() };
        if !restores.is_empty() {
            let mut read = self.read.take_if(|read| read.seq == restores[0].seq).expect("what is restored was read").blocks;
            let bytes = |fetched: usize| std::mem::take(&mut read[fetched]).expect("the core was told that it was read");
            let mut bytes = bytes;
            job.restores = restores.into_iter().map(|restore| (restore.group, restore.block, bytes(restore.fetched))).collect();
        }
        if let (Some(fetch), Some(address)) = (fetch, self.address.clone()) {
            let seq = fetch.seq;
            // If the actor is gone, nothing waits for it.
            store.fetch(fetch.blocks, move |blocks| _ = address.try_send(Fetched { seq, blocks }));
        }
        let awaited = stepper.awaits_fetched();
        self.read.take_if(|read| Some(read.seq) != awaited);
        (!job.spills.is_empty() || !job.restores.is_empty()).then_some(job)
    }

    /// Takes what was read, and tells the core.
    pub(super) fn arrived(&mut self, fetched: Fetched, stepper: &mut Stepper, now: Micros) {
        if stepper.awaits_fetched() == Some(fetched.seq) {
            stepper.fetched(fetched.seq, fetched.blocks.iter().map(Option::is_some).collect(), now);
            self.read = Some(fetched);
        }
    }

    /// What is to be stored at the end of the process.
    pub(super) fn last_spills(&self, stepper: &mut Stepper) -> Vec<Spill> {
        if self.store.as_ref().is_some_and(|store| store.outlives()) { stepper.spill_cached() } else { Vec::new() }
    }
}
