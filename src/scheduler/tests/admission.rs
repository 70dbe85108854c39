use super::*;

fn reject(stage: &mut Stage, len: usize, max_tokens: u32) -> Option<Reject> {
    stage.scheduler.submit(sequence(len, max_tokens, Sampling::default()), stage.now).err()
}

#[test]
fn what_can_never_run_is_rejected_at_once() {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 10, context_tokens_max: 50, ..limits() });
    assert_eq!(reject(&mut stage, 0, 3), Some(Reject::EmptyPrompt));
    assert_eq!(reject(&mut stage, 3, 0), Some(Reject::NoTokensAsked));
    let exceeded = Reject::ContextExceeded { prompt_tokens: 48, max_tokens: 3, context_tokens_max: 50 };
    assert_eq!(reject(&mut stage, 48, 3), Some(exceeded));
    let endless = Reject::ContextExceeded { prompt_tokens: 1, max_tokens: u32::MAX as usize, context_tokens_max: 50 };
    assert_eq!(reject(&mut stage, 1, u32::MAX), Some(endless));
    // Forty positions are stored; the token after them is drawn and needs no slot.
    assert_eq!(reject(&mut stage, 38, 4), Some(Reject::NeverFits { needed_blocks: 11, total_blocks: 10 }));
    assert_eq!(reject(&mut stage, 38, 3), None);
    stage.finish();
}

#[test]
fn the_sliding_group_must_hold_a_slice_and_its_window() {
    // A slice of 16 sees 7 positions before it: 23 positions lie in up to 7 blocks of 4.
    let six = SchedulerLimits { sliding_blocks: 6, ..limits() };
    let never = Some(Reject::NeverFits { needed_blocks: 7, total_blocks: 6 });
    assert_eq!(reject(&mut Stage::new(six), 100, 1), never);
    let mut stage = Stage::new(SchedulerLimits { sliding_blocks: 7, ..limits() });
    assert_eq!(reject(&mut stage, 100, 20), None);
    assert_eq!(reject(&mut stage, 100, 20), None);
    stage.finish();
    // A sequence with fewer tokens than that needs no more than they do.
    assert_eq!(reject(&mut Stage::new(six), 24, 1), None);
}

#[test]
fn the_queue_is_bounded_in_sequences() {
    let mut stage = Stage::new(SchedulerLimits { waiting_max_count: 3, ..limits() });
    for _ in 0..3 {
        assert_eq!(reject(&mut stage, 5, 2), None);
    }
    assert_eq!(
        reject(&mut stage, 5, 2),
        Some(Reject::QueueFull { waiting_count: 3, waiting_tokens: 15, taken_after_micros: 0 })
    );
    stage.step();
    assert_eq!(reject(&mut stage, 5, 2), None, "those that run do not wait");
}

#[test]
fn the_queue_is_bounded_in_prompt_tokens_unless_it_is_empty() {
    let mut stage = Stage::new(SchedulerLimits { waiting_max_tokens: 20, ..limits() });
    assert_eq!(reject(&mut stage, 50, 2), None, "none waits");
    assert_eq!(
        reject(&mut stage, 1, 2),
        Some(Reject::QueueFull { waiting_count: 1, waiting_tokens: 50, taken_after_micros: 0 })
    );
    stage.step();
    assert_eq!(reject(&mut stage, 15, 2), None);
    assert_eq!(
        reject(&mut stage, 6, 2),
        Some(Reject::QueueFull { waiting_count: 1, waiting_tokens: 15, taken_after_micros: 0 })
    );
    assert_eq!(reject(&mut stage, 5, 2), None);
}

#[test]
fn a_request_is_taken_whole_or_not_at_all() {
    let mut stage = Stage::new(SchedulerLimits { waiting_max_count: 5, ..limits() });
    let request = |count: usize| vec![sequence(4, 2, Sampling::default()); count];
    assert_eq!(stage.scheduler.submit_all(request(3), stage.now).unwrap(), SeqId(0));
    let full = Reject::QueueFull { waiting_count: 3, waiting_tokens: 12, taken_after_micros: 0 };
    assert_eq!(stage.scheduler.submit_all(request(3), stage.now), Err(full));
    let mut mixed = request(1);
    mixed.push(sequence(0, 2, Sampling::default()));
    assert_eq!(stage.scheduler.submit_all(mixed, stage.now), Err(Reject::EmptyPrompt));
    assert_eq!(stage.scheduler.counts().waiting_count, 3);
    assert_eq!(stage.scheduler.submit_all(request(2), stage.now).unwrap(), SeqId(1));
}

#[test]
fn nobody_passes_the_front() {
    // Nine blocks; the first holds eight of them, so that the second, which needs three, waits.
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 9, ..limits() });
    let first = stage.submit(30, 3);
    let second = stage.submit(10, 1);
    let small = stage.submit(2, 1);
    assert_eq!(stage.step(), [(first, 16)]);
    assert_eq!(stage.step(), [(first, 14)]);
    assert_eq!(stage.step(), [(first, 1)]);
    assert_eq!(stage.step(), [(first, 1)]);
    assert_eq!(stage.heard(first).1, Some(FinishReason::Length));
    assert_eq!(stage.step(), [(second, 10), (small, 2)]);
}

#[test]
fn a_queue_timeout_ends_only_those_that_never_ran() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 2, waiting_max_micros: 2_500, ..limits() });
    let runs = [stage.submit(4, 9), stage.submit(4, 9)];
    stage.step();
    let waits = stage.submit(4, 9);
    stage.step();
    let later = stage.submit(4, 9);
    // A lost step sends both back to the queue, where they may wait as long as it takes.
    let batch = stage.plan().unwrap();
    assert_eq!(batch.slices.len(), 2);
    stage.commit(StepResult::Lost);
    stage.now = Micros(3_499);
    stage.step();
    assert_eq!(stage.heard(waits).1, None, "it came at 1,000 and may wait until 3,500");
    stage.step();
    assert_eq!((stage.heard(waits).1, stage.heard(later).1), (Some(FinishReason::QueueTimeout), None));
    stage.step();
    assert_eq!(stage.heard(later).1, Some(FinishReason::QueueTimeout));
    stage.finish();
    assert!(runs.iter().all(|seq| stage.heard(*seq).1 == Some(FinishReason::Length)));
}

#[test]
fn an_idle_plan_says_when_the_first_times_out() {
    let mut stage = Stage::new(SchedulerLimits { prefill_window_micros: 900, waiting_max_micros: 500, ..limits() });
    let seq = stage.submit(4, 9);
    assert_eq!(stage.plan().unwrap_err(), Some(Micros(500)));
    stage.now = Micros(500);
    assert_eq!(stage.plan().unwrap_err(), None);
    assert_eq!(stage.heard(seq), (vec![], Some(FinishReason::QueueTimeout)));
}

#[test]
fn sixty_five_thousand_wait_and_are_cancelled_in_any_order() {
    let many = 65_536;
    let mut stage = Stage::new(SchedulerLimits { waiting_max_count: many, waiting_max_tokens: usize::MAX, ..limits() });
    let seqs: Vec<SeqId> = (0..many).map(|_| stage.submit(3, 1)).collect();
    // An odd stride visits each of 2^16 places once.
    for i in 0..many {
        stage.scheduler.cancel(seqs[i * 40_503 % many]);
    }
    let free = BlockUse { total_count: 64, free_count: 64, cached_count: 0 };
    let left = SchedulerCounts { global_blocks: free, sliding_blocks: free, ..SchedulerCounts::default() };
    assert_eq!(stage.scheduler.counts(), left);
}
