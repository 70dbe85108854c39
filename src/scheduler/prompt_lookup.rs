//! Where what a sequence says now was said before: what followed there is a guess at what follows
//! now.
//!
//! Owns: a table of places, by the hash of the [`RUN_TOKENS`] tokens before each, and the place
//! that is read. Promises: a token costs one entry, whatever the sequence's length, and memory is
//! bounded: later places take the room of earlier ones. Tokens are compared on a find, so that a
//! collision finds nothing wrong. The same tokens give the same guesses. Absent on purpose: whether
//! a guess pays.
//!
//! * **A place is read on as long as it was right.** To look for the last three tokens again after
//!   each step would jump to where they stood last, and in code the same three tokens stand in many
//!   places.
//! * **Behind a change it goes on where it was left.** What repeats a text with a change says
//!   something else for a few tokens, and then the text again: the place is taken up again where a
//!   token of it is said that stands near the one that was not.
//! * Else the place is taken that has most in common with what was said last: of the latest
//!   [`PLACES_MAX_COUNT`] with the same three tokens that of the longest run.

use crate::batch::TokenId;

/// So many tokens must be the same. Of two, too many stand everywhere in a text; of four, one is
/// found a token later after each change.
const RUN_TOKENS: usize = 3;
/// So many places with the same run are compared.
const PLACES_MAX_COUNT: usize = 16;
/// By so many tokens before them at most.
const COMPARED_MAX_TOKENS: usize = 32;
/// A place that was left is taken up again within so many tokens, of it and of what is said.
const NEAR_TOKENS: usize = 16;
/// So many tokens of a place must have been right that another one is forgotten for it.
const SETTLED_TOKENS: usize = 4;
/// Most entries, of 4 bytes, of each of two tables: those of a sequence take 256 KiB at most.
const ENTRIES_MAX_COUNT: usize = 1 << 15;
/// So many tokens are entered at once, in some 40 us; the rest of a longer prompt in later calls.
const ENTERED_AT_ONCE: usize = 8_192;

/// Token `index` of a sequence is expected to be its token `at`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    at: usize,
    index: usize,
}

impl Source {
    /// The same, from a later index on.
    fn later(self, index: usize) -> Self {
        Self { at: self.at + (index - self.index), index }
    }

    /// The first token before `end` that is not the expected one.
    fn wrong_before(self, end: usize, token: impl Fn(usize) -> TokenId) -> Option<usize> {
        (self.index..end).find(|index| token(*index) != token(self.later(*index).at))
    }

    /// How many tokens before the place are those before the index.
    fn common_tokens(self, token: impl Fn(usize) -> TokenId) -> usize {
        let most = self.at.min(COMPARED_MAX_TOKENS);
        (1..=most).take_while(|back| token(self.at - back) == token(self.index - back)).count()
    }
}

/// What a guess rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// What was said since the guess before was what it said.
    Followed,
    /// A place that was just found.
    Found,
}

/// A guess at what follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadPlace {
    source: Source,
    /// Tokens that were right since it was found.
    right_tokens: usize,
}

impl ReadPlace {
    fn found(at: usize, index: usize) -> Self {
        Self { source: Source { at, index }, right_tokens: 0 }
    }

    pub(super) fn standing(&self) -> Standing {
        if self.right_tokens > 0 { Standing::Followed } else { Standing::Found }
    }

    /// The next `count` tokens that it says.
    pub(super) fn read(&self, count: usize, token: impl Fn(usize) -> TokenId) -> Vec<TokenId> {
        let Source { at, index } = self.source;
        // What is said repeats itself, where the place is less than that before the end.
        (0..count).map(|ahead| token(at + ahead % (index - at))).collect()
    }
}

/// What is looked up of one sequence.
#[derive(Debug)]
pub(super) struct PromptLookup {
    runs: RunTable,
    /// What the latest tokens were expected to be, or are.
    place: Option<ReadPlace>,
    /// Where a place was left: its token was not what was said there.
    left: Option<Source>,
}

impl PromptLookup {
    /// For a sequence that has so many tokens now.
    pub(super) fn new(tokens_count: usize) -> Self {
        Self { runs: RunTable::new(tokens_count), place: None, left: None }
    }

    /// Where that was said which follows the first `tokens_count` tokens; `token` gives those by
    /// their positions. To be asked with more tokens each time, none of which changes, or with the
    /// same.
    pub(super) fn find(&mut self, tokens_count: usize, token: impl Fn(usize) -> TokenId + Copy) -> Option<ReadPlace> {
        self.runs.enter(tokens_count, token);
        if self.place.is_none_or(|place| place.source.index != tokens_count) {
            self.place = self.follow(tokens_count, token).or_else(|| self.look_up(tokens_count, token));
        }
        self.place
    }

