//! How far rounding leads: every arithmetic of the engine against the exact one, on the embedded
//! model's goldens and on held-out conversations.

use super::driver::{Driver, EXACT, ROUNDED};
use super::files::{Golden, Text, answered, held_out};
use antiphon::batch::TokenId;
use antiphon::engine::cpu::{CpuOptions, Format, Math};
use std::collections::HashSet;
use std::fmt;

/// What became of the distribution over the next token.
#[derive(Debug, Default)]
struct Drift {
    rows: usize,
    divergence: f64,
    agreed: usize,
}

impl Drift {
    /// Adds the Kullback-Leibler divergence of `logits` from `exact`, and whether the likeliest
    /// token is the same.
    fn add(&mut self, exact: &[f32], logits: &[f32]) {
        let (exact, logits) = (log_softmax(exact), log_softmax(logits));
        self.divergence += exact.iter().zip(&logits).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        self.agreed += usize::from(likeliest(&exact) == likeliest(&logits));
        self.rows += 1;
    }

    fn mean_divergence(&self) -> f64 {
        self.divergence / self.rows as f64
    }

    fn agreement(&self) -> f64 {
        self.agreed as f64 / self.rows as f64
    }

    /// Whether it is within what a default may cost.
    fn is_near(&self) -> bool {
        self.mean_divergence() < 1e-3 && self.agreement() >= 0.99
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (divergence, agreement) = (self.mean_divergence(), self.agreement());
        write!(text, "{divergence:.2e} mean KL, {agreement:.4} agree, {} rows", self.rows)
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    logits.iter().map(|logit| f64::from(logit - max) - total.ln()).collect()
}

fn likeliest(values: &[f64]) -> usize {
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap()
}

/// Of one arithmetic: the drift of what the model writes, and of everything, its prompts too.
#[derive(Debug, Default)]
struct Drifts {
    written: Drift,
    everything: Drift,
}

/// The embedded model on conversations, with each arithmetic.
fn drifts(texts: &[Text]) -> [Drifts; ROUNDED.len()] {
    // Conversations begin alike: a beginning that was measured in one is not measured again in the
    // next.
    let mut seen = HashSet::new();
    let mut is_new = |ids: &[TokenId]| seen.insert(ids.to_vec());
    let measured: Vec<Vec<bool>> =
        texts.iter().map(|text| (1..=text.ids.len()).map(|len| is_new(&text.ids[..len])).collect()).collect();
    let golden = Golden::embedded();
    let mut exact = Driver::with_arithmetic(&golden, 2, 16, 1, EXACT);
    let exact: Vec<_> = texts.iter().map(|text| exact.logits(&text.ids, usize::MAX)).collect();
    ROUNDED.map(|arithmetic| {
        let mut driver = Driver::with_arithmetic(&golden, 2, 16, 1, arithmetic);
        let mut drifts = Drifts::default();
        for ((text, exact), measured) in texts.iter().zip(&exact).zip(&measured) {
            let rounded = driver.logits(&text.ids, usize::MAX);
            for (at, (exact, rounded)) in exact.iter().zip(&rounded).enumerate().filter(|(at, _)| measured[*at]) {
                drifts.everything.add(exact, rounded);
                if text.predicts_written(at) {
                    drifts.written.add(exact, rounded);
                }
            }
        }
        drifts
    })
}

fn is_default(arithmetic: &(Math, Format)) -> bool {
    *arithmetic == (CpuOptions::MATH, CpuOptions::DENSE)
}

/// The default is the fastest arithmetic whose mean divergence stays below 1e-3 and whose likeliest
/// token is the same on 99 %, of what the model writes and of everything; each other is as near
/// where it writes. `docs/performance.md` has the table.
///
/// `written_min` and `rows_min`: how many positions the model is to write, and there are to be at
/// all.
fn check(texts: &[Text], written_min: usize, rows_min: usize) {
    for (arithmetic, Drifts { written, everything }) in ROUNDED.iter().zip(&drifts(texts)) {
        let text = format!("{arithmetic:?}: written {written}; with the prompts {everything}");
        eprintln!("{text}");
        assert!(written.rows >= written_min && everything.rows >= rows_min, "{text}");
        assert!(written.mean_divergence() > 0.0, "rounding must show, or it was not done: {text}");
        assert!(written.is_near() && everything.mean_divergence() < 2e-2 && everything.agreement() > 0.95, "{text}");
        assert!(!is_default(arithmetic) || everything.is_near(), "{text}");
        let is_fast = *arithmetic == (Math::Fast, CpuOptions::DENSE);
        assert!(!is_fast || everything.mean_divergence() < 3e-3 && everything.agreement() >= 0.99, "{text}");
    }
}

#[test]
fn rounding_changes_little_on_the_goldens() {
    check(&answered(&Golden::embedded()), 450, 950);
}

#[test]
fn rounding_changes_little_on_held_out_conversations() {
    check(&held_out(), 2000, 8000);
}
