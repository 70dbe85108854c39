//! The CPU engine against what Hugging Face's `GptOssForCausalLM` computes, and against itself.
//!
//! `g1` to `g4` and `tiny` were made in float32 on dequantised weights; see
//! `tests/goldens/README.md`.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in what a test calls too")]

mod ahead;
mod alike;
mod cuda;
mod dense;
mod driver;
mod files;
mod layers;
mod prefix;
mod ranks;
mod reports;
mod rounded;
mod served;
mod speculation;

use antiphon::batch::TokenId;
use driver::{Driver, Sequence, Shows};
use files::{Case, Drawn, Golden};

/// Largest difference of a logit, absolute.
const LOGIT_TOLERANCE: f32 = 2e-3;
/// How a prompt may be computed: in one piece, in slices of seven, token by token.
const SLICINGS: [usize; 3] = [usize::MAX, 7, 1];

/// Asserts that `logits` are a golden's, row by row.
fn assert_close(what: &str, logits: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(logits.len(), expected.len(), "{what}: rows");
    for (row, (logits, expected)) in logits.iter().zip(expected).enumerate() {
        assert_eq!(logits.len(), expected.len(), "{what}: vocabulary");
        for (token, (logit, expected)) in logits.iter().zip(expected).enumerate() {
            let difference = (logit - expected).abs();
            assert!(difference <= LOGIT_TOLERANCE, "{what}: row {row}, token {token}: {logit}, expected {expected}");
        }
    }
}

/// Compares the logits of every prompt, computed in each way.
fn check_logits(golden: &Golden) {
    for slice_tokens in SLICINGS {
        let mut driver = Driver::new(golden, 2);
        for case in &golden.cases {
            let mut rows = driver.logits(&case.prompt, slice_tokens);
            let rows = if case.all_rows { rows } else { rows.split_off(rows.len() - 1) };
            assert_close(&format!("{}, slices of {slice_tokens}", case.name), &rows, &case.logits);
        }
    }
}

/// Follows each greedy continuation on the golden's own tokens; where its margin is above
/// `margin_min` the draw must agree.
fn check_greedy(golden: &Golden, margin_min: f32) {
    let mut compared = 0;
    for slice_tokens in SLICINGS {
        let mut driver = Driver::new(golden, 2);
        for case in &golden.cases {
            compared += follow(&mut driver, case, slice_tokens, margin_min, |_, _| false);
        }
    }
    assert!(compared > 100, "only {compared} tokens had the margin to compare them");
}

/// How many tokens of a continuation were compared: those whose margin is above `margin_min`. `or`
/// says whether another than the golden's will do at a step.
fn follow<E: Shows>(
    driver: &mut Driver<E>,
    case: &Case,
    slice_tokens: usize,
    margin_min: f32,
    or: impl Fn(usize, TokenId) -> bool,
) -> usize {
    let mut sequence = Sequence::new(&case.prompt);
    let mut compared = 0;
    for (at, expected) in case.greedy.iter().enumerate() {
        let Drawn { token, margin, router_gap } = expected;
        let drawn = driver.greedy(&mut sequence, slice_tokens);
        if *margin > margin_min {
            let lead = format!("margin {margin}, router's gap {router_gap}");
            let what = format!("{}, slices of {slice_tokens}: token {at}, {lead}", case.name);
            assert!(drawn == *token || or(at, drawn), "{what}: {drawn:?}, expected {token:?}");
            compared += 1;
        }
        sequence.tokens.push(*token);
    }
    driver.release(sequence);
    compared
}

#[test]
fn g1_logits() {
    check_logits(&Golden::open("g1"));
}

#[test]
fn g1_greedy() {
    check_greedy(&Golden::open("g1"), 0.01);
}

#[test]
fn g2_logits() {
    check_logits(&Golden::open("g2"));
}

#[test]
fn g2_greedy() {
    check_greedy(&Golden::open("g2"), 0.01);
}

#[test]
fn g3_logits_and_greedy() {
    let golden = Golden::open("g3");
    check_logits(&golden);
    check_greedy(&golden, 0.01);
}

#[test]
fn g4_logits_and_greedy() {
    let golden = Golden::open("g4");
    check_logits(&golden);
    check_greedy(&golden, 0.01);
}

/// bf16 experts in transformers' own form, an F32 embedding and F32 projections; then the same with
/// rounded activations.
#[test]
fn g5_logits_and_greedy() {
    let golden = Golden::open("g5");
    check_logits(&golden);
    check_greedy(&golden, 0.01);
}

/// g2 with its experts dequantised, as fine-tunes are published: the weights are the same values,
/// and so are the goldens.
#[test]
fn dequantised_experts_are_the_same_model() {
    let golden = Golden::dequantised("g2");
    assert_eq!(golden.checkpoint.expert_form(), antiphon::engine::checkpoint::ExpertForm::Dense);
    check_logits(&golden);
    check_greedy(&golden, 0.01);
}

#[test]
fn tiny_logits() {
    check_logits(&Golden::tiny_logits());
}

#[test]
fn tiny_greedy() {
    check_greedy(&Golden::tiny(), 0.1);
}

#[test]
fn tiny_top_logits_of_every_prompt() {
    let golden = Golden::tiny();
    let mut driver = Driver::new(&golden, 2);
    for case in &golden.cases {
        let rows = driver.logits(&case.prompt, usize::MAX);
        let last = rows.last().unwrap();
        for (token, expected) in &case.top {
            let logit = last[token.0 as usize];
            // The file has five decimals.
            assert!((logit - expected).abs() <= LOGIT_TOLERANCE, "{}: {token:?}: {logit}, expected {expected}", case.name);
        }
    }
}

#[test]
fn embedded_greedy() {
    check_greedy(&Golden::embedded(), 0.1);
}

/// Writes the embedded model's logits after each golden prompt into the file that `LOGITS_FILE`
/// names, for the recipe's `recipe.py compare`; it checks nothing itself.
#[test]
#[ignore = "writes a file for models/recipe"]
fn embedded_logits_to_a_file() {
    let path = std::env::var("LOGITS_FILE").expect("LOGITS_FILE names the file to write");
    let golden = Golden::embedded();
    let mut driver = Driver::new(&golden, 2);
    let row = |case: &Case, driver: &mut Driver| {
        let ids: Vec<u32> = case.prompt.iter().map(|token| token.0).collect();
        let rows = driver.logits(&case.prompt, usize::MAX);
        serde_json::json!({"name": case.name, "prompt_ids": ids, "logits": rows.last().expect("a prompt has tokens")})
    };
    let cases: Vec<_> = golden.cases.iter().map(|case| row(case, &mut driver)).collect();
    std::fs::write(&path, serde_json::json!({"cases": cases}).to_string()).expect("the file can be written");
}
