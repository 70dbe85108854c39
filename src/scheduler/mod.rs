//! Which sequences run in the next step, and which blocks hold their keys and values.
//!
//! Owns: every sequence, every block. Promises: a block is free, cached or in use, never two of
//! them; the same calls give the same plans. Absent on purpose: clocks, randomness, threads, device
//! errors. Time comes in as `now`.
//!
//! A sequence waits (`admission`), runs, and ends. While it runs it catches up on `tokens -
//! computed`, a slice a step (`planning`). When it has caught up a token is drawn and appended
//! (`commit`), and so on. A step may be planned before the one before it has ended (`ahead`). When
//! blocks run out the last gives its blocks back and waits again (`preemption`), for whose sake
//! some are left free (`growth`); when the engine fails all do, and the sequences of the lost step
//! are tried alone (`suspects`). Steps may be held for company (`windows`). What a prompt has in
//! common with earlier ones is found computed (`reuse`). Priorities are in the order of ids
//! (`ids`). What is evicted may be stored elsewhere (`offload`), and comes back (`restoring`). What
//! a sequence repeats is guessed, and several of its tokens are computed in one step
//! (`speculation`). The sequences of one request take turns with those of others, and fail together
//! (`turns`).
//!
//! A new feature is a file and a call in `planning` or `commit`, never a branch inside their loops.

use std::collections::VecDeque;

use self::block_pool::BlockPools;
use self::block_tables::Tables;
use self::forecast::RecentSteps;
use self::geometry::{BlockCounts, Geometry};
use self::ids::SeqIds;
use self::prefix_cache::PrefixCache;
use self::queue::WaitingQueue;
use self::restoring::Restoring;
use self::reuse::Reuse;
use self::running::RunningSequences;
use self::sequence::{SequenceIndex, Sequences};
use self::step::{PlannedStep, StepUnderWay};
use self::step_time::StepTimes;
use self::suspects::Suspects;
use self::turns::Turns;
use self::windows::HeldTime;
use crate::batch::{Batch, BlockUse, Micros, SeqId, StepResult};

mod admission;
mod ahead;
mod block_pool;
mod block_tables;
mod chain_hash;
mod check;
mod commit;
mod event;
mod forecast;
mod geometry;
mod growth;
mod ids;
mod limits;
mod offload;
mod partial;
mod planning;
mod preemption;
mod prefix_cache;
mod prompt_lookup;
mod queue;
mod recency;
mod restoring;
mod reuse;
mod running;
mod sequence;
mod siblings;
mod speculation;
mod step;
mod step_time;
mod suspects;
mod table;
#[cfg(test)]
mod tests;
mod turns;
mod view;
mod windows;

pub use self::admission::{NewSequence, Reject};
pub use self::chain_hash::{CacheSalt, HashKey};
pub use self::event::{FinishReason, SequenceEvent};
pub use self::limits::SchedulerLimits;
pub use self::offload::OffloadCounts;
pub use self::reuse::{Miss, PrefixCounts};
pub use self::speculation::DraftCounts;
pub use self::view::{BlockCell, BlockMap, SchedulerView, SequenceView, ViewSize};

/// What to do next.
#[derive(Debug)]
pub enum Plan<'a> {
    /// Compute this, then commit its result. It may be exchanged for a batch planned earlier by the
    /// same core, whose memory then serves the next step.
    Step(&'a mut Batch),
    /// Nothing to compute until `until`, or until something is submitted if it is `None`.
    Idle {
        /// When to plan again at the latest.
        until: Option<Micros>,
    },
}

