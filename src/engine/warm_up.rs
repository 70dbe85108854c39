//! Whether an engine that was just built computes what its model should: a token is drawn through
//! the whole path, and compared where it is known which one it should be.
//!
//! Owns: the prompts of a warm-up and the form of `golden.json`. Promises: an engine whose weights
//! give no finite logits, or another token than the model's golden, is never served. Absent on
//! purpose: what becomes of such an engine.

use super::{Engine, EngineError};
use crate::batch::{Batch, BlockId, Draw, EngineLimits, Sampled, Sampling, SeqId, Slice, TokenId};
use serde::Deserialize;
use std::sync::Arc;

/// The name of a model's goldens, beside its weights.
pub const GOLDEN_FILE: &str = "golden.json";

/// Tokens of the prompt of a model without goldens. A NaN of an expert shows only where a token
/// goes to it; spread tokens hit most, and what one of them gets reaches the last one through
/// attention.
const PROMPT_TOKENS: usize = 32;
/// Tokens that are compared with a golden: one of a prefill, one of a decode step.
const COMPARED: usize = 2;
/// A golden whose best token leads by less could be turned by rounding.
const MARGIN_MIN: f32 = 1.0;

/// A prompt, and the tokens that the model continues it with when nothing is drawn at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    prompt: Vec<TokenId>,
    greedy: [TokenId; COMPARED],
}

#[derive(Deserialize)]
struct GoldenFile {
    cases: Vec<GoldenCase>,
}

#[derive(Deserialize)]
struct GoldenCase {
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    greedy_margin: Vec<f32>,
}

impl Golden {
    /// The goldens of `golden.json` whose first tokens are beyond doubt; none of a file of another
    /// form.
    #[must_use]
    pub fn parse(json: &[u8]) -> Vec<Self> {
        let cases = serde_json::from_slice(json).map_or_else(|_| Vec::new(), |file: GoldenFile| file.cases);
        let of = |case: GoldenCase| {
            let (greedy, margins) = (case.greedy_ids.first_chunk::<COMPARED>()?, case.greedy_margin.get(..COMPARED)?);
            let clear = margins.iter().all(|margin| *margin >= MARGIN_MIN) && !case.prompt_ids.is_empty();
            let prompt = case.prompt_ids.into_iter().map(TokenId).collect();
            clear.then(|| Self { prompt, greedy: greedy.map(TokenId) })
        };
        cases.into_iter().filter_map(of).collect()
    }
}

/// Draws a token after a prompt of tokens from all over the vocabulary. Every block of `engine` is
/// free: it was just built.
///
/// # Errors
/// What the engine says, and [`EngineError::WarmUp`] if the logits are not finite.
pub fn warm_up(engine: &mut dyn Engine) -> Result<(), EngineError> {
    let limits = engine.limits();
    let count = PROMPT_TOKENS.min(room(&limits)).min(limits.vocab_size).max(1);
    let spread = |index: usize| TokenId(u32::try_from(index * limits.vocab_size / count).unwrap_or(0));
    let prompt: Vec<TokenId> = (0..count).map(spread).collect();
    draw(engine, &prompt, 0).map(|_| ())
}

/// Compares the engine's first tokens with the first golden that fits into it; true if one did.
///
/// # Errors
/// As [`warm_up`], and [`EngineError::WarmUp`] if the engine draws another token.
pub fn compare(engine: &mut dyn Engine, goldens: &[Golden]) -> Result<bool, EngineError> {
    let limits = engine.limits();
    let known = |token: &TokenId| (token.0 as usize) < limits.vocab_size;
    let fits = |golden: &&Golden| golden.prompt.len() < room(&limits) && golden.prompt.iter().all(known);
    let Some(golden) = goldens.iter().find(fits) else { return Ok(false) };
    let mut tokens = golden.prompt.clone();
    for (index, expected) in golden.greedy.into_iter().enumerate() {
        let start = if index == 0 { 0 } else { tokens.len() - 1 };
        let got = draw(engine, &tokens, start)?;
        if got != expected {
            let message = format!(
                "after the {} tokens of its golden the model draws token {}, expected {}: its weights are damaged, or of another model",
                tokens.len(),
                got.0,
                expected.0
            );
            return Err(EngineError::WarmUp { message });
        }
        tokens.push(expected);
    }
    Ok(true)
}

/// Tokens that a sequence alone may have, in one step.
fn room(limits: &EngineLimits) -> usize {
    let stored = limits.global_blocks.min(limits.sliding_blocks).saturating_mul(limits.block_tokens);
    stored.min(limits.step_tokens_max).min(limits.context_tokens_max)
}

/// Computes `tokens[start..]` of a sequence alone and draws the likeliest next one.
fn draw(engine: &mut dyn Engine, tokens: &[TokenId], start: usize) -> Result<TokenId, EngineError> {
    let limits = engine.limits();
    let blocks = tokens.len().div_ceil(limits.block_tokens);
    let sliding_first = (start + 1).saturating_sub(limits.sliding_window_tokens) / limits.block_tokens;
    let table: Vec<BlockId> = (0..blocks).map(|block| BlockId(u32::try_from(block).unwrap_or(u32::MAX))).collect();
    let greedy = Draw {
        sampling: Arc::new(Sampling::default()),
        generated_count: 0,
        history: Vec::new(),
        history_prompt_len: tokens.len(),
    };
    let batch = Batch {
        tokens: tokens[start..].to_vec(),
        slices: vec![Slice {
            seq: SeqId(u64::MAX),
            tokens: 0..tokens.len() - start,
            start,
            global_blocks: 0..blocks,
            sliding_blocks: 0..blocks - sliding_first,
            sliding_first,
            draw: Some(greedy),
            drafts: 0,
            prompt_targets: None,
        }],
        sliding_blocks: table[sliding_first..].to_vec(),
        global_blocks: table,
        awaited: Vec::new(),
        copies: Vec::new(),
    };
    let mut sampled: Vec<Sampled> = Vec::with_capacity(1);
    engine.execute(&batch, &mut sampled)?;
    match sampled.first().and_then(|report| report.token) {
        Some(Ok(token)) => Ok(token),
        _ => Err(EngineError::WarmUp {
            message: "the model's logits are not finite: its weights hold NaN or infinities, or are damaged".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goldens_in_doubt_or_of_another_form_are_left_out() {
        let case =
            |greedy: &str, margin: &str| format!(r#"{{"prompt_ids":[1,2],"greedy_ids":{greedy},"greedy_margin":{margin}}}"#);
        let file = |cases: &[String]| format!(r#"{{"model":"m","cases":[{}]}}"#, cases.join(","));
        let text = file(&[case("[3,4,5]", "[9.5,0.2,9]"), case("[3]", "[9]"), case("[6,7]", "[2.5,1.5]")]);
        let wanted = Golden { prompt: vec![TokenId(1), TokenId(2)], greedy: [TokenId(6), TokenId(7)] };
        assert_eq!(Golden::parse(text.as_bytes()), [wanted]);
        assert!(Golden::parse(br#"{"cases":[{"prompt":[297]}]}"#).is_empty() && Golden::parse(b"no JSON").is_empty());
    }
}
