//! Byte-pair encoding of one word: bytes to tokens, by the checkpoint's list of merges.
//!
//! Owns: the merges. Promises: the tokens that the `tokenizers` crate gives (the merge of lowest
//! rank first, leftmost among equals), in time linear in the word but for the sorting of a few
//! runs. Absent on purpose: where words begin and end.
//!
//! Why not that crate's own merging: its heap takes 250 to 470 ms for a word of a million equal
//! bytes, this takes less than a tenth of that. Words of prose gain as much as its cache of words
//! brings.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::batch::TokenId;

/// Up to this many bytes the ranks of a word are searched for the lowest again and again: few
/// enough to stay in registers and first-level cache, and nothing is allocated.
const SHORT_MAX_BYTES: usize = 128;

/// No merge applies.
const NO_RANK: u32 = u32::MAX;

/// A symbol that was merged into the one before it, or the end of a word.
const GONE: u32 = u32::MAX;

/// What becomes of a pair of neighbouring tokens.
#[derive(Debug, Clone, Copy)]
struct Merge {
    /// Lower ranks merge first.
    rank: u32,
    /// The token that replaces the pair.
    id: u32,
}

const NO_MERGE: Merge = Merge { rank: NO_RANK, id: 0 };

/// The merges of a vocabulary, and the tokens of single bytes that merging starts with.
#[derive(Debug)]
pub(super) struct Merges {
    by_pair: HashMap<u64, Merge, BuildHasherDefault<KeyHasher>>,
    of_byte: Box<[u32; 256]>,
}

/// Memory that is used again from word to word.
#[derive(Debug, Default)]
pub(super) struct MergeScratch {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    merged: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
}

impl Merges {
    /// `pairs`: left token, right token and the token that replaces them, lowest rank first; of a
    /// pair that is listed twice the later counts, as in `tokenizers`.
    pub(super) fn new(of_byte: Box<[u32; 256]>, pairs: impl ExactSizeIterator<Item = (u32, u32, u32)>) -> Self {
        let mut by_pair = HashMap::with_capacity_and_hasher(pairs.len(), BuildHasherDefault::default());
        for (rank, (left, right, id)) in (0_u32..).zip(pairs) {
            by_pair.insert(pair_key(left, right), Merge { rank, id });
        }
        Self { by_pair, of_byte }
    }

    fn get(&self, left: u32, right: u32) -> Merge {
        self.by_pair.get(&pair_key(left, right)).copied().unwrap_or(NO_MERGE)
    }

    /// Appends the tokens of `word` to `out`.
    pub(super) fn encode(&self, word: &[u8], scratch: &mut MergeScratch, out: &mut Vec<TokenId>) {
        scratch.ids.clear();
        scratch.ids.extend(word.iter().map(|byte| self.of_byte[usize::from(*byte)]));
        if word.len() <= SHORT_MAX_BYTES {
            self.merge_short(scratch);
            out.extend(scratch.ids.iter().copied().map(TokenId));
        } else {
            self.merge_long(scratch);
            out.extend(scratch.ids.iter().copied().filter(|id| *id != GONE).map(TokenId));
        }
    }

    /// Merges `scratch.ids` by looking for the lowest rank again after each merge.
    fn merge_short(&self, scratch: &mut MergeScratch) {
        let MergeScratch { ids, ranks, merged, .. } = scratch;
        ranks.clear();
        merged.clear();
        for pair in ids.windows(2) {
            let merge = self.get(pair[0], pair[1]);
            ranks.push(merge.rank);
            merged.push(merge.id);
        }
        while let Some(lowest) = ranks.iter().copied().min().filter(|rank| *rank != NO_RANK) {
            let at = ranks.iter().position(|rank| *rank == lowest).expect("it is one of them");
            ids[at] = merged[at];
            ids.remove(at + 1);
            ranks.remove(at);
            merged.remove(at);
            if at > 0 {
                let merge = self.get(ids[at - 1], ids[at]);
                (ranks[at - 1], merged[at - 1]) = (merge.rank, merge.id);
            }
            if at < ranks.len() {
                let merge = self.get(ids[at], ids[at + 1]);
                (ranks[at], merged[at]) = (merge.rank, merge.id);
            }
        }
    }

