//! Requests of several sequences: how they enter, how they end, and how long others wait for them.

use super::*;

fn request(count: usize, len: usize, max_tokens: u32) -> Vec<NewSequence> {
    vec![sequence(len, max_tokens, Sampling::default()); count]
}

impl Stage {
    fn submit_request(&mut self, request: Vec<NewSequence>) -> SeqId {
        self.scheduler.submit_all(request, self.now).expect("the queue has room")
    }

    /// The ends of all sequences so far, in the order of the events.
    fn ends(&self) -> Vec<(SeqId, FinishReason)> {
        let end = |event: &SequenceEvent| match event {
            SequenceEvent::Finished { seq, reason, .. } => Some((*seq, *reason)),
            _ => None,
        };
        self.events.iter().filter_map(end).collect()
    }

    fn entered(&self) -> Vec<(usize, SeqId)> {
        let entered = |event: &SequenceEvent| match event {
            SequenceEvent::Entered { index, seq, .. } => Some((*index, *seq)),
            _ => None,
        };
        self.events.iter().filter_map(entered).collect()
    }
}

#[test]
fn a_request_takes_half_of_the_places_and_the_next_request_runs_at_once() {
    let mut stage = Stage::new(limits());
    let first = stage.submit_request(request(10, 2, 5));
    assert_eq!(stage.step().len(), 4, "half of eight");
    assert_eq!(stage.entered(), [(1, SeqId(1)), (2, SeqId(2)), (3, SeqId(3))]);
    assert_eq!(stage.scheduler.counts().waiting_count, 6, "those that are held wait");
    let single = stage.submit(3, 2);
    assert!(stage.step().contains(&(single, 3)));
    // The next four enter when the first four have ended, behind all others.
    stage.finish();
    assert_eq!(stage.entered().len(), 9);
    assert!(stage.entered()[3..].iter().all(|(_, seq)| *seq > single));
    assert!((0..10).zip(stage.entered()).all(|(at, (index, _))| index == at + 1), "in their order");
    assert_eq!(stage.ends().len(), 11);
    assert_eq!(stage.heard(first).0, alone(2, 5));
}

#[test]
fn prompts_take_half_of_the_budget_and_decoding_ones_do_not_count() {
    // Slices of at most 8 and 32 tokens a step: two prompts at a time.
    let mut stage = Stage::new(SchedulerLimits { prefill_slice_tokens: 8, ..limits() });
    stage.submit_request(request(3, 12, 9));
    assert_eq!(stage.step(), [(SeqId(0), 8), (SeqId(1), 8)]);
    // Eight and four more are wanted, then one each.
    assert_eq!(stage.step(), [(SeqId(0), 4), (SeqId(1), 4), (SeqId(2), 8)]);
    assert_eq!(stage.step(), [(SeqId(0), 1), (SeqId(1), 1), (SeqId(2), 4)]);
}

#[test]
fn a_long_prompt_comes_alone_and_does_not_wait_for_the_end_of_those_that_decode() {
    let mut stage = Stage::new(SchedulerLimits { prefill_slice_tokens: 32, ..limits() });
    stage.submit_request(request(2, 30, 9));
    assert_eq!(stage.step(), [(SeqId(0), 30)], "more than half, but it is the only one");
    assert_eq!(stage.step(), [(SeqId(0), 1), (SeqId(1), 30)]);
}

#[test]
fn a_request_takes_half_of_the_blocks() {
    // Sixteen blocks of four; a prompt takes five of them.
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 16, ..limits() });
    stage.submit_request(request(3, 17, 2));
    let single = stage.submit(15, 2);
    assert_eq!(stage.step(), [(SeqId(0), 16), (single, 15)]);
    let order: Vec<SeqId> = stage.finish().into_iter().flatten().map(|(seq, _)| seq).collect();
    let of = |seq: u64| order.iter().position(|other| other.0 == seq).expect("it ran");
    assert!(of(0) < of(2) && of(2) < of(3), "one after another: {order:?}");
}

#[test]
fn where_one_may_run_a_request_runs_one_after_another_and_others_come_between() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 1, ..limits() });
    stage.submit_request(request(3, 2, 2));
    let single = stage.submit(2, 2);
    stage.finish();
    let ended: Vec<SeqId> = stage.ends().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(ended, [SeqId(0), single, SeqId(2), SeqId(3)]);
}

