use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::batch::{Allowed, MaskOutlook, Masks, TokenMasks};

impl Stage {
    /// Plans the step after the one under way, if that can be planned.
    fn plan_ahead(&mut self) -> Option<Batch> {
        self.scheduler.plan_ahead(self.now, &mut self.events).cloned()
    }

    /// As [`Stage::finish`], with every step planned ahead that can be, and computed before the one
    /// before it is committed, as a device may; answers how many were.
    fn finish_ahead(&mut self) -> usize {
        let (mut ahead, mut ahead_count): (Option<StepResult>, usize) = (None, 0);
        while ahead.is_some() || self.scheduler.counts().waiting_count + self.running_count() > 0 {
            let result = ahead.take().unwrap_or_else(|| {
                let batch = self.plan().expect("there is something to compute");
                self.compute(&batch)
            });
            // What was planned ahead of a step that is lost is lost with it.
            let next = self.plan_ahead().filter(|_| matches!(result, StepResult::Done(_)));
            ahead_count += usize::from(next.is_some());
            ahead = next.map(|batch| self.compute(&batch));
            self.commit(result);
        }
        let counts = self.scheduler.counts();
        assert_eq!(counts.blocks().in_use_count(), 0);
        ahead_count
    }

    /// Steps until `count` sequences decode and none is prefilled.
    fn settle(&mut self, count: usize) {
        while self.scheduler.counts().decode_count < count {
            self.step();
        }
    }
}

#[test]
fn steps_planned_ahead_change_no_answer() {
    let mut stage = Stage::new(limits());
    let seqs = [(5, 30), (37, 12), (2, 1), (9, 25)].map(|(len, max)| (len, max, stage.submit(len, max)));
    assert!(stage.finish_ahead() > 20);
    for (len, max, seq) in seqs {
        assert_eq!(stage.heard(seq), (alone(len, max), Some(FinishReason::Length)));
    }
}

#[test]
fn whoever_ends_is_computed_once_more_for_nothing() {
    let answer = FakeAnswer::Script { tokens: vec![TokenId(7), TokenId(8)], stop: TokenId(2) };
    let mut stage = Stage::with(limits(), answer, Vec::new());
    let stops = Sampling { stop_tokens: vec![TokenId(2)], ..Sampling::default() };
    let (short, long) = (stage.submit_sampled(3, 9, stops), stage.submit(4, 9));
    stage.settle(2);
    stage.step();
    let batch = stage.plan().unwrap();
    let ahead = stage.plan_ahead().unwrap();
    assert_eq!(ahead.awaited, [0, 1].map(|at| crate::batch::Awaited { token: at, slice: at }));
    // The stop token comes in the first of the two.
    let result = stage.compute(&batch);
    stage.commit(result);
    let heard = (vec![TokenId(7), TokenId(8)], Some(FinishReason::Stop(TokenId(2))));
    assert_eq!(stage.heard(short), heard);
    let held = |stage: &Stage| stage.scheduler.counts().blocks().in_use_count();
    assert_eq!(held(&stage), 4, "its blocks are free, though the engine has a step with it");
    // The next sequence gets them, and writes after that step.
    let late = stage.submit(6, 3);
    let result = stage.compute(&ahead);
    stage.commit(result);
    assert_eq!(stage.heard(short), heard, "nothing comes of it");
    stage.finish();
    assert_eq!((stage.heard(late).0.len(), stage.heard(long).0.len()), (3, 9));
}

#[test]
fn whoever_gets_its_last_token_is_not_in_the_next_step() {
    let mut stage = Stage::new(limits());
    let (first, second) = (stage.submit(3, 3), stage.submit(4, 9));
    stage.settle(2);
    stage.step();
    let batch = stage.plan().unwrap();
    let ahead = stage.plan_ahead().unwrap();
    assert_eq!((slices(&batch).len(), slices(&ahead)), (2, vec![(second, 1)]));
    let result = stage.compute(&batch);
    stage.commit(result);
    assert_eq!(stage.heard(first), (alone(3, 3), Some(FinishReason::Length)));
}

