//! What must hold of every answer and every plan, seen from outside: the checks use what the
//! clients know and what the batch says, and of the scheduler only its counts.

use std::collections::BTreeMap;

use super::client::{AWAITED, SimulatedClient, expect};
use super::world::World;
use crate::batch::{Batch, BlockId, KvGroup, Micros, Slice};
use crate::scheduler::{NewSequence, Reject};

impl World {
    /// How a request must be answered, by counting instead of computing.
    pub(super) fn expected_reject(&self, request: &[NewSequence]) -> Option<Reject> {
        request.iter().find_map(|new| self.expected_impossible(new)).or_else(|| {
            let limits = &self.config.limits;
            let running = self.running();
            let waiting: Vec<&SimulatedClient> =
                self.clients.iter().filter(|(seq, _)| !running.contains(seq)).map(|(_, client)| client).collect();
            let (queued_count, queued_tokens) =
                (waiting.len(), waiting.iter().map(|client| client.prompt_tokens()).sum::<usize>());
            let held = || self.requests.values().flat_map(|request| &request.held);
            let waiting_count = queued_count + held().count();
            let waiting_tokens = queued_tokens + held().map(|new| new.prompt.len()).sum::<usize>();
            let too_many = waiting_count + request.len() > limits.waiting_max_count;
            // What is held waits behind a single sequence.
            let ahead = if request.len() == 1 { (queued_count, queued_tokens) } else { (waiting_count, waiting_tokens) };
            let prompt_tokens = request.iter().map(|new| new.prompt.len()).sum::<usize>();
            let too_long = ahead.0 > 0 && ahead.1 + prompt_tokens > limits.waiting_max_tokens;
            (too_many || too_long).then_some(Reject::QueueFull { waiting_count, waiting_tokens, taken_after_micros: 0 })
        })
    }

    fn expected_impossible(&self, new: &NewSequence) -> Option<Reject> {
        let limits = &self.config.limits;
        let (prompt_tokens, max_tokens) = (new.prompt.len(), new.max_tokens as usize);
        if prompt_tokens == 0 {
            return Some(Reject::EmptyPrompt);
        }
        if max_tokens == 0 {
            return Some(Reject::NoTokensAsked);
        }
        let context_tokens_max = limits.context_tokens_max;
        if prompt_tokens + max_tokens > context_tokens_max {
            return Some(Reject::ContextExceeded { prompt_tokens, max_tokens, context_tokens_max });
        }
        self.expected_never_fits(prompt_tokens + max_tokens - 1)
    }

    fn expected_never_fits(&self, computed: usize) -> Option<Reject> {
        let limits = &self.config.limits;
        let block = |position: usize| position / limits.block_tokens;
        let never_fits = |needed_blocks: usize, total_blocks: usize| {
            (needed_blocks > total_blocks).then_some(Reject::NeverFits { needed_blocks, total_blocks })
        };
        never_fits(block(computed - 1) + 1, limits.global_blocks).or_else(|| {
            // The worst slice may begin anywhere: all of them are tried.
            let slice_max = limits.prefill_slice_tokens.min(limits.token_budget_tokens);
            let held = |start: usize| {
                let first = (start + 1).saturating_sub(limits.sliding_window_tokens);
                block(computed.min(start + slice_max) - 1) - block(first) + 1
            };
            never_fits((0..computed).map(held).max()?, limits.sliding_blocks)
        })
    }

