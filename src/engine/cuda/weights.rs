//! The model's weights on the device, in the order in which its kernels read them.
//!
//! Owns: the regions, and in which order they are taken. What is in them comes from a [`Source`].

mod load;
mod noise;

pub(super) use load::load;
pub(super) use noise::noise;

use super::CudaEngineError;
use crate::batch::KvGroup;
use crate::engine::checkpoint::{EMBEDDING, FINAL_NORM, OUTPUT, in_layer};
use crate::engine::config::ModelConfig;
use antiphon_kernels::cuda::tile::{TILE_ROWS, row_stride};
use antiphon_kernels::cuda::{AngleTable, Bf16Tiles, Mxfp4Tiles, Region, RouterWeights, region_bytes};
use antiphon_kernels::rope::{Angles, Rope};
use half::bf16;

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

/// Where weights come from: each call takes a region and fills it.
trait Source {
    /// Vectors one behind the other, `len` values together.
    fn vector(&mut self, names: &[String], len: usize) -> Result<Region<f32>, CudaEngineError>;

    /// These values.
    fn floats(&mut self, values: &[f32]) -> Result<Region<f32>, CudaEngineError>;

    /// `count` rows of `cols` as they are, `stride` apart.
    fn rows(&mut self, name: &str, count: usize, cols: usize, stride: usize) -> Result<Region<bf16>, CudaEngineError>;

    /// Matrices one under the other, `rows` together, in the order of the tile core.
    fn matrix(&mut self, names: &[String], rows: usize, cols: usize) -> Result<Bf16Tiles, CudaEngineError>;

    /// The matrices of all experts; `source` names the row that stands at a place of an expert's tiles.
    fn experts(
        &mut self,
        name: &str,
        experts: usize,
        rows: usize,
        cols: usize,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Result<Mxfp4Tiles, CudaEngineError>;
}

/// Takes every region of a model.
fn build(source: &mut impl Source, config: &ModelConfig) -> Result<Weights, CudaEngineError> {
    let (vocab, hidden) = (config.vocab_size, config.hidden);
    let embedding = source.rows(EMBEDDING, vocab, hidden, hidden)?;
    let layers: Result<Vec<_>, CudaEngineError> =
        config.layers.iter().enumerate().map(|(index, group)| layer(source, config, index, *group)).collect();
    let output = if config.tied_embeddings { EMBEDDING } else { OUTPUT };
    let rope = Rope::new(config.rope.theta, config.head_dim, &config.rope.scaling);
    let angles = Angles::new(&rope, &(0..config.context_tokens_max).collect::<Vec<_>>());
    Ok(Weights {
        embedding,
        layers: layers?,
        final_norm: source.vector(&[FINAL_NORM.to_owned()], hidden)?,
        output: source.matrix(&[output.to_owned()], vocab, hidden)?,
        angles: AngleTable { cos: source.floats(&angles.cos)?, sin: source.floats(&angles.sin)? },
    })
}

fn layer(source: &mut impl Source, config: &ModelConfig, index: usize, group: KvGroup) -> Result<Layer, CudaEngineError> {
    let (hidden, inner, experts) = (config.hidden, config.intermediate, config.experts);
    let (query_width, qkv) = (config.query_width(), qkv_rows(config));
    let name = |rest: &str| in_layer(index, rest);
    let projection = |which: &str, what: &str| name(&format!("self_attn.{which}_proj.{what}"));
    let of_three = |what: &str| ["q", "k", "v"].map(|which| projection(which, what));
    let bias = |source: &mut _, names: &[String], len| {
        let take = |names| Source::vector(source, names, len);
        config.attention_bias.then_some(names).map(take).transpose()
    };
    Ok(Layer {
        group,
        attention_norm: source.vector(&[name("input_layernorm.weight")], hidden)?,
        qkv: source.matrix(&of_three("weight"), qkv, hidden)?,
        qkv_bias: bias(source, &of_three("bias"), qkv)?,
        output: source.matrix(&[projection("o", "weight")], hidden, query_width)?,
        output_bias: bias(source, &[projection("o", "bias")], hidden)?,
        sinks: source.vector(&[name("self_attn.sinks")], config.heads)?,
        expert_norm: source.vector(&[name("post_attention_layernorm.weight")], hidden)?,
        router: RouterWeights {
            weights: source.rows(&name("mlp.router.weight"), experts, hidden, row_stride(hidden))?,
            bias: source.vector(&[name("mlp.router.bias")], experts)?,
        },
        // A tile of 16 rows is eight gates and their eight ups, which lie interleaved in the checkpoint.
        gate_up: source.experts(&name("mlp.experts.gate_up_proj"), experts, 2 * inner, hidden, |place| {
            place / TILE_ROWS * TILE_ROWS + place % 8 * 2 + place / 8 % 2
        })?,
        down: source.experts(&name("mlp.experts.down_proj"), experts, hidden, inner, |place| place)?,
    })
}