#[test]
fn whoever_gets_its_last_token_takes_nothing_of_the_next_step_s_budget() {
    let mut stage = Stage::new(SchedulerLimits { token_budget_tokens: 8, ..limits() });
    let (first, second) = (stage.submit(3, 3), stage.submit(4, 9));
    stage.settle(2);
    stage.step();
    let batch = stage.plan().unwrap();
    let late = stage.submit(20, 2);
    let ahead = stage.plan_ahead().unwrap();
    assert_eq!(slices(&batch), [(first, 1), (second, 1)]);
    assert_eq!(slices(&ahead), [(second, 1), (late, 7)], "eight tokens, as in a step planned after the commit");
}

#[test]
fn a_view_shows_no_token_that_is_awaited() {
    let mut stage = Stage::new(limits());
    let (first, second) = (stage.submit(3, 9), stage.submit(4, 9));
    stage.settle(2);
    let batch = stage.plan().unwrap();
    stage.plan_ahead().unwrap();
    let size = ViewSize { running_max_count: 8, waiting_max_count: 8, cells_max_count: 64 };
    let shown = |stage: &Stage| {
        let running = stage.scheduler.view(size).running;
        running.iter().map(|sequence| (sequence.seq, sequence.generated_tokens)).collect::<Vec<_>>()
    };
    let heard = |stage: &Stage| [first, second].map(|seq| (seq, stage.heard(seq).0.len()));
    assert_eq!(shown(&stage), heard(&stage), "while the step computes");
    let result = stage.compute(&batch);
    stage.commit(result);
    assert_eq!(shown(&stage), heard(&stage), "once it is committed");
}

#[test]
fn whoever_waits_is_admitted_to_the_step_planned_ahead() {
    let mut stage = Stage::new(limits());
    let first = stage.submit(3, 9);
    stage.settle(1);
    let batch = stage.plan().unwrap();
    let late = stage.submit(20, 2);
    let ahead = stage.plan_ahead().unwrap();
    assert_eq!(slices(&ahead), [(first, 1), (late, 16)]);
    let result = stage.compute(&batch);
    stage.commit(result);
    let after = stage.plan_ahead().unwrap();
    assert_eq!(slices(&after), [(first, 1), (late, 4)], "of a prompt nothing is awaited but the token after it");
    for batch in [ahead, after] {
        let result = stage.compute(&batch);
        stage.commit(result);
    }
    stage.finish_ahead();
    assert_eq!((stage.heard(first).0, stage.heard(late).0), (alone(3, 9), alone(20, 2)));
    assert_eq!(stage.scheduler.counts().prefill_tokens_total, 23);
}

#[test]
fn a_step_that_prefills_much_is_not_followed() {
    let limits = SchedulerLimits { global_blocks: 200, sliding_blocks: 200, ..limits() };
    let wide = SchedulerLimits { token_budget_tokens: 400, prefill_slice_tokens: 400, ..limits };
    for (len, is_followed) in [(256, true), (257, false)] {
        let mut stage = Stage::new(wide);
        stage.submit(len, 9);
        stage.plan().unwrap();
        assert_eq!(stage.plan_ahead().is_some(), is_followed, "{len} tokens");
    }
}

#[test]
fn what_is_gathered_of_a_prompt_waits_for_the_commit() {
    let mut stage = Stage::new(limits());
    stage.submit_sampled(20, 9, Sampling { prompt_logprobs: true, ..Sampling::default() });
    stage.plan().unwrap();
    assert!(stage.plan_ahead().is_none());
}

#[test]
fn whoever_reports_on_its_prompt_is_not_in_a_step_planned_ahead() {
    let mut stage = Stage::new(limits());
    stage.submit(3, 9);
    stage.settle(1);
    let batch = stage.plan().unwrap();
    let late = stage.submit_sampled(20, 2, Sampling { prompt_logprobs: true, ..Sampling::default() });
    assert!(stage.plan_ahead().is_none());
    let result = stage.compute(&batch);
    stage.commit(result);
    assert_eq!(stage.step()[1], (late, 16), "it waits for the commit, and no longer");
    stage.finish_ahead();
    assert_eq!(stage.heard(late).0, alone(20, 2));
}

#[test]
fn a_draw_with_a_history_waits_for_the_token_before() {
    let mut stage = Stage::new(limits());
    let penalised = stage.submit_sampled(5, 4, Sampling { presence_penalty: 0.5, ..Sampling::default() });
    stage.submit(3, 9);
    stage.settle(2);
    stage.plan().unwrap();
    assert!(stage.plan_ahead().is_none());
    stage.scheduler.cancel(penalised);
    assert!(stage.plan_ahead().is_none(), "it is still in the step under way");
}

