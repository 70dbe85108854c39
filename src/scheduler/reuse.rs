//! How a sequence finds computed what another sequence, or itself before, has computed.
//!
//! * **A block is known once it is computed**: when a commit, or the presumption of one, says so.
//!   Steps are computed in the order of their plans, so a sequence that finds it is computed after
//!   it. A block whose tokens are known already is exchanged for the known one, and free again:
//!   sequences that compute the same beside each other hold it once.
//! * A sequence that begins to run takes **the longest chain that both groups can serve**: global
//!   blocks from the first on, and the sliding blocks that the token behind them sees. Where a
//!   window is not whole the chain is cut to where one is, and what is behind it is computed again.
//!   To compute the last window alone would not do, because what it holds depends on the windows
//!   before it.
//! * Behind that chain it goes on inside a block that begins as it does, by a copy (`partial`).
//! * **The last token is always computed**, for its logits; of one that was preempted the last two,
//!   so that it begins with a prefill slice like all that are admitted. Where log-probabilities of
//!   the prompt are gathered, every token is.
//! * **What ends, is cancelled or is preempted leaves its blocks known.** They are evicted when
//!   room is wanted, longest unused first, those that sessions have used after others. Of a window
//!   that is left behind only that is worth keeping which a conversation goes on from: before the
//!   prompt's end, and before the end of a chain that was cut.
//! * An engine that failed has lost its memory, so nothing is known after it. A draw that fails may
//!   stem from what a block holds: nothing is known after it either.

use super::chain_hash::ChainHash;
use super::geometry::Geometry;
use super::partial::{BegunBlock, find_begun};
use super::prefix_cache::Prefix;
use super::running::Runner;
use super::sequence::{PromptLogprobs, Sequence, SequenceIndex};
use super::{Scheduler, SequenceEvent};
use crate::batch::{BlockId, TokenId};

/// Why a prompt was computed from its first token on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// It is too short: its tokens but the last do not fill a block.
    Short,
    /// Log-probabilities of its tokens were asked for, so all are computed.
    PromptLogprobs,
    /// No block is known that begins as it does, or not any more.
    Unknown,
    /// Blocks are known that begin as it does, and no whole window before their end.
    Window,
    /// Blocks are stored outside of KV memory that begin as it does, and were not restored: to
    /// compute them is faster, or they could not be read.
    NotRestored,
}

/// What came of looking prompts up, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefixCounts {
    /// Tokens of the prompts that were looked up.
    pub queried_tokens_total: u64,
    /// Tokens of them that were found computed.
    pub hit_tokens_total: u64,
    /// Prompts of which some were.
    pub hits_total: u64,
    /// Preempted sequences of which some tokens were found computed.
    pub resumed_total: u64,
}

/// What is known of the tokens of a sequence.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// Leading blocks that both groups can serve.
    pub(super) blocks: usize,
    /// Those of them whose global block is known; the others are restored.
    pub(super) taken_blocks: usize,
    /// Those of them that take no room, because running sequences hold them.
    pub(super) held_blocks: usize,
    /// Leading global blocks that are known.
    pub(super) known_blocks: usize,
    /// What is known of the block behind them.
    pub(super) begun: Option<BegunBlock>,
    /// Tokens of its other blocks, but for one that is not whole: a cache with everything has them.
    pub(super) missed_tokens: usize,
    pub(super) miss: Option<Miss>,
}

/// What is kept for looking up, between calls.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    pub(super) counts: PrefixCounts,
    /// The known global blocks of the sequence that was looked up last.
    pub(super) chain: Vec<BlockId>,
    /// The tokens of a block.
    tokens: Vec<TokenId>,
}

impl Scheduler {
    /// What is known of the tokens of the sequence at `place`, which waits.
    pub(super) fn find_computed(&mut self, place: SequenceIndex) -> Found {
        let Self { reuse, pools, geometry, sequences, limits, under_way, .. } = self;
        let (chain, cache, sequence) = (&mut reuse.chain, &pools.cache, &mut sequences[place]);
        chain.clear();
        if !cache.is_on() {
            return Found::default();
        }
        if matches!(sequence.prompt_logprobs, PromptLogprobs::Gathering(_)) {
            return Found { miss: Some(Miss::PromptLogprobs), ..Found::default() };
        }
        let Sequence { tokens, prompt_len, hashes, salt, .. } = sequence;
        let computed_max = tokens.len() - 1 - usize::from(tokens.len() > *prompt_len);
        for (index, tokens) in tokens[..computed_max].chunks_exact(geometry.block_tokens).enumerate() {
            if index == hashes.len() {
                hashes.push(cache.hash(hashes.last().copied(), *salt, tokens));
            }
            let prefix = Prefix { hash: hashes[index], salt: *salt, before: chain.last().copied(), tokens };
            match cache.find(prefix) {
                Some(block) => chain.push(block),
                None => break,
            }
        }
        let blocks = served(chain.len(), geometry, |index| cache.sliding(chain[index]).is_some());
        let miss = match (blocks, chain.len()) {
            (0, 0) if computed_max < geometry.block_tokens => Some(Miss::Short),
            (0, 0) => Some(Miss::Unknown),
            (0, _) => Some(Miss::Window),
            _ => None,
        };
        let held_blocks = chain[..blocks].iter().filter(|block| pools.global.holders(**block) > 0).count();
        let missed_tokens = (computed_max / geometry.block_tokens - blocks) * geometry.block_tokens;
        // A step that is planned ahead may be withdrawn, and what it copies with it.
        let may_copy = limits.copies_blocks && under_way.is_empty() && blocks == chain.len();
        let rest = &tokens[blocks * geometry.block_tokens..computed_max];
        let begun = if may_copy { find_begun(pools, chain.last().copied(), *salt, rest) } else { None };
        Found { blocks, taken_blocks: blocks, held_blocks, known_blocks: chain.len(), begun, missed_tokens, miss }
    }

