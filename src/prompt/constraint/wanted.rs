//! Which tokens a client wants in an answer, and which words it does not, beside whatever else the
//! answer is held to.
//!
//! A word is kept out by its tokens, as vLLM does it: the last one is not drawn behind the others.
//! The model may still say it in other tokens. In harmony words are kept out of texts alone, for
//! headers are harmony's.

use std::sync::{Arc, Mutex, PoisonError};

use super::set;
use crate::batch::{Allowed, MaskOutlook, Masks, TokenId, TokenMasks};
use crate::prompt::tokenizer::{ControlTokens, Tokenizer};

/// What a request asks of its tokens.
#[derive(Debug, Clone)]
pub struct WantedTokens {
    /// The tokens that may be drawn, bit by bit; `None` is all.
    allowed: Option<Arc<[u32]>>,
    /// The tokens of each unwanted word.
    unwanted: Arc<[Vec<TokenId>]>,
    control: ControlTokens,
}

impl WantedTokens {
    /// Only `allowed`, which are all in the vocabulary, if there are some; and none of `words`, at
    /// the beginning of a text or behind a blank.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, allowed: Option<Vec<TokenId>>, words: &[String]) -> Self {
        let allowed = allowed.map(|tokens| {
            let mut words = vec![0; tokenizer.vocab_size().div_ceil(u32::BITS as usize)];
            set(&mut words, tokens.into_iter());
            words.into()
        });
        let forms = words.iter().flat_map(|word| [word.trim_start().to_owned(), format!(" {}", word.trim_start())]);
        let unwanted = forms.map(|word| tokenizer.encode_text(&word)).filter(|tokens| !tokens.is_empty()).collect();
        Self { allowed, unwanted, control: *tokenizer.control() }
    }

    /// The masks of one sequence that is held to `inner` besides; `in_text` says whether its first
    /// token is text.
    #[must_use]
    pub fn masks(&self, inner: Option<Masks>, in_text: bool) -> Option<Masks> {
        if self.allowed.is_none() && self.unwanted.is_empty() {
            return inner;
        }
        let said = Mutex::new(SaidText { in_text, tail: Vec::new() });
        Some(Masks(Arc::new(WantedMasks { inner, wanted: self.clone(), said })))
    }
}

/// What was said last.
#[derive(Debug)]
struct SaidText {
    in_text: bool,
    /// The last tokens of the text, no more than the longest word has.
    tail: Vec<TokenId>,
}

#[derive(Debug)]
struct WantedMasks {
    inner: Option<Masks>,
    wanted: WantedTokens,
    said: Mutex<SaidText>,
}

impl WantedMasks {
    fn inner_outlook(&self) -> MaskOutlook {
        self.inner.as_ref().map_or(MaskOutlook::FREE, |inner| inner.0.outlook())
    }

    /// The tokens that would end an unwanted word.
    fn unwanted(&self) -> Vec<TokenId> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = |word: &Vec<TokenId>| {
            let (last, before) = word.split_last()?;
            said.tail.ends_with(before).then_some(*last)
        };
        if said.in_text { self.wanted.unwanted.iter().filter_map(ends).collect() } else { Vec::new() }
    }
}

impl TokenMasks for WantedMasks {
    fn drawn(&self, index: u32, token: TokenId) {
        let control = &self.wanted.control;
        let longest = self.wanted.unwanted.iter().map(Vec::len).max().unwrap_or(0);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if [control.message, control.start, control.channel, control.end].contains(&token) {
            (said.in_text, said.tail) = (token == control.message, Vec::new());
        } else {
            said.tail.push(token);
            let gone = said.tail.len().saturating_sub(longest);
            said.tail.drain(..gone);
        }
        drop(said);
        if let Some(inner) = &self.inner
            && inner.0.outlook().heeds(index, token)
        {
            inner.0.drawn(index, token);
        }
    }

    fn outlook(&self) -> MaskOutlook {
        if self.wanted.unwanted.is_empty() { self.inner_outlook() } else { MaskOutlook::NEXT }
    }

