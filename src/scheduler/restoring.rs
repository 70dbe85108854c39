//! How a sequence finds stored what is not in KV memory any more.
//!
//! The first of the queue whose chain goes on in the store (`offload`) waits while that is read,
//! beside the steps of those that run; those behind it wait with it, for no sequence passes the
//! front. When it has come the sequence begins with it as computed: **the copies into its blocks
//! run before the step that is planned with them, so no sequence reads them earlier.**
//!
//! * Both groups are needed, as in KV memory: of the sliding one the window before the end of what
//!   is found.
//! * **It is restored if that is expected to be faster than to compute it**, by what reading a
//!   block and computing a token took lately; before either was seen, it is restored. Each time
//!   that computing is chosen the expected time to read falls by an eighth, so that a disk that was
//!   slow once is tried again.
//! * A sequence asks once each time that it waits. What could not be read, or not in
//!   [`FETCH_MAX_MICROS`], is computed.
//! * One sequence's blocks are read at a time, of at most [`FETCH_MAX_BLOCKS`].

use super::Scheduler;
use super::chain_hash::ChainHash;
use super::geometry::Geometry;
use super::offload::{ChainEnd, Offload};
use super::prefix_cache::PrefixCache;
use super::reuse::{Found, Miss, served};
use super::running::Runner;
use super::sequence::{PromptLogprobs, Sequence, SequenceIndex};
use crate::batch::{BlockId, Fetch, KvGroup, Micros, Restore, SeqId, StoredBlock, TokenId};

/// What could not be read in this time is computed: a disk that hangs holds no queue.
const FETCH_MAX_MICROS: u64 = 5_000_000;
/// What is read is held by the host until it is copied: 3 GiB of gpt-oss-20b at most, a context of
/// 128k tokens.
const FETCH_MAX_BLOCKS: usize = 8_300;
/// Steps that prefill less say little of what a token takes.
const MEASURED_TOKENS: usize = 64;
/// What the latest weighs in what is expected.
const LATEST_WEIGHT: f64 = 0.25;

/// Blocks that are read, or were, for a sequence that waits.
#[derive(Debug)]
struct Fetching {
    seq: SeqId,
    began: Micros,
    /// Which blocks of the sequence.
    wanted: Vec<(KvGroup, usize)>,
    /// What they are in the store.
    blocks: Vec<StoredBlock>,
    /// Which of them have come; `None` until it is told.
    arrived: Option<Vec<bool>>,
}

/// A block that a sequence begins with, which was read for it.
#[derive(Debug, Clone, Copy)]
struct TakenBlock {
    group: KvGroup,
    /// Which block of the sequence.
    index: usize,
    /// Which of those that were read.
    fetched: usize,
}

/// What is read, and what reading and computing take.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    fetching: Option<Fetching>,
    /// What the sequence that was looked up last begins with.
    taken: Vec<TakenBlock>,
    /// Expected microseconds for a block that is read.
    block_micros: Option<f64>,
    /// Expected microseconds for a token that is prefilled.
    token_micros: Option<f64>,
}

fn learn(expected: &mut Option<f64>, seen: f64) {
    *expected = Some(expected.map_or(seen, |expected| expected + LATEST_WEIGHT * (seen - expected)));
}

impl Restoring {
    /// A step that prefilled so many tokens took so long.
    pub(super) fn note_step(&mut self, prefill_tokens: usize, micros: u64) {
        if prefill_tokens >= MEASURED_TOKENS {
            learn(&mut self.token_micros, micros as f64 / prefill_tokens as f64);
        }
    }

    /// Until when a sequence waits for its blocks; `None` if none does.
    pub(super) fn waits_until(&self) -> Option<Micros> {
        let fetching = self.fetching.as_ref().filter(|fetching| fetching.arrived.is_none())?;
        Some(fetching.began.plus(FETCH_MAX_MICROS))
    }

    /// `seq` ended, or begins to run.
    pub(super) fn forget(&mut self, seq: SeqId) {
        self.fetching.take_if(|fetching| fetching.seq == seq);
    }

    /// Nothing that was read counts.
    pub(super) fn forget_all(&mut self) {
        self.fetching = None;
    }

    /// Whether it is expected to be faster to read so many blocks than to compute so many tokens.
    fn pays(&mut self, blocks: usize, tokens: usize) -> bool {
        let (Some(block), Some(token)) = (self.block_micros, self.token_micros) else { return true };
        let pays = block * blocks as f64 <= token * tokens as f64;
        if !pays {
            self.block_micros = Some(block * 7.0 / 8.0);
        }
        pays
    }
}

/// The chain of a sequence that waits.
struct Chain<'s> {
    tokens: &'s [TokenId],
    hashes: &'s mut Vec<ChainHash>,
    sequence_salt: super::CacheSalt,
    block_tokens: usize,
}

