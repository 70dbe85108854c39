//! The core on the embedded model, step by step.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use antiphon::batch::{Batch, Micros, Sampled, Sampling, SeqId, Spill, StepResult, TokenId};
use antiphon::engine::Engine;
use antiphon::engine::cpu::{CpuEngine, CpuOptions, Format, Math};
use antiphon::engine::kv_store::{KvStore, KvStoreOptions, KvStorePlace, OpenedStore};
use antiphon::scheduler::{CacheSalt, HashKey, NewSequence, Plan, Scheduler, SchedulerLimits, SequenceEvent};

use super::files::Golden;

/// Tokens and the bits of their log-probabilities, the likeliest ones' too.
pub(super) type Answer = Vec<(TokenId, Vec<u32>)>;

/// What a server is to be.
#[derive(Clone, Copy)]
pub(super) struct Served {
    /// KV blocks of each group.
    pub(super) blocks: usize,
    /// Whether it has a prefix cache.
    pub(super) caches: bool,
    /// Most tokens of a step that it guesses.
    pub(super) draft_budget_tokens: usize,
    pub(super) math: (Math, Format),
}

impl Default for Served {
    fn default() -> Self {
        Self { blocks: 512, caches: false, draft_budget_tokens: 0, math: (Math::Int16, Format::Bf16) }
    }
}

/// The core on the embedded model.
pub(super) struct Server {
    pub(super) core: Scheduler,
    engine: CpuEngine,
    now: Micros,
    events: Vec<SequenceEvent>,
    store: Option<Arc<KvStore>>,
    /// What was read of it for the sequence that waits.
    read: Vec<Option<Vec<u8>>>,
}

impl Server {
    pub(super) fn start(golden: &Golden, served: Served) -> Self {
        Self::with_store(golden, served, None)
    }

    /// The same with a store for evicted blocks, in this file.
    pub(super) fn with_store(golden: &Golden, served: Served, path: Option<&Path>) -> Self {
        let Served { blocks, caches, draft_budget_tokens, math: (math, dense) } = served;
        let options = CpuOptions {
            threads: 2,
            block_tokens: CpuOptions::BLOCK_TOKENS,
            global_blocks: blocks,
            sliding_blocks: blocks,
            step_tokens_max: 256,
            step_slices_max: 16,
            math,
            dense,
            isa: None,
            keep_packed: false,
        };
        let engine = CpuEngine::load(Arc::clone(&golden.checkpoint), &options, &mut |_| {});
        let engine_limits = engine.limits();
        let limits = SchedulerLimits {
            block_tokens: engine_limits.block_tokens,
            global_blocks: blocks,
            sliding_blocks: blocks,
            sliding_window_tokens: engine_limits.sliding_window_tokens,
            context_tokens_max: engine_limits.context_tokens_max.min(blocks * engine_limits.block_tokens),
            token_budget_tokens: 256,
            prefill_slice_tokens: 64,
            running_max_count: 16,
            waiting_max_count: 1_000,
            waiting_max_tokens: 1 << 20,
            draft_budget_tokens,
            slice_drafts_max: engine_limits.slice_drafts_max,
            copies_blocks: engine_limits.copies_blocks,
            prefix_cache: caches.then_some(HashKey([3, 5])),
            ..SchedulerLimits::default()
        };
        let opened = path.map(|path| {
            let options = KvStoreOptions { place: KvStorePlace::File(path.to_owned()), bytes_max: 64 << 20 };
            KvStore::open(&options, &engine, [3, 5]).expect("the file serves")
        });
        let mut core = Scheduler::new(limits);
        let store = opened.map(|OpenedStore { store, blocks }| {
            core.offload_to(store.places(), blocks);
            store
        });
        Self { core, engine, now: Micros(0), events: Vec::new(), store, read: Vec::new() }
    }

