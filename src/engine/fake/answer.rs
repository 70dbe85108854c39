//! Which tokens a fake engine draws, and what log-probabilities it claims.

use crate::batch::{Allowed, DrawError, PositionLogprobs, Sampling, TokenId, TokenLogprob};

/// How a fake engine finds the next token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FakeAnswer {
    /// By a hash over the sequence's tokens, this seed and, unless it samples greedily, the seed of
    /// its sampling.
    Hash {
        /// Another seed gives other tokens.
        seed: u64,
    },
    /// The token that stood so many tokens before, but for one of some draws, which is as by
    /// [`FakeAnswer::Hash`]: what repeats its prompt and itself with changes.
    Echo {
        /// As there.
        seed: u64,
        /// How many tokens before.
        period: usize,
        /// One of so many draws is a change.
        changes_one_of: u64,
    },
    /// Always these tokens, then the stop token for ever.
    Script {
        /// The generated tokens, in order.
        tokens: Vec<TokenId>,
        /// What follows them.
        stop: TokenId,
    },
}

impl FakeAnswer {
    /// The token that follows `full`, a pure function of its arguments.
    ///
    /// `full`: all tokens of the sequence so far; `sliding`: the last `sliding_window_tokens` of
    /// them, as the sliding group holds them. Stop tokens are masked while fewer than
    /// `min_tokens` are generated, and what the sampling's masks do not allow.
    ///
    /// # Errors
    /// [`DrawError::NotFinite`] if every token of the vocabulary is masked,
    /// [`DrawError::NothingAllowed`] if masks allow none.
    pub fn next(
        &self,
        full: &[TokenId],
        sliding: &[TokenId],
        sampling: &Sampling,
        generated_count: u32,
        vocab_size: usize,
    ) -> Result<TokenId, DrawError> {
        let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let by_hash = |seed: u64| {
            let draw_seed = if sampling.temperature > 0.0 { sampling.seed } else { 0 };
            mix(hash(full) ^ hash(sliding).rotate_left(1) ^ mix(seed) ^ mix(draw_seed).rotate_left(2))
        };
        let of_vocabulary = |hash: u64| TokenId((hash % u64::from(vocab_size.max(1))) as u32);
        let wanted = match self {
            Self::Hash { seed } => of_vocabulary(by_hash(*seed)),
            Self::Echo { seed, period, changes_one_of } => {
                let hash = by_hash(*seed);
                let echoed = full.len().checked_sub(*period).and_then(|at| full.get(at));
                let is_change = (hash >> 32).is_multiple_of(*changes_one_of);
                echoed.filter(|_| !is_change).copied().unwrap_or(of_vocabulary(hash))
            }
            Self::Script { tokens, stop } => *tokens.get(generated_count as usize).unwrap_or(stop),
        };
        first_allowed(wanted, sampling, generated_count, vocab_size)
    }
}

/// The first token from `wanted` on, around the vocabulary, that the sampling lets draw
/// `generated_count` give.
///
/// # Errors
/// As [`FakeAnswer::next`].
pub(in crate::engine) fn first_allowed(
    wanted: TokenId,
    sampling: &Sampling,
    generated_count: u32,
    vocab_size: u32,
) -> Result<TokenId, DrawError> {
    let allowed = sampling.allowed(generated_count);
    if allowed == Allowed::Nothing {
        return Err(DrawError::NothingAllowed);
    }
    let masks_stops = sampling.masks_stops(generated_count, &allowed);
    let masked = |token: &TokenId| !allowed.has(*token) || masks_stops && sampling.stop_tokens.contains(token);
    (0..vocab_size)
        .map(|i| TokenId(wanted.0.wrapping_add(i) % vocab_size))
        .find(|token| !masked(token))
        .ok_or(DrawError::NotFinite)
}

/// Log-probabilities of `chosen` after `before`: it is always the likeliest; the others follow it
/// in the vocabulary.
pub(in crate::engine) fn logprobs(before: &[TokenId], chosen: TokenId, top_count: u32, vocab_size: usize) -> PositionLogprobs {
    let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX).max(1);
    let likeliest = -((hash(before) % 1000) as f32) / 1000.0;
    let at = |i: u32| TokenLogprob {
        token: TokenId(chosen.0.wrapping_add(i) % vocab_size),
        logprob: likeliest - i as f32,
        rank: i + 1,
    };
    PositionLogprobs { chosen: at(0), top: (0..top_count.min(vocab_size)).map(at).collect() }
}

fn hash(tokens: &[TokenId]) -> u64 {
    tokens.iter().fold(tokens.len() as u64, |hash, token| mix(hash ^ u64::from(token.0)))
}

/// A number that looks drawn at random, the same for the same `value`.
///
/// Source: the finalizer of SplitMix64, Steele, Lea and Flood 2014.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
