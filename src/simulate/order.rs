//! Which sequences begin, which are sent back, and which are in a step: the order of service, seen
//! from outside. What runs and what waits is taken from what the console is shown.

use std::collections::BTreeSet;

use super::client::{SimulatedClient, expect};
use super::world::World;
use crate::batch::{Batch, SeqId};
use crate::scheduler::ViewSize;

/// Sequences that enter within a microsecond are told apart by the microseconds after it; no world
/// has more at once.
const SAME_TIME_MICROS: i128 = 1_000;

impl World {
    /// Those that run.
    pub(super) fn running(&self) -> BTreeSet<SeqId> {
        let size = ViewSize { running_max_count: usize::MAX, waiting_max_count: 0, cells_max_count: 1 };
        self.scheduler.view(size).running.iter().map(|sequence| sequence.seq).collect()
    }

    /// What a plan let begin, and what it sent back, of those that ran `before` it.
    pub(super) fn check_moves(&mut self, before: &BTreeSet<SeqId>) -> Result<(), String> {
        let after = self.running();
        let waiting = || self.clients.iter().filter(|(seq, _)| !after.contains(seq));
        for begun in after.difference(before) {
            let client = &self.clients[begun];
            let passed = waiting().find(|(_, other)| !self.goes_before(client, other));
            expect(passed.is_none(), || format!("{begun:?} begins and passes {:?}: {client:?}", passed.map(|(seq, _)| seq)))?;
        }
        let sent_back: Vec<SeqId> = before.difference(&after).filter(|seq| self.clients.contains_key(seq)).copied().collect();
        expect(sent_back.is_empty() || after.is_subset(before), || format!("{sent_back:?} are sent back, and others begin"))?;
        let has_suspects = self.clients.values().any(|client| client.accused_until.is_some());
        for seq in sent_back {
            let later = after.range(seq..).find(|later| self.clients[*later].returns_to.is_none());
            expect(later.is_none(), || format!("{seq:?} is sent back, and {later:?} that comes after it is not"))?;
            let client = self.clients.get_mut(&seq).ok_or("it was there above")?;
            let again = client.returns_to;
            expect(again.is_none(), || format!("{seq:?} is sent back again, and got no further than {again:?}"))?;
            client.returns_to = (!has_suspects).then_some(client.computed);
        }
        for seq in &after {
            self.clients.get_mut(seq).ok_or_else(|| format!("{seq:?} runs after its end"))?.ran_before = true;
        }
        Ok(())
    }

    /// Whether `one` goes before `other`, as they were before the plan.
    fn goes_before(&self, one: &SimulatedClient, other: &SimulatedClient) -> bool {
        let level_micros = self.config.limits.priority_micros;
        if one.ran_before != other.ran_before {
            one.ran_before
        } else if level_micros == 0 || one.priority() == other.priority() {
            one.entered.1 < other.entered.1
        } else {
            one.due(level_micros) <= other.due(level_micros) + SAME_TIME_MICROS
        }
    }

    /// What is in a step runs; a suspect is alone; and a sequence that decodes is in every step,
    /// unless one that was sent back returns.
    pub(super) fn check_order(&self, batch: &Batch) -> Result<(), String> {
        let in_step: BTreeSet<SeqId> = batch.slices.iter().map(|slice| slice.seq).collect();
        let running = self.running();
        let other = in_step.difference(&running).next();
        expect(other.is_none(), || format!("{other:?} is in the step and does not run"))?;
        let accused = |seq: &SeqId| self.clients[seq].accused_until.is_some();
        if in_step.iter().any(accused) {
            return expect(in_step.len() == 1, || "a suspect is not alone in its step".into());
        }
        let returning = running.iter().any(|seq| self.clients[seq].returns_to.is_some());
        let left_out = running.difference(&in_step).find(|seq| self.clients[*seq].decodes() && !accused(seq));
        expect(left_out.is_none() || returning, || format!("{left_out:?} decodes and is left out"))
    }
}
