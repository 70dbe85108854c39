//! The model's weights on the device, in the order in which its kernels read them.
//!
//! Owns: the regions. Packs on the host, some tiles a thread, into one of two pinned buffers while the other is copied.

use super::CudaEngineError;
use crate::batch::KvGroup;
use crate::engine::checkpoint::{Checkpoint, EMBEDDING, FINAL_NORM, OUTPUT, Progress, TensorBytes, in_layer};
use crate::engine::config::ModelConfig;
use antiphon_kernels::cuda::tile::{
    SCALE_MAX, TILE_ROWS, bf16_tile_words, mxfp4_tile_scales, mxfp4_tile_words, pack_bf16, pack_mxfp4_codes, pack_mxfp4_scales,
    row_stride,
};
use antiphon_kernels::cuda::{
    AngleTable, Arena, Bf16Tiles, CudaError, Device, Mxfp4Tiles, Pinned, Queue, Region, RouterWeights, region_bytes,
};
use antiphon_kernels::rope::{Angles, Rope};
use half::bf16;
use std::num::NonZero;
use std::thread;

/// Words of a pinned buffer: 32 MiB, half a millisecond of a fast bus.
const BUFFER_WORDS: usize = 8 << 20;

/// One layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) group: KvGroup,
    pub(super) attention_norm: Region<f32>,
    pub(super) qkv: Bf16Tiles,
    pub(super) qkv_bias: Option<Region<f32>>,
    pub(super) output: Bf16Tiles,
    pub(super) output_bias: Option<Region<f32>>,
    pub(super) sinks: Region<f32>,
    pub(super) expert_norm: Region<f32>,
    pub(super) router: RouterWeights,
    pub(super) gate_up: Mxfp4Tiles,
    pub(super) down: Mxfp4Tiles,
}

/// All weights of a model.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) embedding: Region<bf16>,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Region<f32>,
    pub(super) output: Bf16Tiles,
    pub(super) angles: AngleTable,
}

fn qkv_rows(config: &ModelConfig) -> usize {
    config.query_width() + 2 * config.kv_width()
}

/// Bytes of all regions of [`Weights`], to the byte.
pub(super) fn weight_bytes(config: &ModelConfig) -> usize {
    let (hidden, inner, experts) = (config.hidden, config.intermediate, config.experts);
    let tiles = |rows, cols| region_bytes::<u32>(Bf16Tiles::words(rows, cols));
    let vector = region_bytes::<f32>;
    let biases = if config.attention_bias { vector(qkv_rows(config)) + vector(hidden) } else { 0 };
    let attention = tiles(qkv_rows(config), hidden) + tiles(hidden, config.query_width()) + biases + vector(config.heads);
    let router = region_bytes::<bf16>(experts * row_stride(hidden)) + vector(experts);
    let projections = Mxfp4Tiles::bytes(experts, 2 * inner, hidden) + Mxfp4Tiles::bytes(experts, hidden, inner);
    let layer = 2 * vector(hidden) + attention + router + projections;
    let angles = 2 * vector(config.context_tokens_max * config.head_dim / 2);
    let tables = region_bytes::<bf16>(config.vocab_size * hidden) + tiles(config.vocab_size, hidden);
    config.layers.len() * layer + tables + vector(hidden) + angles
}

impl Weights {
    /// Packs and copies every weight; `progress` is told how many bytes of the checkpoint are on the device.
    ///
    /// # Errors
    /// [`CudaEngineError`] if the device fails, or a weight is one that the kernels do not widen.
    pub(super) fn load(
        device: &Device,
        checkpoint: &Checkpoint,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, CudaEngineError> {
        let config = checkpoint.config();
        let mut loader = Loader {
            device,
            checkpoint,
            arena: Arena::new(device, "the weights", weight_bytes(config))?,
            buffers: [Pinned::new(device, BUFFER_WORDS)?, Pinned::new(device, BUFFER_WORDS)?],
            next: 0,
            threads: thread::available_parallelism().map_or(1, NonZero::get),
            done_bytes: 0,
            progress,
        };
        let embedding = loader.rows(&[EMBEDDING], config.hidden, config.hidden)?;
        let layers: Result<Vec<_>, CudaEngineError> =
            config.layers.iter().enumerate().map(|(index, group)| loader.layer(index, *group)).collect();
        let output = if config.tied_embeddings { EMBEDDING } else { OUTPUT };
        let rope = Rope::new(config.rope.theta, config.head_dim, &config.rope.scaling);
        let angles = Angles::new(&rope, &(0..config.context_tokens_max).collect::<Vec<_>>());
        let weights = Self {
            embedding,
            layers: layers?,
            final_norm: loader.vector(FINAL_NORM)?,
            output: loader.matrix(&[output.to_owned()], config.hidden)?,
            angles: AngleTable { cos: loader.floats(&angles.cos)?, sin: loader.floats(&angles.sin)? },
        };
        device.synchronize_copies()?;
        assert_eq!(loader.arena.left_bytes(), 0, "the plan counts what is loaded");
        Ok(weights)
    }
}

/// Packs into one buffer while the other is copied.
struct Loader<'a> {
    device: &'a Device,
    checkpoint: &'a Checkpoint,
    arena: Arena,
    buffers: [Pinned<u32>; 2],
    next: usize,
    threads: usize,
    done_bytes: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Loader<'_> {
    fn layer(&mut self, index: usize, group: KvGroup) -> Result<Layer, CudaEngineError> {
        let (hidden, inner, has_bias) = {
            let config = self.checkpoint.config();
            (config.hidden, config.intermediate, config.attention_bias)
        };
        let query_width = self.checkpoint.config().query_width();
        let name = |rest: &str| in_layer(index, rest);
        let projection = |which: &str, what: &str| name(&format!("self_attn.{which}_proj.{what}"));
        let of_three = |what: &str| ["q", "k", "v"].map(|which| projection(which, what));
        let qkv_bias: Option<Vec<f32>> =
            has_bias.then(|| of_three("bias").iter().flat_map(|name| self.checkpoint.vector(name)).collect());
        let output_bias = has_bias.then(|| self.checkpoint.vector(&projection("o", "bias")));
        Ok(Layer {
            group,
            attention_norm: self.vector(&name("input_layernorm.weight"))?,
            qkv: self.matrix(&of_three("weight"), hidden)?,
            qkv_bias: qkv_bias.map(|bias| self.floats(&bias)).transpose()?,
            output: self.matrix(&[projection("o", "weight")], query_width)?,
            output_bias: output_bias.map(|bias| self.floats(&bias)).transpose()?,
            sinks: self.vector(&name("self_attn.sinks"))?,
            expert_norm: self.vector(&name("post_attention_layernorm.weight"))?,
            router: RouterWeights {
                weights: self.rows(&[&name("mlp.router.weight")], hidden, row_stride(hidden))?,
                bias: self.vector(&name("mlp.router.bias"))?,
            },
            // A tile of 16 rows is eight gates and their eight ups, which lie interleaved in the checkpoint.
            gate_up: self.experts(&name("mlp.experts.gate_up_proj"), 2 * inner, hidden, |place| {
                place / TILE_ROWS * TILE_ROWS + place % 8 * 2 + place / 8 % 2
            })?,
            down: self.experts(&name("mlp.experts.down_proj"), hidden, inner, |place| place)?,
        })
    }