#[test]
fn a_sequence_that_fails_takes_its_request_with_it_and_no_other() {
    let rotten = EngineFault::NotFiniteFor { seq: SeqId(2), generated_count: 2 };
    let mut stage = Stage::with(limits(), FakeAnswer::Hash { seed: 1 }, vec![rotten]);
    stage.submit_request(request(10, 2, 50));
    let single = stage.submit(3, 5);
    while stage.ends().is_empty() {
        stage.step();
    }
    let ends = stage.ends();
    assert_eq!(ends[0], (SeqId(2), FinishReason::NotFinite));
    assert_eq!(ends.len(), 10, "those that were held as well");
    assert!(ends[1..].iter().all(|(seq, reason)| *reason == FinishReason::RequestFailed && *seq != single));
    assert_eq!(stage.entered().len(), 9, "each has an id for its end");
    let counts = stage.scheduler.counts();
    assert_eq!((counts.waiting_count, counts.decode_count, counts.blocks().in_use_count()), (0, 1, 4), "{counts:?}");
    stage.finish();
    assert_eq!(stage.heard(single), (alone(3, 5), Some(FinishReason::Length)));
}

#[test]
fn a_sequence_at_which_the_engine_fails_takes_its_request_with_it() {
    let poison = TokenId(13);
    let mut stage = Stage::with(limits(), FakeAnswer::Hash { seed: 1 }, vec![EngineFault::FailsOnToken(poison)]);
    let mut request = request(6, 2, 50);
    request[1].prompt[1] = poison;
    stage.submit_request(request);
    let single = stage.submit(3, 5);
    stage.finish();
    let failed = |reason| stage.ends().iter().filter(|(_, end)| *end == reason).count();
    assert_eq!((failed(FinishReason::EngineFailed), failed(FinishReason::RequestFailed)), (1, 5));
    assert_eq!(stage.heard(single), (alone(3, 5), Some(FinishReason::Length)));
}

#[test]
fn only_the_first_of_a_request_can_wait_too_long() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 2, waiting_max_micros: 4_500, ..limits() });
    // One at a time, each for five steps: the last begins long after the deadline.
    stage.submit_request(request(4, 2, 5));
    stage.finish();
    assert!(stage.ends().iter().all(|(_, reason)| *reason == FinishReason::Length));
    // Behind two that run for longer the first waits too long, and all go.
    let running = [stage.submit(2, 9), stage.submit(2, 9)];
    stage.step();
    stage.events.clear();
    let first = stage.submit_request(request(4, 2, 5));
    let arrived = stage.now;
    while stage.now < arrived.plus(4_500) {
        stage.step();
        assert!(stage.ends().is_empty());
    }
    stage.plan().expect("two run");
    assert_eq!(stage.ends()[0], (first, FinishReason::QueueTimeout));
    assert!(stage.ends()[1..].iter().all(|(_, reason)| *reason == FinishReason::RequestFailed));
    assert_eq!((stage.ends().len(), stage.scheduler.counts().waiting_count), (4, 0));
    assert!(running.iter().all(|seq| stage.heard(*seq).1.is_none()));
}

#[test]
fn one_choice_is_cancelled_alone_and_a_request_as_a_whole() {
    let mut stage = Stage::new(limits());
    let first = stage.submit_request(request(10, 2, 50));
    stage.step();
    stage.scheduler.cancel(SeqId(2));
    stage.scheduler.check_all();
    assert_eq!(stage.scheduler.counts().decode_count, 3);
    stage.step();
    assert_eq!(stage.entered().last(), Some(&(4, SeqId(4))), "the next one takes its place");
    stage.scheduler.cancel_request(first);
    stage.scheduler.check_all();
    let counts = stage.scheduler.counts();
    assert_eq!((counts.waiting_count, counts.decode_count, counts.blocks().in_use_count()), (0, 0, 0));
    assert!(stage.plan().is_err() && stage.ends().is_empty(), "nothing is left, and no event is reported");
    stage.scheduler.cancel_request(first);
    // A request of one is known by its sequence.
    let single = stage.submit(3, 5);
    stage.scheduler.cancel_request(single);
    assert_eq!(stage.scheduler.counts().waiting_count, 0);
}

