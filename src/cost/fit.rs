//! A cost model's linear part from steps that were observed.
//!
//! Least squares of relative errors, so that a step of a millisecond counts as much as one of a
//! hundred, with no cost below zero. Steps that took much longer than the fit says were disturbed
//! (a machine has other work to do): they are left out, and what remains is fitted again.

use super::file::Figure;
use super::timeline::ObservedSteps;
use super::{CostError, CostKind, CostModel, EngineShape, ObservedStep, RequestCosts, StepCosts, TERMS, terms};

/// Fewer steps say nothing of five terms.
const STEPS_MIN: usize = 50;
/// How often disturbed steps are looked for.
const ROUNDS: usize = 4;
/// A step is disturbed if it is farther off than so many times the median of all.
const DISTURBED: f64 = 4.0;
/// Sweeps over the terms; each moves every term to where it is best beside the others.
const SWEEPS: usize = 20_000;

/// How well a fit describes the steps that it was made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitQuality {
    /// Steps that were used.
    pub steps: usize,
    /// Steps that were left out as disturbed.
    pub left_out: usize,
    /// Half of the used steps are off by at most this share.
    pub error_p50: f64,
    /// 95 % are.
    pub error_p95: f64,
}

/// A model called `name` of what was observed; `source` says where, `engine` what the engine has
/// room for.
///
/// # Errors
/// [`CostError::TooFewSteps`].
pub fn fit(
    name: &str,
    source: String,
    observed: &ObservedSteps,
    engine: EngineShape,
) -> Result<(CostModel, FitQuality), CostError> {
    let count = observed.steps.len();
    if count < STEPS_MIN {
        return Err(CostError::TooFewSteps { steps: count, expected: STEPS_MIN });
    }
    let rows = |steps: &[ObservedStep]| -> Vec<Row<TERMS>> {
        steps.iter().map(|step| Row { counts: terms(&step.work), value: step.micros }).collect()
    };
    let (costs, kept) = fitted(&rows(&observed.steps));
    // Relative errors favour the short ones of steps that are as long on average: all together
    // take what was observed.
    let sum = |of: &dyn Fn(&Row<TERMS>) -> f64| kept.iter().map(of).sum::<f64>();
    let scale = sum(&|row| row.value) / sum(&|row| row.expected(&costs));
    let costs = costs.map(|cost| cost * scale);
    let errors = kept.iter().map(|row| row.error(&costs).abs());
    let quality = FitQuality {
        steps: kept.len(),
        left_out: count - kept.len(),
        error_p50: quantile(errors.clone().collect(), 0.5),
        error_p95: quantile(errors.collect(), 0.95),
    };
    let mut step = StepCosts::from_terms(costs);
    // The host's own work between two steps: the next one waits for it.
    step.fixed_us.0 += quantile(observed.gaps_us.clone(), 0.5);
    let built = observed.built.iter().map(|(tokens, micros)| Row { counts: [1.0, *tokens], value: micros.max(1.0) });
    let request = match fitted(&built.collect::<Vec<_>>()).0 {
        [fixed, token] => RequestCosts { fixed_us: Figure(fixed), prompt_token_us: Figure(token) },
    };
    let model = CostModel { name: name.to_owned(), kind: CostKind::Fit, source, step, roof: None, request, engine };
    Ok((model, quality))
}

/// An observation: `value` is to be the sum of its counts, each times a cost.
#[derive(Debug, Clone, Copy)]
struct Row<const N: usize> {
    counts: [f64; N],
    value: f64,
}

impl<const N: usize> Row<N> {
    fn expected(&self, costs: &[f64; N]) -> f64 {
        self.counts.iter().zip(costs).map(|(count, cost)| count * cost).sum()
    }

    /// How far off the costs are, as a share of what was observed.
    fn error(&self, costs: &[f64; N]) -> f64 {
        self.expected(costs) / self.value - 1.0
    }
}

/// The costs, and the rows that were not left out.
fn fitted<const N: usize>(rows: &[Row<N>]) -> ([f64; N], Vec<Row<N>>) {
    let mut kept = rows.to_vec();
    let mut costs = least_squares(&kept);
    for _ in 1..ROUNDS {
        let off = quantile(rows.iter().map(|row| row.error(&costs).abs()).collect(), 0.5);
        // Of a fit that is all but exact no step is disturbed.
        let most = DISTURBED * off.max(0.01);
        // Of all, so that a step that an earlier round left out comes back.
        kept = rows.iter().filter(|row| row.error(&costs).abs() <= most).copied().collect();
        costs = least_squares(&kept);
    }
    (costs, kept)
}

