//! The model's weights as the kernels take them.
//!
//! Owns: the small vectors, converted to f32 once. Matrices and experts stay where the checkpoint has them: mapped or embedded.

use crate::batch::KvGroup;
use crate::engine::checkpoint::{Checkpoint, EMBEDDING, FINAL_NORM, OUTPUT, TensorBytes, in_layer};
use crate::engine::config::ModelConfig;
use antiphon_kernels::weights::{Bf16Matrix, Experts, Mxfp4Stack, SwiGlu};

/// Why a view of a checked tensor cannot fail.
const CHECKED: &str = "the checkpoint's layout has checked the shape of every tensor";

/// A bf16 matrix that owns its share of the checkpoint.
#[derive(Debug)]
pub(super) struct Matrix {
    bytes: TensorBytes,
    rows: usize,
    cols: usize,
}

impl Matrix {
    fn new(bytes: TensorBytes, rows: usize, cols: usize) -> Self {
        Self { bytes, rows, cols }
    }

    /// The matrix as a kernel takes it.
    pub(super) fn view(&self) -> Bf16Matrix<'_> {
        Bf16Matrix::new(&self.bytes, self.rows, self.cols).expect(CHECKED)
    }
}

/// A linear map: weight and, if the model has it, bias.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

/// MXFP4 matrices of all experts of a layer, and their biases.
#[derive(Debug)]
struct ExpertMatrices {
    blocks: TensorBytes,
    scales: TensorBytes,
    bias: Matrix,
    shape: [usize; 3],
}

impl ExpertMatrices {
    fn read(checkpoint: &Checkpoint, layer: usize, name: &str, shape: [usize; 3]) -> Self {
        let tensor = |rest: &str| checkpoint.tensor(&in_layer(layer, &format!("mlp.experts.{name}_proj_{rest}")));
        let [experts, rows, _] = shape;
        Self { blocks: tensor("blocks"), scales: tensor("scales"), bias: Matrix::new(tensor("bias"), experts, rows), shape }
    }

    fn view(&self) -> Mxfp4Stack<'_> {
        let [experts, rows, cols] = self.shape;
        Mxfp4Stack::new(&self.blocks, &self.scales, experts, rows, cols).expect(CHECKED)
    }
}

/// One layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) group: KvGroup,
    pub(super) attention_norm: Vec<f32>,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    pub(super) sinks: Vec<f32>,
    pub(super) expert_norm: Vec<f32>,
    pub(super) router: Matrix,
    pub(super) router_bias: Vec<f32>,
    gate_up: ExpertMatrices,
    down: ExpertMatrices,
    swiglu: SwiGlu,
}

impl Layer {
    fn read(checkpoint: &Checkpoint, layer: usize, group: KvGroup) -> Self {
        let config = checkpoint.config();
        let (hidden, inner, experts) = (config.hidden, config.intermediate, config.experts);
        let vector = |rest: &str| checkpoint.vector(&in_layer(layer, rest));
        let linear = |name: &str, rows, cols| Linear {
            weight: Matrix::new(checkpoint.tensor(&in_layer(layer, &format!("self_attn.{name}_proj.weight"))), rows, cols),
            bias: config.attention_bias.then(|| vector(&format!("self_attn.{name}_proj.bias"))),
        };
        Self {
            group,
            attention_norm: vector("input_layernorm.weight"),
            query: linear("q", config.query_width(), hidden),
            key: linear("k", config.kv_width(), hidden),
            value: linear("v", config.kv_width(), hidden),
            output: linear("o", hidden, config.query_width()),
            sinks: vector("self_attn.sinks"),
            expert_norm: vector("post_attention_layernorm.weight"),
            router: Matrix::new(checkpoint.tensor(&in_layer(layer, "mlp.router.weight")), experts, hidden),
            router_bias: vector("mlp.router.bias"),
            gate_up: ExpertMatrices::read(checkpoint, layer, "gate_up", [experts, 2 * inner, hidden]),
            down: ExpertMatrices::read(checkpoint, layer, "down", [experts, hidden, inner]),
            swiglu: SwiGlu { alpha: config.swiglu_alpha, limit: config.swiglu_limit },
        }
    }

    /// The layer's experts as a kernel takes them.
    pub(super) fn experts(&self) -> Experts<'_> {
        let (gate_up, down) = (&self.gate_up, &self.down);
        Experts::new(gate_up.view(), gate_up.bias.view(), down.view(), down.bias.view(), self.swiglu).expect(CHECKED)
    }
}

/// All weights of a model.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Vec<f32>,
    pub(super) output: Matrix,
}

impl Weights {
    /// Views the tensors of `checkpoint` and converts its vectors.
    pub(super) fn read(checkpoint: &Checkpoint) -> Self {
        let config: &ModelConfig = checkpoint.config();
        let table = |name| Matrix::new(checkpoint.tensor(name), config.vocab_size, config.hidden);
        let layers = config.layers.iter().enumerate().map(|(layer, group)| Layer::read(checkpoint, layer, *group));
        Self {
            embedding: table(EMBEDDING),
            layers: layers.collect(),
            final_norm: checkpoint.vector(FINAL_NORM),
            output: table(if config.tied_embeddings { EMBEDDING } else { OUTPUT }),
        }
    }
}
