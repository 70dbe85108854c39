//! What is evicted and comes back, on an engine that remembers what every slot holds, with a store
//! that the test plays.

use std::collections::BTreeMap;

use super::prefix::{UNKNOWN, caching, prompt};
use super::*;
use crate::batch::{Fetch, KvGroup, StoredBlock};
use crate::engine::Engine as _;
use crate::scheduler::{Miss, OffloadCounts};

/// What lies at each place.
type Store = BTreeMap<u32, (StoredBlock, Vec<u8>)>;

/// A scheduler and its engine, with a store.
struct Offloaded {
    stage: Stage,
    store: Store,
    /// Bytes that were read and not copied yet.
    read: Vec<Option<Vec<u8>>>,
    /// How long a fetch takes.
    fetch_micros: u64,
}

impl Offloaded {
    /// Room for twelve global blocks of four tokens, and a store of so many places, that holds
    /// this.
    fn new(places: usize, store: Store) -> Self {
        let mut stage = Stage::new(SchedulerLimits { global_blocks: 12, ..caching() });
        stage.scheduler.offload_to(places, store.values().map(|(block, _)| block.clone()).collect());
        Self { stage, store, read: Vec::new(), fetch_micros: 500 }
    }

    /// Copies what the core asks for; what it wants to be read.
    fn copy(&mut self) -> Option<Fetch> {
        let copies = self.stage.scheduler.take_copies();
        if copies.forget_stored {
            self.store.clear();
        }
        for spill in copies.spills {
            let mut bytes = Vec::new();
            self.stage.engine.read_block(spill.stored.group, spill.block, &mut bytes).expect("it does not fail");
            self.store.insert(spill.stored.place, (spill.stored, bytes));
        }
        for restore in copies.restores {
            let bytes = self.read[restore.fetched].take().expect("it was read, and is copied once");
            self.stage.engine.write_block(restore.group, restore.block, &bytes).expect("it does not fail");
        }
        copies.fetch
    }

    fn read(&mut self, fetch: &Fetch) {
        let bytes = |block: &StoredBlock| self.store.get(&block.place).filter(|(held, _)| held == block);
        self.read = fetch.blocks.iter().map(|block| bytes(block).map(|(_, bytes)| bytes.clone())).collect();
        self.stage.now = self.stage.now.plus(self.fetch_micros);
        let is_read = self.read.iter().map(Option::is_some).collect();
        self.stage.scheduler.fetched(fetch.seq, is_read, self.stage.now);
    }

    /// Lives through a prompt; what of it was found computed, restored or not.
    fn serve(&mut self, new: NewSequence) -> (usize, Option<Miss>) {
        let seq = self.stage.take(new);
        while self.stage.scheduler.counts().waiting_count + self.stage.running_count() > 0 {
            let planned = self.stage.plan();
            let fetch = self.copy();
            if let Ok(batch) = &planned {
                let result = self.stage.compute(batch);
                self.stage.commit(result);
            }
            match fetch {
                Some(fetch) => self.read(&fetch),
                None => assert!(planned.is_ok(), "it waits for nothing: {planned:?}"),
            }
        }
        assert_eq!(self.stage.scheduler.counts().blocks().in_use_count(), 0);
        self.stage.found(seq)
    }

    fn counts(&self) -> OffloadCounts {
        self.stage.scheduler.counts().offload
    }

    /// Ends, with everything stored that is cached, and begins again on the same store.
    fn restarted(mut self, places: usize) -> Self {
        let spills = self.stage.scheduler.spill_cached();
        for spill in spills {
            let mut bytes = Vec::new();
            self.stage.engine.read_block(spill.stored.group, spill.block, &mut bytes).expect("it does not fail");
            self.store.insert(spill.stored.place, (spill.stored, bytes));
        }
        Self::new(places, self.store)
    }
}

#[test]
fn what_was_evicted_comes_back_and_is_computed_no_more() {
    let mut offloaded = Offloaded::new(100, Store::new());
    assert_eq!(offloaded.serve(prompt(20..61)), UNKNOWN);
    assert_eq!(offloaded.serve(prompt(70..111)), UNKNOWN);
    assert_eq!(offloaded.serve(prompt(120..161)), UNKNOWN);
    assert!(offloaded.counts().spilled_total >= 18, "{:?}", offloaded.counts());
    let before = offloaded.stage.scheduler.counts().prefill_tokens_total;
    // Ten blocks of four tokens, and the last token; of the sliding group the last two blocks.
    assert_eq!(offloaded.serve(prompt(20..61)), (40, None));
    assert_eq!(offloaded.stage.scheduler.counts().prefill_tokens_total, before + 1);
    let counts = offloaded.counts();
    assert_eq!((counts.hits_total, counts.restored_total, counts.restored_tokens_total), (1, 12, 40));
    // What came back is known again, and not stored twice.
    let stored = counts.stored_count;
    assert_eq!(offloaded.serve(prompt(20..61)), (40, None));
    assert_eq!(offloaded.counts().hits_total, 1);
    assert_eq!(offloaded.serve(prompt(70..111)), (40, None));
    assert!(offloaded.counts().stored_count <= stored + 12, "{:?}", offloaded.counts());
    offloaded.stage.scheduler.check_all();
}

