//! Log-probabilities of the model: of raw logits, before penalties, temperature and masks.

use super::largest::{Candidate, largest};
use crate::batch::{PositionLogprobs, TokenId, TokenLogprob};

/// The logarithm of the sum of the exponentials of `logits`; NaN if one of them is.
///
/// The sum is f64: 200,000 terms added one by one in f32 would cost three digits.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// What the model says of `chosen` and of the `top_count` likeliest tokens, at the position of
/// `logits` `[V]`.
///
/// # Panics
/// If `chosen` is not in the vocabulary.
pub(super) fn position_logprobs(
    logits: &[f32],
    chosen: TokenId,
    top_count: usize,
    found: &mut Vec<Candidate>,
) -> PositionLogprobs {
    let norm = log_sum_exp(logits);
    let logprob = |logit: f32| (f64::from(logit) - norm) as f32;
    let at = chosen.0 as usize;
    let logit = logits[at];
    let above = logits.iter().filter(|other| **other > logit).count();
    let before = logits[..at].iter().filter(|other| **other == logit).count();
    largest(logits, top_count, found);
    let top = found.iter().zip(1..).map(|(candidate, rank)| TokenLogprob {
        token: candidate.token,
        logprob: logprob(candidate.logit),
        rank,
    });
    PositionLogprobs {
        chosen: TokenLogprob { token: chosen, logprob: logprob(logit), rank: (above + before + 1) as u32 },
        top: top.collect(),
    }
}
