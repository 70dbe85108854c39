use std::sync::Arc;

use super::*;
use crate::batch::{BlockId, Draw, KvGroup, Sampling};

/// Blocks of 2 tokens, 4 of each group, a window of 3.
fn limits() -> EngineLimits {
    EngineLimits {
        block_tokens: 2,
        global_blocks: 4,
        sliding_blocks: 4,
        sliding_window_tokens: 3,
        context_tokens_max: 8,
        vocab_size: 100,
        steps_max: 2,
        ..FakeOptions::default().limits
    }
}

fn engine(faults: Vec<EngineFault>) -> FakeEngine {
    FakeEngine::new(FakeOptions { limits: limits(), faults, ..FakeOptions::default() })
}

/// Adds a slice that draws; the tables are logical blocks in order.
fn add(batch: &mut Batch, seq: u64, start: usize, tokens: &[u32], global: &[u32], sliding: (usize, &[u32])) {
    let range = |from: usize, len: usize| from..from + len;
    batch.slices.push(Slice {
        seq: SeqId(seq),
        tokens: range(batch.tokens.len(), tokens.len()),
        start,
        global_blocks: range(batch.global_blocks.len(), global.len()),
        sliding_blocks: range(batch.sliding_blocks.len(), sliding.1.len()),
        sliding_first: sliding.0,
        draw: Some(Draw {
            sampling: Arc::new(Sampling::default()),
            generated_count: 0,
            history: Vec::new(),
            history_prompt_len: 0,
        }),
        drafts: 0,
        prompt_targets: None,
    });
    batch.tokens.extend(tokens.iter().copied().map(TokenId));
    batch.global_blocks.extend(global.iter().copied().map(BlockId));
    batch.sliding_blocks.extend(sliding.1.iter().copied().map(BlockId));
}

fn slice(seq: u64, start: usize, tokens: &[u32], global: &[u32], sliding: (usize, &[u32])) -> Batch {
    let mut batch = Batch::default();
    add(&mut batch, seq, start, tokens, global, sliding);
    batch
}

fn drawn(engine: &mut FakeEngine, batch: &Batch) -> Result<TokenId, FakeError> {
    let mut sampled = Vec::new();
    engine.compute(batch, &mut sampled)?;
    Ok(sampled[0].token.expect("the slice draws").expect("its logits are finite"))
}

fn violation(engine: &mut FakeEngine, batch: &Batch) -> Violation {
    match engine.compute(batch, &mut Vec::new()) {
        Err(FakeError::Violation(violation)) => violation,
        other => panic!("expected a violation, got {other:?}"),
    }
}

#[test]
fn slicing_does_not_change_the_answer() {
    let whole = drawn(&mut engine(vec![]), &slice(1, 0, &[5, 6, 7, 8, 9], &[0, 1, 2], (0, &[0, 1, 2]))).unwrap();
    let mut sliced = engine(vec![]);
    drawn(&mut sliced, &slice(1, 0, &[5, 6], &[3], (0, &[3]))).unwrap();
    drawn(&mut sliced, &slice(1, 2, &[7, 8], &[3, 1], (0, &[3, 1]))).unwrap();
    // The token at 4 sees 2, 3 and itself: logical block 0 is out of sight, and its block may serve
    // again.
    let last = drawn(&mut sliced, &slice(1, 4, &[9], &[3, 1, 0], (1, &[1, 3]))).unwrap();
    assert_eq!(whole, last);
}

#[test]
fn what_was_never_written_or_belongs_to_another_is_a_violation() {
    let mut engine = engine(vec![]);
    let nothing = violation(&mut engine, &slice(1, 2, &[7], &[0, 1], (0, &[0, 1])));
    let expected = Violation::WrongSlot { seq: SeqId(1), group: KvGroup::Global, block: BlockId(0), position: 0, held: None };
    assert_eq!(nothing, expected);

    drawn(&mut engine, &slice(1, 0, &[5, 6], &[0], (0, &[0]))).unwrap();
    drawn(&mut engine, &slice(2, 0, &[5, 8], &[1], (0, &[0]))).unwrap();
    let stolen = violation(&mut engine, &slice(1, 2, &[7], &[0, 2], (0, &[0, 2])));
    assert!(matches!(
        stolen,
        Violation::WrongSlot { group: KvGroup::Sliding, held: Some(SlotContent { seq: SeqId(2), position: 1, .. }), .. }
    ));
    assert_eq!(engine.violations(), [nothing, stolen]);
}

#[test]
fn what_was_computed_behind_the_same_tokens_may_be_read_by_another_once_it_is_computed() {
    let mut engine = engine(vec![]);
    drawn(&mut engine, &slice(1, 0, &[5, 6, 7], &[0, 1], (0, &[0, 1]))).unwrap();
    let shared = drawn(&mut engine, &slice(2, 2, &[7, 8], &[0, 2], (0, &[0, 2]))).unwrap();
    assert_eq!(shared, drawn(&mut engine, &slice(3, 0, &[5, 6, 7, 8], &[1, 3], (0, &[1, 3]))).unwrap());

    // The same token at the same position, behind another: the sliding group's is of the other.
    drawn(&mut engine, &slice(4, 0, &[9, 6, 7], &[3, 2], (0, &[3, 2]))).unwrap();
    let other = violation(&mut engine, &slice(5, 3, &[8], &[3, 2], (0, &[0, 2])));
    assert!(matches!(other, Violation::WrongSlot { group: KvGroup::Sliding, position: 1, .. }), "{other}");

    let mut early = slice(1, 0, &[5, 6], &[0], (0, &[0]));
    add(&mut early, 2, 2, &[7], &[0, 1], (0, &[0, 1]));
    let early = violation(&mut engine, &early);
    let (seq, writer) = (SeqId(2), SeqId(1));
    assert_eq!(early, Violation::ReadTooEarly { seq, group: KvGroup::Global, block: BlockId(0), writer });
}