    /// What the latest guess rests on.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.place.map(|place| place.standing())
    }

    /// The place that was read, if it was right.
    fn follow(&mut self, tokens_count: usize, token: impl Fn(usize) -> TokenId + Copy) -> Option<ReadPlace> {
        let ReadPlace { source, right_tokens } = self.place.take()?;
        let wrong = source.wrong_before(tokens_count, token);
        let right_tokens = right_tokens + (wrong.unwrap_or(tokens_count) - source.index);
        match wrong {
            None => return Some(ReadPlace { source: source.later(tokens_count), right_tokens }),
            Some(index) if right_tokens >= SETTLED_TOKENS || self.left.is_none() => self.left = Some(source.later(index)),
            Some(_) => {}
        }
        None
    }

    fn look_up(&mut self, tokens_count: usize, token: impl Fn(usize) -> TokenId + Copy) -> Option<ReadPlace> {
        self.left = self.left.filter(|left| tokens_count - left.index <= NEAR_TOKENS);
        let rejoined = self.left.and_then(|left| rejoined(left, tokens_count, token));
        let at = rejoined.or_else(|| self.runs.longest(tokens_count, token)).or_else(|| {
            // One token was said in the place of another.
            self.left.filter(|left| left.index + 1 == tokens_count).map(|left| left.at + 1)
        })?;
        Some(ReadPlace::found(at, tokens_count))
    }
}

/// Where a place goes on that was left: behind the last token, where that stands in it, as far
/// behind the change as can be in what was said.
fn rejoined(left: Source, tokens_count: usize, token: impl Fn(usize) -> TokenId) -> Option<usize> {
    let said_tokens = tokens_count - left.index;
    let ends = left.at + 1..=(left.at + NEAR_TOKENS).min(tokens_count - 1);
    let same = ends.filter(|at| token(at - 1) == token(tokens_count - 1));
    same.min_by_key(|at| (at - left.at).abs_diff(said_tokens))
}

/// The places of one sequence.
#[derive(Debug)]
struct RunTable {
    /// One past the last position behind a run that belongs here; zero: none.
    entries: Vec<u32>,
    /// By position, in turn: the entry that it took the place of.
    before: Vec<u32>,
    /// The first position whose run is not entered.
    next: usize,
}

impl RunTable {
    fn new(tokens_count: usize) -> Self {
        // Half of it stays empty until as many tokens are generated.
        Self::with_entries((4 * tokens_count).next_power_of_two().clamp(1_024, ENTRIES_MAX_COUNT))
    }

    fn with_entries(count: usize) -> Self {
        Self { entries: vec![0; count], before: vec![0; count], next: RUN_TOKENS }
    }

    /// Enters the runs before the first `tokens_count` tokens' end, but for that at the end: it is
    /// what is looked for.
    fn enter(&mut self, tokens_count: usize, token: impl Fn(usize) -> TokenId + Copy) {
        let end = tokens_count.min(self.next + ENTERED_AT_ONCE);
        for position in self.next..end {
            let (entry, kept) = (self.entry_of(position, token), position & (self.before.len() - 1));
            self.before[kept] = self.entries[entry];
            self.entries[entry] = u32::try_from(position + 1).expect("a context has fewer than 2^32 tokens");
        }
        self.next = self.next.max(end);
    }

