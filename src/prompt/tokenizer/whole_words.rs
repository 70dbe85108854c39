//! Words that are one token: most of prose, which so needs no merging.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::merges::{KeyHasher, MergeScratch, Merges};

/// The ids of words, by their bytes.
#[derive(Debug)]
pub(super) struct WholeWords {
    by_bytes: HashMap<Box<[u8]>, u32, BuildHasherDefault<KeyHasher>>,
}

impl WholeWords {
    /// All of `tokens`: a vocabulary whose words need no merging.
    pub(super) fn all<'a>(tokens: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        Self { by_bytes: tokens.map(|(bytes, id)| (bytes.into(), id)).collect() }
    }

    /// Those of `tokens` that merging their own bytes gives: some a vocabulary holds, but its
    /// merges never reach.
    pub(super) fn merged<'a>(tokens: impl Iterator<Item = (&'a [u8], u32)>, merges: &Merges) -> Self {
        let mut scratch = MergeScratch::default();
        let mut out = Vec::new();
        Self::all(tokens.filter(|(bytes, id)| {
            out.clear();
            merges.encode(bytes, &mut scratch, &mut out);
            matches!(out[..], [only] if only.0 == *id)
        }))
    }

    /// The token of a word, if it is one.
    pub(super) fn get(&self, word: &[u8]) -> Option<u32> {
        self.by_bytes.get(word).copied()
    }
}
