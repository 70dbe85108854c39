//! Which sequences may wait, and which of the waiting may run.
//!
//! **No sequence passes the front**, and an admission that fails leaves the queue as it was. At the
//! front is what ran before, so that what was begun is ended first; behind it come those that never
//! ran, in the order of service: first come, first served, but for priorities (`ids`). A sequence
//! that runs keeps running whatever arrives: priorities decide what begins, and what is preempted
//! when blocks run out.

use std::sync::Arc;

use super::chain_hash::CacheSalt;
use super::geometry::BlockCounts;
use super::queue::Demand;
use super::running::Runner;
use super::sequence::{Sequence, SequenceIndex};
use super::windows::AdmissionWindow;
use super::{FinishReason, Scheduler, SequenceEvent};
use crate::batch::{Micros, Sampling, SeqId, TokenId};

/// A sequence as it is handed in.
#[derive(Debug, Clone)]
pub struct NewSequence {
    /// The prompt; not empty.
    pub prompt: Vec<TokenId>,
    /// Most tokens to generate; at least one.
    pub max_tokens: u32,
    /// How to draw them. Its stop tokens end the sequence, and are not reported as tokens.
    pub sampling: Arc<Sampling>,
    /// It finds computed what sequences of the same salt have computed, and no other.
    pub cache_salt: CacheSalt,
    /// Whether it is part of a conversation that goes on: then its blocks are evicted after
    /// others'.
    pub in_session: bool,
    /// Lower is served earlier; beyond plus and minus 100 it counts as that. All sequences of a
    /// request have the same.
    pub priority: i32,
}

/// Why a sequence was not taken. The client must act: shorten, or come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// A prompt must hold at least one token.
    EmptyPrompt,
    /// At least one token must be asked for.
    NoTokensAsked,
    /// Prompt and output together exceed the context.
    ContextExceeded {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// Most tokens of a sequence.
        context_tokens_max: usize,
    },
    /// It would never fit, even alone.
    NeverFits {
        /// Blocks that it would need, in the group that is too small.
        needed_blocks: usize,
        /// Blocks that there are in that group.
        total_blocks: usize,
    },
    /// Too many sequences wait.
    QueueFull {
        /// How many wait.
        waiting_count: usize,
        /// Prompt tokens that wait.
        waiting_tokens: usize,
        /// After how many microseconds it would be taken, if nothing else came.
        taken_after_micros: u64,
    },
    /// It would wait longer for its first step than a sequence may.
    WaitsTooLong {
        /// How long, in microseconds.
        wait_micros: u64,
        /// How long a sequence may.
        waiting_max_micros: u64,
        /// After how many microseconds it would be taken, if nothing else came.
        taken_after_micros: u64,
    },
}

impl Scheduler {
    /// Whether `new` could be served if it were alone.
    pub(super) fn check_possible(&self, new: &NewSequence) -> Result<(), Reject> {
        let prompt_tokens = new.prompt.len();
        let max_tokens = new.max_tokens as usize;
        if prompt_tokens == 0 {
            return Err(Reject::EmptyPrompt);
        }
        if max_tokens == 0 {
            return Err(Reject::NoTokensAsked);
        }
        let tokens = prompt_tokens.saturating_add(max_tokens);
        let context_tokens_max = self.limits.context_tokens_max;
        if tokens > context_tokens_max {
            return Err(Reject::ContextExceeded { prompt_tokens, max_tokens, context_tokens_max });
        }
        // The last token is drawn and never computed: nothing follows it.
        let need = self.geometry.need(tokens - 1);
        for (needed_blocks, pool) in [(need.global, &self.pools.global), (need.sliding, &self.pools.sliding)] {
            let total_blocks = pool.total_count();
            if needed_blocks > total_blocks {
                return Err(Reject::NeverFits { needed_blocks, total_blocks });
            }
        }
        Ok(())
    }

    /// Whether so many sequences of a request, with so many prompt tokens, may wait besides those
    /// that do; else after how many microseconds they may.
    pub(super) fn check_queue(&self, sequences_count: usize, prompt_tokens: usize, priority: i32) -> Result<(), Reject> {
        let (excess_count, excess_tokens) = self.excess(sequences_count, prompt_tokens);
        if excess_count == 0 && excess_tokens == 0 {
            return Ok(());
        }
        let forecast = self.forecast(prompt_tokens, priority);
        let room_micros = forecast.gone_micros(excess_count, excess_tokens);
        let patience_micros = match self.limits.waiting_max_micros {
            max if max > 0 && self.knows_answers() => max,
            _ => u64::MAX,
        };
        Err(Reject::QueueFull {
            waiting_count: self.waiting.count() + self.turns.held_count(),
            waiting_tokens: self.waiting.demand().prompt_tokens + self.turns.held_tokens(),
            taken_after_micros: room_micros.max(forecast.newcomer_micros.saturating_sub(patience_micros)),
        })
    }

    /// How many sequences and how many prompt tokens too many would wait with so many more.
    ///
    /// Every held sequence has its place among those that may wait. The tokens of held prompts
    /// count for a request that has sequences to be held itself: a single one goes before them.
    pub(super) fn excess(&self, sequences_count: usize, prompt_tokens: usize) -> (usize, usize) {
        let (queued_count, queued_tokens) = (self.waiting.count(), self.waiting.demand().prompt_tokens);
        let waiting_count = queued_count + self.turns.held_count();
        let (ahead_count, ahead_tokens) = match sequences_count {
            1 => (queued_count, queued_tokens),
            _ => (waiting_count, queued_tokens + self.turns.held_tokens()),
        };
        let count = waiting_count.saturating_add(sequences_count).saturating_sub(self.limits.waiting_max_count);
        let tokens = ahead_tokens.saturating_add(prompt_tokens).saturating_sub(self.limits.waiting_max_tokens);
        (count, if ahead_count > 0 { tokens } else { 0 })
    }