/// Allows every token, and panics if it is told or asked out of turn.
#[derive(Debug, Default)]
struct InTurn(AtomicU32);

impl TokenMasks for InTurn {
    fn drawn(&self, index: u32, _: TokenId) {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), index, "each draw is told once, in order");
    }

    fn allowed(&self, index: u32) -> Allowed {
        assert_eq!(self.0.load(Ordering::SeqCst), index, "a draw is asked for when those before it are told");
        Allowed::Only(vec![u32::MAX; 16].into())
    }
}

fn masked() -> Sampling {
    Sampling { masks: Some(Masks(Arc::new(InTurn::default()))), ..Sampling::default() }
}

#[test]
fn a_masked_draw_waits_for_the_token_before_and_nobody_waits_for_it() {
    let mut stage = Stage::new(limits());
    let held = stage.submit_sampled(5, 6, masked());
    let free = stage.submit(3, 9);
    stage.settle(2);
    let batch = stage.plan().unwrap();
    assert_eq!(slices(&batch), [(held, 1), (free, 1)]);
    let ahead = stage.plan_ahead().unwrap();
    assert_eq!(slices(&ahead), [(free, 1)], "its mask follows from the token that is drawn now");
    let result = stage.compute(&batch);
    stage.commit(result);
    let next = stage.plan_ahead().unwrap();
    assert_eq!(slices(&next), [(held, 1), (free, 1)], "the step after that has it again");
    for batch in [ahead, next] {
        let result = stage.compute(&batch);
        stage.commit(result);
    }
    stage.finish_ahead();
    assert_eq!([held, free].map(|seq| stage.heard(seq).0), [alone(5, 6), alone(3, 9)]);
    // With no other sequence there is nothing to plan ahead.
    let mut stage = Stage::new(limits());
    let held = stage.submit_sampled(5, 6, masked());
    stage.settle(1);
    stage.plan().unwrap();
    assert!(stage.plan_ahead().is_none());
    assert_eq!(stage.heard(held).0.len(), 1);
}

#[test]
fn masks_follow_a_sequence_through_preemption_and_lost_steps() {
    let tight = SchedulerLimits { global_blocks: 5, sliding_blocks: 5, ..limits() };
    let faults = vec![EngineFault::FailsAtStep(4), EngineFault::FailsAtStep(9)];
    let mut stage = Stage::with(tight, FakeAnswer::Hash { seed: 1 }, faults);
    let seqs = [5, 2, 7, 3].map(|len| (len, stage.submit_sampled(len, 9, masked())));
    stage.finish_ahead();
    assert!(stage.scheduler.counts().preemptions_total > 0, "blocks ran out");
    for (len, seq) in seqs {
        assert_eq!(stage.heard(seq).0, alone(len, 9), "the prompt of {len} tokens");
    }
}

/// Allows all tokens below 400 but 17. Draw 12, and one behind a token that turns, may give 450 to
/// 479 alone.
#[derive(Debug, Default)]
pub(super) struct Turning(Mutex<TurningState>);

#[derive(Debug, Default)]
struct TurningState {
    turned: Option<u32>,
    is_past: bool,
}

impl Turning {
    pub(super) fn sampling() -> Sampling {
        Sampling { masks: Some(Masks(Arc::new(Self::default()))), ..Sampling::default() }
    }

    /// One of those whose bit is heeded does not turn.
    fn turns(token: TokenId) -> bool {
        token.0 % 8 == 3 && token.0 >= 64
    }
}

impl TokenMasks for Turning {
    fn drawn(&self, index: u32, token: TokenId) {
        let mut state = self.0.lock().unwrap();
        state.turned = (index == 11 || Self::turns(token)).then_some(index + 1);
        state.is_past = index >= 12;
    }

    fn outlook(&self) -> MaskOutlook {
        let state = self.0.lock().unwrap();
        let changed_by = (0..8).fold(0, |bits, at| bits | MaskOutlook::bit(TokenId(8 * at + 3)));
        match state.turned {
            Some(_) => MaskOutlook::NEXT,
            None => MaskOutlook { until: if state.is_past { u32::MAX } else { 12 }, changed_by },
        }
    }

