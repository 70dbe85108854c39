//! Blocks of a fake memory as bytes: what each slot says that it holds.

use super::memory::{FakeMemory, SlotContent};
use crate::batch::{BlockId, KvGroup, SeqId, TokenId};

const SLOT_BYTES: usize = 8 * 4;

impl FakeMemory {
    fn slots_of(&mut self, group: KvGroup, block: BlockId) -> &mut [Option<SlotContent>] {
        let block_tokens = self.block_tokens();
        &mut self.slots(group)[block.0 as usize * block_tokens..][..block_tokens]
    }

    /// Appends the slots of a block, and zeros up to `block_bytes`.
    ///
    /// # Panics
    /// If they do not fit.
    pub(super) fn append_block(&mut self, group: KvGroup, block: BlockId, block_bytes: usize, bytes: &mut Vec<u8>) {
        let end = bytes.len() + block_bytes;
        for slot in self.slots_of(group, block) {
            let numbers = slot.map_or([0; 4], |SlotContent { seq, position, token, context, .. }| {
                [seq.0, position as u64 + 1, u64::from(token.0), context]
            });
            bytes.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
        }
        assert!(bytes.len() <= end, "a block of {block_bytes} bytes has no room for what its slots say");
        bytes.resize(end, 0);
    }

    /// Makes the slots of a block those that [`Self::append_block`] gave. No step has written them.
    pub(super) fn take_block(&mut self, group: KvGroup, block: BlockId, bytes: &[u8]) {
        for (slot, bytes) in self.slots_of(group, block).iter_mut().zip(bytes.chunks_exact(SLOT_BYTES)) {
            let (words, _) = bytes.as_chunks::<8>();
            let number = |at: usize| u64::from_le_bytes(words[at]);
            *slot = number(1).checked_sub(1).map(|position| SlotContent {
                seq: SeqId(number(0)),
                position: usize::try_from(position).unwrap_or(usize::MAX),
                token: TokenId(u32::try_from(number(2)).unwrap_or(u32::MAX)),
                context: number(3),
                step: u64::MAX,
            });
        }
    }
}
