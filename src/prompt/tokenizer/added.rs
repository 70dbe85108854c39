//! Tokens that a tokenizer.json adds to its vocabulary: found in a text as they are, before it is
//! split into words.
//!
//! Some are text (`special: false`), as fine-tunes add words of their own; the others are control
//! tokens. Where a token takes the spaces around it (`lstrip`, `rstrip`), they are lost, as in the
//! `tokenizers` crate.

use std::collections::HashMap;

use tokenizers::{AddedVocabulary, NormalizerWrapper, OffsetReferential, OffsetType};

use crate::batch::TokenId;

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextSegment<'t> {
    /// An added token.
    Token(TokenId),
    /// What lies between them.
    Text(&'t str),
}

/// The added tokens of a file.
#[derive(Debug)]
pub(super) struct Added {
    all: AddedVocabulary,
    /// Sees those alone that the file does not call special; `None` if none of them is text.
    text: Option<AddedVocabulary>,
    /// The file's ids, and whether they are control tokens, by the ids of the `tokenizers` crate,
    /// which counts anew.
    ids: HashMap<u32, (TokenId, bool)>,
}

impl Added {
    /// `tokens`: spelling, id, and whether it is a control token.
    pub(super) fn new<'a>(inner: &tokenizers::Tokenizer, tokens: impl Iterator<Item = (&'a str, u32, bool)>) -> Self {
        let all = inner.get_added_vocabulary().clone();
        let counted = |(spelling, id, is_control)| Some((*all.get_vocab().get(spelling)?, (TokenId(id), is_control)));
        let ids: HashMap<u32, (TokenId, bool)> = tokens.filter_map(counted).collect();
        let text = ids.values().any(|(_, is_control)| !is_control).then(|| {
            let mut text = all.clone();
            text.set_encode_special_tokens(true);
            text
        });
        Self { all, text, ids }
    }

    /// Gives `take` the pieces of `text` in order. Control tokens are found in it only if `control`
    /// says so.
    pub(super) fn split(&self, text: &str, control: bool, mut take: impl FnMut(TextSegment<'_>)) {
        let Some(vocabulary) = (if control { Some(&self.all) } else { self.text.as_ref() }) else {
            return take(TextSegment::Text(text));
        };
        let parts = vocabulary.extract_and_normalize(None::<&NormalizerWrapper>, text);
        for (part, _, found) in parts.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            let known = found.as_ref().and_then(|found| self.ids.get(&found.first()?.id));
            match known {
                Some((id, is_control)) if control || !is_control => take(TextSegment::Token(*id)),
                _ => take(TextSegment::Text(part)),
            }
        }
    }
}
