//! How a request of several sequences takes turns with other requests, and how it fails as one.
//!
//! **Of what a step has, a request takes at most half, or what one sequence needs**: half the
//! running places, half the token budget, half the blocks. The rest of its sequences is held here.
//! A held sequence has its place in the queue's counts, and enters the queue itself in a plan,
//! behind all of its priority and with a new id, once its request takes little enough. So all of
//! its priority that arrived meanwhile are before it, and a request that arrives finds the other
//! half.
//!
//! Half, because what arrives next is not known: with all places taken, it would wait for an answer
//! to end, or one that runs would have to be computed again for its sake.
//!
//! A sequence whose prompt another one of its request computes just now, in several steps, is held
//! too, for it finds it computed: the choices of a long prompt compute it once.
//!
//! **The sequences of a request succeed or fail together**: if one fails, the others end in the
//! same call.

use std::collections::{BTreeMap, VecDeque};

use super::geometry::BlockCounts;
use super::{FinishReason, NewSequence, Scheduler, SequenceEvent};
use crate::batch::{Micros, PositionLogprobs, SeqId};

/// A request of several sequences that have not all ended.
#[derive(Debug)]
struct SequenceGroup {
    arrived: Micros,
    /// Those that wait or run, oldest first.
    live: Vec<SeqId>,
    /// Those that have not entered the queue, next first.
    held: VecDeque<NewSequence>,
    /// How many have entered since it arrived.
    entered_count: usize,
}

/// All requests of several sequences, by the id of their first one.
#[derive(Debug, Default)]
pub(super) struct Turns {
    requests: BTreeMap<SeqId, SequenceGroup>,
    held_count: usize,
    held_tokens: usize,
    /// Those of which a sequence failed in this call.
    failed: Vec<SeqId>,
}

impl Turns {
    /// How many sequences are held.
    pub(super) fn held_count(&self) -> usize {
        self.held_count
    }

    /// Tokens of their prompts.
    pub(super) fn held_tokens(&self) -> usize {
        self.held_tokens
    }

    /// What each request holds.
    pub(super) fn held(&self) -> impl Iterator<Item = (SeqId, &VecDeque<NewSequence>)> {
        self.requests.iter().filter(|(_, request)| !request.held.is_empty()).map(|(first, request)| (*first, &request.held))
    }

    /// How many sequences of a request wait or run.
    pub(super) fn live_count(&self, first: SeqId) -> usize {
        self.requests.get(&first).map_or(0, |request| request.live.len())
    }

    /// Holds the sequences `rest` of a request whose first one has entered the queue.
    pub(super) fn hold(&mut self, first: SeqId, arrived: Micros, rest: VecDeque<NewSequence>) {
        self.held_count += rest.len();
        self.held_tokens += prompt_tokens(&rest);
        self.requests.insert(first, SequenceGroup { arrived, live: vec![first], held: rest, entered_count: 1 });
    }

    /// A sequence of the request `first` waits and runs no more.
    pub(super) fn leave(&mut self, first: SeqId, seq: SeqId) {
        let Some(request) = self.requests.get_mut(&first) else { return };
        request.live.retain(|live| *live != seq);
        if request.live.is_empty() && request.held.is_empty() {
            self.requests.remove(&first);
        }
    }

    /// A sequence of the request `first` failed.
    pub(super) fn note_failure(&mut self, first: SeqId) {
        self.failed.push(first);
    }

    fn remove(&mut self, first: SeqId) -> Option<SequenceGroup> {
        let request = self.requests.remove(&first)?;
        self.held_count -= request.held.len();
        self.held_tokens -= prompt_tokens(&request.held);
        Some(request)
    }
}

fn prompt_tokens(sequences: &VecDeque<NewSequence>) -> usize {
    sequences.iter().map(|sequence| sequence.prompt.len()).sum()
}

/// What a request takes of a step and of the memory.
#[derive(Debug, Default)]
struct GroupShare {
    /// Tokens of prompts that the next step computes, if there is room for them.
    prefill_tokens: usize,
    blocks: BlockCounts,
}

impl Scheduler {
    /// Lets held sequences enter the queue, as far as the shares of their requests allow.
    pub(super) fn take_turns(&mut self, events: &mut Vec<SequenceEvent>) {
        if self.turns.held_count == 0 {
            return;
        }
        let mut turns = std::mem::take(&mut self.turns);
        for (first, request) in &mut turns.requests {
            while let Some(next) = request.held.pop_front_if(|next| self.may_enter(&request.live, next)) {
                turns.held_count -= 1;
                turns.held_tokens -= next.prompt.len();
                let seq = self.enqueue(next, request.arrived, Some(*first));
                events.push(SequenceEvent::Entered { request: *first, index: request.entered_count, seq });
                request.live.push(seq);
                request.entered_count += 1;
            }
        }
        self.turns = turns;
    }

    /// Whether `next` may enter beside the sequences `live` of its request.
    fn may_enter(&self, live: &[SeqId], next: &NewSequence) -> bool {
        self.leaves_half(live, next) && !self.computes_for(live, next)
    }