impl Chain<'_> {
    fn tokens_of(&self, index: usize) -> &[TokenId] {
        &self.tokens[index * self.block_tokens..][..self.block_tokens]
    }

    /// Its end with the block at `index`; those before it were asked for before.
    fn end(&mut self, index: usize, cache: &PrefixCache) -> ChainEnd<'_> {
        let salt = self.sequence_salt;
        let before = index.checked_sub(1).map_or_else(|| cache.root(salt), |before| self.hashes[before]);
        if index == self.hashes.len() {
            let hash = cache.hash(index.checked_sub(1).map(|_| before), salt, self.tokens_of(index));
            self.hashes.push(hash);
        }
        ChainEnd { hash: self.hashes[index], before, salt, tokens: self.tokens_of(index) }
    }
}

/// How many leading blocks both groups can serve if the store has those that `has`, and which of
/// them are to come from there.
fn with_stored(
    chain: &mut Chain<'_>,
    known: &[BlockId],
    cache: &PrefixCache,
    geometry: &Geometry,
    has: impl Fn(KvGroup, usize, ChainEnd<'_>) -> bool,
) -> (usize, Vec<(KvGroup, usize)>) {
    let whole = chain.tokens.len() / geometry.block_tokens;
    let mut end = known.len();
    while end < whole && has(KvGroup::Global, end, chain.end(end, cache)) {
        end += 1;
    }
    let in_memory = |index: usize| known.get(index).is_some_and(|block| cache.sliding(*block).is_some());
    let blocks = served(end, geometry, |index| in_memory(index) || has(KvGroup::Sliding, index, chain.end(index, cache)));
    let global = (known.len()..blocks).map(|index| (KvGroup::Global, index));
    let sliding = geometry.sliding_first(blocks * geometry.block_tokens)..blocks;
    let sliding = sliding.filter(|index| !in_memory(*index)).map(|index| (KvGroup::Sliding, index));
    (blocks, global.chain(sliding).collect())
}

impl Scheduler {
    /// What the sequence at `place`, the first of the queue, begins with: what was found in KV
    /// memory, and what was read from the store. `None`: it waits for that.
    pub(super) fn find_stored(&mut self, place: SequenceIndex, found: Found) -> Option<Found> {
        self.restoring.taken.clear();
        let sequence = &self.sequences[place];
        let (seq, asks) = (sequence.id, !sequence.has_asked_store);
        let gathers = matches!(sequence.prompt_logprobs, PromptLogprobs::Gathering(_));
        if !self.pools.offload.is_on() || gathers || !self.suspects.is_empty() {
            return Some(found);
        }
        let is_late = self.restoring.waits_until().is_some_and(|until| until <= self.now);
        if is_late {
            self.give_up_fetch();
        }
        match &self.restoring.fetching {
            Some(Fetching { seq: of, arrived: None, .. }) if *of == seq => return None,
            Some(Fetching { seq: of, .. }) if *of == seq => return Some(self.take_fetched(place, found)),
            // What another one waits for, which was passed by this one, stays its own.
            Some(_) => return Some(found),
            None => {}
        }
        if asks && self.ask_store(place, found) {
            return None;
        }
        Some(self.with_miss(place, found))
    }

    /// Has read what the store has of the sequence at `place`, if that pays.
    fn ask_store(&mut self, place: SequenceIndex, found: Found) -> bool {
        let Self { reuse, pools, geometry, sequences, restoring, now, .. } = self;
        let (offload, cache, sequence) = (&mut pools.offload, &pools.cache, &mut sequences[place]);
        let seq = sequence.id;
        let mut chain = chain_of(sequence, geometry);
        let has = |group, _, end: ChainEnd<'_>| offload.find(group, end).is_some();
        let (blocks, wanted) = with_stored(&mut chain, &reuse.chain, cache, geometry, has);
        if blocks <= found.blocks || wanted.len() > FETCH_MAX_BLOCKS {
            return false;
        }
        let stored = wanted.iter().filter_map(|(group, index)| offload.find(*group, chain.end(*index, cache)).cloned());
        let stored: Vec<StoredBlock> = stored.collect();
        sequence.has_asked_store = true;
        if !restoring.pays(wanted.len(), (blocks - found.blocks) * geometry.block_tokens) {
            offload.counts.declined_total += 1;
            return false;
        }
        stored.iter().for_each(|block| offload.touch(block.place));
        offload.copies.fetch = Some(Fetch { seq, blocks: stored.clone() });
        restoring.fetching = Some(Fetching { seq, began: *now, wanted, blocks: stored, arrived: None });
        true
    }

    /// What the sequence at `place` begins with, now that its blocks were read.
    fn take_fetched(&mut self, place: SequenceIndex, found: Found) -> Found {
        let Self { reuse, pools, geometry, sequences, restoring, .. } = self;
        let (cache, sequence) = (&pools.cache, &mut sequences[place]);
        let Some(Fetching { wanted, arrived: Some(arrived), .. }) = &restoring.fetching else { return found };
        let fetched = |group, index| wanted.iter().position(|one| *one == (group, index)).filter(|at| arrived[*at]);
        let mut chain = chain_of(sequence, geometry);
        let has = |group, index, _: ChainEnd<'_>| fetched(group, index).is_some();
        let (blocks, from_store) = with_stored(&mut chain, &reuse.chain, cache, geometry, has);
        if blocks <= found.blocks {
            return self.with_miss(place, found);
        }
        let taken = from_store.into_iter().map(|(group, index)| {
            let fetched = fetched(group, index).expect("what is served is known or was read");
            TakenBlock { group, index, fetched }
        });
        restoring.taken = taken.collect();
        let whole = chain.tokens.len() / geometry.block_tokens;
        let taken_blocks = reuse.chain.len().min(blocks);
        let held_blocks = reuse.chain[..taken_blocks].iter().filter(|block| pools.global.holders(**block) > 0).count();
        Found {
            begun: None,
            blocks,
            taken_blocks,
            held_blocks,
            known_blocks: found.known_blocks.max(blocks),
            missed_tokens: (whole - blocks) * geometry.block_tokens,
            miss: None,
        }
    }

    fn with_miss(&self, place: SequenceIndex, found: Found) -> Found {
        let is_missed = found.blocks == 0 && self.sequences[place].has_asked_store;
        Found { miss: if is_missed { Some(Miss::NotRestored) } else { found.miss }, ..found }
    }

    /// The sequence at this index begins with blocks that were read for it: they are copied before
    /// this step, and known from now on.
    pub(super) fn restore_taken(&mut self, at: usize) {
        let taken = std::mem::take(&mut self.restoring.taken);
        let Self { pools, tables, geometry, restoring, sequences, running, .. } = self;
        let runner: &mut Runner = &mut running[at];
        sequences[runner.place].has_asked_store = false;
        restoring.forget(runner.seq);
        let Some(first) = taken.iter().map(|taken| taken.index).min() else { return };
        let Offload { copies, counts, .. } = &mut pools.offload;
        for TakenBlock { group, index, fetched } in &taken {
            let block = match group {
                KvGroup::Global => runner.tables.global(tables)[*index],
                KvGroup::Sliding => runner.tables.sliding(tables)[index - runner.tables.sliding_first()],
            };
            copies.restores.push(Restore { seq: runner.seq, fetched: *fetched, group: *group, block });
        }
        counts.hits_total += 1;
        counts.restored_total += taken.len() as u64;
        let global_count = taken.iter().filter(|taken| taken.group == KvGroup::Global).count();
        counts.restored_tokens_total += (global_count * geometry.block_tokens) as u64;
        runner.fills_at = (first + 1) * geometry.block_tokens;
        self.keep_filled(at);
    }

    /// What came of a [`Fetch`]: which of its blocks could be read. They are held, by whatever read
    /// them, until [`Scheduler::take_copies`] asks for them or another fetch begins.
    pub fn fetched(&mut self, seq: SeqId, is_read: Vec<bool>, now: Micros) {
        let now = self.advance(now);
        let Some(fetching) = self.restoring.fetching.as_mut().filter(|fetching| fetching.seq == seq) else { return };
        assert_eq!(is_read.len(), fetching.blocks.len(), "every block of a fetch is told of");
        for (block, _) in fetching.blocks.iter().zip(&is_read).filter(|(_, is_read)| !**is_read) {
            self.pools.offload.lose(block);
            self.pools.offload.counts.failed_total += 1;
        }
        let micros = now.since(fetching.began) as f64 / is_read.len().max(1) as f64;
        fetching.arrived = Some(is_read);
        learn(&mut self.restoring.block_micros, micros);
    }

    /// The sequence that waits for what is read of the store, or for room to begin with it.
    #[must_use]
    pub fn awaits_fetched(&self) -> Option<SeqId> {
        self.restoring.fetching.as_ref().map(|fetching| fetching.seq)
    }

    /// What was asked for did not come in time.
    fn give_up_fetch(&mut self) {
        if let Some(fetching) = self.restoring.fetching.take() {
            learn(&mut self.restoring.block_micros, FETCH_MAX_MICROS as f64 / fetching.blocks.len().max(1) as f64);
        }
    }

    /// Nothing is stored any more.
    pub(super) fn forget_stored(&mut self) {
        self.pools.offload.forget_all();
        self.restoring.forget_all();
    }
}

/// The chain of the tokens of a sequence that may be found computed.
fn chain_of<'s>(sequence: &'s mut Sequence, geometry: &Geometry) -> Chain<'s> {
    let Sequence { tokens, prompt_len, hashes, salt, .. } = sequence;
    let computed_max = tokens.len() - 1 - usize::from(tokens.len() > *prompt_len);
    let tokens = &tokens[..computed_max];
    Chain { tokens, hashes, sequence_salt: *salt, block_tokens: geometry.block_tokens }
}
