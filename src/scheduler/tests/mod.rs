//! The core on a fake engine, one behaviour a test. What holds always is the simulation's matter.

use std::sync::Arc;

use super::*;
use crate::batch::{EngineLimits, Sampling, TokenId};
use crate::engine::fake::{EngineFault, FakeAnswer, FakeEngine, FakeError, FakeOptions};

mod admission;
mod ahead;
mod checks;
mod forecast;
mod losses;
mod memory;
mod offload;
mod partial;
mod prefix;
mod priorities;
mod results;
mod speculation;
mod turns;
mod view;
mod windows;

/// Blocks of 4 tokens, a window of 8, 32 tokens a step in slices of at most 16; nothing is held and
/// nothing times out.
pub(super) fn limits() -> SchedulerLimits {
    SchedulerLimits {
        block_tokens: 4,
        global_blocks: 64,
        sliding_blocks: 64,
        sliding_window_tokens: 8,
        context_tokens_max: 1_000,
        token_budget_tokens: 32,
        prefill_slice_tokens: 16,
        running_max_count: 8,
        waiting_max_count: 100,
        waiting_max_tokens: 10_000,
        ..SchedulerLimits::default()
    }
}

/// A scheduler, an engine that checks every slot, and a clock that moves a millisecond a step.
struct Stage {
    scheduler: Scheduler,
    engine: FakeEngine,
    now: Micros,
    events: Vec<SequenceEvent>,
}

impl Stage {
    fn new(limits: SchedulerLimits) -> Self {
        Self::with(limits, FakeAnswer::Hash { seed: 1 }, Vec::new())
    }

    fn with(limits: SchedulerLimits, answer: FakeAnswer, faults: Vec<EngineFault>) -> Self {
        let engine = EngineLimits {
            block_tokens: limits.block_tokens,
            global_blocks: limits.global_blocks,
            sliding_blocks: limits.sliding_blocks,
            sliding_window_tokens: limits.sliding_window_tokens,
            context_tokens_max: limits.context_tokens_max,
            ..FakeOptions::default().limits
        };
        let engine = FakeEngine::new(FakeOptions { limits: engine, answer, faults, ..FakeOptions::default() });
        Self { scheduler: Scheduler::new(limits), engine, now: Micros(0), events: Vec::new() }
    }

    /// Submits a prompt of `len` tokens that belong to no other sequence.
    fn submit(&mut self, len: usize, max_tokens: u32) -> SeqId {
        self.submit_sampled(len, max_tokens, Sampling::default())
    }

    fn submit_sampled(&mut self, len: usize, max_tokens: u32, sampling: Sampling) -> SeqId {
        let new = sequence(len, max_tokens, sampling);
        self.scheduler.submit(new, self.now).expect("the queue has room")
    }

    /// Plans; the lengths of the slices by sequence, in the batch's order, or until when nothing is
    /// to do.
    fn plan(&mut self) -> Result<Batch, Option<Micros>> {
        match self.scheduler.plan(self.now, &mut self.events) {
            Plan::Step(batch) => Ok(batch.clone()),
            Plan::Idle { until } => Err(until),
        }
    }

    fn compute(&mut self, batch: &Batch) -> StepResult {
        let mut sampled = Vec::new();
        match self.engine.compute(batch, &mut sampled) {
            Ok(()) => StepResult::Done(sampled),
            Err(FakeError::Engine(_)) => StepResult::Lost,
            Err(violation) => panic!("{violation}"),
        }
    }

    fn commit(&mut self, result: StepResult) {
        self.now = self.now.plus(1_000);
        self.scheduler.commit(result, self.now, &mut self.events);
    }

    /// One whole step; its slices as (sequence, tokens).
    fn step(&mut self) -> Vec<(SeqId, usize)> {
        let batch = self.plan().expect("there is something to compute");
        let result = self.compute(&batch);
        self.commit(result);
        slices(&batch)
    }

    /// Steps until nothing lives; answers the steps' slices.
    fn finish(&mut self) -> Vec<Vec<(SeqId, usize)>> {
        let mut steps = Vec::new();
        while self.scheduler.counts().waiting_count + self.running_count() > 0 {
            steps.push(self.step());
            assert!(steps.len() < 10_000, "it does not end");
        }
        let counts = self.scheduler.counts();
        assert_eq!(counts.blocks().in_use_count(), 0);
        steps
    }

    fn running_count(&self) -> usize {
        let counts = self.scheduler.counts();
        counts.prefill_count + counts.decode_count
    }

    /// Tokens that `seq` got so far, and how it ended if it did.
    fn heard(&self, seq: SeqId) -> (Vec<TokenId>, Option<FinishReason>) {
        let mut heard = (Vec::new(), None);
        for event in &self.events {
            match event {
                SequenceEvent::Token { seq: of, token, .. } if *of == seq => heard.0.push(*token),
                SequenceEvent::Finished { seq: of, reason, .. } if *of == seq => {
                    assert_eq!(heard.1.replace(*reason), None, "one end");
                }
                _ => {}
            }
        }
        heard
    }
}

