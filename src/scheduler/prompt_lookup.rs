//! Where the last tokens of a sequence stood before: what followed them there is a guess at what
//! follows now.
//!
//! Owns: a table of positions, by the hash of the [`RUN_TOKENS`] tokens before each. Promises: a
//! token costs one entry, whatever the sequence's length, and memory is bounded: the latest
//! position takes the place of an earlier one with the same place in the table. Tokens are compared
//! on a find, so that a collision finds nothing wrong. Absent on purpose: whether a guess pays.

use crate::batch::TokenId;

/// So many tokens must be the same. Of two, too many stand everywhere in a text; of four, one is
/// found a token later after each change.
const RUN_TOKENS: usize = 3;
/// Most entries, of 4 bytes: those of a sequence take 128 KiB at most.
const ENTRIES_MAX_COUNT: usize = 1 << 15;
/// So many tokens are entered at once, in some 40 us; the rest of a longer prompt in later calls.
const ENTERED_AT_ONCE: usize = 8_192;

/// The table of one sequence.
#[derive(Debug)]
pub(super) struct RunTable {
    /// One past the position behind the run that stands here; zero: none.
    entries: Vec<u32>,
    /// The first position whose run is not entered.
    next: usize,
}

impl RunTable {
    /// A table for a sequence that has so many tokens now.
    pub(super) fn new(tokens_count: usize) -> Self {
        // Half of it stays empty until as many tokens are generated.
        let entries_count = (4 * tokens_count).next_power_of_two().clamp(1_024, ENTRIES_MAX_COUNT);
        Self { entries: vec![0; entries_count], next: RUN_TOKENS }
    }

    /// Guesses at most `most` tokens that follow the first `tokens_count`, which `token` gives by
    /// their positions. To be asked with more tokens each time, none of which changes.
    pub(super) fn guess(&mut self, tokens_count: usize, most: usize, token: impl Fn(usize) -> TokenId) -> Vec<TokenId> {
        // The run at the end is not entered: it is what is looked for.
        let entered_end = tokens_count.min(self.next + ENTERED_AT_ONCE);
        for position in self.next..entered_end {
            let entry = self.entry_of(position, &token);
            self.entries[entry] = u32::try_from(position + 1).expect("a context has fewer than 2^32 tokens");
        }
        self.next = self.next.max(entered_end);
        if tokens_count < RUN_TOKENS || self.next < tokens_count {
            return Vec::new();
        }
        let found = self.entries[self.entry_of(tokens_count, &token)] as usize;
        let is_same = |found: usize| (1..=RUN_TOKENS).all(|back| token(found - back) == token(tokens_count - back));
        match found.checked_sub(1).filter(|found| is_same(*found)) {
            // What is guessed repeats itself, where the run stood less than that before the end.
            Some(found) => (0..most).map(|ahead| token(found + ahead % (tokens_count - found))).collect(),
            None => Vec::new(),
        }
    }

    /// Where the run before `position` belongs.
    fn entry_of(&self, position: usize, token: impl Fn(usize) -> TokenId) -> usize {
        let run = (position - RUN_TOKENS..position).fold(0, |hash: u64, at| {
            // Fibonacci hashing: the golden ratio's share of 2^64.
            (hash.rotate_left(23) ^ u64::from(token(at).0)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        (run >> 32) as usize & (self.entries.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(lookup: &mut RunTable, tokens: &[u32], most: usize) -> Vec<u32> {
        lookup.guess(tokens.len(), most, |at| TokenId(tokens[at])).into_iter().map(|token| token.0).collect()
    }

    #[test]
    fn what_followed_the_last_three_tokens_is_guessed() {
        let mut tokens = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let mut lookup = RunTable::new(tokens.len());
        assert_eq!(guess(&mut lookup, &tokens, 4), [0; 0], "they stand once");
        tokens.extend([2, 3]);
        assert_eq!(guess(&mut lookup, &tokens, 4), [0; 0], "two are not enough");
        tokens.push(4);
        assert_eq!(guess(&mut lookup, &tokens, 4), [5, 6, 7, 8]);
        assert_eq!(guess(&mut lookup, &tokens, 2), [5, 6]);
        tokens.extend([5, 9, 3, 4, 5]);
        assert_eq!(guess(&mut lookup, &tokens, 1), [9], "the latest that followed 3, 4, 5");
        assert_eq!(guess(&mut lookup, &tokens, 0), [0; 0]);
    }

    #[test]
    fn what_repeats_itself_is_guessed_beyond_its_end() {
        let tokens = [9, 7, 8, 9, 7, 8, 9];
        assert_eq!(guess(&mut RunTable::new(7), &tokens, 7), [7, 8, 9, 7, 8, 9, 7]);
        assert_eq!(guess(&mut RunTable::new(4), &[5; 4], 3), [5; 3]);
        for short in 0..=RUN_TOKENS {
            assert_eq!(guess(&mut RunTable::new(short), &vec![5; short], 3), [0; 0], "{short} tokens");
        }
    }

    /// A table that is much too small forgets, and never says what did not follow.
    #[test]
    fn a_guess_is_what_followed_the_same_tokens_whatever_collides() {
        let mut random: u64 = 3;
        let mut tokens: Vec<u32> = Vec::new();
        let mut lookup = RunTable { entries: vec![0; 16], next: RUN_TOKENS };
        let mut guesses_count = 0;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            tokens.push((random >> 61) as u32);
            if let [guessed] = guess(&mut lookup, &tokens, 1)[..] {
                guesses_count += 1;
                let last = &tokens[tokens.len() - RUN_TOKENS..];
                let followed =
                    tokens.windows(RUN_TOKENS + 1).any(|run| run[..RUN_TOKENS] == *last && run[RUN_TOKENS] == guessed);
                assert!(followed, "{guessed} after {last:?} and {} tokens", tokens.len());
            }
        }
        assert!(guesses_count > 50 && guesses_count < 10_000, "{guesses_count}");
    }

    #[test]
    fn a_long_prompt_is_entered_over_several_calls_and_in_bounded_memory() {
        let tokens: Vec<u32> = (0..20_000).chain([10_000, 10_001, 10_002]).collect();
        let mut lookup = RunTable::new(tokens.len());
        assert_eq!(guess(&mut lookup, &tokens, 1), [0; 0]);
        assert_eq!(guess(&mut lookup, &tokens, 1), [0; 0]);
        assert_eq!(guess(&mut lookup, &tokens, 1), [10_003]);
        assert_eq!(RunTable::new(1 << 20).entries.len(), ENTRIES_MAX_COUNT);
    }
}
