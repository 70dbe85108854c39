//! Prompts that part in the middle of a block: what they have in common is copied.

use super::prefix::{UNKNOWN, caching, prompt};
use super::*;
use crate::batch::{BlockCopy, KvGroup};

fn copying() -> SchedulerLimits {
    SchedulerLimits { copies_blocks: true, ..caching() }
}

impl Stage {
    /// Lives through a prompt beside none; what of it was found, and what it said.
    fn serve_alone(&mut self, new: NewSequence) -> ((usize, Option<Miss>), Vec<TokenId>) {
        let seq = self.take(NewSequence { max_tokens: 3, ..new });
        self.finish();
        (self.found(seq), self.heard(seq).0)
    }
}

/// Blocks of four tokens: 20 to 39 fill five of them. The fake engine reads each slot and compares
/// what it holds.
#[test]
fn a_prompt_goes_on_behind_what_it_has_in_common_with_a_block() {
    let (mut stage, mut cold) = (Stage::new(copying()), Stage::new(limits()));
    stage.serve_alone(prompt(20..43));
    for (asked, found_tokens) in [
        (prompt((20..31).chain([7, 8, 9])), 11),
        (prompt((20..31).chain([7, 8, 11])), 13),
        (prompt([20, 21, 7, 8, 9]), 2),
        (prompt(20..40), 19),
        (prompt(20..37), 16),
        (prompt([20, 21]), 1),
    ] {
        let (found, said) = stage.serve_alone(asked.clone());
        assert_eq!(found, (found_tokens, None), "{:?}", asked.prompt);
        assert_eq!(said, cold.serve_alone(asked).1);
    }
    assert_eq!(stage.serve_alone(prompt([7, 20, 21])).0, (0, Some(Miss::Short)));
    let salted = NewSequence { cache_salt: CacheSalt([1, 2]), ..prompt(20..40) };
    assert_eq!(stage.serve_alone(salted).0, UNKNOWN, "another salt's blocks begin with nothing");
    let counts = stage.scheduler.counts();
    assert_eq!((counts.prefix_cache.hits_total, counts.prefix_cache.hit_tokens_total), (6, 11 + 13 + 2 + 19 + 16 + 1));
    assert_eq!(counts.blocks().in_use_count(), 0, "what was held for a copy is let go");
}

#[test]
fn both_groups_are_copied_before_the_step_and_nothing_else() {
    let mut stage = Stage::new(copying());
    stage.serve_alone(prompt(20..43));
    stage.take(prompt((20..30).chain([7])));
    let batch = stage.plan().unwrap();
    let [BlockCopy { group: KvGroup::Global, from, to, tokens: 2 }, sliding] = batch.copies[..] else {
        panic!("{:?}", batch.copies);
    };
    assert_eq!((sliding.group, sliding.tokens), (KvGroup::Sliding, 2));
    let slice = &batch.slices[0];
    assert_eq!((slice.start, slice.len()), (10, 1));
    assert_eq!(batch.global_blocks[slice.global_blocks.clone()][2], to);
    assert!(!batch.global_blocks.contains(&from), "the known block stays what it is");
    let result = stage.compute(&batch);
    stage.commit(result);
    stage.take(prompt(20..24));
    assert!(stage.plan().unwrap().copies.len() == 2, "and the next step has its own");
}

/// Three blocks, of which two are known: a prompt that needs all three has none to hold.
#[test]
fn where_there_is_no_room_to_hold_a_block_it_is_computed() {
    let tight = SchedulerLimits { global_blocks: 3, ..copying() };
    let mut stage = Stage::new(tight);
    let short = |tokens: Vec<u32>| NewSequence { max_tokens: 1, ..prompt(tokens) };
    let served = |stage: &mut Stage, new: NewSequence| {
        let seq = stage.take(new);
        stage.finish();
        stage.found(seq)
    };
    served(&mut stage, short((20..29).collect()));
    assert_eq!(served(&mut stage, short([20, 21, 22, 30, 31, 32, 33, 34, 35].to_vec())), UNKNOWN);
}

/// It may be withdrawn after its sequences have begun.
#[test]
fn a_step_that_is_planned_ahead_copies_nothing() {
    let mut stage = Stage::new(copying());
    stage.serve_alone(prompt(20..43));
    stage.take(NewSequence { max_tokens: 3, ..prompt(100..104) });
    let first = stage.plan().unwrap();
    let later = stage.take(prompt((20..31).chain([7, 8])));
    let ahead = stage.scheduler.plan_ahead(stage.now, &mut stage.events).expect("it prefills little").clone();
    assert_eq!((stage.found(later), ahead.copies.len()), ((8, None), 0));
    for batch in [first, ahead] {
        let result = stage.compute(&batch);
        stage.commit(result);
    }
    stage.finish();
}
