//! What must hold of every answer and every plan, seen from outside: the checks use what the clients know and what the batch
//! says, and of the scheduler only its counts.

use std::collections::BTreeSet;

use super::client::{AWAITED, Client, expect};
use super::world::World;
use crate::batch::{Batch, BlockId, Micros, SeqId};
use crate::scheduler::{NewSequence, Reject};

impl World {
    /// How a request must be answered, by counting instead of computing.
    pub(super) fn expected_reject(&self, request: &[NewSequence]) -> Option<Reject> {
        let limits = &self.config.limits;
        let (prompt_tokens, max_tokens) = (request[0].prompt.len(), request[0].max_tokens as usize);
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
        self.expected_never_fits(prompt_tokens + max_tokens - 1).or_else(|| {
            let waiting: Vec<&Client> = self.clients.values().skip(self.running_count()).collect();
            let waiting_tokens = waiting.iter().map(|client| client.prompt_tokens()).sum::<usize>();
            let too_many = waiting.len() + request.len() > limits.waiting_max_count;
            let too_long = !waiting.is_empty() && waiting_tokens + request.len() * prompt_tokens > limits.waiting_max_tokens;
            let waiting_count = waiting.len();
            (too_many || too_long).then_some(Reject::QueueFull { waiting_count, waiting_tokens })
        })
    }

    fn expected_never_fits(&self, computed: usize) -> Option<Reject> {
        let limits = &self.config.limits;
        let block = |position: usize| position / limits.block_tokens;
        let never_fits = |needed_blocks: usize, total_blocks: usize| {
            (needed_blocks > total_blocks).then_some(Reject::NeverFits { needed_blocks, total_blocks })
        };
        never_fits(block(computed - 1) + 1, limits.full_blocks).or_else(|| {
            // The worst slice may begin anywhere: all of them are tried.
            let slice_max = limits.prefill_slice_tokens.min(limits.token_budget_tokens);
            let held = |start: usize| {
                let first = (start + 1).saturating_sub(limits.sliding_window_tokens);
                block(computed.min(start + slice_max) - 1) - block(first) + 1
            };
            never_fits((0..computed).map(held).max()?, limits.sliding_blocks)
        })
    }

    fn running_count(&self) -> usize {
        let counts = self.scheduler.counts();
        counts.prefill_count + counts.decode_count
    }

    /// Those that run, if first come is first served.
    fn running(&self) -> impl Iterator<Item = (SeqId, &Client)> {
        self.clients.iter().take(self.running_count()).map(|(seq, client)| (*seq, client))
    }

    /// A step that is about to be computed.
    pub(super) fn check_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let limits = &self.config.limits;
        expect(batch.tokens.len() <= limits.token_budget_tokens, || "the step exceeds its token budget".into())?;
        expect(batch.slices.len() <= limits.running_max_count, || "the step has too many slices".into())?;
        let mut full = BTreeSet::new();
        let mut sliding = BTreeSet::new();
        let mut tokens = batch.tokens.clone();
        batch.awaited.iter().for_each(|awaited| tokens[awaited.token] = AWAITED);
        for slice in &batch.slices {
            let wrong = |what: String| format!("the slice of sequence {}: {what}", slice.seq.0);
            // A cancelled sequence is no client any more.
            let client = self.clients.get(&slice.seq).ok_or_else(|| wrong("it does not live".into()))?;
            client.check_slice(slice, &tokens[slice.tokens.clone()]).map_err(wrong)?;
            expect(slice.len() <= limits.prefill_slice_tokens, || wrong("it is too long".into()))?;
            let add = |seen: &mut BTreeSet<BlockId>, blocks: &[BlockId]| blocks.iter().all(|block| seen.insert(*block));
            let unshared = add(&mut full, &batch.full_blocks[slice.full_blocks.clone()])
                && add(&mut sliding, &batch.sliding_blocks[slice.sliding_blocks.clone()]);
            expect(unshared, || wrong("it shares a block".into()))?;
        }
        self.check_order(batch)?;
        for slice in &batch.slices {
            let client = self.clients.get_mut(&slice.seq).ok_or("it was there above")?;
            client.ran = true;
            client.computed = slice.start;
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

    /// First come, first served; a suspect is alone; and who decodes is in every step.
    fn check_order(&self, batch: &Batch) -> Result<(), String> {
        let in_step: BTreeSet<SeqId> = batch.slices.iter().map(|slice| slice.seq).collect();
        let running: BTreeSet<SeqId> = self.running().map(|(seq, _)| seq).collect();
        let passed = in_step.difference(&running).next();
        expect(passed.is_none(), || format!("{passed:?} runs, and not all that came before it do"))?;
        let accused = |seq: &SeqId| self.clients[seq].accused_until.is_some();
        if in_step.iter().any(accused) {
            return expect(in_step.len() == 1, || "a suspect is not alone in its step".into());
        }
        let left_out = self.running().find(|(seq, client)| client.decodes() && !in_step.contains(seq) && !accused(seq));
        expect(left_out.is_none(), || format!("{:?} decodes and is left out", left_out.map(|(seq, _)| seq)))
    }

    /// Nobody is computed until `until`.
    pub(super) fn check_idle(&self, until: Option<Micros>) -> Result<(), String> {
        let limits = &self.config.limits;
        let Some(until) = until else {
            return expect(self.clients.is_empty(), || format!("idle for ever with {} sequences", self.clients.len()));
        };
        expect(until > self.told, || format!("idle until {until:?}, which is past at {:?}", self.told))?;
        expect(self.clients.values().all(|client| client.accused_until.is_none()), || "idle with suspects".into())?;
        let first = self.clients.values().find(|client| !client.ran).ok_or("idle, and nobody waits to be held")?;
        let open_at = first.arrived.plus(limits.prefill_window_micros);
        expect(until <= open_at, || format!("idle until {until:?}, and the prefill window is over at {open_at:?}"))?;
        if self.running_count() > 0 {
            let over_at = self.committed_at.plus(limits.decode_window_micros);
            expect(until <= over_at, || format!("a step held until {until:?}, and the window ends at {over_at:?}"))?;
            expect(self.running().all(|(_, client)| client.decodes()), || "a step with a prefill slice is held".into())?;
        }
        Ok(())
    }

    /// Nobody has waited too long for its first step.
    pub(super) fn check_late(&self) -> Result<(), String> {
        let max = self.config.limits.waiting_max_micros;
        let late = |client: &&Client| max > 0 && !client.ran && client.arrived.plus(max) <= self.told;
        let late = self.clients.values().find(late);
        expect(late.is_none(), || format!("one that came at {:?} still waits", late.map(|client| client.arrived)))
    }
}
