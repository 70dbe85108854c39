//! Where words begin and end: the regular expression of the checkpoint's pre-tokenizer.
//!
//! Promises: the words joined are the text, whatever it is. Absent on purpose: what becomes of a
//! word.

use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

/// The pattern of every GPT-OSS checkpoint.
const GPT_OSS: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// So many digits in a row are worth leaving the pattern for.
const DIGITS_MIN_COUNT: usize = 12;

/// Splits text into words.
#[derive(Debug)]
pub(super) struct Words {
    /// Only its pattern is used: its own splitting keeps 16 bytes of offsets for each byte of text.
    split: Split,
    /// The pattern is [`GPT_OSS`], in which a digit where a word begins can only begin
    /// `\p{N}{1,3}`.
    digits_by_threes: bool,
}

impl Words {
    pub(super) fn new(split: Split) -> Self {
        let digits_by_threes = matches!(&split.pattern, SplitPattern::Regex(pattern) if pattern == GPT_OSS);
        Self { split, digits_by_threes }
    }

    /// Calls `word` with each word of `text` until it says no: each match of the pattern, and each
    /// text between two matches.
    pub(super) fn split<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str) -> bool) {
        let mut rest = text;
        while !rest.is_empty() {
            let mut done = 0;
            for (start, end) in self.split.regex.find_iter(rest) {
                if start > done && !word(&rest[done..start]) || end > start && !word(&rest[start..end]) {
                    return;
                }
                done = end;
                if self.begins_with_digits(&rest[done..]) {
                    break;
                }
            }
            rest = &rest[done..];
            if self.begins_with_digits(rest) {
                match split_digits(rest, &mut word) {
                    Some(after) => rest = after,
                    None => return,
                }
            } else if !rest.is_empty() {
                // The matches stopped before the end: nothing more matches, or the pattern gave up.
                let (first, after) = rest.split_at(stalled_word_bytes(rest));
                if !word(first) {
                    return;
                }
                rest = after;
            }
        }
    }

    /// Whether the words at the beginning of `text`, where a word ended, are digits by threes, and
    /// many.
    fn begins_with_digits(&self, text: &str) -> bool {
        let first = text.as_bytes().get(..DIGITS_MIN_COUNT);
        self.digits_by_threes && first.is_some_and(|first| first.iter().all(u8::is_ascii_digit))
    }
}

/// Calls `word` with the digits at the beginning of `text`, three by three. Returns what follows,
/// with the last one or two of them, whose word may go on with other numerals; `None` if `word`
/// said no.
fn split_digits<'t>(text: &'t str, word: &mut impl FnMut(&'t str) -> bool) -> Option<&'t str> {
    let count = text.bytes().take_while(u8::is_ascii_digit).count();
    let mut rest = text;
    for _ in 0..count / 3 {
        let (three, after) = rest.split_at(3);
        if !word(three) {
            return None;
        }
        rest = after;
    }
    Some(rest)
}

/// How long the first word of `text` is, on which the pattern gave up.
///
/// fancy-regex keeps a branch for each repetition of `\s` in `\s+(?!\S)`, and gives up at a
/// million. What that expression means is then found by hand: white space but for its last
/// character, which belongs to what follows; all of it at the end. Lines in it were already matched
/// by `\s*[\r\n]+`. On anything else no pattern of a GPT-OSS checkpoint gives up; it is
/// one word, for the text must arrive.
fn stalled_word_bytes(text: &str) -> usize {
    let space = text.len() - text.trim_start().len();
    if space == 0 || space == text.len() {
        return text.len();
    }
    let last = text[..space].chars().next_back().map_or(0, char::len_utf8);
    if last == space { space } else { space - last }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::SplitDelimiterBehavior;

    use super::*;

    fn words_of(pattern: &str) -> Words {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        Words::new(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("a sound pattern"))
    }

    fn split<'t>(words: &Words, text: &'t str) -> Vec<&'t str> {
        let mut all = Vec::new();
        words.split(text, |word| {
            all.push(word);
            true
        });
        all
    }

    #[test]
    fn another_pattern_splits_digits_as_it_says() {
        let text = "1".repeat(40);
        assert!(split(&words_of(r"\p{N}{1,2}|\s+"), &text).iter().all(|word| word.len() == 2));
        assert_eq!(split(&words_of(GPT_OSS), &text).last(), Some(&"1"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn digits_are_split_as_the_pattern_splits_them(
            pieces in prop::collection::vec("[0-9]{1,50}|[²½٣Ⅷ]{1,4}| {1,3}|[a-zA-Z']{1,4}|[\r\n]{1,2}|[-.,/]{1,2}|\\PC", 0..12),
        ) {
            thread_local! { static WORDS: Words = words_of(GPT_OSS); }
            let text = pieces.concat();
            WORDS.with(|words| {
                // Every character is in some match of this pattern.
                let matches: Vec<&str> = words.split.regex.find_iter(&text).map(|(start, end)| &text[start..end]).collect();
                prop_assert!(words.digits_by_threes);
                prop_assert_eq!(split(words, &text), matches);
                Ok(())
            })?;
        }
    }
}