    /// Gives a sequence that begins to run what was just found of it.
    pub(super) fn take_found(&mut self, runner: &mut Runner, found: Found) {
        let Self { reuse, pools, tables, geometry, sequences, .. } = self;
        if !pools.cache.is_on() {
            return;
        }
        runner.tables.adopt(&reuse.chain[..found.taken_blocks], found.blocks, geometry, tables, pools);
        if sequences[runner.place].in_session {
            (0..found.taken_blocks).for_each(|index| runner.tables.prefer(index, tables, pools));
        }
        runner.computed = found.blocks * geometry.block_tokens;
        runner.fills_at = runner.computed + geometry.block_tokens;
        runner.known_tokens = found.known_blocks * geometry.block_tokens;
        sequences[runner.place].hashes = Vec::new();
    }

    /// Counts what was found of a sequence that begins to run, again if it `has_run`.
    pub(super) fn note_found(&mut self, found: Found, tokens_count: usize, has_run: bool) {
        if !self.pools.cache.is_on() {
            return;
        }
        let (counts, begun_tokens) = (&mut self.reuse.counts, found.begun.map_or(0, |begun| begun.tokens));
        let cached_tokens = found.blocks * self.geometry.block_tokens + begun_tokens;
        let is_hit = u64::from(cached_tokens > 0);
        self.observed.note_found(tokens_count, cached_tokens);
        if has_run {
            counts.resumed_total += is_hit;
            return;
        }
        counts.hits_total += is_hit;
        counts.queried_tokens_total += tokens_count as u64;
        counts.hit_tokens_total += cached_tokens as u64;
    }

    /// The report of a sequence that runs for the first time, with what was found of it.
    pub(super) fn began(&self, runner: &Runner, found: Found) -> SequenceEvent {
        let held_before_micros = self.sequences[runner.place].held_before_micros;
        SequenceEvent::Began {
            seq: runner.seq,
            prompt_tokens: runner.tokens_count,
            cached_tokens: runner.computed,
            missed_tokens: found.missed_tokens.saturating_sub(found.begun.map_or(0, |begun| begun.tokens)),
            miss: found.miss.filter(|_| found.begun.is_none()),
            held_micros: self.held.at(self.now) - held_before_micros,
        }
    }

    /// The running sequence at this index has filled blocks: they are known from now on.
    pub(super) fn keep_filled(&mut self, at: usize) {
        let Self { reuse, pools, tables, geometry, sequences, running, .. } = self;
        let runner = &mut running[at];
        let Sequence { salt, in_session, .. } = sequences[runner.place];
        while runner.fills_at <= runner.computed {
            let index = runner.fills_at / geometry.block_tokens - 1;
            reuse.tokens.clear();
            runner.copy(runner.fills_at - geometry.block_tokens, geometry.block_tokens, sequences, &mut reuse.tokens);
            let before = index.checked_sub(1).map(|before| runner.tables.global(tables)[before]);
            let hash_before: Option<ChainHash> = before.map(|before| pools.cache.hash_of(before));
            let hash = pools.cache.hash(hash_before, salt, &reuse.tokens);
            let goes_on = runner.tables.know(index, Prefix { hash, salt, before, tokens: &reuse.tokens }, tables, pools);
            if in_session {
                runner.tables.prefer(index, tables, pools);
            }
            runner.fills_at = if goes_on { runner.fills_at + geometry.block_tokens } else { usize::MAX };
        }
    }

    /// Nothing is known any more. What runs makes its blocks known again, as it goes on.
    pub(super) fn forget_computed(&mut self) {
        if self.pools.cache.is_on() {
            self.pools.forget_all();
            self.running.fill_anew(self.geometry.block_tokens);
        }
    }
}

/// How many of `blocks` leading blocks, all of which the global group has, both groups can serve,
/// if the sliding group has those that `has_sliding`.
pub(super) fn served(blocks: usize, geometry: &Geometry, mut has_sliding: impl FnMut(usize) -> bool) -> usize {
    let (mut served, mut unbroken_from) = (0, 0);
    for index in 0..blocks {
        if !has_sliding(index) {
            unbroken_from = index + 1;
        }
        if geometry.sliding_first((index + 1) * geometry.block_tokens) >= unbroken_from {
            served = index + 1;
        }
    }
    served
}
