//! The store of a simulated world: what is evicted goes there, late or never, and what is read
//! comes late, damaged or not at all.

use std::collections::{BTreeMap, VecDeque};

use super::world::World;
use crate::batch::{BlockId, Fetch, KvGroup, Micros, Spill, StoredBlock};
use crate::engine::Engine as _;
use crate::scheduler::CacheSalt;

/// What a step copies before it is computed.
#[derive(Debug, Default)]
struct PlannedCopies {
    spills: Vec<Spill>,
    restores: Vec<(KvGroup, BlockId, Vec<u8>)>,
}

/// The store.
#[derive(Debug, Default)]
pub(super) struct SimulatedStore {
    held: BTreeMap<u32, (StoredBlock, Vec<u8>)>,
    /// What is read, and when that has come.
    reading: Option<(Fetch, Micros)>,
    /// What was read last.
    read: Option<(Fetch, Vec<Option<Vec<u8>>>)>,
    /// Of the steps that are planned and not computed, oldest first.
    planned: VecDeque<PlannedCopies>,
}

impl World {
    /// Gives the scheduler a store, if this world has one.
    pub(super) fn open_store(&mut self) {
        if self.config.limits.prefix_cache.is_some() && self.config.store_places > 0 {
            self.scheduler.offload_to(self.config.store_places, Vec::new());
        }
    }

    /// Takes what the last plan copies. Without a step nothing is under way, and it is copied at
    /// once.
    pub(super) fn note_copies(&mut self, with_step: bool) {
        let copies = self.scheduler.take_copies();
        if copies.forget_stored {
            self.store.held.clear();
        }
        let mut planned = PlannedCopies { spills: copies.spills, restores: Vec::new() };
        for restore in copies.restores {
            let (fetch, read) = self.store.read.as_mut().expect("what is restored was read");
            assert_eq!(fetch.seq, restore.seq, "a sequence gets what was read for it");
            let bytes = read[restore.fetched].take().expect("what is restored was there, and is copied once");
            // It was written for the salt that it was stored under.
            let salt = CacheSalt(fetch.blocks[restore.fetched].salt);
            self.written_for.insert((restore.group, restore.block), salt);
            planned.restores.push((restore.group, restore.block, bytes));
            self.report.restored_total += 1;
        }
        if let Some(fetch) = copies.fetch {
            // Now and then longer than a sequence waits.
            let most_micros = if self.rng.chance(0.02) { 9_000_000 } else { 30_000 };
            let micros = self.rng.magnitude(1..=most_micros);
            self.store.reading = Some((fetch, self.now.plus(micros as u64)));
        }
        self.store.planned.push_back(planned);
        if !with_step {
            self.copy_planned();
        }
    }

    /// Copies what belongs to the step that is computed next.
    pub(super) fn copy_planned(&mut self) {
        let Some(PlannedCopies { spills, restores }) = self.store.planned.pop_front() else { return };
        for Spill { block, stored } in spills {
            if self.rng.chance(0.05) {
                continue;
            }
            let mut bytes = Vec::new();
            self.engine.read_block(stored.group, block, &mut bytes).expect("a fake engine copies");
            self.store.held.insert(stored.place, (stored, bytes));
        }
        for (group, block, bytes) in restores {
            self.engine.write_block(group, block, &bytes).expect("a fake engine copies");
        }
    }

    /// The engine is lost, and so is what was planned.
    pub(super) fn forget_planned_copies(&mut self) {
        self.store.planned.clear();
    }

    /// Tells the scheduler of what was read, if that has come; `patient`: time passes until it has.
    pub(super) fn deliver(&mut self, patient: bool) {
        let Some((fetch, at)) = self.store.reading.take_if(|(_, at)| patient || *at <= self.now) else { return };
        self.now = self.now.max(at);
        self.told = self.told.max(self.now);
        let is_awaited = self.scheduler.awaits_fetched() == Some(fetch.seq);
        let mut read = Vec::new();
        for block in &fetch.blocks {
            let held = self.store.held.get(&block.place).filter(|(held, _)| held == block);
            read.push(held.map(|(_, bytes)| bytes.clone()).filter(|_| !self.rng.chance(0.02)));
        }
        self.scheduler.fetched(fetch.seq, read.iter().map(Option::is_some).collect(), self.now);
        self.scheduler.check_all();
        if is_awaited {
            self.store.read = Some((fetch, read));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::StepResult;

    /// Spoils what the next step copies in one world after another; what the first one said of it.
    fn spoilt(mut spoil: impl FnMut(&mut PlannedCopies) -> bool) -> String {
        for seed in 0..400 {
            let mut world = World::new(seed, false);
            // One step's copies at a time, in worlds that have some.
            world.config.ahead = 0.0;
            for _ in 0..if world.config.store_places > 0 { 120 } else { 0 } {
                assert_eq!(world.turn(), Ok(()), "the world of seed {seed} fails unspoilt");
                world.deliver(true);
                let Ok(Some(batch)) = world.plan(true) else { continue };
                let is_spoilt = world.store.planned.front_mut().is_some_and(&mut spoil);
                match world.compute(&batch, false) {
                    Ok(result) => {
                        let counts = !is_spoilt || matches!(result, StepResult::Lost);
                        assert!(counts, "the world of seed {seed} noticed nothing");
                        assert_eq!(world.commit(&batch, result), Ok(()), "the world of seed {seed}");
                    }
                    Err(wrong) => return wrong,
                }
            }
        }
        panic!("there was nothing to spoil in any world");
    }

    #[test]
    fn a_copy_that_is_not_made_is_noticed() {
        let wrong = spoilt(|planned| !std::mem::take(&mut planned.restores).is_empty());
        assert!(wrong.contains("should hold position"), "{wrong}");
    }

    #[test]
    fn copies_to_each_others_places_are_noticed() {
        let wrong = spoilt(|planned| {
            let mut global = planned.restores.iter_mut().filter(|(group, ..)| *group == KvGroup::Global);
            let (Some(first), Some(second)) = (global.next(), global.next()) else { return false };
            std::mem::swap(&mut first.2, &mut second.2);
            true
        });
        assert!(wrong.contains("should hold position"), "{wrong}");
    }
}