    fn vector(&mut self, name: &str) -> Result<Region<f32>, CudaEngineError> {
        self.floats(&self.checkpoint.vector(name))
    }

    fn floats(&mut self, values: &[f32]) -> Result<Region<f32>, CudaEngineError> {
        let region: Region<f32> = self.arena.take(values.len());
        self.fill(&region.view(0, values.len()), 1, |index, words| words[0] = values[index].to_bits())?;
        Ok(region)
    }

    /// Tables of rows as they are, `stride` apart.
    fn rows(&mut self, names: &[&str], cols: usize, stride: usize) -> Result<Region<bf16>, CudaEngineError> {
        let bytes: Vec<TensorBytes> = names.iter().map(|name| self.checkpoint.tensor(name)).collect();
        let rows: Vec<&[u8]> = bytes.iter().flat_map(|bytes| bytes.chunks_exact(2 * cols)).collect();
        let region: Region<bf16> = self.arena.take(rows.len() * stride);
        self.fill(&region.view(0, rows.len() * stride / 2), stride / 2, |row, words| {
            words.fill(0);
            for (word, four) in words.iter_mut().zip(rows[row].as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*four);
            }
        })?;
        self.tell(bytes.iter().map(|bytes| bytes.len()).sum());
        Ok(region)
    }

    /// Matrices one under the other, in the order of the tile core.
    fn matrix(&mut self, names: &[String], cols: usize) -> Result<Bf16Tiles, CudaEngineError> {
        let bytes: Vec<TensorBytes> = names.iter().map(|name| self.checkpoint.tensor(name)).collect();
        let rows: Vec<&[u8]> = bytes.iter().flat_map(|bytes| bytes.chunks_exact(2 * cols)).collect();
        let words: Region<u32> = self.arena.take(Bf16Tiles::words(rows.len(), cols));
        self.fill(&words, bf16_tile_words(cols), |tile, words| {
            pack_bf16(std::array::from_fn(|row| rows.get(tile * TILE_ROWS + row).copied()), cols, words);
        })?;
        self.tell(bytes.iter().map(|bytes| bytes.len()).sum());
        Ok(Bf16Tiles::new(words, rows.len(), cols))
    }

    /// The matrices of all experts; `source` names the row that stands at a place of an expert's tiles.
    fn experts(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Result<Mxfp4Tiles, CudaEngineError> {
        let experts = self.checkpoint.config().experts;
        let [blocks, scales] = ["blocks", "scales"].map(|rest| self.checkpoint.tensor(&format!("{name}_{rest}")));
        if let Some(&got) = scales.iter().max().filter(|scale| **scale > SCALE_MAX) {
            return Err(CudaEngineError::Scale { tensor: format!("{name}_scales"), got, most: SCALE_MAX });
        }
        let tiles = Mxfp4Tiles::new(&mut self.arena, experts, rows, cols);
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
        let values = bias.as_chunks::<2>().0;
        self.fill(&tiles.bias.view(0, values.len()), 1, |index, words| {
            words[0] = bf16::from_le_bytes(values[index]).to_f32().to_bits();
        })?;
        self.tell(blocks.len() + scales.len() + bias.len());
        Ok(tiles)
    }

    fn tell(&mut self, bytes: usize) {
        self.done_bytes += bytes as u64;
        let total_bytes = self.checkpoint.tensor_bytes().max(self.done_bytes);
        (self.progress)(Progress { done_bytes: self.done_bytes, total_bytes });
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
            // The other buffer is free once its copy is done; this one is copied while that one is filled.
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
