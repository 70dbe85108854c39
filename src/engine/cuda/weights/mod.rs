//! The model's weights on the device, in the order in which its kernels read them.
//!
//! Owns: the regions, and in which order they are taken. What is in them comes from a
//! [`WeightSource`].

mod load;
mod noise;

pub(in crate::engine) use load::check_experts;
pub(super) use load::load;
pub(super) use noise::noise;

use super::CudaEngineError;
use super::share::RankShare;
use crate::batch::KvGroup;
use crate::engine::checkpoint::{EMBEDDING, FINAL_NORM, OUTPUT, in_layer};
use crate::engine::config::ModelConfig;
use antiphon_kernels::cuda::tile::{TILE_ROWS, row_stride};
use antiphon_kernels::cuda::{AngleTable, ExpertShare, F16Tiles, Mxfp4Tiles, Region, RouterWeights, region_bytes};
use antiphon_kernels::rope::{Angles, Rope};
use half::bf16;
use std::ops::Range;

/// One layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) group: KvGroup,
    pub(super) attention_norm: Region<f32>,
    pub(super) qkv: F16Tiles,
    pub(super) qkv_bias: Option<Region<f32>>,
    pub(super) output: F16Tiles,
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
    pub(super) output: F16Tiles,
    pub(super) angles: AngleTable,
}

fn qkv_rows(config: &ModelConfig) -> usize {
    config.query_width() + 2 * config.kv_width()
}

/// Bytes of all regions of a rank's [`Weights`], to the byte.
pub(super) fn weight_bytes(whole: &ModelConfig, share: RankShare) -> usize {
    let config = &share.config(whole);
    let (hidden, inner, experts) = (config.hidden, config.intermediate, config.experts);
    let tiles = |rows, cols| region_bytes::<u32>(F16Tiles::words(rows, cols));
    let vector = region_bytes::<f32>;
    let biases = if config.attention_bias { vector(qkv_rows(config)) + vector(hidden) } else { 0 };
    let attention = tiles(qkv_rows(config), hidden) + tiles(hidden, config.query_width()) + biases + vector(config.heads);
    let router = region_bytes::<bf16>(whole.experts * row_stride(hidden)) + vector(whole.experts);
    let projections = Mxfp4Tiles::bytes(experts, 2 * inner, hidden) + Mxfp4Tiles::bytes(experts, hidden, inner);
    let layer = 2 * vector(hidden) + attention + router + projections;
    let angles = 2 * vector(config.context_tokens_max * config.head_dim / 2);
    let tables = region_bytes::<bf16>(config.vocab_size * hidden) + tiles(share.vocab_rows(whole), hidden);
    config.layers.len() * layer + tables + vector(hidden) + angles
}

/// Some rows of a matrix, and some of their columns; a vector is a matrix of one column.
struct Cut {
    name: String,
    rows: Range<usize>,
    cols: Range<usize>,
    /// Columns that the matrix has.
    width: usize,
}

impl Cut {
    /// Whole rows.
    fn rows(name: String, rows: Range<usize>, width: usize) -> Self {
        Self { name, rows, cols: 0..width, width }
    }
}

/// Where weights come from: each call takes a region and fills it.
trait WeightSource {
    /// Parts of vectors, one behind the other.
    fn vector(&mut self, cuts: &[Cut]) -> Result<Region<f32>, CudaEngineError>;

    /// These values.
    fn floats(&mut self, values: &[f32]) -> Result<Region<f32>, CudaEngineError>;

    /// `count` rows of `cols` as they are, `stride` apart; every rank has them.
    fn rows(&mut self, name: &str, count: usize, cols: usize, stride: usize) -> Result<Region<bf16>, CudaEngineError>;

    /// Parts of matrices, one under the other and as wide as each other, in the order of the tile
    /// core; zeros up to `rows` rows.
    fn matrix(&mut self, cuts: &[Cut], rows: usize) -> Result<F16Tiles, CudaEngineError>;