fn sequence(len: usize, max_tokens: u32, sampling: Sampling) -> NewSequence {
    let prompt = (0..len).map(|i| TokenId((len + i * i) as u32 % 400 + 20)).collect();
    NewSequence {
        prompt,
        max_tokens,
        sampling: Arc::new(sampling),
        cache_salt: CacheSalt::default(),
        in_session: false,
        priority: 0,
    }
}

fn slices(batch: &Batch) -> Vec<(SeqId, usize)> {
    batch.slices.iter().map(|slice| (slice.seq, slice.len())).collect()
}

/// What a prompt gets when it runs alone with room for everything.
fn alone(len: usize, max_tokens: u32) -> Vec<TokenId> {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 1_000, sliding_blocks: 1_000, ..limits() });
    let seq = stage.submit(len, max_tokens);
    stage.finish();
    stage.heard(seq).0
}

#[test]
fn a_prompt_is_prefilled_in_slices_and_then_decodes() {
    let mut stage = Stage::new(limits());
    let seq = stage.submit(37, 4);
    assert_eq!(stage.step(), [(seq, 16)]);
    assert_eq!(stage.step(), [(seq, 16)]);
    assert_eq!(stage.heard(seq), (Vec::new(), None), "nothing is drawn before the prompt's end");
    assert_eq!(stage.step(), [(seq, 5)]);
    assert_eq!(stage.scheduler.counts().decode_count, 1);
    assert_eq!(stage.finish(), [[(seq, 1)], [(seq, 1)], [(seq, 1)]]);
    let (tokens, end) = stage.heard(seq);
    assert_eq!((tokens.len(), end), (4, Some(FinishReason::Length)));
    let counts = stage.scheduler.counts();
    assert_eq!((counts.prefill_tokens_total, counts.decode_tokens_total, counts.steps_total), (37, 4, 6));
    assert_eq!(stage.plan().unwrap_err(), None);
}

#[test]
fn decode_slices_come_first_and_take_the_budget_first() {
    let mut stage = Stage::new(SchedulerLimits { token_budget_tokens: 20, ..limits() });
    let first = stage.submit(40, 9);
    let second = stage.submit(3, 9);
    let third = stage.submit(30, 9);
    // The third waits for the budget.
    assert_eq!(stage.step(), [(first, 16), (second, 3), (third, 1)]);
    // The second decodes; the first, although older, comes after it, and they share what is left.
    assert_eq!(stage.step(), [(second, 1), (first, 16), (third, 3)]);
    assert_eq!(stage.step(), [(second, 1), (first, 8), (third, 11)]);
    assert_eq!(stage.step(), [(first, 1), (second, 1), (third, 15)]);
}

#[test]
fn no_more_run_than_the_budget_has_tokens() {
    let mut stage = Stage::new(SchedulerLimits { token_budget_tokens: 3, ..limits() });
    let seqs: Vec<SeqId> = (0..5).map(|_| stage.submit(1, 3)).collect();
    for step in 0..3 {
        assert_eq!(stage.step(), seqs[..3].iter().map(|seq| (*seq, 1)).collect::<Vec<_>>(), "step {step}");
    }
    assert_eq!(stage.step(), seqs[3..].iter().map(|seq| (*seq, 1)).collect::<Vec<_>>());
}

#[test]
fn the_batch_is_used_again() {
    let mut stage = Stage::new(limits());
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..8 {
        stage.submit(4, 40);
    }
    stage.step();
    for _ in 0..30 {
        let Plan::Step(batch) = stage.scheduler.plan(stage.now, &mut stage.events) else { panic!("there are sequences") };
        places.insert((batch.tokens.as_ptr(), batch.slices.as_ptr()));
        let batch = batch.clone();
        let result = stage.compute(&batch);
        stage.commit(result);
    }
    assert_eq!(places.len(), 1, "a step allocates no batch");
}

#[test]
fn what_others_do_does_not_change_a_sequences_tokens() {
    // Five blocks of each group for four sequences that need up to four each.
    let tight = SchedulerLimits { global_blocks: 5, sliding_blocks: 5, ..limits() };
    let mut stage = Stage::new(tight);
    let seqs: Vec<(usize, SeqId)> = [5, 2, 7, 3].map(|len| (len, stage.submit(len, 9))).to_vec();
    stage.finish();
    assert!(stage.scheduler.counts().preemptions_total > 0, "blocks ran out");
    for (len, seq) in seqs {
        assert_eq!(stage.heard(seq).0, alone(len, 9), "the prompt of {len} tokens");
    }
}

#[test]
#[should_panic(expected = "before the one before it is committed")]
fn planning_twice_is_a_bug() {
    let mut stage = Stage::new(limits());
    stage.submit(3, 3);
    stage.plan().unwrap();
    let _ = stage.plan();
}

#[test]
#[should_panic(expected = "a result without a step")]
fn committing_twice_is_a_bug() {
    let mut stage = Stage::new(limits());
    stage.submit(3, 3);
    stage.step();
    stage.commit(StepResult::Lost);
}