/// The answer is what it is without a store: the engine answers by what it finds in the slots.
#[test]
fn what_is_restored_answers_as_what_is_computed() {
    let asks = |tokens: std::ops::Range<u32>| NewSequence { max_tokens: 6, ..prompt(tokens) };
    let mut offloaded = Offloaded::new(100, Store::new());
    for tokens in [20..51, 70..101, 120..151] {
        offloaded.serve(asks(tokens));
    }
    for tokens in [20..51, 70..101, 120..151] {
        let seq = offloaded.stage.take(asks(tokens.clone()));
        let found = offloaded.serve(prompt(400..402));
        assert_eq!(found, (0, Some(Miss::Short)));
        assert_eq!(offloaded.stage.found(seq).0, 28, "it goes on from the store");
        let mut alone = Stage::new(limits());
        let only = alone.take(asks(tokens));
        alone.finish();
        assert_eq!(offloaded.stage.heard(seq), alone.heard(only));
    }
}

#[test]
fn a_restart_finds_what_was_cached_before_it() {
    let mut offloaded = Offloaded::new(100, Store::new());
    offloaded.serve(prompt(20..61));
    assert_eq!(offloaded.counts().spilled_total, 0, "there was room");
    let mut offloaded = offloaded.restarted(100);
    assert_eq!(offloaded.serve(prompt(20..61)), (40, None));
    // A beginning of it that ends elsewhere has no window there, as in KV memory.
    let mut offloaded = offloaded.restarted(100);
    assert!(offloaded.serve(prompt((20..45).chain([7; 9]))).0 <= 4);
    // Under another salt nothing is found.
    let salted = NewSequence { cache_salt: CacheSalt([1, 1]), ..prompt(20..61) };
    let mut offloaded = offloaded.restarted(100);
    assert_eq!(offloaded.serve(salted), UNKNOWN);
    assert_eq!(offloaded.counts().hits_total, 0);
}

/// Two that begin the same: the first one's blocks are read, the second finds them in KV memory.
#[test]
fn what_one_waits_for_another_finds_behind_it() {
    let mut offloaded = Offloaded::new(100, Store::new());
    offloaded.serve(prompt(20..61));
    let mut offloaded = offloaded.restarted(100);
    let first = offloaded.stage.take(prompt(20..61));
    assert_eq!(offloaded.serve(prompt(20..66)), (40, None));
    assert_eq!(offloaded.stage.found(first).0, 40);
    assert_eq!(offloaded.counts().hits_total, 1);
}

/// Bytes that cannot be read are not restored, and what is behind them is not; the rest of the
/// prompt is computed.
#[test]
fn what_cannot_be_read_is_computed() {
    let mut offloaded = Offloaded::new(100, Store::new());
    offloaded.serve(prompt(20..61));
    let mut offloaded = offloaded.restarted(100);
    let damaged = offloaded.store.iter().find(|(_, (block, _))| block.tokens[0] == TokenId(40)).map(|(place, _)| *place);
    offloaded.store.remove(&damaged.expect("the block is stored"));
    assert_eq!(offloaded.serve(prompt(20..61)), (0, Some(Miss::NotRestored)));
    assert_eq!(offloaded.counts().failed_total, 1);
    // It is computed and known now, and the next end stores it again.
    let mut offloaded = offloaded.restarted(100);
    assert_eq!(offloaded.serve(prompt(20..61)), (40, None));
    assert_eq!(offloaded.counts().failed_total, 0);
}

#[test]
fn a_store_that_is_full_loses_the_longest_unused() {
    let mut offloaded = Offloaded::new(14, Store::new());
    for tokens in [20..61, 70..111, 120..161, 20..61] {
        offloaded.serve(prompt(tokens));
    }
    let counts = offloaded.counts();
    assert_eq!((counts.places_count, counts.stored_count), (14, 14), "{counts:?}");
    assert_eq!(offloaded.serve(prompt(120..161)), (40, None), "it was used last but one");
    let mut tiny = Offloaded::new(1, Store::new()).restarted(1);
    assert_eq!(tiny.serve(prompt(20..61)), UNKNOWN);
    assert_eq!(tiny.serve(prompt(70..111)), UNKNOWN);
    assert!(tiny.serve(prompt(20..61)).0 <= 4);
    assert_eq!(tiny.counts().stored_count, 1);
}

