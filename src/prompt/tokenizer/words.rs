//! Where words begin and end: the regular expression of the checkpoint's pre-tokenizer.
//!
//! Promises: the words joined are the text, whatever it is. Absent on purpose: what becomes of a word.

use tokenizers::pre_tokenizers::split::Split;

/// Splits text into words.
#[derive(Debug)]
pub(super) struct Words {
    /// Only its pattern is used: its own splitting keeps 16 bytes of offsets for each byte of text.
    split: Split,
}

impl Words {
    pub(super) fn new(split: Split) -> Self {
        Self { split }
    }

    /// Calls `word` with each word of `text`: each match of the pattern, and each text between two matches.
    pub(super) fn split<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        let mut rest = text;
        while !rest.is_empty() {
            let mut done = 0;
            for (start, end) in self.split.regex.find_iter(rest) {
                if start > done {
                    word(&rest[done..start]);
                }
                if end > start {
                    word(&rest[start..end]);
                }
                done = end;
            }
            rest = &rest[done..];
            if !rest.is_empty() {
                // The matches stopped before the end: nothing more matches, or the pattern gave up.
                let (first, after) = rest.split_at(stalled_word_bytes(rest));
                word(first);
                rest = after;
            }
        }
    }
}

/// How long the first word of `text` is, on which the pattern gave up.
///
/// fancy-regex keeps a branch for each repetition of `\s` in `\s+(?!\S)`, and gives up at a million. What that expression
/// means is then found by hand: white space but for its last character, which belongs to what follows; all of it at the
/// end. Lines in it were already matched by `\s*[\r\n]+`. On anything else no pattern of a GPT-OSS checkpoint gives up; it is
/// one word, for the text must arrive.
fn stalled_word_bytes(text: &str) -> usize {
    let space = text.len() - text.trim_start().len();
    if space == 0 || space == text.len() {
        return text.len();
    }
    let last = text[..space].chars().next_back().map_or(0, char::len_utf8);
    if last == space { space } else { space - last }
}
