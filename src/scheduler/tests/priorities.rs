use super::*;

/// One level of priority is worth ten milliseconds, which are ten steps.
const LEVEL_MICROS: u64 = 10_000;

fn ranked() -> SchedulerLimits {
    SchedulerLimits { priority_micros: LEVEL_MICROS, ..limits() }
}

impl Stage {
    /// As [`Stage::submit`], with a priority.
    fn rank(&mut self, len: usize, max_tokens: u32, priority: i32) -> SeqId {
        let new = NewSequence { priority, ..sequence(len, max_tokens, Sampling::default()) };
        self.scheduler.submit(new, self.now).expect("the queue has room")
    }

    /// Steps until all has ended; the sequences in the order in which they began.
    fn order(&mut self) -> Vec<SeqId> {
        let mut order = Vec::new();
        for (seq, _) in self.finish().into_iter().flatten() {
            if !order.contains(&seq) {
                order.push(seq);
            }
        }
        order
    }
}

#[test]
fn a_lower_number_begins_earlier_and_equals_in_the_order_of_arrival() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 1, ..ranked() });
    let [a, b, c, d, e] = [0, 5, -1, 5, -7].map(|priority| stage.rank(3, 2, priority));
    assert_eq!(stage.order(), [e, c, a, b, d]);
    // Off, they count for nothing.
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 1, ..limits() });
    let all = [0, 5, -1, 5, -7].map(|priority| stage.rank(3, 2, priority));
    assert_eq!(stage.order(), all);
}

#[test]
fn what_waits_is_passed_only_within_the_time_that_the_levels_are_worth() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 1, ..ranked() });
    // One is served in two steps, and a more urgent one comes with each of them, for ever.
    let mut order = vec![stage.rank(3, 2, 0)];
    let patient = stage.rank(3, 2, 2);
    let urgent: Vec<SeqId> = (0..30)
        .map(|_| {
            let seq = stage.rank(3, 2, 0);
            for (seq, _) in [stage.step(), stage.step()].concat() {
                if order.last() != Some(&seq) {
                    order.push(seq);
                }
            }
            seq
        })
        .collect();
    // Two levels are twenty milliseconds, in which ten others come; the one that comes with the
    // last of them stands beside it, and has the lower number.
    let passed_by = order.iter().position(|seq| *seq == patient).expect("it is served while others come") - 1;
    assert_eq!((passed_by, urgent[10]), (11, order[passed_by]));
}

#[test]
fn what_runs_goes_on_and_the_last_in_order_is_preempted_whenever_it_came() {
    // Five blocks. The first takes two and wants a third with its ninth token.
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 5, ..ranked() });
    let late = stage.rank(7, 6, 1);
    assert_eq!(stage.step(), [(late, 7)]);
    let soon = stage.rank(7, 6, -1);
    assert_eq!(stage.step(), [(late, 1), (soon, 7)], "it does not make room for what comes");
    let steps = stage.finish();
    assert!(stage.scheduler.counts().preemptions_total == 1 && steps[1] == [(soon, 1)], "{steps:?}");
    assert_eq!((stage.heard(late).0, stage.heard(soon).0), (alone(7, 6), alone(7, 6)));
}

#[test]
fn what_ran_before_begins_again_before_what_never_ran_whatever_its_number() {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 5, ..ranked() });
    let (first, second) = (stage.rank(9, 4, 0), stage.rank(7, 4, 0));
    assert_eq!(stage.step(), [(first, 9), (second, 7)]);
    stage.step();
    assert_eq!(stage.step(), [(first, 1)], "the second gave its blocks back");
    let urgent = stage.rank(3, 2, -9);
    assert_eq!(stage.step(), [(first, 1)], "there is a block for it, and it waits behind the second");
    assert_eq!(stage.order(), [second, urgent]);
}

