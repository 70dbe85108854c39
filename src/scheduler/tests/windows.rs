use super::*;

/// A prefill window of 10 ms, and this decode window.
fn windows(decode_window_micros: u64) -> SchedulerLimits {
    SchedulerLimits { prefill_window_micros: 10_000, decode_window_micros, ..limits() }
}

#[test]
fn the_first_prompt_is_held_so_that_others_join_its_step() {
    let mut stage = Stage::new(windows(0));
    stage.now = Micros(5_000);
    let first = stage.submit(4, 2);
    assert_eq!(stage.plan().unwrap_err(), Some(Micros(15_000)));
    stage.now = Micros(14_999);
    let second = stage.submit(4, 2);
    assert_eq!(stage.plan().unwrap_err(), Some(Micros(15_000)), "the first counts, not the last");
    stage.now = Micros(15_000);
    assert_eq!(stage.step(), [(first, 4), (second, 4)]);
}

#[test]
fn a_full_batch_never_waits() {
    let open = |limits: SchedulerLimits, lens: &[usize]| {
        let mut stage = Stage::new(limits);
        for len in lens {
            stage.submit(*len, 2);
        }
        stage.plan().is_ok()
    };
    assert!(!open(windows(0), &[16, 15]), "a token of the budget is left");
    assert!(open(windows(0), &[16, 16]), "the budget is used up");
    assert!(!open(windows(0), &[100]), "a long prompt takes a slice, and leaves the rest of the budget");
    let two_run = SchedulerLimits { running_max_count: 2, ..windows(0) };
    assert!(!open(two_run, &[4]) && open(two_run, &[4, 4]), "places");
    let three_wait = SchedulerLimits { waiting_max_count: 3, ..windows(0) };
    assert!(!open(three_wait, &[4, 4]) && open(three_wait, &[4, 4, 4]), "the queue's length");
    let nine_tokens_wait = SchedulerLimits { waiting_max_tokens: 9, ..windows(0) };
    assert!(!open(nine_tokens_wait, &[4, 4]) && open(nine_tokens_wait, &[4, 5]), "the queue's tokens");
    let global_blocks = SchedulerLimits { global_blocks: 4, ..windows(0) };
    assert!(!open(global_blocks, &[8, 4]) && open(global_blocks, &[8, 5]), "global blocks");
    let sliding_blocks = SchedulerLimits { sliding_blocks: 4, ..windows(0) };
    assert!(!open(sliding_blocks, &[8, 4]) && open(sliding_blocks, &[8, 5]), "sliding blocks");
}

#[test]
fn those_that_run_do_not_wait_for_the_held() {
    let mut stage = Stage::new(windows(0));
    let runs = stage.submit(4, 50);
    stage.now = Micros(10_000);
    stage.step();
    let held = stage.submit(4, 2);
    let steps: Vec<_> = (0..11).map(|_| stage.step()).collect();
    assert!(steps[..10].iter().all(|step| *step == [(runs, 1)]), "{steps:?}");
    assert_eq!(steps[10], [(runs, 1), (held, 4)], "ten steps of a millisecond later");
}

#[test]
fn a_decode_step_is_held_for_one_that_joins_in_time() {
    let mut stage = Stage::new(windows(3_000));
    let runs = stage.submit(4, 50);
    stage.now = Micros(10_000);
    stage.step();
    let held = stage.submit(4, 2);
    assert_eq!(stage.now, Micros(11_000), "it is let go at 21,000");
    // Until then the decode window of 3,000 is over seven times: holding would be in vain.
    for committed_at in 12..=18 {
        assert_eq!(stage.step(), [(runs, 1)]);
        assert_eq!(stage.now, Micros(committed_at * 1_000));
    }
    assert_eq!(stage.plan().unwrap_err(), Some(Micros(21_000)));
    stage.now = Micros(20_999);
    assert_eq!(stage.plan().unwrap_err(), Some(Micros(21_000)));
    stage.now = Micros(21_000);
    assert_eq!(stage.step(), [(runs, 1), (held, 4)]);
}

#[test]
fn a_decode_step_is_not_held_without_anybody_about_to_join() {
    let forever = u64::MAX;
    let mut stage = Stage::new(SchedulerLimits { decode_window_micros: forever, ..limits() });
    stage.submit(4, 20);
    stage.finish();
    // With a prefill window, and places for no more than run: none can join, whatever waits.
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 1, ..windows(forever) });
    let first = stage.submit(4, 20);
    let second = stage.submit(4, 20);
    for _ in 0..20 {
        assert_eq!(stage.step()[0].0, first);
    }
    assert_eq!(stage.step()[0].0, second);
}

#[test]
fn a_step_with_a_prefill_slice_is_not_held() {
    let mut stage = Stage::new(windows(u64::MAX));
    let answers = stage.submit(4, 50);
    let long = stage.submit(60, 2);
    stage.now = Micros(10_000);
    assert_eq!(stage.step(), [(answers, 4), (long, 16)]);
    stage.submit(4, 2);
    assert_eq!(stage.step(), [(answers, 1), (long, 16)]);
    assert_eq!(stage.step(), [(answers, 1), (long, 16)]);
    assert_eq!(stage.step(), [(answers, 1), (long, 12)]);
    assert_eq!(stage.plan().unwrap_err(), Some(Micros(21_000)), "nothing but decode slices now");
}

#[test]
fn the_preempted_are_not_held() {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 5, ..windows(0) });
    let old = stage.submit(9, 4);
    let new = stage.submit(7, 4);
    stage.now = Micros(10_000);
    assert_eq!(stage.step(), [(old, 9), (new, 7)]);
    while stage.heard(old).1.is_none() {
        stage.step();
    }
    assert_eq!(stage.scheduler.counts().preemptions_total, 1);
    let fresh = stage.submit(1, 1);
    assert_eq!(stage.step(), [(new, 9)], "at once, and the fresh one is held for others");
    assert_eq!(stage.heard(fresh).1, None);
}

#[test]
fn a_decode_step_is_not_held_while_a_preempted_sequence_is_in_front() {
    // Seven blocks: one for the old sequence, four for the middle one, two for the new one.
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 7, ..windows(u64::MAX) });
    let (old, middle, new) = (stage.submit(3, 20), stage.submit(13, 3), stage.submit(7, 20));
    stage.now = Micros(10_000);
    assert_eq!(stage.step(), [(old, 3), (middle, 13), (new, 7)]);
    assert_eq!(stage.step(), [(old, 1), (middle, 1), (new, 1)]);
    // The old one wants a second block, and gets one of the new one's; the middle one ends.
    assert_eq!(stage.step(), [(old, 1), (middle, 1)]);
    let counts = stage.scheduler.counts();
    assert_eq!((counts.preemptions_total, counts.waiting_count, counts.decode_count), (1, 1, 1));
    let fresh = stage.submit(1, 1);
    assert_eq!(stage.step(), [(old, 1), (new, 9)], "the fresh one behind it is held, and no other");
    assert_eq!(stage.heard(fresh).1, None);
}
