//! What is observed of steps and answers, and the queue run forward, by hand.

use super::super::tests::limits;
use super::*;

#[test]
fn the_costs_of_steps_are_told_apart() {
    let mut observed = RecentSteps::default();
    for step in 0..60 {
        let (tokens, decoding) = (step * 37 % 200, step % 16);
        observed.note_step(tokens, decoding, 0, (20_000 + tokens * 500 + decoding * 3_000) as u64);
    }
    let Costs { step, prefill_token, decoding } = observed.costs();
    let near = |found: f64, right: f64| (found - right).abs() < 0.05 * right;
    assert!(near(step, 20_000.0) && near(prefill_token, 500.0) && near(decoding, 3_000.0), "{:?}", observed.costs());
}

#[test]
fn steps_that_are_all_alike_cost_what_they_cost() {
    let mut observed = RecentSteps::default();
    (0..10).for_each(|_| observed.note_step(0, 16, 16, 50_000));
    let Costs { step, decoding, .. } = observed.costs();
    assert!((step + 16.0 * decoding - 50_000.0).abs() < 1.0, "{:?}", observed.costs());
}

#[test]
fn prompts_are_computed_but_for_what_was_found_of_them_lately() {
    let mut observed = RecentSteps::default();
    assert_eq!(observed.to_compute(1_000), 1_000);
    (0..200).for_each(|_| observed.note_found(500, 450));
    assert!(observed.to_compute(1_000).abs_diff(100) <= 1 && observed.to_compute(1) == 1);
    (0..200).for_each(|_| observed.note_found(500, 0));
    assert!(observed.to_compute(1_000) > 950);
}

#[test]
fn answers_are_as_long_as_they_were_and_no_longer_than_they_may_be() {
    let mut observed = RecentSteps::default();
    for _ in 0..200 {
        observed.note_step(0, 1, 100, 1_000);
        observed.note_end(true);
    }
    let mean = (0..100).map(|i| observed.length(10_000, (f64::from(i) + 0.5) / 100.0)).sum::<u64>() / 100;
    assert!((80..130).contains(&mean), "{mean}");
    assert_eq!(observed.length(7, 0.999), 7);
    // Those that had all their tokens say nothing of an end.
    for _ in 0..200 {
        observed.note_step(0, 1, 100, 1_000);
        observed.note_end(false);
    }
    assert!(observed.length(10_000, 0.5) > 1_000);
}

#[test]
fn the_line_goes_through_the_mean_in_which_older_steps_weigh_less() {
    let steps: Vec<(usize, usize, u64)> =
        (0..200).map(|step| (step * 37 % 200, step % 16, 20_000 + (step * 7_919 % 60_000) as u64)).collect();
    let mut observed = RecentSteps::default();
    for &(tokens, decoding, micros) in &steps {
        observed.note_step(tokens, decoding, 0, micros);
    }
    // The slow twin: a step weighs half for each five seconds that were computed after it.
    let (mut weights, mut sums, mut later_micros) = (0.0, [0.0; 3], 0);
    for &(tokens, decoding, micros) in steps.iter().rev() {
        let weight = 0.5_f64.powf(later_micros as f64 / 5e6);
        weights += weight;
        for (sum, value) in sums.iter_mut().zip([tokens as f64, decoding as f64, micros as f64]) {
            *sum += weight * value;
        }
        later_micros += micros;
    }
    let [tokens, decoding, micros] = sums.map(|sum| sum / weights);
    let costs = observed.costs();
    let on_the_line = costs.step + costs.prefill_token * tokens + costs.decoding * decoding;
    assert!((on_the_line - micros).abs() < 1.0, "{on_the_line}, and the mean is {micros}");
    let own = RecentSteps::default().costs();
    assert_eq!((own.step, own.prefill_token, own.decoding), (0.0, 0.0, 0.0), "nothing is known before the first step");
}

/// Work that goes together with long steps does not cost less than nothing, nor more than there
/// was.
#[test]
fn noise_costs_neither_less_than_nothing_nor_more_than_there_was() {
    let mut observed = RecentSteps::default();
    for step in 0..40 {
        observed.note_step(100 + step, 1 + step % 2, 0, 50_000 - 1_000 * step as u64);
    }
    let costs = observed.costs();
    assert_eq!(costs.prefill_token, 0.0, "more tokens in shorter steps");
    assert!(costs.step > 0.0 && costs.decoding >= 0.0);
    let mut observed = RecentSteps::default();
    for step in 0..40 {
        observed.note_step(100 + step, 1, 0, 1_000 + 5_000 * step as u64);
    }
    let costs = observed.costs();
    let mean_micros = observed.sums[2] / observed.weight;
    let mean_tokens = observed.sums[0] / observed.weight;
    assert!((costs.prefill_token - mean_micros / mean_tokens).abs() < 1e-6 && costs.step < 1e-3, "{costs:?}");
}