    /// Copies what the core asks for, and reads what it waits for.
    fn copy(&mut self) {
        let Some(store) = &self.store else { return };
        let copies = self.core.take_copies();
        for Spill { block, stored } in copies.spills {
            let mut bytes = Vec::new();
            self.engine.read_block(stored.group, block, &mut bytes).expect("the CPU does not fail");
            store.offer(stored, bytes);
        }
        for restore in copies.restores {
            let bytes = self.read[restore.fetched].as_ref().expect("it was read");
            self.engine.write_block(restore.group, restore.block, bytes).expect("the CPU does not fail");
        }
        if let Some(fetch) = copies.fetch {
            let (told, waiting) = channel();
            store.fetch(fetch.blocks, move |read| told.send(read).expect("the test waits"));
            self.read = waiting.recv().expect("the store answers");
            self.core.fetched(fetch.seq, self.read.iter().map(Option::is_some).collect(), self.now);
        }
    }

    /// Stores what is cached, and ends.
    pub(super) fn end(mut self) {
        let spills = self.core.spill_cached();
        let store = self.store.take().expect("it has a store");
        let mut blocks = spills.iter().map(|spill| spill.block);
        let until = Instant::now() + Duration::from_secs(60);
        let kept = store.keep(spills.iter().map(|spill| spill.stored.clone()), until, |stored| {
            let mut bytes = Vec::new();
            self.engine.read_block(stored.group, blocks.next()?, &mut bytes).ok()?;
            Some(bytes)
        });
        assert_eq!(kept, spills.len());
        store.close(until);
    }

    fn submit(&mut self, prompt: &[TokenId], max_tokens: u32, sampling: Sampling) -> SeqId {
        let (sampling, cache_salt) = (Arc::new(sampling), CacheSalt::default());
        let new = NewSequence { prompt: prompt.to_vec(), max_tokens, sampling, cache_salt, in_session: false, priority: 0 };
        self.core.submit(new, self.now).expect("the queue has room")
    }

    fn step(&mut self) -> bool {
        self.now = self.now.plus(1_000);
        let planned = match self.core.plan(self.now, &mut self.events) {
            Plan::Step(batch) => Some(batch.clone()),
            Plan::Idle { .. } => None,
        };
        let waits = self.core.awaits_fetched().is_some();
        self.copy();
        let Some(batch): Option<Batch> = planned else { return waits };
        let mut sampled: Vec<Sampled> = Vec::new();
        self.engine.execute(&batch, &mut sampled).expect("the CPU does not fail");
        self.core.commit(StepResult::Done(sampled), self.now, &mut self.events);
        true
    }

    /// The likeliest answers to all prompts, which run beside each other, and how many of their
    /// tokens were found computed.
    pub(super) fn serve(&mut self, prompts: &[&[TokenId]], max_tokens: u32) -> (Vec<Answer>, Vec<usize>) {
        let likeliest = |prompt: &&[TokenId]| (prompt.to_vec(), Sampling { logprobs: Some(3), ..Sampling::default() });
        self.serve_sampled(&prompts.iter().map(likeliest).collect::<Vec<_>>(), max_tokens)
    }

    /// The same with the sampling of each.
    pub(super) fn serve_sampled(&mut self, asked: &[(Vec<TokenId>, Sampling)], max_tokens: u32) -> (Vec<Answer>, Vec<usize>) {
        let seqs: Vec<SeqId> =
            asked.iter().map(|(prompt, sampling)| self.submit(prompt, max_tokens, sampling.clone())).collect();
        while self.step() {}
        let answers = seqs.iter().map(|seq| self.answer(*seq)).collect();
        let found = seqs.iter().map(|seq| self.found(*seq)).collect();
        self.events.clear();
        (answers, found)
    }

    fn answer(&self, seq: SeqId) -> Answer {
        let heard = self.events.iter().filter_map(|event| match event {
            SequenceEvent::Token { seq: of, token, logprobs: Some(logprobs) } if *of == seq => {
                let all = std::iter::once(&logprobs.chosen).chain(&logprobs.top);
                let bits = all.flat_map(|logprob| [logprob.token.0, logprob.rank, logprob.logprob.to_bits()]);
                Some((*token, bits.collect()))
            }
            _ => None,
        });
        heard.collect()
    }

    fn found(&self, seq: SeqId) -> usize {
        let found = self.events.iter().find_map(|event| match event {
            SequenceEvent::Began { seq: of, cached_tokens, .. } if *of == seq => Some(*cached_tokens),
            _ => None,
        });
        found.unwrap_or(0)
    }
}