    /// Merges `scratch.ids`, leaving [`GONE`] where a symbol went into the one before it.
    ///
    /// The pairs that may merge wait in buckets by rank. A merge seldom makes a pair of a lower
    /// rank than its own, as vocabularies are learnt in that order; if one does, its bucket
    /// waits until that pair is done.
    fn merge_long(&self, scratch: &mut MergeScratch) {
        let len = u32::try_from(scratch.ids.len()).expect("a word is below 4 GiB");
        scratch.next.clear();
        scratch.next.extend((1..len).chain([GONE]));
        scratch.previous.clear();
        scratch.previous.extend([GONE].into_iter().chain(0..len - 1));
        let mut buckets = Buckets::new();
        for (at, pair) in (0..len).zip(scratch.ids.windows(2)) {
            let rank = self.get(pair[0], pair[1]).rank;
            if rank != NO_RANK {
                buckets.entry(rank).or_default().put(at);
            }
        }
        while let Some((rank, mut bucket)) = buckets.pop_first() {
            while let Some(at) = bucket.take_first() {
                if self.merge_at(at, rank, scratch, &mut buckets) < rank {
                    buckets.insert(rank, bucket);
                    break;
                }
            }
        }
    }

    /// Merges the pair at `at` if its rank still is `rank`; answers the lowest rank of the pairs
    /// that came of it.
    fn merge_at(&self, at: u32, rank: u32, scratch: &mut MergeScratch, buckets: &mut Buckets) -> u32 {
        let MergeScratch { ids, next, previous, .. } = scratch;
        let left = at as usize;
        let right = next[left];
        if ids[left] == GONE || right == GONE {
            return NO_RANK;
        }
        let merge = self.get(ids[left], ids[right as usize]);
        if merge.rank != rank {
            return NO_RANK;
        }
        ids[left] = merge.id;
        ids[right as usize] = GONE;
        let after = next[right as usize];
        next[left] = after;
        let mut lowest = NO_RANK;
        let mut wait = |first: u32, second: u32| {
            let rank = self.get(ids[first as usize], ids[second as usize]).rank;
            if rank != NO_RANK {
                buckets.entry(rank).or_default().put(first);
                lowest = lowest.min(rank);
            }
        };
        if previous[left] != GONE {
            wait(previous[left], at);
        }
        if after != GONE {
            wait(at, after);
            previous[after as usize] = at;
        }
        lowest
    }
}

/// The positions of pairs that may merge, by the rank of their merge.
type Buckets = BTreeMap<u32, Bucket>;

/// Positions of one rank, to be taken first to last. They come nearly in order, and mostly before
/// the first is taken: sorting them once is a pass over memory, where a heap of a million would
/// jump about in it.
#[derive(Debug, Default)]
struct Bucket {
    /// Last to first once the first was taken.
    positions: Vec<u32>,
    is_sorted: bool,
    /// What came after that.
    late: BinaryHeap<Reverse<u32>>,
}

impl Bucket {
    fn put(&mut self, at: u32) {
        if self.is_sorted {
            self.late.push(Reverse(at));
        } else {
            self.positions.push(at);
        }
    }

    fn take_first(&mut self) -> Option<u32> {
        if !self.is_sorted {
            self.positions.sort_unstable_by_key(|at| Reverse(*at));
            self.is_sorted = true;
        }
        match (self.positions.last(), self.late.peek()) {
            (Some(position), Some(Reverse(late))) if late < position => self.late.pop().map(|Reverse(at)| at),
            (None, _) => self.late.pop().map(|Reverse(at)| at),
            (Some(_), _) => self.positions.pop(),
        }
    }
}

fn pair_key(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

/// Hashes a pair of tokens, or eight bytes of a word, by one multiplication: the keys are the
/// vocabulary's, so no client can choose them to collide.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut eight = [0; 8];
            eight[..part.len()].copy_from_slice(part);
            self.write_u64(self.0.rotate_left(5) ^ u64::from_le_bytes(eight));
        }
    }

    fn write_u64(&mut self, key: u64) {
        // The map takes its index from the low bits, which a product alone mixes badly.
        let product = (key ^ (key >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
#[path = "merges_tests.rs"]
mod tests;
