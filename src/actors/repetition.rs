//! Whether a model says the same again and again.

use std::collections::VecDeque;

use crate::actors::messages::RepetitionLimits;
use crate::batch::TokenId;

/// The search in one choice: for each length of a pattern, how many tokens in a row are what stood
/// that many before them. So a token costs as many comparisons as there are lengths.
#[derive(Debug)]
pub(super) struct RepetitionSearch {
    limits: RepetitionLimits,
    /// As many as the longest pattern has.
    tail: VecDeque<TokenId>,
    runs: Vec<u32>,
}

impl RepetitionSearch {
    /// A search before the first token.
    pub(super) fn new(limits: RepetitionLimits) -> Self {
        let lengths = limits.pattern_max_tokens.saturating_sub(limits.pattern_min_tokens) + 1;
        Self { limits, tail: VecDeque::new(), runs: vec![0; lengths as usize] }
    }

    /// Takes the next token. Returns whether the last ones are a pattern as often as it may not be.
    pub(super) fn ends_with(&mut self, token: TokenId) -> bool {
        let RepetitionLimits { pattern_min_tokens, pattern_max_tokens, min_count } = self.limits;
        let mut is_found = false;
        for (length, run) in (pattern_min_tokens..).zip(&mut self.runs) {
            let before = self.tail.len().checked_sub(length as usize).map(|at| self.tail[at]);
            *run = if before == Some(token) { run.saturating_add(1) } else { 0 };
            is_found |= u64::from(*run) >= u64::from(length) * u64::from(min_count - 1);
        }
        self.tail.push_back(token);
        if self.tail.len() > pattern_max_tokens as usize {
            self.tail.pop_front();
        }
        is_found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// vLLM's definition, word for word: the last tokens are a pattern, so often.
    fn is_repeated(tokens: &[u32], limits: RepetitionLimits) -> bool {
        (limits.pattern_min_tokens as usize..=limits.pattern_max_tokens as usize).any(|length| {
            let all = length * limits.min_count as usize;
            tokens.len() >= all && tokens[tokens.len() - all..].chunks(length).all(|chunk| tokens.ends_with(chunk))
        })
    }

    #[test]
    fn a_pattern_is_found_as_soon_as_it_is_said_so_often() {
        let found = |tokens: &[u32], limits: RepetitionLimits| {
            let mut search = RepetitionSearch::new(limits);
            tokens.iter().position(|token| search.ends_with(TokenId(*token)))
        };
        let limits = |pattern_min_tokens, pattern_max_tokens, min_count| RepetitionLimits {
            pattern_min_tokens,
            pattern_max_tokens,
            min_count,
        };
        assert_eq!(found(&[1, 2, 3, 2, 3, 2, 3], limits(1, 4, 3)), Some(6));
        assert_eq!(found(&[1, 2, 3, 2, 3, 2, 4], limits(1, 4, 3)), None);
        assert_eq!(found(&[7, 7, 7, 7], limits(1, 1, 4)), Some(3));
        assert_eq!(found(&[7, 7, 7, 7, 7], limits(3, 4, 2)), None, "six of three");
        assert_eq!(found(&[7, 7, 7, 7, 7, 7], limits(3, 4, 2)), Some(5));
        // Texts of few letters, at random.
        let mut state = 1_u64;
        for round in 0..400 {
            let limits = limits(1 + round % 3, 3 + round % 5, 2 + round % 3);
            let tokens: Vec<u32> = (0..60)
                .map(|_| {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    (state >> 60) as u32 % 3
                })
                .collect();
            let first = (1..=tokens.len()).find(|length| is_repeated(&tokens[..*length], limits)).map(|length| length - 1);
            assert_eq!(found(&tokens, limits), first, "{limits:?} {tokens:?}");
        }
    }
}