/// Counts for metrics and /stats; all derived from the sequences and blocks themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerCounts {
    /// Sequences that wait, held ones included.
    pub waiting_count: usize,
    /// Prompt tokens that wait.
    pub waiting_tokens: usize,
    /// Sequences that run and are still being prefilled.
    pub prefill_count: usize,
    /// Sequences that run and decode.
    pub decode_count: usize,
    /// Blocks of the layers that see every earlier token.
    pub global_blocks: BlockUse,
    /// Blocks of the layers that see a window.
    pub sliding_blocks: BlockUse,
    /// How often a running sequence gave its blocks back because they ran out, since the start.
    pub preemptions_total: u64,
    /// Steps committed since the start, lost ones included.
    pub steps_total: u64,
    /// Tokens computed in prefill slices since the start (recomputed ones included).
    pub prefill_tokens_total: u64,
    /// Tokens generated since the start, ending stop tokens included.
    pub decode_tokens_total: u64,
    /// What prompts found computed.
    pub prefix_cache: PrefixCounts,
    /// What was guessed.
    pub drafts: DraftCounts,
    /// What was kept outside of KV memory, and came back.
    pub offload: OffloadCounts,
}

impl SchedulerCounts {
    /// The blocks of both groups together.
    #[must_use]
    pub fn blocks(&self) -> BlockUse {
        self.global_blocks.plus(&self.sliding_blocks)
    }
}

/// Sums since the start.
#[derive(Debug, Default)]
struct SchedulerTotals {
    preemptions: u64,
    steps: u64,
    prefill_tokens: u64,
    decode_tokens: u64,
}

/// The scheduler core.
///
/// **The order of ids is the order of service** (`ids`), among those that run and among those that
/// wait; of those that wait, the ones that ran before go before those that never ran.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    geometry: Geometry,
    pools: BlockPools,
    tables: Tables,
    sequences: Sequences,
    waiting: WaitingQueue,
    running: RunningSequences,
    suspects: Suspects,
    turns: Turns,
    reuse: Reuse,
    restoring: Restoring,
    drafts: DraftCounts,
    held: HeldTime,
    /// What is to be reported of those that began to run, were sent back, or run again.
    moves: Vec<SequenceEvent>,
    observed: RecentSteps,
    times: StepTimes,
    step: PlannedStep,
    /// Steps that are not committed, oldest first: none, one, or one and the step planned ahead.
    under_way: Vec<StepUnderWay>,
    ids: SeqIds,
    /// The latest time that was told: it never goes back.
    now: Micros,
    /// When the last step was committed.
    committed_at: Micros,
    totals: SchedulerTotals,
}

impl Scheduler {
    /// A scheduler with no sequence and every block free.
    ///
    /// # Panics
    /// If a limit allows nothing at all (a block without tokens, a step without slices, a queue
    /// without places).
    #[must_use]
    pub fn new(limits: SchedulerLimits) -> Self {
        limits.check();
        let totals = BlockCounts { global: limits.global_blocks, sliding: limits.sliding_blocks };
        let cache = PrefixCache::new(limits.prefix_cache, limits.block_tokens, totals.global, totals.sliding)
            .with_siblings(limits.copies_blocks);
        Self {
            limits,
            geometry: Geometry::new(&limits),
            pools: BlockPools::new(totals, cache),
            tables: Tables::default(),
            sequences: Sequences::default(),
            waiting: WaitingQueue::default(),
            running: RunningSequences::default(),
            suspects: Suspects::default(),
            turns: Turns::default(),
            reuse: Reuse::default(),
            restoring: Restoring::default(),
            drafts: DraftCounts::default(),
            held: HeldTime::default(),
            moves: Vec::new(),
            observed: RecentSteps::default(),
            times: StepTimes::default(),
            step: PlannedStep::default(),
            under_way: Vec::new(),
            ids: SeqIds::new(limits.priority_micros),
            now: Micros::default(),
            committed_at: Micros::default(),
            totals: SchedulerTotals::default(),
        }
    }

