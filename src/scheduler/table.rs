//! The blocks of all running sequences in one group, row by row.
//!
//! The rows lie in one piece of memory, nearly in the order in which their sequences run, for they
//! begin in that order: a step walks through them instead of jumping to each. A row that outgrows
//! its room moves to the end; what rows leave behind is taken away once it is more than half of
//! all.

use std::ops::Range;

use super::block_pool::BlockPool;
use crate::batch::BlockId;

/// A row's room is a multiple of so many entries: of 64 bytes, a cache line.
const ROOM_STEP: usize = 16;

/// Holds nothing, in the room of a row or after it.
const EMPTY: BlockId = BlockId(u32::MAX);

/// Where one sequence's blocks are in a [`Table`].
#[derive(Debug, Default)]
pub(super) struct TableRow {
    from: u32,
    len: u32,
    room: u32,
}

impl TableRow {
    fn new(entries: Range<usize>, room: usize) -> Self {
        let small = |count| u32::try_from(count).expect("a group's rows have fewer than 2^32 entries");
        Self { from: small(entries.start), len: small(entries.len()), room: small(room) }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    fn entries(&self) -> Range<usize> {
        self.from as usize..self.from as usize + self.len()
    }

    fn room(&self) -> Range<usize> {
        self.from as usize..self.from as usize + self.room as usize
    }
}

/// The rows of a group.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<BlockId>,
    /// Entries in no row's room.
    dead_count: usize,
    /// Memory for the next packing.
    spare: Vec<BlockId>,
}

impl Table {
    pub(super) fn blocks(&self, row: &TableRow) -> &[BlockId] {
        &self.entries[row.entries()]
    }

    /// Takes `count` more blocks for the end of `row`.
    pub(super) fn grow(&mut self, row: &mut TableRow, count: usize, pool: &mut BlockPool) {
        self.extend(row, count, || pool.take());
    }

    /// Takes `count` more blocks, which `next` gives, for the end of `row`.
    pub(super) fn extend(&mut self, row: &mut TableRow, count: usize, mut next: impl FnMut() -> BlockId) {
        let len = row.len() + count;
        if len > row.room().len() {
            self.dead_count += row.room().len();
            let from = self.entries.len();
            self.entries.extend_from_within(row.entries());
            *row = TableRow::new(from..self.entries.len(), roomy(len));
            self.entries.resize(row.room().end, EMPTY);
        }
        let before = row.entries();
        *row = TableRow::new(before.start..before.start + len, row.room().len());
        for entry in &mut self.entries[before.end..row.entries().end] {
            *entry = next();
        }
    }

    /// Puts `block` in the place of another.
    pub(super) fn exchange(&mut self, row: &TableRow, at: usize, block: BlockId) {
        self.entries[row.entries()][at] = block;
    }

    /// Takes the first block of `row` out of it, which is to be given back.
    pub(super) fn pop_first(&mut self, row: &mut TableRow) -> BlockId {
        assert!(row.len > 0, "computed positions have blocks");
        let first = self.entries[row.entries().start];
        self.dead_count += 1;
        *row = TableRow { from: row.from + 1, len: row.len - 1, room: row.room - 1 };
        first
    }

    /// Gives back all blocks of `row`, the last one first, so that the pool hands them out again in
    /// the order in which they were.
    pub(super) fn give_all(&mut self, row: &mut TableRow, pool: &mut BlockPool) {
        self.blocks(row).iter().rev().for_each(|block| pool.give(*block));
        self.dead_count += row.room().len();
        *row = TableRow::default();
    }

    /// Whether so much is dead that packing pays.
    pub(super) fn wants_packing(&self) -> bool {
        self.dead_count > self.entries.len() / 2
    }

    /// Moves `rows`, which must be all there are, together.
    pub(super) fn pack<'r>(&mut self, rows: impl Iterator<Item = &'r mut TableRow>) {
        let mut packed = std::mem::take(&mut self.spare);
        packed.clear();
        for row in rows {
            let from = packed.len();
            packed.extend_from_slice(&self.entries[row.entries()]);
            *row = TableRow::new(from..packed.len(), roomy(row.len()));
            packed.resize(row.room().end, EMPTY);
        }
        self.spare = std::mem::replace(&mut self.entries, packed);
        self.dead_count = 0;
    }

    /// Panics unless the rooms of `rows` and what is dead are all there is, and no two rows share
    /// an entry.
    pub(super) fn check<'r>(&self, rows: impl Iterator<Item = &'r TableRow>) {
        let mut rooms: Vec<Range<usize>> = rows.map(TableRow::room).collect();
        rooms.retain(|room| !room.is_empty());
        rooms.sort_by_key(|room| room.start);
        assert!(rooms.windows(2).all(|pair| pair[0].end <= pair[1].start), "two rows share an entry");
        let live_count: usize = rooms.iter().map(Range::len).sum();
        assert_eq!(live_count + self.dead_count, self.entries.len(), "an entry is in a row's room or dead");
    }
}

/// The room of a row that holds `len` blocks now: a quarter more, so that a long row seldom moves.
fn roomy(len: usize) -> usize {
    (len + len / 4 + 1).next_multiple_of(ROOM_STEP)
}

#[cfg(test)]
mod tests {
    use super::super::block_pool::BlockPools;
    use super::super::geometry::BlockCounts;
    use super::super::prefix_cache::PrefixCache;
    use super::*;

    fn pool() -> BlockPool {
        BlockPools::new(BlockCounts { global: 1_000, sliding: 0 }, PrefixCache::new(None, 1, 1_000, 0)).global
    }

    fn ids(table: &Table, row: &TableRow) -> Vec<u32> {
        table.blocks(row).iter().map(|block| block.0).collect()
    }

    #[test]
    fn a_row_keeps_its_blocks_wherever_it_moves() {
        let (mut table, mut pool) = (Table::default(), pool());
        let mut rows = [TableRow::default(), TableRow::default(), TableRow::default()];
        let mut held: [Vec<u32>; 3] = [vec![], vec![], vec![]];
        for step in 0..200_u32 {
            let at = (step % 3) as usize;
            table.grow(&mut rows[at], 1 + at, &mut pool);
            held[at] = ids(&table, &rows[at]);
            if step % 5 == 0 {
                pool.give(table.pop_first(&mut rows[at]));
                held[at].remove(0);
            }
            if step == 100 {
                table.give_all(&mut rows[1], &mut pool);
                held[1].clear();
            }
            if table.wants_packing() {
                table.pack(rows.iter_mut());
                assert!(!table.wants_packing());
            }
            table.check(rows.iter());
            for (row, held) in rows.iter().zip(&held) {
                assert_eq!(&ids(&table, row), held, "after step {step}");
            }
        }
        pool.check(held.iter().flatten().copied().map(BlockId));
    }

    #[test]
    fn what_is_left_behind_stays_below_what_is_held() {
        let (mut table, mut pool) = (Table::default(), pool());
        let mut rows: Vec<TableRow> = (0..8).map(|_| TableRow::default()).collect();
        for step in 0..10_000 {
            let row = &mut rows[step % 8];
            table.grow(row, 1, &mut pool);
            if row.len() > 9 {
                pool.give(table.pop_first(row));
            }
            if table.wants_packing() {
                table.pack(rows.iter_mut());
            }
            // Rooms of 16 for eight rows, twice for what is dead, and one room that was just begun.
            assert!(table.entries.len() <= 8 * 16 * 2 + 16, "{} entries after step {step}", table.entries.len());
        }
    }
}