/// The costs, none below zero, with the least sum of squares of relative errors.
fn least_squares<const N: usize>(rows: &[Row<N>]) -> [f64; N] {
    let scaled = |row: &Row<N>| row.counts.map(|count| count / row.value);
    let mut products = [[0.0; N]; N];
    let mut sums = [0.0; N];
    for counts in rows.iter().map(scaled) {
        for i in 0..N {
            sums[i] += counts[i];
            for j in 0..N {
                products[i][j] += counts[i] * counts[j];
            }
        }
    }
    let mut costs = [0.0; N];
    for _ in 0..SWEEPS {
        let before = costs;
        for i in 0..N {
            let others: f64 = (0..N).filter(|j| *j != i).map(|j| products[i][j] * costs[j]).sum();
            // What never occurs costs nothing.
            costs[i] = if products[i][i] > 0.0 { ((sums[i] - others) / products[i][i]).max(0.0) } else { 0.0 };
        }
        if costs.iter().zip(&before).all(|(now, before)| (now - before).abs() <= 1e-12 * now.abs()) {
            break;
        }
    }
    costs
}

/// The value that this share of all does not exceed; 0 of none.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::StepWork;

    fn engine() -> EngineShape {
        CostModel::load("h200-20b").expect("it is built in").engine
    }

    /// Steps of a machine whose costs are known; each `disturbed`th one takes four times as long.
    fn steps(disturbed: u64) -> ObservedSteps {
        let step = |index: u64| {
            let (prefill, decode) = (index * 37 % 512, index * 11 % 33);
            let context_tokens = prefill + decode * (index * 53 % 900);
            let work = StepWork {
                prefill_tokens: prefill,
                decode_sequences: decode,
                context_tokens,
                prefill_pairs: prefill * (prefill + 1) / 2,
            };
            let exact = StepCosts::from_terms([900.0, 20.0, 150.0, 0.3, 0.01]).micros(&work);
            let noise = 1.0 + (index * 7 % 11) as f64 / 500.0 - 0.01;
            let times = if index.is_multiple_of(disturbed) { 4.0 } else { 1.0 };
            ObservedStep { work, micros: exact * noise * times }
        };
        let built = (1..200).map(|index| (f64::from(index), 80.0 + 2.0 * f64::from(index))).collect();
        ObservedSteps { steps: (1..=600).map(step).collect(), gaps_us: vec![40.0, 50.0, 60.0], built }
    }

    #[test]
    fn the_costs_of_a_machine_are_found_although_other_work_disturbs_it() {
        let (model, quality) = fit("x", "a test".to_owned(), &steps(17), engine()).expect("enough steps");
        let found = [
            (model.step.fixed_us, 950.0),
            (model.step.prefill_token_us, 20.0),
            (model.step.decode_sequence_us, 150.0),
            (model.step.context_token_us, 0.3),
            (model.step.prefill_pair_us, 0.01),
            (model.request.fixed_us, 80.0),
            (model.request.prompt_token_us, 2.0),
        ];
        for (Figure(found), expected) in found {
            assert!((found / expected - 1.0).abs() < 0.05, "{found}, expected {expected}: {model:?}");
        }
        assert_eq!((quality.steps, quality.left_out), (565, 35));
        assert!(quality.error_p95 < 0.02, "{quality:?}");
        assert_eq!(model.kind, CostKind::Fit);
    }

    /// Steps of 10 and of 30 ms in turn are steps of 20 ms, which squares of relative errors take
    /// for 12.
    #[test]
    fn steps_of_a_machine_that_jitters_take_what_they_take_on_average() {
        let step = |index: u64| {
            let work = StepWork { decode_sequences: 1, context_tokens: 10, ..StepWork::default() };
            ObservedStep { work, micros: if index.is_multiple_of(2) { 10_000.0 } else { 30_000.0 } }
        };
        let observed = ObservedSteps { steps: (0..100).map(step).collect(), ..ObservedSteps::default() };
        let (model, quality) = fit("x", String::new(), &observed, engine()).expect("enough steps");
        let micros = model.step_micros(&observed.steps[0].work);
        assert!((19_900..20_100).contains(&micros) && quality.left_out == 0, "{micros}: {quality:?}");
    }

    #[test]
    fn no_cost_is_below_zero_and_what_never_occurs_costs_nothing() {
        // A decode step gets faster with its sequences: no cost can say so.
        let step = |index: u64| {
            let decode = 1 + index % 8;
            let work = StepWork { decode_sequences: decode, context_tokens: decode * 10, ..StepWork::default() };
            ObservedStep { work, micros: 1_000.0 - 20.0 * decode as f64 }
        };
        let observed = ObservedSteps { steps: (0..100).map(step).collect(), ..ObservedSteps::default() };
        let (model, _) = fit("x", String::new(), &observed, engine()).expect("enough steps");
        assert_eq!((model.step.decode_sequence_us, model.step.prefill_token_us), (Figure(0.0), Figure(0.0)));
        assert!((850.0..1_000.0).contains(&model.step.fixed_us.0), "{model:?}");
        let few = ObservedSteps { steps: observed.steps[..49].to_vec(), ..ObservedSteps::default() };
        let said = fit("x", String::new(), &few, engine()).expect_err("too few").to_string();
        assert!(said.starts_with("49 steps that can be used; expected at least 50"), "{said}");
    }
}