    /// Whether a sequence of so many tokens would wait longer than it may. Its client need not wait
    /// to learn that.
    pub(super) fn check_wait(&self, prompt_tokens: usize, priority: i32) -> Result<(), Reject> {
        let waiting_max_micros = self.limits.waiting_max_micros;
        if waiting_max_micros == 0 || !self.knows_answers() {
            return Ok(());
        }
        let wait_micros = self.forecast(prompt_tokens, priority).newcomer_micros;
        if wait_micros <= waiting_max_micros {
            return Ok(());
        }
        Err(Reject::WaitsTooLong { wait_micros, waiting_max_micros, taken_after_micros: wait_micros - waiting_max_micros })
    }

    /// Puts a sequence that passed both checks, and whose request arrived then, into the queue,
    /// behind all of its priority. `request`: the first sequence of its request, if that has
    /// several.
    pub(super) fn enqueue(&mut self, new: NewSequence, arrived: Micros, request: Option<SeqId>) -> SeqId {
        let id = self.ids.give(new.priority, self.now);
        let place = self.sequences.insert(Sequence::new(id, new, arrived, request));
        self.sequences[place].held_before_micros = self.held.at(self.now);
        self.waiting.enter(place, &self.sequences[place], &self.geometry);
        id
    }

    /// Lets sequences run from the front of the queue and gives each a slice of this step. That
    /// ends when `room` tokens are used up, no more may run, the blocks do not suffice for the next
    /// one, or a window holds it.
    pub(super) fn admit(&mut self, gate: AdmissionWindow, mut room: usize) {
        while room > 0
            && let Some((seq, _)) = self.waiting.front()
            && !self.suspects.contain(seq)
            && !(gate.is_held() && self.waiting.is_all_fresh())
        {
            match self.admit_front(room) {
                Some(len) => room -= len,
                None => break,
            }
        }
    }

    /// Lets the front of the queue run, with a slice of at most `room` tokens. Returns the slice's
    /// length, or `None` if it does not fit or the queue is empty.
    ///
    /// Everything that it needs to catch up must be available: else it would soon be preempted, or
    /// preempt others, and be computed twice; and what those that run are expected to grow by stays
    /// free (`growth`). It takes the global blocks of all its tokens at once, so that those
    /// admitted next count with what is left; sliding blocks it takes slice by slice, because it
    /// gives them back on the way. What the prefix cache has of it is not computed.
    pub(super) fn admit_front(&mut self, room: usize) -> Option<usize> {
        let (seq, place) = self.waiting.front()?;
        let demand = Demand::of(&self.sequences[place], &self.geometry);
        if self.running.count() >= self.limits.running_max() {
            return None;
        }
        let found = self.find_computed(place);
        let mut found = self.find_stored(place, found)?;
        let growth = BlockCounts { global: self.growth_blocks(self.running.count()), sliding: 0 };
        let (wanted, available) = (demand.blocks.without_global(found.held_blocks).plus(growth), self.available());
        if !wanted.fit(available) {
            return None;
        }
        // What is copied is held meanwhile; where there is no room for that it is computed.
        found.begun = found.begun.filter(|begun| wanted.plus(begun.held).fit(available));
        self.waiting.leave(&self.sequences[place], &self.geometry);
        let mut runner = Runner::new(place, &self.sequences[place]);
        self.take_found(&mut runner, found);
        self.hold_begun(&mut runner, &found);
        let has_run = std::mem::replace(&mut self.sequences[place].has_run, true);
        self.note_found(found, runner.tokens_count, has_run);
        self.moves.push(match has_run {
            true => SequenceEvent::Resumed { seq },
            false => self.began(&runner, found),
        });
        let len = runner.pending().min(self.geometry.slice_tokens_max).min(room);
        let mut missing = runner.tables.missing(runner.computed + len, &self.geometry);
        missing.global = demand.blocks.global - found.taken_blocks;
        runner.tables.grow(missing, &mut self.tables, &mut self.pools);
        self.copy_begun(&runner, &found);
        let at = self.running.enter(runner);
        self.restore_taken(at);
        self.step.prefills.push((at, len));
        Some(len)
    }

    /// Ends the sequences that waited too long for their first step.
    pub(super) fn expire(&mut self, now: Micros, events: &mut Vec<SequenceEvent>) {
        while let Some((place, deadline)) = self.first_deadline()
            && deadline <= now
        {
            let seq = self.sequences[place].id;
            let request = self.remove(seq);
            events.push(SequenceEvent::Finished { seq, reason: FinishReason::QueueTimeout, logprobs: None });
            if let Some(first) = request {
                self.turns.note_failure(first);
            }
        }
        self.fail_together(events);
    }

    /// The sequence that will have waited too long first, and when. Of a request only the first
    /// sequence can: the others wait for it and for their turns.
    pub(super) fn first_deadline(&self) -> Option<(SequenceIndex, Micros)> {
        if self.limits.waiting_max_micros == 0 {
            return None;
        }
        let place = self.waiting.arrivals().find(|place| !self.sequences[*place].is_later())?;
        Some((place, self.sequences[place].arrived.plus(self.limits.waiting_max_micros)))
    }
}
