//! The order in which blocks were last used.

use crate::batch::BlockId;

/// Stands for no block.
const NONE: u32 = u32::MAX;

/// The neighbours of a block.
#[derive(Debug, Clone, Copy)]
struct RecencyLinks {
    older: u32,
    newer: u32,
}

/// Some blocks of a group in a line, longest unused first: a list through an array, so that a block
/// is taken out of the middle at once.
#[derive(Debug)]
pub(super) struct Recency {
    /// By block; those of a block that is not in line mean nothing.
    links: Vec<RecencyLinks>,
    oldest: u32,
    newest: u32,
    count: usize,
}

impl Recency {
    /// An empty line for blocks below `blocks`.
    pub(super) fn new(blocks: usize) -> Self {
        Self { links: vec![RecencyLinks { older: NONE, newer: NONE }; blocks], oldest: NONE, newest: NONE, count: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The one that was unused longest.
    pub(super) fn oldest(&self) -> Option<BlockId> {
        (self.oldest != NONE).then_some(BlockId(self.oldest))
    }

    /// Longest unused first.
    pub(super) fn iter(&self) -> impl Iterator<Item = BlockId> {
        let newer = |block: &BlockId| Some(self.links[block.0 as usize].newer).filter(|newer| *newer != NONE).map(BlockId);
        std::iter::successors(self.oldest(), newer)
    }

    /// Puts a block that is not in line at the end: it was used just now.
    pub(super) fn push_newest(&mut self, block: BlockId) {
        self.links[block.0 as usize] = RecencyLinks { older: self.newest, newer: NONE };
        match self.newest {
            NONE => self.oldest = block.0,
            newest => self.links[newest as usize].newer = block.0,
        }
        self.newest = block.0;
        self.count += 1;
    }

    /// Puts a block that is not in line at the front: it is the first to go.
    pub(super) fn push_oldest(&mut self, block: BlockId) {
        self.links[block.0 as usize] = RecencyLinks { older: NONE, newer: self.oldest };
        match self.oldest {
            NONE => self.newest = block.0,
            oldest => self.links[oldest as usize].older = block.0,
        }
        self.oldest = block.0;
        self.count += 1;
    }

    /// Takes a block that is in line out of it.
    pub(super) fn remove(&mut self, block: BlockId) {
        let RecencyLinks { older, newer } = self.links[block.0 as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_in_the_order_of_use_whatever_is_taken_out() {
        let mut line = Recency::new(6);
        let order = |line: &Recency| line.iter().map(|block| block.0).collect::<Vec<_>>();
        for block in [3, 1, 4] {
            line.push_newest(BlockId(block));
        }
        line.push_oldest(BlockId(5));
        assert_eq!((order(&line), line.count(), line.oldest()), (vec![5, 3, 1, 4], 4, Some(BlockId(5))));
        line.remove(BlockId(1));
        line.remove(BlockId(5));
        line.push_newest(BlockId(5));
        assert_eq!(order(&line), [3, 4, 5]);
        line.remove(BlockId(5));
        line.remove(BlockId(3));
        line.remove(BlockId(4));
        assert_eq!((order(&line), line.count(), line.oldest()), (vec![], 0, None));
        line.push_oldest(BlockId(0));
        line.push_newest(BlockId(2));
        assert_eq!(order(&line), [0, 2]);
    }
}