    fn allowed(&self, index: u32) -> Allowed {
        match self.0.lock().unwrap().turned {
            Some(turned) if turned == index => {
                Allowed::Only((0..16).map(|word| if word == 14 { u32::MAX << 2 } else { 0 }).collect())
            }
            _ => Allowed::Except((400..512).chain([17]).map(TokenId).collect()),
        }
    }
}

#[test]
fn a_mask_that_holds_on_is_planned_ahead_and_one_that_changed_is_drawn_again() {
    let prompts = [5, 37, 2, 9, 11, 3];
    let run = |ahead: bool, limits: SchedulerLimits, faults: Vec<EngineFault>| {
        let mut stage = Stage::with(limits, FakeAnswer::Hash { seed: 1 }, faults);
        let seqs = prompts.map(|len| stage.submit_sampled(len, 60, Turning::sampling()));
        let steps_count = if ahead { stage.finish_ahead() } else { stage.finish().len() };
        (seqs.map(|seq| stage.heard(seq).0), steps_count, stage.scheduler.counts().preemptions_total)
    };
    let (in_turn, _, _) = run(false, limits(), Vec::new());
    let mut turns_count = 0;
    for tokens in &in_turn {
        for (index, token) in tokens.iter().enumerate() {
            let is_turned = index == 12 || index > 0 && Turning::turns(tokens[index - 1]);
            assert_eq!((450..480).contains(&token.0), is_turned, "draw {index}: {tokens:?}");
            assert!(is_turned || token.0 < 400 && token.0 != 17);
            turns_count += usize::from(is_turned && index != 12);
        }
    }
    assert!(turns_count > 10, "{turns_count}");
    let (ahead, ahead_count, _) = run(true, limits(), Vec::new());
    assert_eq!(ahead, in_turn);
    assert!(ahead_count > 60, "{ahead_count} steps were planned ahead");
    let tight = SchedulerLimits { global_blocks: 26, sliding_blocks: 14, ..limits() };
    let faults = vec![EngineFault::FailsAtStep(20), EngineFault::FailsAtStep(41)];
    let (preempted, _, preemptions_count) = run(true, tight, faults);
    assert_eq!(preempted, in_turn, "after preemptions and lost steps too");
    assert!(preemptions_count > 0);
}

#[test]
fn of_a_slice_that_is_void_nothing_is_kept_and_the_others_go_on() {
    let turn = TokenId(75);
    let answer = FakeAnswer::Script { tokens: vec![TokenId(100), TokenId(100), turn], stop: TokenId(101) };
    let mut stage = Stage::with(limits(), answer, Vec::new());
    let (held, free) = (stage.submit_sampled(3, 9, Turning::sampling()), stage.submit(4, 9));
    stage.settle(2);
    stage.step();
    let batch = stage.plan().unwrap();
    let ahead = stage.plan_ahead().unwrap();
    assert_eq!(slices(&ahead), [(held, 1), (free, 1)], "both go on without waiting");
    let result = stage.compute(&batch);
    stage.commit(result);
    assert_eq!(stage.heard(held).0.last(), Some(&turn));
    // The slice under way draws under the mask of before; its sequence is in the next one again.
    let next = stage.plan_ahead().unwrap();
    assert_eq!(slices(&next), [(held, 1), (free, 1)]);
    let place = |batch: &Batch, at: usize| (batch.slices[at].start, batch.slices[at].draw.as_ref().unwrap().generated_count);
    assert_eq!(place(&ahead, 0), place(&next, 0), "the same token is computed, and the same draw made");
    assert_eq!(place(&next, 1), (place(&ahead, 1).0 + 1, place(&ahead, 1).1 + 1));
    let result = stage.compute(&ahead);
    stage.commit(result);
    assert_eq!(stage.heard(held).0.last(), Some(&turn), "nothing comes of it");
    let result = stage.compute(&next);
    stage.commit(result);
    assert!((450..480).contains(&stage.heard(held).0.last().unwrap().0));
    assert_eq!((stage.heard(held).0.len(), stage.heard(free).0.len()), (4, 5));
}