#[test]
fn one_that_stands_behind_its_place_is_found_there() {
    let mut stage = Stage::new(ranked());
    let late = stage.rank(3, 9, 3);
    stage.step();
    let [soon, sooner] = [0, -3].map(|priority| stage.rank(3, 9, priority));
    let batch = stage.plan().expect("there is something to compute");
    assert_eq!(slices(&batch), [(late, 1), (sooner, 3), (soon, 3)]);
    assert!(stage.scheduler.plan_ahead(stage.now, &mut stage.events).is_none(), "the line is put in order first");
    let result = stage.compute(&batch);
    stage.commit(result);
    stage.scheduler.cancel(soon);
    stage.scheduler.check_all();
    assert_eq!(stage.step(), [(sooner, 1), (late, 1)], "in order again");
    stage.scheduler.cancel(sooner);
    stage.scheduler.check_all();
    stage.finish();
    assert_eq!(stage.heard(late).0, alone(3, 9));
}

#[test]
fn the_forecast_puts_a_newcomer_where_its_priority_does() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 1, ..ranked() });
    for _ in 0..4 {
        stage.rank(4, 8, 0);
        stage.finish();
    }
    for _ in 0..6 {
        stage.rank(4, 8, 0);
    }
    let waits = [-1, 0, 1].map(|priority| stage.scheduler.forecast(4, priority).newcomer_micros);
    assert!(waits[0] < waits[1] && waits[1] == waits[2], "before all, behind all, behind all: {waits:?}");
}

/// With all their room answers would grow into each other, and the last would be thrown out.
#[test]
fn an_admission_leaves_room_for_what_answers_grow_by() {
    let preempted = |growth_reserve_percent| {
        let mut stage = Stage::new(SchedulerLimits { global_blocks: 24, growth_reserve_percent, ..limits() });
        // Sixteen answers tell how long answers are.
        for _ in 0..16 {
            stage.submit(3, 24);
            stage.finish();
        }
        for _ in 0..8 {
            stage.submit(3, 24);
        }
        let first = stage.step().len();
        stage.finish();
        (first, stage.scheduler.counts().preemptions_total)
    };
    // Each takes one block, and six in the end.
    let (all, half, none) = (preempted(0), preempted(50), preempted(100));
    assert!(all.0 == 8 && all.1 > 0, "nothing is kept: {all:?}");
    assert!(half.0 < all.0 && half.1 < all.1, "half of what they grow by: {half:?}");
    assert!(none.0 < half.0 && none.1 == 0, "all of it: {none:?}");
}

#[test]
fn what_lacks_blocks_waits_a_step_for_one_that_returns() {
    let running = |stage: &Stage| {
        let size = ViewSize { running_max_count: 9, waiting_max_count: 0, cells_max_count: 1 };
        stage.scheduler.view(size).running
    };
    let mut waited_count = 0;
    for (global_blocks, len) in (9..24).flat_map(|blocks| (9..30).step_by(3).map(move |len| (blocks, len))) {
        let mut stage = Stage::new(SchedulerLimits { global_blocks, prefill_slice_tokens: 2, ..limits() });
        let all = [(3, 22), (len, 5), (11, 18), (6, 9)].map(|(len, max)| (len, max, stage.submit(len, max)));
        while stage.scheduler.counts().waiting_count + stage.running_count() > 0 {
            let decode: Vec<SeqId> = running(&stage).iter().filter(|one| one.decoding).map(|one| one.seq).collect();
            let step = stage.step();
            let is_left_out = |seq: &&SeqId| step.iter().all(|(of, _)| of != *seq);
            let goes_on = |seq: &&SeqId| running(&stage).iter().any(|one| one.seq == **seq);
            waited_count += decode.iter().filter(is_left_out).filter(goes_on).count();
        }
        for (len, max, seq) in all {
            assert_eq!(stage.heard(seq).0, alone(len, max), "{global_blocks} blocks");
        }
    }
    assert!(waited_count > 0, "in none of them does one wait");
}
