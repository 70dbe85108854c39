//! Blocks of a device's KV memory, copied to the host and back.
//!
//! A block is gathered on the device, layer after layer, and goes to the host in one piece. Both
//! directions run in the order of the steps. The host waits for what it reads, and so for the steps
//! before it.

use antiphon_kernels::cuda::{Arena, CudaError, KvRegion, Pinned, Queue, Region, region_bytes};
use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::CudaEngine;
use crate::batch::{BlockId, KvGroup};

/// Where blocks pass through; taken with the first that is copied.
#[derive(Debug)]
pub(super) struct CopyStage {
    device: Region<f16>,
    host: Pinned<f16>,
}

impl CudaEngine {
    /// What the bits of its keys and values depend on, besides the tokens.
    pub(super) fn copied_form(&self) -> String {
        let (config, facts) = (&self.model.config, self.model.device.facts());
        format!(
            "antiphon {}, CUDA {} prefill {:?}, weights {}, layers {}, heads {} of {}, f16, blocks of {} tokens and {} + {} bytes",
            env!("CARGO_PKG_VERSION"),
            facts.name,
            self.options.prefill,
            self.model.fingerprint,
            config.layers.len(),
            config.kv_heads,
            config.head_dim,
            self.options.block_tokens,
            self.limits.global_block_bytes,
            self.limits.sliding_block_bytes,
        )
    }

    fn layers_of(&self, group: KvGroup) -> impl Iterator<Item = &KvRegion> {
        self.kv.iter().zip(&self.model.config.layers).filter(move |(_, of)| **of == group).map(|(kv, _)| kv)
    }

    /// The parts of a block on the device, in the order of their bytes.
    fn parts_of(&self, group: KvGroup, block: BlockId) -> Vec<Region<f16>> {
        let part = |region: &Region<f16>, blocks: usize| {
            let len = region.len() / blocks;
            region.slice(block.0 as usize * len..(block.0 as usize + 1) * len)
        };
        let blocks = match group {
            KvGroup::Global => self.limits.global_blocks,
            KvGroup::Sliding => self.limits.sliding_blocks,
        };
        self.layers_of(group).flat_map(|kv| [part(kv.keys(), blocks), part(kv.values(), blocks)]).collect()
    }

    fn stage(&mut self) -> Result<&mut CopyStage, CudaError> {
        let device = &self.model.device;
        if self.copy_stage.is_none() {
            let len = self.limits.global_block_bytes.max(self.limits.sliding_block_bytes) / size_of::<f16>();
            let region = Arena::new(device, "copies of KV blocks", region_bytes::<f16>(len))?.take(len);
            self.copy_stage = Some(CopyStage { device: region, host: Pinned::new(device, len)? });
        }
        Ok(self.copy_stage.as_mut().expect("it was made just now"))
    }

    /// Appends the bytes of a block, once the steps before are computed.
    pub(super) fn append_block(&mut self, group: KvGroup, block: BlockId, bytes: &mut Vec<u8>) -> Result<(), CudaError> {
        self.model.device.bind()?;
        let parts = self.parts_of(group, block);
        let stage = self.stage()?.device.clone();
        let mut from = 0;
        for part in &parts {
            self.model.device.copy(part, &stage.slice(from..from + part.len()))?;
            from += part.len();
        }
        let Some(CopyStage { host, .. }) = &mut self.copy_stage else { unreachable!("a stage was made") };
        self.model.device.download(&stage.slice(0..from), host)?;
        self.model.device.synchronize()?;
        bytes.extend(host.as_slice()[..from].reinterpret_cast().iter().flat_map(|bits| bits.to_le_bytes()));
        Ok(())
    }

    /// Puts the bytes of a block into its place, before the steps that are begun after this.
    pub(super) fn take_block(&mut self, group: KvGroup, block: BlockId, bytes: &[u8]) -> Result<(), CudaError> {
        self.model.device.bind()?;
        let parts = self.parts_of(group, block);
        let len: usize = parts.iter().map(Region::len).sum();
        assert_eq!(bytes.len(), len * size_of::<f16>(), "a block of {group:?} layers is copied whole");
        let CopyStage { host, device: stage } = self.stage()?;
        let (words, _) = bytes.as_chunks::<2>();
        // Waits for the copy of the block before.
        for (bits, bytes) in host.as_mut_slice()[..len].reinterpret_cast_mut().iter_mut().zip(words) {
            *bits = u16::from_le_bytes(*bytes);
        }
        let stage = stage.clone();
        let Some(CopyStage { host, .. }) = &self.copy_stage else { unreachable!("a stage was made") };
        self.model.device.upload(Queue::Compute, host, &stage, len)?;
        let mut from = 0;
        for part in &parts {
            self.model.device.copy(&stage.slice(from..from + part.len()), part)?;
            from += part.len();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
