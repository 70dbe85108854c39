//! Weights that mean nothing, of a model's exact size: to measure a model without its checkpoint.

use super::{Cut, WeightSource, Weights, build, weight_bytes};
use crate::engine::config::ModelConfig;
use crate::engine::cuda::CudaEngineError;
use crate::engine::cuda::share::RankShare;
use antiphon_kernels::cuda::tile::any_scales;
use antiphon_kernels::cuda::{Arena, CudaError, Device, ExpertShare, F16Tiles, Mxfp4Tiles, Pinned, Queue, Region};
use half::{bf16, f16};

/// Words of a pattern, which is repeated: 4 MiB.
const PATTERN_WORDS: usize = 1 << 20;

/// Takes a model's weights and fills them with noise: matrices in +-1/16, experts of every code
/// with scales 2^-7 to 2^-4, norms of one, biases in +-1/16. What comes out is finite and differs
/// from token to token.
///
/// # Errors
/// [`CudaEngineError`] if the device has not the memory or fails.
pub(in crate::engine::cuda) fn noise(device: &Device, config: &ModelConfig) -> Result<Weights, CudaEngineError> {
    let mut state = 1_u64;
    let mut pattern = |of: fn(u64) -> u32| {
        let mut words = Pinned::new(device, PATTERN_WORDS)?;
        for word in words.as_mut_slice() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *word = of(state >> 32);
        }
        Ok::<_, CudaError>(words)
    };
    let mut noise = Noise {
        device,
        arena: Arena::new(device, "the weights", weight_bytes(config, RankShare::ALONE))?,
        bf16: pattern(|bits| pair(bits, |value| bf16::from_f32(value).to_bits()))?,
        f16: pattern(|bits| pair(bits, |value| f16::from_f32(value).to_bits()))?,
        codes: pattern(|bits| bits as u32)?,
        scales: pattern(|bits| any_scales(bits as u32))?,
        floats: pattern(|bits| small(bits as u16).to_bits())?,
    };
    let weights = build(&mut noise, config, RankShare::ALONE)?;
    device.synchronize_copies()?;
    assert_eq!(noise.arena.left_bytes(), 0, "the plan counts what is taken");
    Ok(weights)
}

fn small(bits: u16) -> f32 {
    (f32::from(bits) / 32768.0 - 1.0) / 16.0
}

fn pair(bits: u64, narrow: fn(f32) -> u16) -> u32 {
    let half = |bits: u64| u32::from(narrow(small(bits as u16)));
    half(bits) | half(bits >> 16) << 16
}

struct Noise<'a> {
    device: &'a Device,
    arena: Arena,
    bf16: Pinned<u32>,
    f16: Pinned<u32>,
    codes: Pinned<u32>,
    scales: Pinned<u32>,
    floats: Pinned<u32>,
}

/// Copies a pattern into a region until that is full. The patterns are never written again, so
/// nothing is waited for.
fn fill(device: &Device, pattern: &Pinned<u32>, region: &Region<u32>) -> Result<(), CudaError> {
    for begin in (0..region.len()).step_by(PATTERN_WORDS) {
        let end = region.len().min(begin + PATTERN_WORDS);
        device.upload(Queue::Copies, pattern, &region.slice(begin..end), end - begin)?;
    }
    Ok(())
}

impl WeightSource for Noise<'_> {
    fn vector(&mut self, cuts: &[Cut]) -> Result<Region<f32>, CudaEngineError> {
        let len = cuts.iter().map(|cut| cut.rows.len()).sum();
        if cuts[0].name.ends_with("norm.weight") {
            return self.floats(&vec![1.0; len]);
        }
        let region: Region<f32> = self.arena.take(len);
        fill(self.device, &self.floats, &region.view(0, len))?;
        Ok(region)
    }

    fn floats(&mut self, values: &[f32]) -> Result<Region<f32>, CudaEngineError> {
        let region = self.arena.take(values.len());
        self.device.store(values, &region)?;
        Ok(region)
    }

    fn rows(&mut self, _: &str, count: usize, cols: usize, stride: usize) -> Result<Region<bf16>, CudaEngineError> {
        let region: Region<bf16> = self.arena.take(count * stride);
        // What lies beyond `cols` is multiplied with zeros.
        debug_assert!(cols <= stride);
        fill(self.device, &self.bf16, &region.view(0, count * stride / 2))?;
        Ok(region)
    }

    fn matrix(&mut self, cuts: &[Cut], rows: usize) -> Result<F16Tiles, CudaEngineError> {
        let cols = cuts[0].cols.len();
        let words: Region<u32> = self.arena.take(F16Tiles::words(rows, cols));
        fill(self.device, &self.f16, &words)?;
        Ok(F16Tiles::new(words, rows, cols))
    }

    fn experts(
        &mut self,
        _: &str,
        share: ExpertShare,
        rows: usize,
        cols: usize,
        _: impl Fn(usize) -> usize + Sync,
    ) -> Result<Mxfp4Tiles, CudaEngineError> {
        let tiles = Mxfp4Tiles::new(&mut self.arena, share.count, rows, cols);
        fill(self.device, &self.codes, &tiles.codes)?;
        fill(self.device, &self.scales, &tiles.scales)?;
        fill(self.device, &self.floats, &tiles.bias.view(0, share.count * rows))?;
        Ok(tiles)
    }
}
