//! Weights of a checkpoint. Packs on the host, some tiles a thread, into one of two pinned buffers
//! while the other is copied.

use super::{Cut, WeightSource, Weights, build, weight_bytes};
use crate::engine::checkpoint::{Checkpoint, ExpertForm, LoadProgress, TensorBytes, in_layer};
use crate::engine::cuda::CudaEngineError;
use crate::engine::cuda::share::RankShare;
use antiphon_kernels::cuda::tile::{
    F16_MAX_BITS, SCALE_MAX, TILE_ROWS, f16_tile_words, mxfp4_tile_scales, mxfp4_tile_words, pack_f16, pack_mxfp4_codes,
    pack_mxfp4_scales,
};
use antiphon_kernels::cuda::{Arena, CudaError, Device, ExpertShare, F16Tiles, Mxfp4Tiles, Pinned, Queue, Region};
use antiphon_kernels::weights::quantized;
use half::bf16;
use std::borrow::Cow;
use std::num::NonZero;
use std::thread;

/// Words of a pinned buffer: 32 MiB, half a millisecond of a fast bus.
const BUFFER_WORDS: usize = 8 << 20;

/// Packs and copies every weight of a rank; `progress` is told how many bytes of the checkpoint are
/// on the device.
///
/// # Errors
/// [`CudaEngineError`] if the device fails, or a weight is one that the kernels do not widen.
pub(in crate::engine::cuda) fn load(
    device: &Device,
    checkpoint: &Checkpoint,
    share: RankShare,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Weights, CudaEngineError> {
    let config = checkpoint.config();
    let mut loader = Loader {
        device,
        checkpoint,
        share,
        arena: Arena::new(device, "the weights", weight_bytes(config, share))?,
        buffers: [Pinned::new(device, BUFFER_WORDS)?, Pinned::new(device, BUFFER_WORDS)?],
        next: 0,
        threads: thread::available_parallelism().map_or(1, NonZero::get),
        done_bytes: 0,
        progress,
    };
    let weights = build(&mut loader, config, share)?;
    device.synchronize_copies()?;
    assert_eq!(loader.arena.left_bytes(), 0, "the plan counts what is loaded");
    Ok(weights)
}

/// Packs into one buffer while the other is copied.
struct Loader<'a> {
    device: &'a Device,
    checkpoint: &'a Checkpoint,
    share: RankShare,
    arena: Arena,
    buffers: [Pinned<u32>; 2],
    next: usize,
    threads: usize,
    done_bytes: u64,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl WeightSource for Loader<'_> {
    fn vector(&mut self, cuts: &[Cut]) -> Result<Region<f32>, CudaEngineError> {
        let own = |cut: &Cut| self.checkpoint.vector(&cut.name)[cut.rows.clone()].to_vec();
        let values: Vec<f32> = cuts.iter().flat_map(own).collect();
        self.floats(&values)
    }

    fn floats(&mut self, values: &[f32]) -> Result<Region<f32>, CudaEngineError> {
        let region: Region<f32> = self.arena.take(values.len());
        self.fill(&region.view(0, values.len()), 1, |index, words| words[0] = values[index].to_bits())?;
        Ok(region)
    }

    fn rows(&mut self, name: &str, count: usize, cols: usize, stride: usize) -> Result<Region<bf16>, CudaEngineError> {
        let bytes = self.checkpoint.tensor(name);
        let rows: Vec<&[u8]> = bytes.chunks_exact(2 * cols).collect();
        assert_eq!(rows.len(), count, "{name}: the checkpoint's shapes were checked");
        let region: Region<bf16> = self.arena.take(count * stride);
        self.fill(&region.view(0, count * stride / 2), stride / 2, |row, words| {
            words.fill(0);
            for (word, four) in words.iter_mut().zip(rows[row].as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*four);
            }
        })?;
        // Every rank has all of them; they count once.
        if self.share.rank == 0 {
            self.tell(bytes.len());
        }
        Ok(region)
    }

    fn matrix(&mut self, cuts: &[Cut], rows: usize) -> Result<F16Tiles, CudaEngineError> {
        let cols = cuts[0].cols.len();
        let bytes: Vec<TensorBytes> = cuts.iter().map(|cut| self.checkpoint.tensor(&cut.name)).collect();
        let mut sources: Vec<&[u8]> = Vec::new();
        for (cut, bytes) in cuts.iter().zip(&bytes) {
            let rows = bytes.chunks_exact(2 * cut.width).skip(cut.rows.start).take(cut.rows.len());
            let own = rows.map(|row| &row[2 * cut.cols.start..2 * cut.cols.end]);
            if let Some(got) = own.clone().find_map(beyond_f16) {
                return Err(CudaEngineError::Weight { tensor: cut.name.clone(), got });
            }
            sources.extend(own);
        }
        let words: Region<u32> = self.arena.take(F16Tiles::words(rows, cols));
        self.fill(&words, f16_tile_words(cols), |tile, words| {
            pack_f16(std::array::from_fn(|row| sources.get(tile * TILE_ROWS + row).copied()), cols, words);
        })?;
        self.tell(2 * sources.len() * cols);
        Ok(F16Tiles::new(words, rows, cols))
    }

    fn experts(
        &mut self,
        name: &str,
        share: ExpertShare,
        rows: usize,
        cols: usize,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Result<Mxfp4Tiles, CudaEngineError> {
        let stored: [Cow<'_, [u8]>; 2];
        let tensors: [TensorBytes; 2];
        if self.checkpoint.expert_form() == ExpertForm::Dense {
            let dense = self.checkpoint.tensor(name);
            let experts = self.checkpoint.config().experts;
            let (blocks, scales) = quantized(&dense, [experts, rows, cols], self.threads)
                .ok_or_else(|| CudaEngineError::Experts { tensor: name.to_owned() })?;
            dense.release();
            stored = [blocks.into(), scales.into()];
        } else {
            tensors = ["blocks", "scales"].map(|rest| self.checkpoint.tensor(&format!("{name}_{rest}")));
            stored = tensors.each_ref().map(|bytes| Cow::Borrowed(&bytes[..]));
        }
        let [blocks, scales] = stored;
        // Two codes are a byte, 32 share a scale.
        let own = |bytes: usize| share.first * bytes..(share.first + share.count) * bytes;
        let [blocks, scales] = [&blocks[own(rows * cols / 2)], &scales[own(rows * cols / 32)]];
        if let Some(&got) = scales.iter().max().filter(|scale| **scale > SCALE_MAX) {
            return Err(CudaEngineError::Scale { tensor: format!("{name}_scales"), got, most: SCALE_MAX });
        }
        let tiles = Mxfp4Tiles::new(&mut self.arena, share.count, rows, cols);
        let count = Mxfp4Tiles::tiles(rows);
        self.fill(&tiles.codes, mxfp4_tile_words(cols), |index, words| {
            let matrix = &blocks[index / count * rows * cols / 2..][..rows * cols / 2];
            pack_mxfp4_codes(tile_rows(matrix, cols / 2, |place| source(index % count * TILE_ROWS + place)), cols, words);
        })?;
        self.fill(&tiles.scales, mxfp4_tile_scales(cols), |index, words| {
            let matrix = &scales[index / count * rows * cols / 32..][..rows * cols / 32];
            pack_mxfp4_scales(tile_rows(matrix, cols / 32, |place| source(index % count * TILE_ROWS + place)), cols, words);
        })?;
        let bias = self.checkpoint.tensor(&format!("{name}_bias"));
        let values = &bias.as_chunks::<2>().0[own(rows)];
        self.fill(&tiles.bias.view(0, values.len()), 1, |index, words| {
            words[0] = bf16::from_le_bytes(values[index]).to_f32().to_bits();
        })?;
        self.tell(blocks.len() + scales.len() + 2 * values.len());
        Ok(tiles)
    }
}

/// Whether experts that are stored in bf16 are MXFP4's values, by the first ones of each: 32 of a
/// row, which costs a few pages of the file. Trained experts differ there already. The others are
/// looked at when they are packed.
///
/// # Errors
/// [`CudaEngineError::Experts`].
pub(in crate::engine) fn check_experts(checkpoint: &Checkpoint) -> Result<(), CudaEngineError> {
    if checkpoint.expert_form() != ExpertForm::Dense {
        return Ok(());
    }
    let config = checkpoint.config();
    let names = [("gate_up_proj", 2 * config.intermediate, config.hidden), ("down_proj", config.hidden, config.intermediate)];
    for layer in 0..config.layers.len() {
        for (rest, rows, cols) in names {
            let tensor = in_layer(layer, &format!("mlp.experts.{rest}"));
            // One that is not bf16 would be converted for this, all of it.
            if !checkpoint.is_in_place(&tensor) {
                continue;
            }
            let dense = checkpoint.tensor(&tensor);
            let (values, _) = dense.as_chunks::<2>();
            // `[E, cols, rows]`: a row's values are a row's length apart.
            let first = |expert: &[[u8; 2]]| (0..32).flat_map(|col| expert[col * rows]).collect::<Vec<u8>>();
            if !values.chunks(rows * cols).all(|expert| quantized(&first(expert), [1, 1, 32], 1).is_some()) {
                return Err(CudaEngineError::Experts { tensor });
            }
        }
    }
    Ok(())
}

/// A finite bf16 that f16 does not hold.
fn beyond_f16(bytes: &[u8]) -> Option<f32> {
    let values = bytes.as_chunks::<2>().0.iter().map(|value| bf16::from_le_bytes(*value));
    let beyond = |value: &bf16| (F16_MAX_BITS + 1..0x7f80).contains(&(value.to_bits() & 0x7fff));
    values.filter(beyond).map(bf16::to_f32).next()
}

impl Loader<'_> {
    fn tell(&mut self, bytes: usize) {
        self.done_bytes += bytes as u64;
        let total_bytes = self.checkpoint.tensor_bytes().max(self.done_bytes);
        (self.progress)(LoadProgress { done_bytes: self.done_bytes, total_bytes });
    }

    /// Fills a region part by part: `pack` writes the `words` of the part that it is told.
    fn fill(&mut self, region: &Region<u32>, words: usize, pack: impl Fn(usize, &mut [u32]) + Sync) -> Result<(), CudaError> {
        assert!(words <= BUFFER_WORDS, "a tile of {words} words");
        let (parts, at_once) = (region.len() / words, BUFFER_WORDS / words);
        for first in (0..parts).step_by(at_once) {
            let count = at_once.min(parts - first);
            let buffer = &mut self.buffers[self.next];
            let target = &mut buffer.as_mut_slice()[..count * words];
            let share = count.div_ceil(self.threads).max(1 + (1 << 14) / words);
            thread::scope(|scope| {
                for (chunk, target) in target.chunks_mut(share * words).enumerate() {
                    let pack = &pack;
                    let mut work = move || {
                        for (index, out) in target.chunks_exact_mut(words).enumerate() {
                            pack(first + chunk * share + index, out);
                        }
                    };
                    if count <= share { work() } else { drop(scope.spawn(work)) }
                }
            });
            // The other buffer is free once its copy is done; this one is copied while that one is
            // filled.
            self.device.synchronize_copies()?;
            self.device.upload(Queue::Copies, buffer, &region.slice(first * words..(first + count) * words), count * words)?;
            self.next ^= 1;
        }
        Ok(())
    }
}

/// The rows of a tile, of `bytes` each, as `source` names them; `None` beyond the matrix.
fn tile_rows(matrix: &[u8], bytes: usize, source: impl Fn(usize) -> usize) -> [Option<&[u8]>; TILE_ROWS] {
    std::array::from_fn(|place| matrix.get(source(place) * bytes..)?.get(..bytes))
}