#[test]
fn what_a_request_holds_does_not_keep_a_short_one_out_of_the_queue() {
    let mut stage = Stage::new(SchedulerLimits { waiting_max_tokens: 100, waiting_max_count: 30, ..limits() });
    stage.submit_request(request(20, 10, 5));
    let single = sequence(10, 5, Sampling::default());
    assert!(stage.scheduler.submit(single, stage.now).is_ok(), "twenty tokens are before it");
    let full = Reject::QueueFull { waiting_count: 21, waiting_tokens: 210, taken_after_micros: 0 };
    assert_eq!(stage.scheduler.submit_all(request(2, 10, 5), stage.now), Err(full));
    // Each has a place from the beginning.
    assert_eq!(stage.scheduler.submit_all(request(10, 1, 5), stage.now).map_err(|_| ()), Err(()));
}

/// Steps from the arrival of each of four requests to its first token, beside `many` prompts: in
/// one request, or each by itself.
fn steps_beside(seed: u64, many: usize, as_one: bool) -> Vec<usize> {
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |most: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((dice >> 33) % most) as usize
    };
    let (long_len, long_max) = (1 + below(60), 20 + below(60) as u32);
    let singles: Vec<(usize, usize)> = (0..4).map(|_| (below(40), 1 + below(20))).collect();
    let limits = SchedulerLimits {
        global_blocks: 600,
        sliding_blocks: 600,
        token_budget_tokens: 64,
        prefill_slice_tokens: 32,
        running_max_count: 16,
        waiting_max_tokens: 100_000,
        ..limits()
    };
    let mut stage = Stage::new(limits);
    if as_one {
        stage.submit_request(request(many, long_len, long_max));
    } else {
        for _ in 0..many {
            stage.submit(long_len, long_max);
        }
    }
    let mut waiting: Vec<(usize, SeqId)> = Vec::new();
    let mut took = Vec::new();
    for step in 0.. {
        assert!(step < 10_000, "they never get a token");
        waiting.extend(singles.iter().filter(|(at, _)| *at == step).map(|(_, len)| (step, stage.submit(*len, 1))));
        if stage.scheduler.counts().waiting_count + stage.running_count() == 0 {
            continue;
        }
        stage.step();
        waiting.retain(|(arrived, seq)| {
            let is_done = !stage.heard(*seq).0.is_empty();
            took.extend(is_done.then_some((*seq, step - arrived)));
            !is_done
        });
        if took.len() == singles.len() {
            break;
        }
    }
    took.sort_unstable();
    took.into_iter().map(|(_, steps)| steps).collect()
}

/// Between the end of a request's only live sequence and the next plan, the held ones are still
/// before a newcomer.
#[test]
fn a_newcomer_waits_for_what_is_held_where_one_runs_at_a_time() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 1, ..limits() });
    let three = (0..3).map(|_| sequence(4, 1, Sampling::default())).collect();
    let first = stage.scheduler.submit_all(three, stage.now).expect("the queue is empty");
    stage.step();
    assert_eq!(stage.scheduler.turns.live_count(first), 0, "it has ended, and no step was planned since");
    assert_eq!(stage.scheduler.turns.held_count(), 2);
    assert!(stage.scheduler.forecast(4, 0).newcomer_micros > 0, "two go before it");
}

/// A step leaves 64 - 16 - 32 tokens of its budget for a request that comes, in the worst case. So
/// a prompt of 20 tokens needs two steps instead of one, and four of them at once need five,
/// instead of two.
#[test]
fn a_later_request_waits_a_few_steps_longer_than_beside_one_prompt() {
    let mut starved_count = 0;
    for seed in 0..20 {
        let beside_one = steps_beside(seed, 1, true);
        let beside_sixty = steps_beside(seed, 60, true);
        let longer = beside_sixty.iter().zip(&beside_one).map(|(many, one)| many.saturating_sub(*one)).max();
        assert!(longer <= Some(3), "seed {seed}: {beside_sixty:?} steps, and beside one {beside_one:?}");
        let without_turns = steps_beside(seed, 60, false);
        starved_count += usize::from(without_turns.iter().max() > Some(&20));
    }
    assert!(starved_count > 15, "without turns they starve: {starved_count}");
}
