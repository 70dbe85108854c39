//! Blocks of the CPU's KV memory, copied out of it and back.

use super::CpuEngine;
use crate::batch::{BlockId, KvGroup};

impl CpuEngine {
    /// What the bits of its keys and values depend on, besides the tokens: the version of the
    /// kernels, the weights, the arithmetic with its instructions, and the form of a block.
    pub(super) fn copied_form(&self) -> String {
        let config = self.checkpoint.config();
        let layout = self.kv[0].layout();
        format!(
            "antiphon {}, CPU {} {} dense {:?}, weights {}, layers {}, heads {} of {}, blocks of {} tokens and {} + {} bytes",
            env!("CARGO_PKG_VERSION"),
            self.cpu.isa().name(),
            self.math.name(),
            self.dense,
            self.checkpoint.fingerprint("keys and values"),
            config.layers.len(),
            layout.kv_heads,
            layout.head_dim,
            layout.block_tokens,
            self.limits.global_block_bytes,
            self.limits.sliding_block_bytes,
        )
    }

    /// Layer after layer, as `KvMemory` has it.
    pub(super) fn append_block(&self, group: KvGroup, block: BlockId, bytes: &mut Vec<u8>) {
        for (memory, _) in self.kv.iter().zip(&self.weights.layers).filter(|(_, layer)| layer.group == group) {
            memory.append_block(block.0, bytes);
        }
    }

    pub(super) fn take_block(&mut self, group: KvGroup, block: BlockId, bytes: &[u8]) {
        let block_bytes = match group {
            KvGroup::Global => self.limits.global_block_bytes,
            KvGroup::Sliding => self.limits.sliding_block_bytes,
        };
        assert_eq!(bytes.len(), block_bytes, "a block of {group:?} layers is copied whole");
        let layers = self.kv.iter_mut().zip(&self.weights.layers).filter(|(_, layer)| layer.group == group);
        let layer_bytes = block_bytes / self.checkpoint.config().layers_of(group).max(1);
        for ((memory, _), bytes) in layers.zip(bytes.chunks_exact(layer_bytes.max(1))) {
            memory.take_block(block.0, bytes);
        }
    }
}
