//! The scheduler in simulated worlds. A failure names its seed; `antiphon simulate --seed SEED
//! --worlds 1` lives through it again.

use antiphon::simulate::{Options, WorldReport, run};

/// Lives through the worlds of some seeds, on both cores of the machine, and adds up what happened.
fn worlds(seeds: std::ops::Range<u64>, options: &Options) -> WorldReport {
    let live = |seeds: &mut dyn Iterator<Item = u64>| {
        let mut sum = WorldReport::default();
        for seed in seeds {
            let report = run(seed, options);
            assert_eq!(report.failure, None, "in the world of seed {seed}, {options:?}: {report:?}");
            sum.add(&report);
        }
        sum
    };
    std::thread::scope(|scope| {
        let every_other = |first| {
            let mut seeds = seeds.clone().skip(first).step_by(2);
            scope.spawn(move || live(&mut seeds))
        };
        let halves = [0, 1].map(every_other).map(|half| half.join().expect("every world is sound"));
        let mut sum = WorldReport::default();
        halves.iter().for_each(|half| sum.add(half));
        sum
    })
}

/// How many worlds have every feature on: `ANTIPHON_WORLDS`, or a few.
fn worlds_count() -> u64 {
    let asked = std::env::var("ANTIPHON_WORLDS");
    asked.map_or(60, |asked| asked.parse().expect("ANTIPHON_WORLDS is a whole number"))
}

/// Whatever happened in a world happens again: nothing is drawn beside the seed, no clock is read,
/// no hash map is walked.
#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in 1_000..1_010 {
        let (once, again) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert!(once == again && once.failure.is_none(), "{once:?}, then {again:?}");
    }
    assert_ne!(run(1_000, &Options::default()), WorldReport { seed: 1_000, ..run(1_001, &Options::default()) });
}

#[test]
fn two_hundred_and_fifty_worlds_hold_every_invariant() {
    let sum = worlds(0..250, &Options::default());
    assert_eventful(&sum, 100);
}

/// Guesses, the prefix cache, priorities, targets for gaps, windows and steps planned ahead, all in
/// the same worlds. `ANTIPHON_WORLDS=2000` asks for more of them.
#[test]
fn worlds_with_every_feature_hold_every_invariant() {
    let sum = worlds(0..worlds_count(), &Options { every_feature: true, ..Options::default() });
    assert_eventful(&sum, 20);
}

/// The worlds are worth nothing if nothing happens in them.
fn assert_eventful(sum: &WorldReport, least: u64) {
    assert!(sum.tokens_total > 10_000, "{sum:?}");
    let rare = [
        sum.rejected_total,
        sum.cancelled_total,
        sum.lost_total,
        sum.preemptions_total,
        sum.held_total,
        sum.ahead_total,
        sum.hits_total,
        sum.hit_tokens_total,
        sum.resumed_total,
        sum.restored_total,
        sum.accepted_tokens_total,
        sum.draft_tokens_total - sum.accepted_tokens_total,
    ];
    for rare in rare {
        assert!(rare > least, "{sum:?}");
    }
    assert_eq!(sum.taken_total, sum.cancelled_total + sum.finished_total, "every sequence ends once");
}
