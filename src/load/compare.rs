//! Two servers, or two reports, side by side: ratios with their spread.

use std::fmt;

use super::report::{Quantiles, Run};

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

type Figure = (&'static str, fn(&Run) -> Option<f64>);

const FIGURES: [Figure; 9] = [
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

/// Compares runs of A with runs of B. With several of each, every pair gives a ratio, and their spread is shown.
#[must_use]
pub fn compare(a: &str, runs_a: &[Run], b: &str, runs_b: &[Run]) -> Comparison {
    let ratios = FIGURES.iter().filter_map(|(name, figure)| {
        let values = |runs: &[Run]| runs.iter().filter_map(figure).filter(|value| *value > 0.0).collect::<Vec<f64>>();
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
        writeln!(f, "{:<18}{:>12}{:>12}{:>9}{:>20}", "", "A", "B", "B/A", "from - to (pairs)")?;
        for Ratio { name, a, b, ratio: [least, middle, most], pairs } in &self.ratios {
            let spread = format!("{least:.3} - {most:.3} ({pairs})");
            writeln!(f, "{name:<18}{a:>12.2}{b:>12.2}{middle:>9.3}{spread:>20}")?;
        }
        Ok(())
    }
}