#[test]
fn nobody_is_preempted_by_a_step_planned_ahead() {
    // Eight tokens each fill four blocks.
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 4, sliding_blocks: 6, ..limits() });
    let seqs = [stage.submit(6, 9), stage.submit(6, 9)];
    stage.settle(2);
    stage.step();
    stage.plan().unwrap();
    assert!(stage.plan_ahead().is_none(), "the token after the next has no block");
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 4, sliding_blocks: 6, ..limits() });
    assert_eq!(seqs, [stage.submit(6, 9), stage.submit(6, 9)]);
    assert!(stage.finish_ahead() > 0);
    assert!(stage.scheduler.counts().preemptions_total > 0, "it waited for a plan that may");
    seqs.iter().for_each(|seq| assert_eq!(stage.heard(*seq).0, alone(6, 9)));
}

#[test]
fn a_window_that_holds_somebody_holds_the_step_planned_ahead() {
    let mut stage = Stage::new(SchedulerLimits { prefill_window_micros: 5_000, ..limits() });
    stage.submit(3, 9);
    stage.now = stage.now.plus(5_000);
    stage.settle(1);
    let batch = stage.plan().unwrap();
    stage.submit(4, 9);
    assert!(stage.plan_ahead().is_none(), "it could be let go before that step begins");
    let result = stage.compute(&batch);
    stage.commit(result);
    stage.now = stage.now.plus(5_000);
    stage.finish_ahead();
}

#[test]
fn a_lost_step_takes_the_one_planned_ahead_with_it() {
    let mut stage = Stage::with(limits(), FakeAnswer::Hash { seed: 1 }, vec![EngineFault::FailsAtStep(3)]);
    let seqs = [stage.submit(3, 9), stage.submit(4, 9)];
    stage.settle(2);
    stage.step();
    stage.step();
    let batch = stage.plan().unwrap();
    let late = stage.submit(5, 9);
    assert_eq!(stage.plan_ahead().unwrap().slices.len(), 3);
    let result = stage.compute(&batch);
    assert!(matches!(result, StepResult::Lost));
    stage.commit(result);
    assert_eq!(stage.scheduler.counts().waiting_count, 3, "all are computed again");
    // The sequences of the lost step are tried alone; one that was only in the step after it is no
    // suspect.
    assert_eq!(stage.step(), [(seqs[0], 6)]);
    stage.finish_ahead();
    let answers = [alone(3, 9), alone(4, 9), alone(5, 9)];
    assert_eq!([seqs[0], seqs[1], late].map(|seq| stage.heard(seq).0), answers);
}

#[test]
fn whoever_leaves_between_two_plans_is_in_neither_report() {
    let mut stage = Stage::new(limits());
    let seqs = [stage.submit(3, 9), stage.submit(4, 9), stage.submit(5, 9)];
    stage.settle(3);
    let batch = stage.plan().unwrap();
    stage.scheduler.cancel(seqs[0]);
    let ahead = stage.plan_ahead();
    stage.scheduler.cancel(seqs[1]);
    for batch in [Some(batch), ahead].into_iter().flatten() {
        let result = stage.compute(&batch);
        stage.commit(result);
    }
    stage.finish_ahead();
    assert_eq!(stage.heard(seqs[0]).0.len() + stage.heard(seqs[1]).0.len(), 2, "the tokens before they left");
    assert_eq!(stage.heard(seqs[2]).0, alone(5, 9));
}

#[test]
fn those_who_ended_do_not_stay_in_the_line() {
    let mut stage = Stage::new(limits());
    let seqs: Vec<SeqId> = (0..8).map(|_| stage.submit(3, 40)).collect();
    stage.settle(8);
    // They leave in the middle of a chain of such steps.
    let mut ahead = None;
    for step in 0..8 {
        let batch = ahead.take().unwrap_or_else(|| stage.plan().unwrap());
        ahead = stage.plan_ahead();
        if step == 3 {
            seqs[1..].iter().for_each(|seq| stage.scheduler.cancel(*seq));
        }
        let result = stage.compute(&batch);
        stage.commit(result);
    }
    assert_eq!(stage.scheduler.running.line_len(), 1);
}

#[test]
#[should_panic(expected = "planned ahead of one other")]
fn planning_two_steps_ahead_is_a_bug() {
    let mut stage = Stage::new(limits());
    stage.submit(3, 9);
    stage.settle(1);
    stage.plan().unwrap();
    stage.plan_ahead().unwrap();
    stage.plan_ahead();
}
