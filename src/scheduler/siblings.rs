//! Which known blocks follow one another: those that stand behind the same block, or at the
//! beginning under the same salt, in a list, the latest first.
//!
//! So a prompt that goes on inside a block finds the blocks that begin as it does. Entering and
//! leaving take a few memory accesses, however many blocks there are.

use std::collections::BTreeMap;

use super::chain_hash::CacheSalt;
use crate::batch::BlockId;

/// Stands for no block.
const NONE: u32 = u32::MAX;

/// Where a block stands, and which is the latest of those behind it.
#[derive(Debug, Clone, Copy)]
struct Links {
    next: u32,
    previous: u32,
    latest_behind: u32,
}

const UNLINKED: Links = Links { next: NONE, previous: NONE, latest_behind: NONE };

/// The lists.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// By block; empty if no prompt is to find any.
    links: Vec<Links>,
    /// The latest at the beginning, by salt.
    roots: BTreeMap<CacheSalt, u32>,
}

impl Siblings {
    /// For so many blocks; none, if no list is to be kept.
    pub(super) fn new(blocks: usize) -> Self {
        Self { links: vec![UNLINKED; blocks], roots: BTreeMap::new() }
    }

    /// `block` is known behind `before`, or at the beginning under `salt`.
    pub(super) fn enter(&mut self, block: BlockId, before: Option<BlockId>, salt: CacheSalt) {
        if self.links.is_empty() {
            return;
        }
        let latest = self.latest_mut(before, salt);
        let next = std::mem::replace(latest, block.0);
        let own = &mut self.links[block.0 as usize];
        (own.next, own.previous) = (next, NONE);
        if let Some(next) = self.links.get_mut(next as usize) {
            next.previous = block.0;
        }
    }

    /// It is known no more.
    pub(super) fn leave(&mut self, block: BlockId, before: Option<BlockId>, salt: CacheSalt) {
        if self.links.is_empty() {
            return;
        }
        let Links { next, previous, .. } = self.links[block.0 as usize];
        if let Some(next) = self.links.get_mut(next as usize) {
            next.previous = previous;
        }
        match self.links.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => *self.latest_mut(before, salt) = next,
        }
        if before.is_none() && self.roots.get(&salt) == Some(&NONE) {
            self.roots.remove(&salt);
        }
    }

    /// Those behind `before`, or at the beginning under `salt`, the latest first.
    pub(super) fn iter(&self, before: Option<BlockId>, salt: CacheSalt) -> impl Iterator<Item = BlockId> {
        let latest = match before {
            Some(before) => self.links.get(before.0 as usize).map(|links| links.latest_behind),
            None => self.roots.get(&salt).copied(),
        };
        let known = |block: u32| (block != NONE).then_some(BlockId(block));
        std::iter::successors(latest.and_then(known), move |block| known(self.links[block.0 as usize].next))
    }

    fn latest_mut(&mut self, before: Option<BlockId>, salt: CacheSalt) -> &mut u32 {
        match before {
            Some(before) => &mut self.links[before.0 as usize].latest_behind,
            None => self.roots.entry(salt).or_insert(NONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_behind_a_block_are_listed_until_they_leave() {
        let (one, other) = (CacheSalt([1, 1]), CacheSalt([2, 2]));
        let mut siblings = Siblings::new(8);
        let behind = |siblings: &Siblings, before: Option<u32>, salt| {
            siblings.iter(before.map(BlockId), salt).map(|block| block.0).collect::<Vec<_>>()
        };
        for (block, before, salt) in [(0, None, one), (1, None, one), (2, None, other), (3, Some(0), one), (4, Some(0), one)] {
            siblings.enter(BlockId(block), before.map(BlockId), salt);
        }
        siblings.enter(BlockId(5), Some(BlockId(0)), one);
        assert_eq!(behind(&siblings, None, one), [1, 0]);
        assert_eq!(behind(&siblings, None, other), [2]);
        assert_eq!(behind(&siblings, Some(0), one), [5, 4, 3]);
        assert_eq!(behind(&siblings, Some(1), one), [0; 0]);
        for (block, left) in [(4, vec![5, 3]), (5, vec![3]), (3, vec![])] {
            siblings.leave(BlockId(block), Some(BlockId(0)), one);
            assert_eq!(behind(&siblings, Some(0), one), left);
        }
        siblings.leave(BlockId(2), None, other);
        assert!(behind(&siblings, None, other).is_empty() && siblings.roots.len() == 1, "no salt is kept for nothing");
        siblings.enter(BlockId(2), Some(BlockId(1)), one);
        assert_eq!(behind(&siblings, Some(1), one), [2], "a block is used again");
        assert_eq!(behind(&Siblings::new(0), None, one), [0; 0]);
    }
}
