//! What a simulated engine says, and how long it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::batch::{Awaited, Batch, BlockId, Draw, Sampled, Sampling, SeqId, Slice, TokenId};
use crate::cost::{Figure, StepCosts};
use crate::engine::Engine;

const END: TokenId = TokenId(9);

fn words() -> MadeUpWords {
    let header = [(1, 2), (2, 3)].map(|(behind, token)| (TokenId(behind), TokenId(token))).to_vec();
    MadeUpWords { header, text: [20, 21, 22].map(TokenId).to_vec(), end: END, answer_tokens: 6 }
}

#[test]
fn an_answer_has_its_header_then_the_text_and_ends_where_the_request_knows_the_end() {
    let sampling = Sampling { stop_tokens: vec![END], ..Sampling::default() };
    let said = |first: u32, sampling: &Sampling| {
        let mut last = TokenId(first);
        let next = |index: u32| {
            last = words().next(last, index, sampling, 30).expect("something may be drawn");
            last.0
        };
        (0..8).map(next).collect::<Vec<u32>>()
    };
    assert_eq!(said(1, &sampling), [2, 3, 20, 21, 22, 20, 9, 9], "behind what a chat's prompt ends with");
    assert_eq!(said(7, &sampling), [21, 22, 20, 21, 22, 20, 9, 9], "behind anything else");
    assert_eq!(said(7, &Sampling::default())[6..], [21, 22], "a request that ignores the end has none");
    let late = Sampling { min_tokens: 8, ..sampling };
    assert!(!said(7, &late).contains(&9), "min_tokens holds");
}

#[test]
fn blocks_are_shared_as_in_other_engines_or_are_those_that_a_server_has() {
    let mut cost = CostModel::load("h200-20b").expect("it is built in");
    let of = |cost: &CostModel, kv_bytes| {
        let found = limits(cost, kv_bytes, 100, 8, 256);
        (found.global_blocks, found.sliding_blocks, found.steps_max, found.vocab_size)
    };
    // 8 windows of 10 blocks and a step of 16; of the rest a window for every 1,024 tokens.
    let (global, sliding, ..) = of(&cost, Some(16 * 24_576 * 10_000));
    assert!(global + sliding <= 10_000 && global > 8_500 && sliding > 96 + 8 * global / 64, "{global}, {sliding}");
    (cost.engine.global_blocks, cost.engine.sliding_blocks) = (Some(Figure(70.0)), Some(Figure(50.0)));
    assert_eq!(of(&cost, None), (70, 50, 2, 100));
    assert_eq!(of(&cost, Some(16 * 24_576 * 10_000)).0, global, "memory that is asked for counts more");
}

/// The step of one sequence of `tokens`, the last of which may be awaited.
fn step(tokens: &[u32], start: usize, awaited: bool) -> Batch {
    let draw =
        Draw { sampling: Arc::default(), generated_count: u32::from(start > 0), history: Vec::new(), history_prompt_len: 0 };
    Batch {
        tokens: tokens.iter().copied().map(TokenId).collect(),
        slices: vec![Slice {
            seq: SeqId(1),
            tokens: 0..tokens.len(),
            start,
            global_blocks: 0..1,
            sliding_blocks: 0..1,
            sliding_first: 0,
            draw: Some(draw),
            drafts: 0,
            prompt_targets: None,
        }],
        global_blocks: vec![BlockId(0)],
        sliding_blocks: vec![BlockId(0)],
        awaited: if awaited { vec![Awaited { token: 0, slice: 0 }] } else { Vec::new() },
        copies: Vec::new(),
    }
}

#[test]
fn a_step_takes_what_the_model_says_and_the_one_behind_it_begins_where_it_ends() {
    let mut cost = CostModel::load("h200-20b").expect("it is built in");
    (cost.roof, cost.step) = (None, StepCosts::default());
    (cost.step.fixed_us, cost.step.prefill_token_us) = (Figure(20_000.0), Figure(5_000.0));
    let limits = limits(&cost, Some(1 << 24), 30, 4, 64);
    let mut engine = SimulatedEngine::new(limits, Arc::new(cost), Arc::new(words()));
    let mut sampled: Vec<Sampled> = Vec::new();
    let began = Instant::now();
    engine.begin(&step(&[5, 1], 0, false)).expect("it cannot fail");
    engine.begin(&step(&[0], 2, true)).expect("it cannot fail");
    engine.finish(&mut sampled).expect("it cannot fail");
    assert!(began.elapsed() >= Duration::from_millis(30));
    engine.finish(&mut sampled).expect("it cannot fail");
    assert!(began.elapsed() >= Duration::from_millis(50));
    let tokens: Vec<_> = sampled.iter().map(|report| report.token).collect();
    // What is awaited is the header's first token, behind which comes its second.
    assert_eq!(tokens, [Some(Ok(TokenId(2))), Some(Ok(TokenId(3)))]);
}
