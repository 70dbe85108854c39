//! What a puppet says, as tokens.

use std::collections::HashSet;

/// The control tokens of a puppet's vocabulary, which lie behind its words.
pub(super) const CONTROL: [&str; 9] = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|call|>",
    "<|return|>",
];
/// Where a token ends in a text that is cut by hand.
const CUT: char = '¦';
/// Words of headers, which may be said again; in every vocabulary, and so one token in a prompt
/// too.
pub(super) const HEADER_WORDS: [&str; 2] = ["assistant", "json"];

/// The bytes of one token after another; of control tokens their spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script(pub(super) Vec<Vec<u8>>);

impl Script {
    /// Control tokens by their spelling, and text between them. A text with `¦` in it is cut there
    /// and nowhere else; another one is cut at its words, or elsewhere where such a word was
    /// said before.
    pub(crate) fn of(text: &str) -> Self {
        let mut said = HashSet::new();
        let mut tokens = Vec::new();
        for part in parts(text) {
            if CONTROL.contains(&part) || HEADER_WORDS.contains(&part) {
                tokens.push(part.into());
            } else if part.contains(CUT) {
                tokens.extend(part.split(CUT).map(|token| token.as_bytes().to_vec()));
            } else {
                assert!(cut(part, &mut said, &mut tokens), "{part:?} cannot be cut into tokens that were not said before");
            }
        }
        Self(tokens)
    }

    /// These tokens, for texts that are cut inside a character.
    pub(super) fn of_tokens(tokens: &[&[u8]]) -> Self {
        Self(tokens.iter().map(|token| token.to_vec()).collect())
    }

    /// How many tokens it has.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The tokens of a prompt's text: control tokens, words of headers, and single bytes, for the
    /// vocabulary has no merges.
    pub(super) fn of_prompt(text: &str) -> Self {
        let of = |part: &str| match part {
            whole if CONTROL.contains(&whole) || HEADER_WORDS.contains(&whole) => vec![whole.into()],
            text => text.bytes().map(|byte| vec![byte]).collect::<Vec<_>>(),
        };
        Self(parts(text).into_iter().flat_map(of).collect())
    }
}

/// The control tokens of `text`, and what lies between them.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let control = CONTROL.iter().filter_map(|name| rest.find(name).map(|at| (at, *name))).min();
        let (at, name) = control.unwrap_or((rest.len(), ""));
        parts.extend([&rest[..at], name].into_iter().filter(|part| !part.is_empty()));
        rest = &rest[at + name.len()..];
    }
    parts
}

/// Cuts `text` into tokens that are not in `said`.
fn cut(text: &str, said: &mut HashSet<Vec<u8>>, tokens: &mut Vec<Vec<u8>>) -> bool {
    for end in ends(text) {
        let token = text.as_bytes()[..end].to_vec();
        if said.insert(token.clone()) {
            tokens.push(token.clone());
            if end == text.len() || cut(&text[end..], said, tokens) {
                return true;
            }
            tokens.pop();
            said.remove(&token);
        }
    }
    false
}

/// Where the first token of `text` may end: after its first words, or else anywhere.
fn ends(text: &str) -> impl Iterator<Item = usize> {
    let characters: Vec<(usize, char)> = text.char_indices().collect();
    let begins_word = |pair: &[(usize, char)]| {
        let [(_, before), (at, next)] = *pair else { return None };
        let goes_on = next.is_alphanumeric() && (before.is_alphanumeric() || before == ' ');
        (!goes_on).then_some(at)
    };
    let words: Vec<usize> = characters.windows(2).filter_map(begins_word).chain([text.len()]).take(3).collect();
    let others: Vec<usize> = characters.iter().map(|(at, _)| *at).skip(2).take(16).collect();
    words.into_iter().chain(others)
}