    /// Takes a sequence, or says at once why not.
    ///
    /// # Errors
    /// [`Reject`] if it can never run or the queue is full.
    pub fn submit(&mut self, sequence: NewSequence, now: Micros) -> Result<SeqId, Reject> {
        self.check_possible(&sequence)?;
        let now = self.advance(now);
        self.check_queue(1, sequence.prompt.len(), sequence.priority)?;
        self.check_wait(sequence.prompt.len(), sequence.priority)?;
        let seq = self.enqueue(sequence, now, None);
        self.check();
        Ok(seq)
    }

    /// Takes all sequences of a request, or none; answers the id of the first one, which names the
    /// request. The others enter in plans, with an [`SequenceEvent::Entered`] each.
    ///
    /// # Errors
    /// As [`Scheduler::submit`]; then nothing was taken.
    ///
    /// # Panics
    /// If there is no sequence.
    pub fn submit_all(&mut self, sequences: Vec<NewSequence>, now: Micros) -> Result<SeqId, Reject> {
        for sequence in &sequences {
            self.check_possible(sequence)?;
        }
        let now = self.advance(now);
        let mut rest = VecDeque::from(sequences);
        let first = rest.pop_front().expect("a request has a sequence");
        let prompt_tokens = first.prompt.len() + rest.iter().map(|later| later.prompt.len()).sum::<usize>();
        self.check_queue(1 + rest.len(), prompt_tokens, first.priority)?;
        self.check_wait(first.prompt.len(), first.priority)?;
        let is_alone = rest.is_empty();
        let request = (!is_alone).then_some(self.ids.peek(first.priority, now));
        let seq = self.enqueue(first, now, request);
        if !is_alone {
            self.turns.hold(seq, now, rest);
        }
        self.check();
        Ok(seq)
    }

    /// Ends a sequence, and no other of its request; its blocks are free or cached when this
    /// returns. Unknown and finished ones are ignored; no event follows. May be called while
    /// steps compute: their reports of it are then dropped.
    ///
    /// They may still write to those blocks. That is harmless, because **no block is given to
    /// anyone before the next plan, and steps are computed in the order of their plans**.
    pub fn cancel(&mut self, seq: SeqId) {
        self.take_out(seq);
        self.check();
    }