    /// Whether one of the sequences `live` computes the prompt of `next`, which finds it computed
    /// if it enters later. One that is computed in a slice is not worth waiting for.
    fn computes_for(&self, live: &[SeqId], next: &NewSequence) -> bool {
        let finds = self.limits.prefix_cache.is_some() && !next.sampling.prompt_logprobs;
        let computes = |seq: &SeqId| {
            let running = self.running.find(*seq).map(|at| &self.running[at]);
            let place = running.map(|runner| runner.place).or(self.waiting.find(*seq));
            let sequence = &self.sequences[place.expect("a live sequence runs or waits")];
            let is_computed = running.is_some_and(|runner| runner.decoding) || sequence.tokens.len() > sequence.prompt_len;
            !is_computed && sequence.salt == next.cache_salt && sequence.tokens == next.prompt
        };
        finds && next.prompt.len() > self.geometry.slice_tokens_max && live.iter().any(computes)
    }

    /// Whether the sequences `live` of a request leave half of everything to others if `next`
    /// enters as well.
    fn leaves_half(&self, live: &[SeqId], next: &NewSequence) -> bool {
        if live.is_empty() {
            return true;
        }
        // First, because most are kept back by it and it costs nothing.
        if live.len() >= self.limits.running_max() / 2 {
            return false;
        }
        let mut share = GroupShare::default();
        for seq in live {
            self.add_share(*seq, &mut share);
        }
        let slice_tokens = next.prompt.len().min(self.geometry.slice_tokens_max);
        let need = self.geometry.need(next.prompt.len());
        let blocks = BlockCounts { global: share.blocks.global + need.global, sliding: share.blocks.sliding + need.sliding };
        let half = BlockCounts { global: self.pools.global.total_count() / 2, sliding: self.pools.sliding.total_count() / 2 };
        let prefill_fits = share.prefill_tokens + slice_tokens <= self.limits.token_budget_tokens / 2;
        (share.prefill_tokens == 0 || prefill_fits) && blocks.fit(half)
    }

    fn add_share(&self, seq: SeqId, share: &mut GroupShare) {
        let tokens_count = if let Some(at) = self.running.find(seq) {
            let runner = &self.running[at];
            if !runner.decoding {
                share.prefill_tokens += runner.pending().min(self.geometry.slice_tokens_max);
            }
            runner.tokens_count
        } else {
            let place = self.waiting.find(seq).expect("a live sequence runs or waits");
            let tokens_count = self.sequences[place].tokens.len();
            share.prefill_tokens += tokens_count.min(self.geometry.slice_tokens_max);
            tokens_count
        };
        let need = self.geometry.need(tokens_count);
        share.blocks.global += need.global;
        share.blocks.sliding += need.sliding;
    }

    /// Ends the running sequence at this index and reports it.
    pub(super) fn finish(
        &mut self,
        at: usize,
        reason: FinishReason,
        logprobs: Option<Box<PositionLogprobs>>,
        events: &mut Vec<SequenceEvent>,
    ) {
        let seq = self.running[at].seq;
        self.observed.note_end(reason != FinishReason::Length);
        let request = self.end(at);
        events.push(SequenceEvent::Finished { seq, reason, logprobs });
        if reason.is_failure()
            && let Some(first) = request
        {
            self.turns.note_failure(first);
        }
    }

    /// Ends what is left of the requests of which a sequence failed in this call. What was held
    /// enters and ends, so that every sequence has its end.
    pub(super) fn fail_together(&mut self, events: &mut Vec<SequenceEvent>) {
        for first in std::mem::take(&mut self.turns.failed) {
            let Some(request) = self.turns.remove(first) else { continue };
            let failed = |seq| SequenceEvent::Finished { seq, reason: FinishReason::RequestFailed, logprobs: None };
            for seq in request.live {
                self.remove(seq);
                events.push(failed(seq));
            }
            for (index, new) in (request.entered_count..).zip(request.held) {
                let seq = self.ids.give(new.priority, self.now);
                events.extend([SequenceEvent::Entered { request: first, index, seq }, failed(seq)]);
            }
        }
    }

    /// Ends every sequence of a request, as [`Scheduler::cancel`] ends one.
    pub fn cancel_request(&mut self, first: SeqId) {
        for seq in self.turns.remove(first).map_or(vec![first], |request| request.live) {
            self.take_out(seq);
        }
        self.check();
    }

    /// Panics unless every live sequence of a request waits or runs, and knows its request, and the
    /// sums are right.
    pub(super) fn check_turns(&self) {
        let mut held = (0, 0);
        for (first, request) in &self.turns.requests {
            assert!(!request.live.is_empty() || !request.held.is_empty(), "request {} has ended", first.0);
            assert!(request.live.is_sorted(), "the sequences of request {} are in the order of arrival", first.0);
            assert!(request.live.len() <= (self.limits.running_max() / 2).max(1), "request {} leaves half", first.0);
            for seq in &request.live {
                let place = self.running.find(*seq).map(|at| self.running[at].place).or(self.waiting.find(*seq));
                let place = place.expect("a live sequence runs or waits");
                assert_eq!(self.sequences[place].request, Some(*first), "sequence {} knows its request", seq.0);
            }
            held = (held.0 + request.held.len(), held.1 + prompt_tokens(&request.held));
        }
        assert_eq!(held, (self.turns.held_count, self.turns.held_tokens), "as much is held as is counted");
        assert!(self.turns.failed.is_empty(), "what failed was ended in the same call");
    }
}
