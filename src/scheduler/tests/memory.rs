use super::*;

#[test]
fn the_newest_is_preempted_and_is_the_first_to_run_again() {
    // Seven blocks: three sequences of two blocks each fill six, and each wants a third when it has
    // eight tokens.
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 7, ..limits() });
    let [a, b, c] = [5, 5, 8].map(|max_tokens| stage.submit(7, max_tokens));
    assert_eq!(stage.step(), [(a, 7), (b, 7), (c, 7)]);
    assert_eq!(stage.step(), [(a, 1), (b, 1), (c, 1)]);
    let last = stage.submit(1, 1);
    // The first takes the seventh block; the second wants one, and the third gives its two back.
    assert_eq!(stage.step(), [(a, 1), (b, 1)]);
    let counts = stage.scheduler.counts();
    assert_eq!((counts.preemptions_total, counts.waiting_count, counts.waiting_tokens), (1, 2, 8));
    // One block is free, and the last one would fit: it does not pass the third, which waits for
    // three.
    while stage.heard(a).1.is_none() {
        assert_eq!(stage.step(), [(a, 1), (b, 1)]);
    }
    assert_eq!(stage.step(), [(c, 9), (last, 1)], "with the tokens that it had");
    stage.finish();
    for (seq, max_tokens) in [(a, 5), (b, 5), (c, 8)] {
        assert_eq!(stage.heard(seq), (alone(7, max_tokens), Some(FinishReason::Length)));
    }
}

#[test]
fn the_newest_gives_up_its_own_blocks_if_it_is_itself_that_wants_one() {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 5, ..limits() });
    let old = stage.submit(9, 4);
    let new = stage.submit(7, 4);
    assert_eq!(stage.step(), [(old, 9), (new, 7)]);
    assert_eq!(stage.step(), [(old, 1), (new, 1)]);
    assert_eq!(stage.step(), [(old, 1)], "all five blocks are taken, and only the new one wants another");
    assert_eq!(stage.scheduler.counts().preemptions_total, 1);
    assert_eq!(stage.step(), [(old, 1)]);
    assert_eq!(stage.step(), [(new, 9)]);
    stage.finish();
    assert_eq!(stage.heard(new).0, alone(7, 4));
}

#[test]
fn preemption_happens_in_the_sliding_group_too() {
    // A long prompt beside short answers: the prompt's second slice holds six sliding blocks, there
    // are eight, and three short ones hold one each.
    let mut stage = Stage::new(SchedulerLimits { sliding_blocks: 8, ..limits() });
    let long = stage.submit(60, 2);
    let shorts = [3, 2, 1].map(|len| stage.submit(len, 30));
    assert_eq!(stage.step(), [(long, 16), (shorts[0], 3), (shorts[1], 2), (shorts[2], 1)]);
    assert_eq!(stage.step(), [(shorts[0], 1), (shorts[1], 1), (long, 16)]);
    assert_eq!(stage.scheduler.counts().preemptions_total, 1);
    stage.finish();
    assert_eq!(stage.heard(long).0, alone(60, 2));
    for (seq, len) in shorts.into_iter().zip([3, 2, 1]) {
        assert_eq!(stage.heard(seq).0, alone(len, 30));
    }
}

#[test]
fn prefill_does_not_preempt_what_was_admitted_with_it() {
    // Eleven blocks, and prompts of six blocks each, prefilled in two steps: the second must wait,
    // not start and be thrown out.
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 11, ..limits() });
    let first = stage.submit(23, 2);
    let second = stage.submit(23, 2);
    assert_eq!(stage.step(), [(first, 16)]);
    let steps = stage.finish();
    assert_eq!(stage.scheduler.counts().preemptions_total, 0);
    assert_eq!(steps.iter().flatten().filter(|(seq, _)| *seq == second).map(|(_, len)| len).sum::<usize>(), 24);
}

#[test]
fn sliding_blocks_are_free_once_no_later_token_sees_them() {
    let mut stage = Stage::new(limits());
    stage.submit(8, 200);
    stage.step();
    for _ in 0..199 {
        let batch = stage.plan().unwrap();
        let slice = &batch.slices[0];
        // The token sees 8 positions: they lie in two blocks, or three.
        let seen = slice.start / 4 - (slice.start - 7) / 4 + 1;
        assert_eq!(slice.sliding_blocks.len(), seen, "at {}", slice.start);
        let result = stage.compute(&batch);
        stage.commit(result);
        let counts = stage.scheduler.counts();
        assert!(counts.blocks().in_use_count() <= slice.end().div_ceil(4) + 3, "at {}", slice.start);
    }
    stage.finish();
}

#[test]
fn a_cancelled_sequences_blocks_are_free_at_once() {
    let mut stage = Stage::new(limits());
    let [waits, runs, in_flight] = [3, 3, 3].map(|len| stage.submit(len, 9));
    stage.scheduler.cancel(waits);
    stage.step();
    stage.scheduler.cancel(runs);
    let batch = stage.plan().unwrap();
    assert_eq!(slices(&batch), [(in_flight, 1)]);
    stage.scheduler.cancel(in_flight);
    let counts = stage.scheduler.counts();
    assert_eq!((counts.blocks().in_use_count(), counts.decode_count), (0, 0));
    // Its place is taken by another, which must not hear of its report.
    let next = stage.submit(5, 2);
    let heard = stage.events.len();
    let result = stage.compute(&batch);
    stage.commit(result);
    assert_eq!(stage.events.len(), heard);
    stage.finish();
    assert_eq!(stage.heard(next).0, alone(5, 2));
    for seq in [waits, in_flight, in_flight, next, SeqId(99)] {
        stage.scheduler.cancel(seq);
    }
    assert_eq!(stage.heard(in_flight).1, None, "no event follows a cancel");
}
