//! The worlds must notice what is wrong: each test spoils something on its way between scheduler,
//! engine and clients.

use super::world::World;
use crate::batch::{Batch, BlockId, Sampled, SeqId, StepResult, TokenId};

/// Lives through worlds and lets `spoil` change one thing; answers what the first world that was
/// spoilt said.
fn spoilt(mut spoil: impl FnMut(&mut Batch, &mut Vec<Sampled>) -> bool, before_computing: bool) -> String {
    for seed in 0..50 {
        let mut world = World::new(seed, false);
        // What is spoilt must matter: a step planned ahead is in part computed for sequences that
        // have ended.
        world.config.ahead = 0.0;
        for _ in 0..200 {
            if world.turn().is_err() {
                panic!("the world of seed {seed} fails unspoilt");
            }
            let Ok(Some(mut batch)) = world.plan(true) else { continue };
            let spoilt_batch = before_computing && spoil(&mut batch, &mut Vec::new());
            let result = match world.compute(&batch, false) {
                Ok(StepResult::Done(mut sampled)) => {
                    let spoilt_result = !before_computing && spoil(&mut batch, &mut sampled);
                    world.commit(&batch, StepResult::Done(sampled)).map(|()| spoilt_result)
                }
                // Whatever was spoilt is lost with it, before it was looked at.
                Ok(StepResult::Lost) => {
                    assert_eq!(world.commit(&batch, StepResult::Lost), Ok(()), "the world of seed {seed}");
                    continue;
                }
                Err(wrong) => Err(wrong),
            };
            match result {
                Err(wrong) => return wrong,
                Ok(spoilt_result) => assert!(!spoilt_batch && !spoilt_result, "the world of seed {seed} noticed nothing"),
            }
        }
    }
    panic!("there was nothing to spoil in fifty worlds");
}

#[test]
fn a_wrong_full_block_is_noticed() {
    let wrong = spoilt(
        |batch, _| {
            // Both are read: what a slice writes itself it finds wherever it lies.
            let slice = batch.slices.iter().find(|slice| slice.len() == 1 && slice.global_blocks.len() > 3);
            slice.map(|slice| batch.global_blocks.swap(slice.global_blocks.start, slice.global_blocks.start + 1)).is_some()
        },
        true,
    );
    assert!(wrong.contains("should hold position"), "{wrong}");
}

#[test]
fn a_wrong_sliding_block_is_noticed() {
    let wrong = spoilt(
        |batch, _| {
            let slice = batch.slices.iter().find(|slice| slice.len() == 1 && slice.sliding_blocks.len() > 2);
            let Some(slice) = slice else { return false };
            batch.sliding_blocks[slice.sliding_blocks.start] = BlockId(batch.sliding_blocks[slice.sliding_blocks.end - 1].0);
            true
        },
        true,
    );
    assert!(wrong.contains("Sliding block"), "{wrong}");
}

#[test]
fn a_missing_block_is_noticed() {
    let wrong = spoilt(
        |batch, _| {
            batch.slices.last_mut().is_some_and(|slice| {
                slice.global_blocks.end -= 1;
                true
            })
        },
        true,
    );
    assert!(wrong.contains("has no Global block"), "{wrong}");
}

#[test]
fn a_draft_that_is_taken_although_another_token_is_drawn_is_noticed() {
    let mut drafts: Vec<(SeqId, Vec<TokenId>)> = Vec::new();
    let wrong = spoilt(
        |batch, sampled| {
            drafts.clear();
            for slice in batch.slices.iter().filter(|slice| slice.drafts > 0) {
                drafts.push((slice.seq, batch.tokens[slice.tokens.end - slice.drafts..slice.tokens.end].to_vec()));
            }
            drafts.iter().any(|(seq, drafts)| {
                let mut reports = sampled.iter_mut().filter(|report| report.seq == *seq).zip(drafts);
                let wrong = reports.find(|(report, draft)| report.token != Some(Ok(**draft)));
                wrong.map(|(report, draft)| report.token = Some(Ok(*draft))).is_some()
            })
        },
        false,
    );
    assert!(wrong.contains("alone it gets"), "{wrong}");
}

#[test]
fn a_token_that_differs_from_a_run_alone_is_noticed() {
    let wrong = spoilt(
        |_, sampled| {
            let token = sampled.iter_mut().find_map(|report| report.token.as_mut());
            token.map(|token| *token = token.map(|token| TokenId((token.0 + 1) % 20))).is_some()
        },
        false,
    );
    assert!(wrong.contains("alone it gets"), "{wrong}");
}

#[test]
fn a_copy_that_is_not_made_is_noticed() {
    let wrong = spoilt(
        |batch, _| {
            // A block that was never written holds nothing that could be right by chance.
            let had = !batch.copies.is_empty();
            batch.copies.clear();
            had
        },
        true,
    );
    assert!(wrong.contains("should hold position"), "{wrong}");
}
