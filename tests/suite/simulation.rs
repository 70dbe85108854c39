//! The scheduler in simulated worlds. A failure names its seed; `antiphon simulate --seed SEED
//! --worlds 1` lives through it again.

use antiphon::simulate::{Options, WorldReport, run};

/// Lives through the worlds of some seeds and adds up what happened.
fn worlds(seeds: std::ops::Range<u64>) -> WorldReport {
    let mut sum = WorldReport::default();
    for seed in seeds {
        let report = run(seed, &Options::default());
        assert_eq!(report.failure, None, "in the world of seed {seed}: {report:?}");
        sum.add(&report);
    }
    sum
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
    let sum = worlds(0..250);
    // The worlds are worth nothing if nothing happens in them.
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
        sum.accepted_tokens_total,
        sum.draft_tokens_total - sum.accepted_tokens_total,
    ];
    for rare in rare {
        assert!(rare > 100, "{sum:?}");
    }
    assert_eq!(sum.taken_total, sum.cancelled_total + sum.finished_total, "every sequence ends once");
}