#[test]
fn a_sequence_that_goes_on_behind_another_ones_tokens_is_a_violation() {
    let mut engine = engine(vec![]);
    let mut both = slice(1, 0, &[5, 6], &[0], (0, &[0]));
    add(&mut both, 2, 0, &[8, 9], &[1], (0, &[1]));
    engine.compute(&both, &mut Vec::new()).unwrap();
    let other = violation(&mut engine, &slice(1, 2, &[7], &[1, 2], (0, &[1, 2])));
    assert_eq!(other, Violation::OtherTokens { seq: SeqId(1), position: 2 });
}

#[test]
fn a_shifted_table_and_a_short_table_are_violations() {
    let mut engine = engine(vec![]);
    drawn(&mut engine, &slice(1, 0, &[5, 6, 7, 8], &[0, 1], (0, &[0, 1]))).unwrap();
    let short = violation(&mut engine, &slice(1, 4, &[9], &[0, 1], (1, &[1, 2])));
    assert_eq!(short, Violation::NoBlock { seq: SeqId(1), group: KvGroup::Global, position: 4 });

    drawn(&mut engine, &slice(1, 0, &[5, 6, 7, 8], &[0, 1], (0, &[0, 1]))).unwrap();
    let shifted = violation(&mut engine, &slice(1, 4, &[9], &[1, 0, 2], (1, &[1, 2])));
    assert_eq!(shifted, Violation::OtherTokens { seq: SeqId(1), position: 4 });
    drawn(&mut engine, &slice(1, 0, &[5, 6, 7, 8], &[0, 1], (0, &[0, 1]))).unwrap();
    let shifted = violation(&mut engine, &slice(1, 4, &[9], &[1, 1, 2], (1, &[1, 2])));
    assert!(matches!(shifted, Violation::WrongSlot { held: Some(SlotContent { position: 2, .. }), .. }));
    assert!(matches!(violation(&mut engine, &slice(1, 4, &[9], &[0, 1, 2], (0, &[0, 1, 2]))), Violation::Malformed { .. }));
}

#[test]
fn two_sequences_in_one_slot_are_a_violation() {
    let mut batch = slice(1, 0, &[5], &[0], (0, &[0]));
    add(&mut batch, 2, 0, &[6], &[0], (0, &[1]));
    let twice = violation(&mut engine(vec![]), &batch);
    assert_eq!(twice, Violation::WrittenTwice { group: KvGroup::Global, block: BlockId(0), first: SeqId(1), second: SeqId(2) });
}

#[test]
fn faults_come_when_told_and_empty_the_memory() {
    let first = slice(1, 0, &[5, 6], &[0], (0, &[0]));
    let second = slice(1, 2, &[7], &[0, 1], (0, &[0, 1]));
    let mut engine =
        engine(vec![EngineFault::FailsAtStep(1), EngineFault::PanicsAtStep(4), EngineFault::NotFiniteOnToken(TokenId(42))]);
    drawn(&mut engine, &first).unwrap();
    assert!(matches!(drawn(&mut engine, &second), Err(FakeError::Engine(EngineError::Device { slices: 1, .. }))));
    assert!(matches!(violation(&mut engine, &second), Violation::WrongSlot { held: None, .. }));

    let mut rebuilt = engine.rebuild();
    drawn(&mut rebuilt, &first).unwrap();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drawn(&mut rebuilt, &second)));
    assert!(panic.is_err(), "step 4 panics");
    assert_eq!(rebuilt.steps_total(), 5);

    let mut sampled = Vec::new();
    rebuilt.rebuild().compute(&slice(1, 0, &[42], &[0], (0, &[0])), &mut sampled).unwrap();
    assert_eq!(sampled[0].token, Some(Err(DrawError::NotFinite)));
}

#[test]
fn a_script_ends_with_its_stop_token_unless_masked() {
    let script = FakeAnswer::Script { tokens: vec![TokenId(7), TokenId(8)], stop: TokenId(1) };
    let mut sampling = Sampling { stop_tokens: vec![TokenId(1), TokenId(2)], ..Sampling::default() };
    let next = |sampling: &Sampling, generated| script.next(&[], &[], sampling, generated, 100).unwrap();
    assert_eq!([0, 1, 2, 3].map(|generated| next(&sampling, generated)), [7, 8, 1, 1].map(TokenId));
    sampling.min_tokens = 3;
    assert_eq!([2, 3].map(|generated| next(&sampling, generated)), [3, 1].map(TokenId));
}