    fn allowed(&self, index: u32) -> Allowed {
        let inner = self.inner.as_ref().map_or(Allowed::All, |inner| inner.0.allowed(index));
        let unwanted = self.unwanted();
        let mut words: Vec<u32> = match (&inner, &self.wanted.allowed) {
            (Allowed::Nothing, _) => return Allowed::Nothing,
            (Allowed::All, None) if unwanted.is_empty() => return Allowed::All,
            (Allowed::All, None) => return Allowed::Except(unwanted.into()),
            (Allowed::Except(tokens), None) => {
                return Allowed::Except(tokens.iter().copied().chain(unwanted).collect());
            }
            (Allowed::All | Allowed::Except(_), Some(allowed)) => allowed.to_vec(),
            (Allowed::Only(words), None) => words.to_vec(),
            (Allowed::Only(words), Some(allowed)) => words.iter().zip(&**allowed).map(|(one, other)| one & other).collect(),
        };
        let excepted: &[TokenId] = if let Allowed::Except(tokens) = &inner { tokens } else { &[] };
        for TokenId(token) in excepted.iter().chain(&unwanted) {
            if let Some(word) = words.get_mut((token / u32::BITS) as usize) {
                *word &= !(1 << (token % u32::BITS));
            }
        }
        if words.iter().all(|word| *word == 0) { Allowed::Nothing } else { Allowed::Only(words.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_json("tokenizer.json", include_bytes!("../../../models/tiny/tokenizer.json"), 2_048).unwrap()
    }

    /// Whether each of a text's tokens may be drawn where it stands.
    fn may_be_said(masks: &Masks, tokens: &[TokenId]) -> Vec<bool> {
        let draw = |(index, token): (u32, &TokenId)| {
            let may = masks.0.allowed(index).has(*token);
            masks.0.drawn(index, *token);
            may
        };
        (0..).zip(tokens).map(draw).collect()
    }

    #[test]
    fn a_word_ends_with_a_token_that_is_not_drawn_behind_its_others() {
        let tokenizer = tokenizer();
        let word = "Jayzoo";
        let tokens = tokenizer.encode_text(word);
        assert!(tokens.len() > 1, "a word of several tokens");
        let wanted = WantedTokens::new(&tokenizer, None, &[word.to_owned()]);
        let mut expected = vec![true; tokens.len() - 1];
        expected.push(false);
        assert_eq!(may_be_said(&wanted.masks(None, true).unwrap(), &tokens), expected);
        let alone = &tokens[tokens.len() - 1..];
        assert_eq!(may_be_said(&wanted.masks(None, true).unwrap(), alone), [true], "by itself it may be said");
        let blank = tokenizer.encode_text(&format!(" {word}"));
        assert_eq!(may_be_said(&wanted.masks(None, true).unwrap(), &blank).last(), Some(&false));
        // In a header it is none; in the text behind it is.
        let message = tokenizer.encode_with_control("<|channel|>Jayzoo<|message|>Jayzoo");
        let may = may_be_said(&wanted.masks(None, false).unwrap(), &message);
        assert_eq!(may.iter().filter(|may| !**may).count(), 1, "{may:?}");
        assert!(!may[may.len() - 1]);
        assert!(WantedTokens::new(&tokenizer, None, &[]).masks(None, true).is_none());
    }

    #[test]
    fn only_allowed_tokens_are_drawn_within_what_is_allowed_besides() {
        let tokenizer = tokenizer();
        let [a, b, c] = [40, 41, 42].map(TokenId);
        let wanted = WantedTokens::new(&tokenizer, Some(vec![a, b]), &[]);
        #[derive(Debug)]
        struct Fixed(Allowed);
        impl TokenMasks for Fixed {
            fn drawn(&self, _: u32, _: TokenId) {}
            fn allowed(&self, _: u32) -> Allowed {
                self.0.clone()
            }
        }
        let mut of_bc = vec![0; 64];
        set(&mut of_bc, [b, c].into_iter());
        for (inner, expected) in [
            (None, [true, true, false]),
            (Some(Allowed::Except([b].into())), [true, false, false]),
            (Some(Allowed::Only(of_bc.into())), [false, true, false]),
            (Some(Allowed::Nothing), [false; 3]),
            (Some(Allowed::Except([a, b].into())), [false; 3]),
        ] {
            let inner = inner.map(|allowed| Masks(Arc::new(Fixed(allowed))));
            let masks = wanted.masks(inner, true).unwrap();
            assert_eq!([a, b, c].map(|token| masks.0.allowed(0).has(token)), expected);
        }
    }
}
