//! Log-probabilities of content whose text may be part of a stop string.
//!
//! Promises: the texts of the tokens that are given out, joined, are the text that is kept,
//! wherever a stop string cuts it and however the text came in pieces.

use std::collections::VecDeque;

use crate::actors::messages::TokenText;
use crate::prompt::detokenizer::TokenPositions;

/// A token of the content, while a stop string may begin in it or before it.
#[derive(Debug)]
struct HeldToken {
    /// The content before it.
    before: TokenPositions,
    /// The byte of the content at which it begins.
    begin: usize,
    /// The first byte that is kept without it; inside the character that it leaves unfinished.
    end: usize,
    text: TokenText,
}

/// Tokens of a choice's content that wait.
#[derive(Debug, Default)]
pub(super) struct HeldLogprobs {
    tokens: VecDeque<HeldToken>,
    places: TokenPositions,
    /// Bytes of content that are no part of a stop string.
    kept_bytes: usize,
}

impl HeldLogprobs {
    /// Holds the tokens of the text that is searched next; before it, `held_bytes` of text may be
    /// part of a stop string.
    pub(super) fn hold(&mut self, logprobs: Vec<TokenText>, held_bytes: usize) {
        // Counted from the text itself, which holds more than the tokens do where a broken header
        // is delivered.
        self.places.go_on_at(self.kept_bytes + held_bytes);
        for text in logprobs {
            let before = self.places.clone();
            let begin = if text.is_control { self.places.next() } else { self.places.push(&text.bytes) }.bytes;
            let end = self.places.next().bytes + usize::from(self.places.is_inside_character());
            self.tokens.push_back(HeldToken { before, begin, end, text });
        }
    }

    /// `bytes` more of the text are no part of a stop string: `out` gets the tokens that end in
    /// them.
    pub(super) fn keep(&mut self, bytes: usize, out: &mut Vec<TokenText>) {
        self.kept_bytes += bytes;
        let kept = self.kept_bytes;
        while let Some(held) = self.tokens.pop_front_if(|held| held.begin < kept && held.end <= kept) {
            out.push(held.text);
        }
    }

    /// A stop string ends the text: `out` gets what is left of the token that goes on into it, and
    /// none behind it.
    pub(super) fn cut(&mut self, out: &mut Vec<TokenText>) {
        let kept = self.kept_bytes;
        for mut held in self.tokens.drain(..).take_while(|held| held.begin < kept) {
            held.text.bytes.truncate(held.before.bytes_before(&held.text.bytes, kept));
            out.push(held.text);
        }
    }

    /// No stop string is searched in what comes next: `out` gets the tokens without text too, after
    /// the last one that has some.
    pub(super) fn release(&mut self, out: &mut Vec<TokenText>) {
        out.extend(self.tokens.drain(..).map(|held| held.text));
        self.places.flush();
    }
}