    /// The position behind the run of most tokens that is the one at the end; of equals the last.
    fn longest(&self, tokens_count: usize, token: impl Fn(usize) -> TokenId + Copy) -> Option<usize> {
        if tokens_count < RUN_TOKENS || self.next < tokens_count {
            return None;
        }
        let mut entry = self.entries[self.entry_of(tokens_count, token)] as usize;
        let (mut longest, mut longest_tokens) = (None, RUN_TOKENS - 1);
        for _ in 0..PLACES_MAX_COUNT {
            let Some(at) = entry.checked_sub(1) else { break };
            let common_tokens = Source { at, index: tokens_count }.common_tokens(token);
            if common_tokens > longest_tokens {
                (longest, longest_tokens) = (Some(at), common_tokens);
            }
            let before = self.before[at & (self.before.len() - 1)] as usize;
            // What took its room came later.
            if before >= entry {
                break;
            }
            entry = before;
        }
        longest
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

    fn guess(lookup: &mut PromptLookup, tokens: &[u32], most: usize) -> Vec<u32> {
        let token = |at: usize| TokenId(tokens[at]);
        let place = lookup.find(tokens.len(), token);
        place.map_or(Vec::new(), |place| place.read(most, token)).into_iter().map(|token| token.0).collect()
    }

    #[test]
    fn what_followed_the_last_three_tokens_is_guessed() {
        let mut tokens = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let mut lookup = PromptLookup::new(tokens.len());
        assert_eq!(guess(&mut lookup, &tokens, 4), [0; 0], "they stand once");
        tokens.extend([2, 3]);
        assert_eq!(guess(&mut lookup, &tokens, 4), [0; 0], "two are not enough");
        tokens.push(4);
        assert_eq!(guess(&mut lookup, &tokens, 4), [5, 6, 7, 8]);
        assert_eq!(guess(&mut lookup, &tokens, 2), [5, 6], "asked again it says the same");
        assert_eq!(guess(&mut lookup, &tokens, 0), [0; 0]);
    }

    #[test]
    fn a_place_is_read_on_wherever_else_the_last_tokens_stand() {
        let mut tokens = vec![1, 2, 3, 50, 51, 52, 60, 61, 62, 50, 51, 52, 70, 71, 1, 2, 3];
        let mut lookup = PromptLookup::new(tokens.len());
        assert_eq!(guess(&mut lookup, &tokens, 3), [50, 51, 52]);
        tokens.extend([50, 51, 52]);
        assert_eq!(guess(&mut lookup, &tokens, 3), [60, 61, 62], "not 70, which followed them last");
        assert_eq!(lookup.standing(), Some(Standing::Followed));
        assert_eq!(guess(&mut PromptLookup::new(tokens.len()), &tokens, 3), [60, 61, 62], "the longest run");
    }

    /// A word is exchanged for a longer one, one is left out, and one is put in.
    #[test]
    fn behind_a_change_the_place_is_taken_up_again() {
        let text: Vec<u32> = (100..140).collect();
        for (changed, rejoins_at) in [
            (vec![100, 101, 102, 103, 104, 1, 2, 3, 106], 107),
            (vec![100, 101, 102, 103, 104, 1, 2, 3, 105], 106),
            (vec![100, 101, 102, 103, 104, 106], 107),
            (vec![100, 101, 102, 103, 104, 1, 105], 106),
        ] {
            let mut tokens = text.clone();
            let mut lookup = PromptLookup::new(tokens.len());
            for token in changed {
                tokens.push(token);
                guess(&mut lookup, &tokens, 4);
            }
            assert_eq!(guess(&mut lookup, &tokens, 2), [rejoins_at, rejoins_at + 1], "{:?}", &tokens[40..]);
        }
        let mut tokens = text;
        let mut lookup = PromptLookup::new(tokens.len());
        for token in [100, 101, 102, 103, 1] {
            tokens.push(token);
            guess(&mut lookup, &tokens, 4);
        }
        assert_eq!(guess(&mut lookup, &tokens, 1), [105], "one token was exchanged for another");
        tokens.extend((2..2 + NEAR_TOKENS as u32).chain([106]));
        assert_eq!(guess(&mut lookup, &tokens, 4), [0; 0], "what was left long ago is forgotten");
    }

    #[test]
    fn what_repeats_itself_is_guessed_beyond_its_end() {
        let tokens = [9, 7, 8, 9, 7, 8, 9];
        assert_eq!(guess(&mut PromptLookup::new(7), &tokens, 7), [7, 8, 9, 7, 8, 9, 7]);
        assert_eq!(guess(&mut PromptLookup::new(4), &[5; 4], 3), [5; 3]);
        for short in 0..=RUN_TOKENS {
            assert_eq!(guess(&mut PromptLookup::new(short), &vec![5; short], 3), [0; 0], "{short} tokens");
        }
    }

    /// A table that is much too small forgets, and never says what did not follow.
    #[test]
    fn a_place_that_is_found_follows_the_same_tokens_whatever_collides() {
        let mut random: u64 = 3;
        let mut tokens: Vec<u32> = Vec::new();
        let mut runs = RunTable::with_entries(16);
        let mut found_count = 0;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            tokens.push((random >> 61) as u32);
            let token = |at: usize| TokenId(tokens[at]);
            runs.enter(tokens.len(), token);
            if let Some(at) = runs.longest(tokens.len(), token) {
                found_count += 1;
                let (before, last) = (&tokens[at - RUN_TOKENS..at], &tokens[tokens.len() - RUN_TOKENS..]);
                assert!(before == last && at < tokens.len(), "{at} after {last:?} and {} tokens", tokens.len());
            }
        }
        assert!(found_count > 50 && found_count < 10_000, "{found_count}");
    }

    #[test]
    fn a_long_prompt_is_entered_over_several_calls_and_in_bounded_memory() {
        let tokens: Vec<u32> = (0..20_000).chain([10_000, 10_001, 10_002]).collect();
        let mut lookup = PromptLookup::new(tokens.len());
        assert_eq!(guess(&mut lookup, &tokens, 1), [0; 0]);
        assert_eq!(guess(&mut lookup, &tokens, 1), [0; 0]);
        assert_eq!(guess(&mut lookup, &tokens, 1), [10_003]);
        let table = RunTable::new(1 << 20);
        assert_eq!((table.entries.len(), table.before.len()), (ENTRIES_MAX_COUNT, ENTRIES_MAX_COUNT));
    }
}