    /// What to compute next; `events` receives what ended without a step (queue timeouts), and what
    /// entered the queue.
    ///
    /// # Panics
    /// If the step before has not been committed.
    pub fn plan(&mut self, now: Micros, events: &mut Vec<SequenceEvent>) -> Plan<'_> {
        assert!(self.under_way.is_empty(), "a step is planned before the one before it is committed");
        let now = self.advance(now);
        self.expire(now, events);
        self.take_turns(events);
        let held_until = self.choose(now);
        let is_given = self.hand_out();
        let fetch_until = self.restoring.waits_until();
        events.append(&mut self.moves);
        assert!(
            is_given || held_until.is_some() || fetch_until.is_some() || self.sequences.count() == 0,
            "sequences wait or run, nothing holds them, and the step is empty"
        );
        self.check_in_debug();
        if is_given {
            Plan::Step(&mut self.step.batch)
        } else {
            let deadline = self.first_deadline().map(|(_, deadline)| deadline);
            Plan::Idle { until: held_until.into_iter().chain(deadline).chain(fetch_until).min() }
        }
    }

    /// The step after the one that is computed now, for an engine that takes it meanwhile and
    /// computes it then; `None` if it has to wait for the commit, after which
    /// [`Scheduler::plan`] plans it. Its batch awaits what the step under way draws.
    ///
    /// # Panics
    /// If no step is computed, or one was planned ahead of it already.
    pub fn plan_ahead(&mut self, now: Micros, events: &mut Vec<SequenceEvent>) -> Option<&mut Batch> {
        assert_eq!(self.under_way.len(), 1, "a step is planned ahead of one other");
        let now = self.advance(now);
        if !self.can_be_followed() {
            return None;
        }
        self.expire(now, events);
        self.take_turns(events);
        self.presume();
        self.choose_ahead(now);
        let is_given = self.hand_out();
        events.append(&mut self.moves);
        self.check_in_debug();
        is_given.then_some(&mut self.step.batch)
    }

    /// Takes the result of the oldest step under way. If it is lost, so is the one planned ahead.
    ///
    /// # Panics
    /// If no step is being computed, or if the reports are not those that the step's slices ask
    /// for.
    pub fn commit(&mut self, result: StepResult, now: Micros, events: &mut Vec<SequenceEvent>) {
        assert!(!self.under_way.is_empty(), "a result without a step");
        let step = self.under_way.remove(0);
        let began = step.given.max(self.committed_at);
        self.committed_at = self.advance(now);
        self.totals.steps += 1;
        if matches!(result, StepResult::Done(_)) {
            self.times.note(step.prefill_tokens(), step.decoding_count(), self.committed_at.since(began));
        }
        match result {
            StepResult::Done(reports) => {
                let (prefill_tokens, decoding_count) = (step.prefill_tokens(), step.decoding_count());
                let drawn_before = self.totals.decode_tokens;
                self.commit_done(step, reports, events);
                let drawn_count = self.totals.decode_tokens - drawn_before;
                let micros = self.committed_at.since(began);
                self.observed.note_step(prefill_tokens, decoding_count, drawn_count, micros);
                self.restoring.note_step(prefill_tokens, micros);
            }
            StepResult::Lost => self.commit_lost(step, events),
        }
        events.append(&mut self.moves);
        self.fail_together(events);
        self.check_in_debug();
    }

    /// Counts for metrics.
    #[must_use]
    pub fn counts(&self) -> SchedulerCounts {
        SchedulerCounts {
            waiting_count: self.waiting.count() + self.turns.held_count(),
            waiting_tokens: self.waiting.demand().prompt_tokens + self.turns.held_tokens(),
            prefill_count: self.running.count() - self.running.decoding_count(),
            decode_count: self.running.decoding_count(),
            global_blocks: self.pools.global.usage(),
            sliding_blocks: self.pools.sliding.usage(),
            preemptions_total: self.totals.preemptions,
            steps_total: self.totals.steps,
            prefill_tokens_total: self.totals.prefill_tokens,
            decode_tokens_total: self.totals.decode_tokens,
            prefix_cache: self.reuse.counts,
            drafts: self.drafts,
            offload: self.pools.offload.counts(),
        }
    }

    /// The time, which does not go back even if `now` does.
    fn advance(&mut self, now: Micros) -> Micros {
        self.now = self.now.max(now);
        self.now
    }

    /// Ends a sequence because its client wants no more of it.
    fn take_out(&mut self, seq: SeqId) {
        if self.running.find(seq).is_some() {
            self.observed.note_end(true);
        }
        self.remove(seq);
    }

    /// Ends a sequence, wherever it is, and gives its blocks back; the unknown are ignored. Answers
    /// its request, if that has others.
    fn remove(&mut self, seq: SeqId) -> Option<SeqId> {
        if let Some(at) = self.running.find(seq) {
            return self.end(at);
        }
        let place = self.waiting.find(seq)?;
        self.waiting.leave(&self.sequences[place], &self.geometry);
        self.forget(seq, place)
    }

    /// Ends the running sequence at this index, and frees its blocks. Answers its request, if that
    /// has others.
    fn end(&mut self, at: usize) -> Option<SeqId> {
        let (seq, place) = (self.running[at].seq, self.running[at].place);
        self.running.end(at, &mut self.tables, &mut self.pools);
        self.forget(seq, place)
    }

    fn forget(&mut self, seq: SeqId, place: SequenceIndex) -> Option<SeqId> {
        let request = self.sequences.remove(place).request;
        self.suspects.forget(seq);
        self.restoring.forget(seq);
        if let Some(first) = request {
            self.turns.leave(first, seq);
        }
        request
    }

    fn check_in_debug(&self) {
        if cfg!(debug_assertions) {
            self.check_all();
        } else {
            self.check();
        }
    }
}
