//! Two servers, or two reports, side by side: ratios with their spread.

use std::fmt;

use super::report::{LoadRun, Quantiles};

/// The ratio of one figure, B over A.
#[derive(Debug, Clone, PartialEq)]
pub struct Ratio {
    /// Which figure.
    pub name: &'static str,
    /// Of A, in the median run.
    pub a: f64,
    /// Of B, in the median run.
    pub b: f64,
    /// B over A: the smallest, the median and the largest over all pairs of runs.
    pub ratio: [f64; 3],
    /// Pairs of runs.
    pub pairs: usize,
}

/// The ratios of two sets of runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What A is.
    pub a: String,
    /// What B is.
    pub b: String,
    /// A ratio a figure.
    pub ratios: Vec<Ratio>,
}

type ComparedFigure = (&'static str, fn(&LoadRun) -> Option<f64>);

const FIGURES: [ComparedFigure; 9] = [
    ("output tokens/s", |run| Some(run.output_tokens_per_s)),
    ("requests/s", |run| Some(run.requests_per_s)),
    ("TTFT p50", |run| run.latencies.ttft.map(p50)),
    ("TTFT p95", |run| run.latencies.ttft.map(p95)),
    ("ITL p50", |run| run.latencies.itl.map(p50)),
    ("ITL p99", |run| run.latencies.itl.map(|quantiles| quantiles.p99)),
    ("TPOT p50", |run| run.latencies.tpot.map(p50)),
    ("E2E p50", |run| run.latencies.e2e.map(p50)),
    ("E2E p95", |run| run.latencies.e2e.map(p95)),
];

fn p50(quantiles: Quantiles) -> f64 {
    quantiles.p50
}

fn p95(quantiles: Quantiles) -> f64 {
    quantiles.p95
}

/// Compares runs of A with runs of B. With several of each, every pair gives a ratio, and their
/// spread is shown.
#[must_use]
pub fn compare(a: &str, runs_a: &[LoadRun], b: &str, runs_b: &[LoadRun]) -> Comparison {
    let ratios = FIGURES.iter().filter_map(|(name, figure)| {
        let values = |runs: &[LoadRun]| runs.iter().filter_map(figure).filter(|value| *value > 0.0).collect::<Vec<f64>>();
        let (of_a, of_b) = (values(runs_a), values(runs_b));
        let pairs: Vec<f64> = of_a.iter().flat_map(|a| of_b.iter().map(move |b| b / a)).collect();
        let (a, b, spread) = (Quantiles::of(of_a)?, Quantiles::of(of_b)?, Quantiles::of(pairs.clone())?);
        let least = pairs.iter().copied().fold(f64::INFINITY, f64::min);
        Some(Ratio { name, a: a.p50, b: b.p50, ratio: [least, spread.p50, spread.max], pairs: pairs.len() })
    });
    Comparison { a: a.to_owned(), b: b.to_owned(), ratios: ratios.collect() }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A: {}\nB: {}", self.a, self.b)?;
        writeln!(f, "{:<18}{:>12}{:>12}{:>9} {:>24}", "", "A", "B", "B/A", "from - to (pairs)")?;
        for Ratio { name, a, b, ratio: [least, middle, most], pairs } in &self.ratios {
            let spread = format!("{least:.3} - {most:.3} ({pairs})");
            writeln!(f, "{name:<18}{a:>12.2}{b:>12.2}{middle:>9.3} {spread:>24}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{answered, run};
    use super::super::options::{Arrivals, GoodputTargets};
    use super::super::record::Record;
    use super::*;

    /// Ten requests, answered within `ttft` and ten times `tpot` milliseconds, in so many seconds.
    fn of(ttft: f64, tpot: f64, wall_s: f64) -> LoadRun {
        let records: Vec<Record> = (0..10).map(|index| answered(index, ttft, tpot)).collect();
        run(&records, wall_s, Arrivals::Closed { concurrency: 1 }, GoodputTargets::default())
    }

    fn ratio<'a>(comparison: &'a Comparison, name: &str) -> &'a Ratio {
        comparison.ratios.iter().find(|ratio| ratio.name == name).expect("the figure is compared")
    }

    #[test]
    fn a_ratio_is_b_over_a_of_its_own_figure() {
        let compared = compare("a", &[of(100.0, 10.0, 2.0)], "b", &[of(150.0, 5.0, 1.0)]);
        for (name, a, b) in [
            ("output tokens/s", 55.0, 110.0),
            ("requests/s", 5.0, 10.0),
            ("TTFT p50", 100.0, 150.0),
            ("TTFT p95", 100.0, 150.0),
            ("ITL p50", 10.0, 5.0),
            ("ITL p99", 10.0, 5.0),
            ("TPOT p50", 10.0, 5.0),
            ("E2E p50", 200.0, 200.0),
            ("E2E p95", 200.0, 200.0),
        ] {
            let found = ratio(&compared, name);
            // ITL comes from a histogram of three digits.
            let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 2e-3;
            assert!(near(found.a, a) && near(found.b, b), "{found:?}");
            assert!(found.ratio.iter().all(|ratio| near(*ratio, b / a)) && found.pairs == 1, "{found:?}");
        }
        assert_eq!(compared.ratios.len(), 9);
    }

    #[test]
    fn the_quantiles_that_are_compared_are_those_that_are_named() {
        let of = |slow: f64| {
            let records: Vec<Record> =
                (0..100).map(|index| answered(index, if index < 6 { slow } else { 10.0 }, 1.0)).collect();
            run(&records, 1.0, Arrivals::Closed { concurrency: 1 }, GoodputTargets::default())
        };
        let compared = compare("a", &[of(100.0)], "b", &[of(400.0)]);
        let [middle, tail] = ["TTFT p50", "TTFT p95"].map(|name| ratio(&compared, name).ratio[1]);
        assert_eq!((middle, tail), (1.0, 4.0));
        let [middle, tail] = ["E2E p50", "E2E p95"].map(|name| ratio(&compared, name).ratio[1]);
        assert!(middle == 1.0 && (tail - 410.0 / 110.0).abs() < 1e-9, "{tail}");
    }

    #[test]
    fn every_pair_of_rounds_gives_a_ratio_and_their_spread_is_shown() {
        let (a, b) = ([of(100.0, 10.0, 1.0), of(200.0, 10.0, 1.0)], [of(300.0, 10.0, 1.0), of(400.0, 10.0, 1.0)]);
        let compared = compare("a", &a, "b", &b);
        let ttft = ratio(&compared, "TTFT p50");
        // 300/100, 400/100, 300/200, 400/200.
        assert_eq!((ttft.ratio, ttft.pairs, ttft.a, ttft.b), ([1.5, 2.0, 4.0], 4, 100.0, 300.0));
    }

    #[test]
    fn what_one_side_does_not_have_is_not_compared() {
        let bare = run(&[], 1.0, Arrivals::Closed { concurrency: 1 }, GoodputTargets::default());
        assert_eq!(compare("a", &[of(100.0, 10.0, 1.0)], "b", &[bare]).ratios, []);
    }

    #[test]
    fn the_table_has_a_before_b_and_b_over_a() {
        let text = compare("old.json", &[of(100.0, 10.0, 2.0)], "new.json", &[of(250.0, 10.0, 2.0)]).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["A: old.json", "B: new.json"]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[2])[..3], ["A", "B", "B/A"]);
        let ttft = words(lines.iter().find(|line| line.starts_with("TTFT p50")).expect("a row"));
        assert_eq!(ttft[2..], ["100.00", "250.00", "2.500", "2.500", "-", "2.500", "(1)"]);
    }
}