#[test]
fn a_length_is_the_quantile_of_answers_that_end_at_one_rate() {
    let mut observed = RecentSteps::default();
    assert_eq!(observed.length(10_000, 0.5), 354, "512 ln 2, as long as no answer ended");
    assert_eq!((observed.length(10_000, 0.0), observed.length(0, 0.5)), (1, 1), "one token at least");
    let (mut generated, mut stopped) = (0.0, 0.0);
    for turn in 0..30 {
        let (drawn, before_all) = (40 + turn, turn % 3 > 0);
        observed.note_step(0, 1, drawn, 1_000);
        observed.note_end(before_all);
        generated = (generated + drawn as f64) * 0.98;
        stopped = stopped * 0.98 + f64::from(u8::from(before_all));
    }
    let mean = (generated + 512.0) / (stopped + 1.0);
    for quantile in [0.1, 0.5, 0.9, 0.999] {
        let right = (-(1.0_f64 - quantile).ln() * mean) as u64;
        assert_eq!(observed.length(10_000, quantile), right, "at {quantile}");
    }
}

#[test]
fn what_is_gone_is_told_by_sequences_and_by_tokens() {
    let forecast = Forecast { begins: vec![(10, 5), (20, 3), (30, 7)], newcomer_micros: 0 };
    let gone = [(0, 0), (1, 0), (1, 5), (1, 6), (2, 0), (2, 8), (2, 9), (3, 0), (4, 0), (1, 16)];
    assert_eq!(gone.map(|(count, tokens)| forecast.gone_micros(count, tokens)), [10, 10, 10, 20, 20, 20, 30, 30, 30, 30]);
    assert_eq!(Forecast::default().gone_micros(3, 3), 0, "none waits");
}

/// A step costs 100, a prompt's token 1, a sequence that decodes 10; two slices of 16 tokens.
#[test]
fn prompts_share_the_slices_of_a_step_and_time_costs_what_is_computed_in_it() {
    let core = Scheduler::new(limits());
    let mut run = core.run();
    (run.places, run.blocks, run.slice_tokens) = (3, 10, 16);
    run.slices = [Reverse(0), Reverse(0)].into();
    run.costs = Costs { step: 100.0, prefill_token: 1.0, decoding: 10.0 };
    let of = |prefill_tokens, request| Waiting { prefill_tokens, tokens_left: 5, request, ..Waiting::default() };
    run.begin(of(32, Some(SeqId(7))), 3, 0.9999);
    assert_eq!((run.places, run.blocks, run.has_room(7), run.has_room(8)), (2, 7, true, false));
    run.begin(of(16, None), 7, 0.9999);
    assert_eq!((run.places, run.blocks, run.has_room(0), run.has_room(1)), (1, 0, true, false));
    // The third prompt waits for the slice of the second.
    run.begin(of(8, None), 0, 0.9999);
    assert!(!run.has_room(0), "no place is left");
    let mut free: Vec<u64> = run.slices.iter().map(|Reverse(free)| *free).collect();
    free.sort_unstable();
    assert_eq!(free, [STEP + STEP / 2, 2 * STEP]);
    // One step: two slices, and four that might decode, one of them still to come.
    run.pass(STEP);
    assert_eq!((run.now, run.micros), (STEP, 100.0 + 4.0 * 10.0 + 32.0));
    run.pass(STEP / 2);
    assert_eq!((run.now, run.micros), (STEP, 172.0), "no time is passed twice");
    // The second of them ends first, after one step of its prompt and five tokens; then the third.
    assert_eq!((run.end(), run.now, run.places, run.blocks), (Some(None), 6 * STEP, 1, 7));
    assert_eq!((run.end(), run.now), (Some(None), 6 * STEP + STEP / 2));
    assert_eq!((run.end(), run.now, run.places, run.blocks), (Some(Some(SeqId(7))), 7 * STEP, 3, 10));
    assert_eq!(run.end(), None);
    // Five steps of three, half a step of two, half a one of one; 24 tokens of prompts were left.
    let decoding = 5.0 * 3.0 + 0.5 * 2.0 + 0.5;
    assert_eq!(run.micros, 172.0 + 6.0 * 100.0 + decoding * 10.0 + 24.0);
    // One that has its prompt computed takes no slice.
    run.begin(of(0, None), 1, 0.9999);
    assert_eq!((run.end(), run.now), (Some(None), 12 * STEP));
}