    /// A step that is about to be computed.
    pub(super) fn check_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let limits = &self.config.limits;
        expect(batch.tokens.len() <= limits.token_budget_tokens, || "the step exceeds its token budget".into())?;
        expect(batch.slices.len() <= limits.running_max_count, || "the step has too many slices".into())?;
        let mut tokens = batch.tokens.clone();
        batch.awaited.iter().for_each(|awaited| tokens[awaited.token] = AWAITED);
        for slice in &batch.slices {
            let wrong = |what: String| format!("the slice of sequence {}: {what}", slice.seq.0);
            // A cancelled sequence is no client any more.
            let client = self.clients.get(&slice.seq).ok_or_else(|| wrong("it does not live".into()))?;
            client.check_slice(slice, &tokens[slice.tokens.clone()], &self.config).map_err(wrong)?;
            expect(slice.len() <= limits.prefill_slice_tokens, || wrong("it is too long".into()))?;
        }
        self.check_sharing(batch)?;
        self.check_order(batch)?;
        for slice in &batch.slices {
            let client = self.clients.get_mut(&slice.seq).ok_or("it was there above")?;
            client.ran = true;
            client.computed = slice.start;
        }
        Ok(())
    }

    /// A block that a slice writes is in no other slice, and what a slice reads was written for
    /// clients of the same salt.
    fn check_sharing(&mut self, batch: &Batch) -> Result<(), String> {
        let block_tokens = self.config.limits.block_tokens;
        let blocks = |slice: &Slice| {
            let global = batch.global_blocks[slice.global_blocks.clone()].iter().map(|block| (KvGroup::Global, *block));
            let sliding = batch.sliding_blocks[slice.sliding_blocks.clone()].iter().map(|block| (KvGroup::Sliding, *block));
            let first_written = slice.start / block_tokens;
            let mut all: Vec<((KvGroup, BlockId), bool)> =
                (0..).zip(global).map(|(at, block)| (block, at >= first_written)).collect();
            all.extend((slice.sliding_first..).zip(sliding).map(|(at, block)| (block, at >= first_written)));
            all
        };
        let mut seen: BTreeMap<(KvGroup, BlockId), bool> = BTreeMap::new();
        for slice in &batch.slices {
            let salt = self.clients[&slice.seq].salt();
            for (block, is_written) in blocks(slice) {
                let wrong = |what: &str| format!("the slice of sequence {}: {what} {block:?}", slice.seq.0);
                let other = seen.insert(block, is_written);
                expect(other.is_none_or(|other| !other && !is_written), || wrong("it shares what is written,"))?;
                if is_written {
                    self.written_for.insert(block, salt);
                }
                let is_its_own = self.written_for.get(&block) == Some(&salt);
                expect(is_its_own, || wrong("it reads what was written for another salt,"))?;
            }
        }
        Ok(())
    }

    /// What `ahead` awaits of the step before is what its sequences draw there.
    pub(super) fn check_awaited(before: &Batch, ahead: &Batch) -> Result<(), String> {
        for awaited in &ahead.awaited {
            let slice = ahead.slices.iter().find(|slice| slice.tokens.contains(&awaited.token));
            let drawn = before.slices.get(awaited.slice).filter(|slice| slice.draw.is_some());
            let is_its_own = slice.is_some() && slice.map(|slice| slice.seq) == drawn.map(|slice| slice.seq);
            expect(is_its_own, || format!("{awaited:?} is not what {slice:?} draws in the step before"))?;
        }
        Ok(())
    }

    /// No sequence is computed until `until`.
    pub(super) fn check_idle(&self, until: Option<Micros>) -> Result<(), String> {
        let limits = &self.config.limits;
        let Some(until) = until else {
            let is_empty = self.clients.is_empty() && self.requests.is_empty();
            return expect(is_empty, || format!("idle for ever with {} sequences", self.clients.len()));
        };
        if self.scheduler.awaits_fetched().is_some() {
            return expect(until > self.told, || format!("waits for what is stored until {until:?}, which is past"));
        }
        expect(until > self.told, || format!("idle until {until:?}, which is past at {:?}", self.told))?;
        expect(self.clients.values().all(|client| client.accused_until.is_none()), || "idle with suspects".into())?;
        let fresh = self.clients.values().filter(|client| !client.ran).map(|client| client.arrived);
        let open_at = fresh.min().ok_or("idle, and no sequence waits to be held")?.plus(limits.prefill_window_micros);
        let running = self.running();
        expect(until <= open_at, || format!("idle until {until:?}, and the prefill window is over at {open_at:?}"))?;
        if !running.is_empty() {
            let over_at = self.committed_at.plus(limits.decode_window_micros);
            expect(until <= over_at, || format!("a step held until {until:?}, and the window ends at {over_at:?}"))?;
            expect(running.iter().all(|seq| self.clients[seq].decodes()), || "a step with a prefill slice is held".into())?;
        }
        Ok(())
    }

    /// Every sequence is where it should be, and every request leaves half of the places to others.
    pub(super) fn check_requests(&self) -> Result<(), String> {
        let places = self.config.limits.running_max_count.min(self.config.limits.token_budget_tokens);
        for (first, request) in &self.requests {
            let wrong = |what: &str| format!("request {}: {what}: {request:?}", first.0);
            expect(request.live_count > 0 || !request.held.is_empty(), || wrong("it has ended"))?;
            expect(request.live_count <= (places / 2).max(1), || wrong("it takes more than half of the places"))?;
            let live = self.clients.values().filter(|client| client.request == *first);
            expect(live.count() == request.live_count, || wrong("it has other sequences"))?;
        }
        let counts = self.scheduler.counts();
        let held = self.requests.values().map(|request| request.held.len()).sum::<usize>();
        let counted = counts.waiting_count + counts.prefill_count + counts.decode_count;
        expect(counted == self.clients.len() + held, || {
            format!("{counts:?}, and {} live and {held} are held", self.clients.len())
        })
    }

    /// No sequence has waited too long for its first step.
    pub(super) fn check_late(&self) -> Result<(), String> {
        let max = self.config.limits.waiting_max_micros;
        let late = |client: &&SimulatedClient| {
            max > 0 && client.is_fresh() && !client.is_later && client.arrived.plus(max) <= self.told
        };
        let late = self.clients.values().find(late);
        expect(late.is_none(), || format!("one that came at {:?} still waits", late.map(|client| client.arrived)))
    }
}
