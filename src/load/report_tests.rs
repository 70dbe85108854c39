//! Figures are right on values whose figures are known.

use proptest::prelude::*;

use super::super::made_up::{answered, run, slow_quantile, unanswered};
use super::super::measure::histogram;
use super::*;

#[test]
fn quantiles_are_the_nearest_ranks() {
    let quantiles = Quantiles::of((1..=100).rev().map(f64::from).collect()).unwrap();
    let found = [quantiles.mean, quantiles.p50, quantiles.p90, quantiles.p95, quantiles.p99, quantiles.max];
    assert_eq!(found, [50.5, 50.0, 90.0, 95.0, 99.0, 100.0]);
    assert_eq!(Quantiles::of(vec![7.0]).unwrap().p99, 7.0);
    assert_eq!(Quantiles::of(Vec::new()), None);
}

#[test]
fn a_histogram_agrees_with_the_exact_quantiles_and_its_bins_lose_nothing() {
    let values: Vec<f64> = (0..5000_u32).map(|i| f64::from(i * i % 7919) / 3.0 + 0.5).collect();
    let mut counted = histogram();
    for value in &values {
        counted.record((value * 1e3) as u64).unwrap();
    }
    let (exact, near) = (Quantiles::of(values).unwrap(), Quantiles::of_histogram(&counted).unwrap());
    for (exact, near) in [(exact.p50, near.p50), (exact.p99, near.p99), (exact.max, near.max), (exact.mean, near.mean)] {
        assert!((exact - near).abs() <= exact * 2e-3, "{exact} and {near}");
    }
    let bins = bins(&counted);
    assert_eq!(bins.iter().map(|(_, count)| count).sum::<u64>(), 5000);
    assert!(bins.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let mut one = histogram();
    one.record(0).unwrap();
    assert_eq!(super::bins(&one).iter().map(|(_, count)| count).sum::<u64>(), 1);
}

/// Sizes of which no rank is whole: 3.5, 6.3, 6.65 and 6.93 of 7; 21.6, 22.8 and 23.76 of 24.
#[test]
fn ranks_that_are_not_whole_are_the_next_ones() {
    let of = |size: u32| {
        let quantiles = Quantiles::of((1..=size).map(f64::from).collect()).unwrap();
        [quantiles.p50, quantiles.p90, quantiles.p95, quantiles.p99]
    };
    assert_eq!(of(7), [4.0, 7.0, 7.0, 7.0]);
    assert_eq!(of(24), [12.0, 22.0, 23.0, 24.0]);
    assert_eq!(of(2), [1.0, 2.0, 2.0, 2.0]);
}

proptest! {
    #[test]
    fn quantiles_are_those_of_the_slow_twin(values in prop::collection::vec(0_u64..2_000, 1..300)) {
        let exact = [50, 90, 95, 99, 100].map(|percent| slow_quantile(&values, percent) as f64);
        let found = Quantiles::of(values.iter().map(|value| *value as f64).collect()).unwrap();
        prop_assert_eq!([found.p50, found.p90, found.p95, found.p99, found.max], exact);
        prop_assert_eq!(found.count, values.len() as u64);
        // Below 2,048 the histogram's buckets hold a value each.
        let mut counted = histogram();
        for value in &values {
            counted.record(*value).unwrap();
        }
        let near = Quantiles::of_histogram(&counted).unwrap();
        let near = [near.p50, near.p90, near.p95, near.p99, near.max].map(|ms| ms * 1e3);
        prop_assert!(near.iter().zip(exact).all(|(near, exact)| (near - exact).abs() < 1e-6), "{near:?} {exact:?}");
    }
}

const ARRIVALS: Arrivals = Arrivals::Constant { rate: 2.0 };

fn targets(ttft_ms: Option<f64>, tpot_ms: Option<f64>, e2e_ms: Option<f64>) -> GoodputTargets {
    GoodputTargets { ttft_ms, tpot_ms, e2e_ms, share: 0.9 }
}

#[test]
fn a_request_is_good_if_it_meets_every_target_that_there_is() {
    // TTFT 100 ms, TPOT 10 ms, E2E 200 ms.
    let record = answered(0, 100.0, 10.0);
    for (ttft, tpot, e2e, good) in [
        (None, None, None, true),
        (Some(100.0), Some(10.0), Some(200.0), true),
        (Some(99.9), None, None, false),
        (None, Some(9.9), None, false),
        (None, None, Some(199.9), false),
        (Some(99.9), Some(10.0), Some(200.0), false),
        (Some(100.0), Some(9.9), Some(200.0), false),
        (Some(100.0), Some(10.0), Some(199.9), false),
    ] {
        assert_eq!(is_good(&record, &targets(ttft, tpot, e2e)), good, "{ttft:?} {tpot:?} {e2e:?}");
    }
    let all = targets(Some(100.0), Some(10.0), Some(200.0));
    for outcome in [AttemptOutcome::Left, AttemptOutcome::Cancelled, AttemptOutcome::Refused, AttemptOutcome::Failed] {
        assert!(!is_good(&Record { outcome, ..record.clone() }, &all), "{outcome:?}");
    }
    // A figure that is missing does not meet its target, but an answer of one token needs no TPOT.
    assert!(!is_good(&Record { ttft_ms: None, ..record.clone() }, &all));
    assert!(!is_good(&Record { e2e_ms: None, ..record.clone() }, &all));
    assert!(!is_good(&Record { tpot_ms: None, ..record.clone() }, &all));
    assert!(!is_good(&Record { tpot_ms: None, output_tokens: 2, ..record.clone() }, &all));
    assert!(is_good(&Record { tpot_ms: None, output_tokens: 1, ..record }, &all));
}

/// Twelve requests in four seconds: five good, two slow, and one or two of each that was not
/// answered.
fn mixed() -> Vec<Record> {
    let good = (0..5).map(|index| answered(index, 50.0, 5.0));
    let slow = (5..7).map(|index| answered(index, 900.0, 5.0));
    let others = [
        unanswered(7, AttemptOutcome::Refused, Some(("http_429", "too much to do"))),
        unanswered(8, AttemptOutcome::Refused, Some(("http_429", "later"))),
        unanswered(9, AttemptOutcome::Failed, Some(("broken", "gone"))),
        unanswered(10, AttemptOutcome::Left, None),
        unanswered(11, AttemptOutcome::Cancelled, None),
    ];
    good.chain(slow).chain(others).collect()
}

#[test]
fn the_refused_and_the_failed_are_asked_for_and_not_good() {
    let run = run(&mixed(), 4.0, ARRIVALS, targets(Some(100.0), None, None));
    let expected = EndCounts { sent: 12, completed: 7, left: 1, cancelled: 1, refused: 2, failed: 1 };
    assert_eq!(run.counts, expected);
    // Five of the ten whose client let them go to their end.
    assert_eq!((run.good_share, run.goodput_per_s), (Some(0.5), Some(1.25)));
    assert_eq!((run.requests_per_s, run.failed_share()), (1.75, 1.0 / 12.0));
    assert_eq!((run.errors["http_429"].count, run.errors["http_429"].example.as_str()), (2, "too much to do"));
    assert_eq!((run.errors["broken"].count, run.errors.len()), (1, 2));
}

#[test]
fn each_target_alone_makes_a_goodput_and_none_makes_none() {
    for wanted in [targets(Some(100.0), None, None), targets(None, Some(9.0), None), targets(None, None, Some(500.0))] {
        assert!(run(&mixed(), 4.0, ARRIVALS, wanted).good_share.is_some(), "{wanted:?}");
    }
    let free = run(&mixed(), 4.0, ARRIVALS, GoodputTargets::default());
    assert_eq!((free.good_share, free.goodput_per_s), (None, None));
    // Nothing was asked to its end, so no share of it can be good.
    let left = run(&[unanswered(0, AttemptOutcome::Left, None)], 4.0, ARRIVALS, targets(Some(1.0), None, None));
    assert_eq!((left.good_share, left.goodput_per_s), (None, Some(0.0)));
    assert_eq!(
        run(&[], 0.0, ARRIVALS, GoodputTargets::default()).failed_share(),
        1.0,
        "a load that sent nothing has not gone well"
    );
}

#[test]
fn tokens_are_summed_and_their_counter_is_named() {
    let counted = run(&mixed(), 4.0, ARRIVALS, GoodputTargets::default());
    assert_eq!((counted.output_tokens, counted.prompt_tokens, counted.cached_tokens), (77, 35, 14));
    assert_eq!((counted.output_tokens_per_s, counted.total_tokens_per_s), (19.25, 28.0));
    assert_eq!(counted.token_count, TokenCount::Server);
    let mut records = mixed();
    records[3].counted_by_server = false;
    assert_eq!(run(&records, 4.0, ARRIVALS, GoodputTargets::default()).token_count, TokenCount::Pieces);
}