    /// The matrices of a rank's experts; `source` names the row that stands at a place of an
    /// expert's tiles.
    fn experts(
        &mut self,
        name: &str,
        share: ExpertShare,
        rows: usize,
        cols: usize,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Result<Mxfp4Tiles, CudaEngineError>;
}

/// Takes every region of a rank.
fn build(source: &mut impl WeightSource, config: &ModelConfig, share: RankShare) -> Result<Weights, CudaEngineError> {
    let (vocab, hidden) = (config.vocab_size, config.hidden);
    let embedding = source.rows(EMBEDDING, vocab, hidden, hidden)?;
    let layers: Result<Vec<_>, CudaEngineError> =
        config.layers.iter().enumerate().map(|(index, group)| layer(source, config, share, index, *group)).collect();
    let output = if config.tied_embeddings { EMBEDDING } else { OUTPUT };
    let rope = Rope::new(config.rope.theta, config.head_dim, &config.rope.scaling);
    let angles = Angles::new(&rope, &(0..config.context_tokens_max).collect::<Vec<_>>());
    let output = Cut::rows(output.to_owned(), share.vocab(config), hidden);
    Ok(Weights {
        embedding,
        layers: layers?,
        final_norm: source.vector(&[Cut::rows(FINAL_NORM.to_owned(), 0..hidden, 1)])?,
        output: source.matrix(&[output], share.vocab_rows(config))?,
        angles: AngleTable { cos: source.floats(&angles.cos)?, sin: source.floats(&angles.sin)? },
    })
}

fn layer(
    source: &mut impl WeightSource,
    config: &ModelConfig,
    share: RankShare,
    index: usize,
    group: KvGroup,
) -> Result<Layer, CudaEngineError> {
    let (hidden, inner, experts) = (config.hidden, config.intermediate, share.experts(config));
    let query_width = config.query_width();
    let name = |rest: &str| in_layer(index, rest);
    let projection = |which: &str, what: &str| name(&format!("self_attn.{which}_proj.{what}"));
    let vector = |rest: &str, rows: Range<usize>| [Cut::rows(name(rest), rows, 1)];
    // A rank's heads lie side by side, in each of the three.
    let [queries, keys] = [query_width, config.kv_width()].map(|width| share.of(width));
    let of_three = |what: &str, width| {
        let cut = |(which, rows): (&str, &Range<usize>)| Cut::rows(projection(which, what), rows.clone(), width);
        [("q", &queries), ("k", &keys), ("v", &keys)].map(cut)
    };
    let output = Cut { cols: queries.clone(), ..Cut::rows(projection("o", "weight"), 0..hidden, query_width) };
    let bias = |source: &mut _, cuts: &[Cut]| {
        let take = |cuts| WeightSource::vector(source, cuts);
        config.attention_bias.then_some(cuts).map(take).transpose()
    };
    Ok(Layer {
        group,
        attention_norm: source.vector(&vector("input_layernorm.weight", 0..hidden))?,
        qkv: source.matrix(&of_three("weight", hidden), qkv_rows(&share.config(config)))?,
        qkv_bias: bias(source, &of_three("bias", 1))?,
        output: source.matrix(&[output], hidden)?,
        output_bias: bias(source, &[Cut::rows(projection("o", "bias"), 0..hidden, 1)])?,
        sinks: source.vector(&vector("self_attn.sinks", share.of(config.heads)))?,
        expert_norm: source.vector(&vector("post_attention_layernorm.weight", 0..hidden))?,
        router: RouterWeights {
            weights: source.rows(&name("mlp.router.weight"), config.experts, hidden, row_stride(hidden))?,
            bias: source.vector(&vector("mlp.router.bias", 0..config.experts))?,
        },
        // A tile of 16 rows is eight gates and their eight ups, which lie interleaved in the
        // checkpoint.
        gate_up: source.experts(&name("mlp.experts.gate_up_proj"), experts, 2 * inner, hidden, |place| {
            place / TILE_ROWS * TILE_ROWS + place % 8 * 2 + place / 8 % 2
        })?,
        down: source.experts(&name("mlp.experts.down_proj"), experts, hidden, inner, |place| place)?,
    })
}
