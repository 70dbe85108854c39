//! Where keys and values lie, and which of them a slice sees.
//!
//! Owns: the KV memory of one layer and its layout. Promises: a block's memory is reached through a
//! block table only. Absent on purpose: which sequence owns which block, when a block is free.

use std::ops::Range;

mod copies;
mod memory;

pub use memory::{KvFormat, KvMemory};
pub(crate) use memory::{KvNumber, Planes, Stored};

/// Rows of KV memory are padded to this many values, so that the widest vector never leaves its
/// row.
const ROW_VALUES: usize = 16;

/// The shape of one layer's KV memory.
///
/// Keys lie `[block][kv head][dim][slot]`: a vector holds one dimension of neighbouring tokens, so
/// that a score needs no sum across lanes. Values lie `[block][kv head][slot][dim]`: a vector holds
/// neighbouring dimensions of one token. The last index of each is padded to a multiple of 16; what
/// lies in the padding is never read as a key or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// How many blocks.
    pub blocks: usize,
    /// Tokens in a block.
    pub block_tokens: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
}

impl KvLayout {
    /// Values from one dimension of the keys to the next: `block_tokens`, padded.
    #[must_use]
    pub fn key_stride(&self) -> usize {
        self.block_tokens.next_multiple_of(ROW_VALUES)
    }

    /// Values from one token of the values to the next: `head_dim`, padded.
    #[must_use]
    pub fn value_stride(&self) -> usize {
        self.head_dim.next_multiple_of(ROW_VALUES)
    }

    /// Where the keys of (`block`, `head`) lie: `head_dim` rows of [`KvLayout::key_stride`].
    ///
    /// # Panics
    /// If there is no such block or head.
    #[must_use]
    pub fn keys(&self, block: u32, head: usize) -> Range<usize> {
        let len = self.head_dim * self.key_stride();
        let start = self.head_index(block, head) * len;
        start..start + len
    }

    /// Where the values of (`block`, `head`) lie: `block_tokens` rows of
    /// [`KvLayout::value_stride`].
    ///
    /// # Panics
    /// If there is no such block or head.
    #[must_use]
    pub fn values(&self, block: u32, head: usize) -> Range<usize> {
        let len = self.block_tokens * self.value_stride();
        let start = self.head_index(block, head) * len;
        start..start + len
    }

    /// Bytes of one block, keys and values of one layer.
    #[must_use]
    pub fn block_bytes(&self, format: KvFormat) -> usize {
        let numbers = self.kv_heads * (self.head_dim * self.key_stride() + self.block_tokens * self.value_stride());
        numbers * format.number_bytes()
    }

    fn head_index(&self, block: u32, head: usize) -> usize {
        let block = block as usize;
        assert!(block < self.blocks, "block {block} of {} in KV memory", self.blocks);
        assert!(head < self.kv_heads, "head {head} of {} in KV memory", self.kv_heads);
        block * self.kv_heads + head
    }
}

/// A slice's place in the step, and the block table of its sequence.
#[derive(Debug, Clone)]
pub struct KvSlice<'a> {
    /// The slice's rows among the step's tokens.
    pub rows: Range<usize>,
    /// Position in the sequence of the first of them.
    pub start: usize,
    /// The block table: entry `i` holds positions `(first_block + i) * block_tokens ..`.
    pub blocks: &'a [u32],
    /// Logical index of the table's first entry; not zero where a window has left blocks behind.
    pub first_block: usize,
}

impl KvSlice<'_> {
    /// One past the last position of the slice.
    #[must_use]
    pub fn end(&self) -> usize {
        self.start + self.rows.len()
    }

    /// The block and the slot in it that hold `position`.
    ///
    /// # Panics
    /// If the block table does not cover it.
    #[must_use]
    pub fn locate(&self, position: usize, block_tokens: usize) -> (u32, usize) {
        (self.block(position / block_tokens), position % block_tokens)
    }

    /// The block with logical index `logical`.
    ///
    /// # Panics
    /// If the block table does not cover it.
    #[must_use]
    pub fn block(&self, logical: usize) -> u32 {
        let entry = logical.checked_sub(self.first_block).and_then(|entry| self.blocks.get(entry));
        let table = self.first_block..self.first_block + self.blocks.len();
        *entry.unwrap_or_else(|| panic!("logical block {logical} is not in the block table, which covers {table:?}"))
    }
}

/// The positions that the token at `position` sees: all before it and itself, or the last `window`
/// of them.
#[must_use]
pub fn visible(position: usize, window: Option<usize>) -> Range<usize> {
    let end = position + 1;
    window.map_or(0, |window| end.saturating_sub(window))..end
}

#[cfg(test)]
mod tests;