/// The rule: what reading took lately against what computing took.
#[test]
fn what_is_computed_faster_than_read_is_computed_until_reading_may_be_faster_again() {
    let limits = SchedulerLimits { token_budget_tokens: 64, prefill_slice_tokens: 64, global_blocks: 40, ..caching() };
    let mut offloaded = Offloaded::new(200, Store::new());
    offloaded.stage = Stage::new(limits);
    offloaded.stage.scheduler.offload_to(200, Vec::new());
    let prompts = [1..150, 150..299, 299..448];
    let serve = |offloaded: &mut Offloaded, which: usize| offloaded.serve(prompt(prompts[which].clone()));
    (0..3).for_each(|which| assert_eq!(serve(&mut offloaded, which), UNKNOWN));
    // A millisecond for 64 tokens. Seven hundred milliseconds for 39 blocks:
    offloaded.fetch_micros = 700_000;
    assert_eq!(serve(&mut offloaded, 0).0, 148, "before it is known what reading takes, it is read");
    offloaded.fetch_micros = 500;
    let mut declined = 0;
    while serve(&mut offloaded, (1 + declined) % 3).0 < 148 {
        declined += 1;
        assert!(declined < 100, "it is tried again");
    }
    assert!(declined > 10, "an eighth less each time: {declined}");
    assert_eq!(offloaded.counts().declined_total, declined as u64);
}

/// A disk that does not answer holds the queue for a bounded time.
#[test]
fn what_does_not_come_in_time_is_computed() {
    let mut offloaded = Offloaded::new(100, Store::new());
    offloaded.serve(prompt(20..61));
    let mut offloaded = offloaded.restarted(100);
    let seq = offloaded.stage.take(prompt(20..61));
    let until = offloaded.stage.plan().expect_err("it waits");
    let fetch = offloaded.copy().expect("its blocks are asked for");
    assert_eq!(until, Some(offloaded.stage.now.plus(5_000_000)));
    assert_eq!(offloaded.stage.scheduler.awaits_fetched(), Some(seq));
    offloaded.stage.now = until.expect("a time");
    offloaded.stage.finish();
    assert_eq!(offloaded.stage.found(seq), (0, Some(Miss::NotRestored)));
    // What comes late is not taken, and nothing is held for it.
    offloaded.read(&fetch);
    assert_eq!(offloaded.stage.scheduler.awaits_fetched(), None);
}

/// A sequence that leaves while its blocks are read leaves nothing behind.
#[test]
fn what_is_cancelled_while_it_waits_is_gone() {
    let mut offloaded = Offloaded::new(100, Store::new());
    offloaded.serve(prompt(20..61));
    let mut offloaded = offloaded.restarted(100);
    let seq = offloaded.stage.take(prompt(20..61));
    assert!(offloaded.stage.plan().is_err());
    let fetch = offloaded.copy().expect("its blocks are asked for");
    offloaded.stage.scheduler.cancel(seq);
    assert_eq!(offloaded.stage.plan().expect_err("nothing waits"), None);
    offloaded.read(&fetch);
    assert_eq!(offloaded.serve(prompt(20..61)), (40, None));
}

/// Keys and values that made logits not finite may be stored as well.
#[test]
fn nothing_is_stored_any_more_after_a_draw_that_is_not_finite() {
    let limits = SchedulerLimits { global_blocks: 12, ..caching() };
    let fault = EngineFault::NotFiniteOnToken(TokenId(399));
    let mut offloaded = Offloaded::new(100, Store::new());
    offloaded.stage = Stage::with(limits, FakeAnswer::Hash { seed: 1 }, vec![fault]);
    offloaded.stage.scheduler.offload_to(100, Vec::new());
    for tokens in [20..61, 70..111, 390..401] {
        offloaded.serve(prompt(tokens));
    }
    assert_eq!(offloaded.counts().stored_count, 0);
    offloaded.copy();
    assert!(offloaded.store.is_empty());
    assert_eq!(offloaded.serve(prompt(20..61)), UNKNOWN);
}

/// Blocks of one hash: what is asked for is compared, whatever the index says.
#[test]
fn stored_blocks_of_one_hash_are_told_apart() {
    let mut offloaded = Offloaded::new(100, Store::new());
    offloaded.serve(prompt(20..61));
    let mut offloaded = offloaded.restarted(100);
    let mut forged: Vec<StoredBlock> = offloaded.store.values().map(|(block, _)| block.clone()).collect();
    forged.iter_mut().filter(|block| block.group == KvGroup::Global).for_each(|block| block.tokens[1] = TokenId(9));
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 12, ..caching() });
    stage.scheduler.offload_to(100, forged);
    offloaded.stage = stage;
    assert_eq!(offloaded.serve(prompt(20..61)), UNKNOWN);
}

/// A prompt of whole blocks is asked again: its last token is computed, so what is found ends a
/// block earlier, and so does the window before it.
#[test]
fn a_prompt_of_whole_blocks_comes_back_too() {
    let mut offloaded = Offloaded::new(100, Store::new());
    offloaded.serve(prompt(20..60));
    let mut offloaded = offloaded.restarted(100);
    assert_eq!(offloaded.serve(prompt(20..60)), (36, None));
    assert_eq!(offloaded.serve(prompt(20..64)), (40, None));
}
