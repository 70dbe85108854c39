//! Prompts built before, those used last kept longest.
//!
//! Owns: the built prompts. Promises: what it holds stays below its bound in bytes, the maps that
//! hold it and the allocator's own share counted; a hit is a prompt of the very same input, for the
//! input is compared, byte by byte. Absent on purpose: locks, counting of hits.

use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;
use std::sync::Arc;

use super::harmony::parser::ParserStart;
use crate::batch::TokenId;

/// A prompt as the cache keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CachedPrompt {
    pub(super) tokens: Arc<[TokenId]>,
    pub(super) start: ParserStart,
}

/// What the allocator adds to a piece of memory: its own word, and the rounding up to 16 bytes
/// (glibc, 64 bits).
const PIECE_BYTES: usize = 16;
/// The two counts before the content of an `Arc`.
const ARC_BYTES: usize = 2 * size_of::<usize>();

#[derive(Debug)]
struct CacheEntry {
    /// All that the prompt was built from. A box, for the room that a vector keeps in reserve would
    /// be held and not counted.
    input: Box<[u8]>,
    prompt: CachedPrompt,
    /// When it was used last, counted in uses.
    used: u64,
}

impl CacheEntry {
    /// The memory that it takes, its places in the two maps included: an upper bound while a map is
    /// half full or more.
    fn bytes(&self, key: &str) -> usize {
        // A hash table is filled to between 7/16 and 7/8, with a byte for each place; a tree whose
        // keys come in ascending order keeps its leaves half full. Both stand for twice what is in
        // them, and a sixth more.
        let places = size_of::<(Arc<str>, Self)>() + 1 + size_of::<(u64, Arc<str>)>() + PIECE_BYTES;
        let name = match &self.prompt.start {
            ParserStart::AssistantHeader | ParserStart::WholeHeader | ParserStart::FinalText => 0,
            ParserStart::CallText { name } => name.capacity() + PIECE_BYTES,
        };
        let key = ARC_BYTES + key.len() + PIECE_BYTES;
        let tokens = ARC_BYTES + self.prompt.tokens.len() * size_of::<TokenId>() + PIECE_BYTES;
        places * 7 / 3 + key + name + self.input.len() + PIECE_BYTES + tokens
    }
}

/// The prompts used last, as many as fit.
#[derive(Debug)]
pub(super) struct PromptCache {
    entries: HashMap<Arc<str>, CacheEntry>,
    /// The keys by when they were used last.
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    bytes: usize,
    max_bytes: usize,
}

impl PromptCache {
    /// An empty cache that holds at most `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, max_bytes }
    }

    /// How many prompts it holds.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The prompt built from `input` under `key`, if it is held.
    pub(super) fn get(&mut self, key: &str, input: &[u8]) -> Option<CachedPrompt> {
        let entry = self.entries.get_mut(key).filter(|entry| *entry.input == *input)?;
        self.uses += 1;
        let key = self.by_use.remove(&entry.used).expect("every entry has a place in the order");
        self.by_use.insert(self.uses, key);
        entry.used = self.uses;
        let prompt = entry.prompt.clone();
        self.check();
        Some(prompt)
    }

    /// Keeps `prompt`, in place of any other under the same key, and gives up those used longest
    /// ago to make room. One that is larger than the whole cache is not kept.
    pub(super) fn insert(&mut self, key: &str, input: Vec<u8>, prompt: CachedPrompt) {
        self.remove(key);
        self.uses += 1;
        let entry = CacheEntry { input: input.into_boxed_slice(), prompt, used: self.uses };
        let bytes = entry.bytes(key);
        if bytes > self.max_bytes {
            return;
        }
        while self.bytes + bytes > self.max_bytes {
            let (_, oldest) = self.by_use.first_key_value().expect("a cache that holds bytes holds entries");
            let oldest = Arc::clone(oldest);
            self.remove(&oldest);
        }
        self.bytes += bytes;
        let key: Arc<str> = key.into();
        self.by_use.insert(self.uses, Arc::clone(&key));
        self.entries.insert(key, entry);
        self.check();
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes(key);
            self.by_use.remove(&entry.used);
        }
    }

    fn check(&self) {
        assert!(self.bytes <= self.max_bytes, "the prompt cache holds {} bytes of {}", self.bytes, self.max_bytes);
        assert_eq!(self.entries.len(), self.by_use.len(), "each cached prompt has one place in the order of use");
        debug_assert_eq!(self.bytes, self.entries.iter().map(|(key, entry)| entry.bytes(key)).sum::<usize>());
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
