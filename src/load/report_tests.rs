//! Figures are right on values whose figures are known.

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
