//! What a core asks for beside a step: blocks to be copied out of KV memory and back.
//!
//! **Copies run between the steps that were planned before and the step that was planned with
//! them**, so that a block is read before its next holder writes to it, and written before its
//! next holder reads it.

use super::{BlockId, KvGroup, SeqId, TokenId};

/// What a block holds that is kept outside of KV memory, and where.
///
/// It is told from every other by all of its fields: a place may hold another block by the time it
/// is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock {
    /// The place in the store, counted from zero.
    pub place: u32,
    /// Whose layers' keys and values.
    pub group: KvGroup,
    /// The hash of all tokens up to its end, and of the salt.
    pub hash: [u64; 2],
    /// The hash of those before it.
    pub before: [u64; 2],
    /// The salt under which it is found.
    pub salt: [u64; 2],
    /// Its tokens, as many as a block holds.
    pub tokens: Box<[TokenId]>,
}

/// A block to be copied to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spill {
    /// Where it is in KV memory.
    pub block: BlockId,
    /// What it holds, and where that goes.
    pub stored: StoredBlock,
}

/// Blocks to be read from the store, for a sequence that waits for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The sequence.
    pub seq: SeqId,
    /// The blocks.
    pub blocks: Vec<StoredBlock>,
}

/// A block that was read from the store, to be copied into KV memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restore {
    /// The sequence that waited for it.
    pub seq: SeqId,
    /// Which block of its [`Fetch`], counted from zero.
    pub fetched: usize,
    /// Whose layers' keys and values.
    pub group: KvGroup,
    /// Where it goes.
    pub block: BlockId,
}

/// What is to be copied beside a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KvCopies {
    /// Out of KV memory, before the step.
    pub spills: Vec<Spill>,
    /// Into KV memory, after the spills and before the step.
    pub restores: Vec<Restore>,
    /// From the store, beside the steps. What it brings is told to the core.
    pub fetch: Option<Fetch>,
    /// All that is stored may be wrong, and is to be forgotten before anything else.
    pub forget_stored: bool,
}
