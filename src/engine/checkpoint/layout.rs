//! Which tensors a model of a given shape has, under the names that Hugging Face gives them.

use crate::engine::config::ModelConfig;
use antiphon_kernels::weights::MXFP4_BLOCK;
use safetensors::tensor::Dtype;

/// What a tensor may be stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TensorForm {
    /// A matrix: bf16, or rounded to it while it is read.
    Matrix,
    /// A vector, converted to f32 once: bf16, f16 or f32.
    Vector,
    /// MXFP4 codes or scales: bytes.
    Bytes,
}

impl TensorForm {
    /// Whether a tensor of this kind may be stored as `dtype`.
    pub(super) fn accepts(self, dtype: Dtype) -> bool {
        match self {
            Self::Matrix | Self::Vector => matches!(dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32),
            Self::Bytes => dtype == Dtype::U8,
        }
    }

    /// The types as a message names them.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Matrix | Self::Vector => "BF16, F16 or F32",
            Self::Bytes => "U8",
        }
    }
}

/// How a checkpoint stores its experts' matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertForm {
    /// `*_proj_blocks` and `*_proj_scales`, as released.
    Mxfp4,
    /// `*_proj [E, inputs, outputs]`, as transformers keeps what is not quantised: dequantised
    /// models, fine-tunes, merged adapters.
    Dense,
}

impl ExpertForm {
    /// The type of the experts' values, as metrics and `/health` name it.
    #[must_use]
    pub fn dtype(self) -> &'static str {
        match self {
            Self::Mxfp4 => "mxfp4",
            // F16 and F32 are rounded to it.
            Self::Dense => "bf16",
        }
    }
}

/// A tensor that the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// Its name.
    pub(super) name: String,
    /// What it may be stored as.
    pub(super) kind: TensorForm,
    /// Its shape, slowest dimension first.
    pub(super) shape: Vec<usize>,
}

/// Name of the embedding, `[vocab, hidden]`.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the output projection, `[vocab, hidden]`.
pub(crate) const OUTPUT: &str = "lm_head.weight";
/// Name of the scale of the last norm, `[hidden]`.
pub(crate) const FINAL_NORM: &str = "model.norm.weight";

/// Name of a tensor of a layer.
pub(crate) fn in_layer(layer: usize, rest: &str) -> String {
    format!("model.layers.{layer}.{rest}")
}

/// Every tensor that a model of this shape needs.
pub(super) fn expected_tensors(config: &ModelConfig, form: ExpertForm) -> Vec<Expected> {
    let (vocab, hidden) = (config.vocab_size, config.hidden);
    let whole = |name: &str, kind, shape: &[usize]| Expected { name: name.to_owned(), kind, shape: shape.to_vec() };
    let mut expected =
        vec![whole(EMBEDDING, TensorForm::Matrix, &[vocab, hidden]), whole(FINAL_NORM, TensorForm::Vector, &[hidden])];
    if !config.tied_embeddings {
        expected.push(whole(OUTPUT, TensorForm::Matrix, &[vocab, hidden]));
    }
    for layer in 0..config.layers.len() {
        let mut add = |rest: &str, kind, shape: &[usize]| expected.push(whole(&in_layer(layer, rest), kind, shape));
        add_attention(config, &mut add);
        add_experts(config, form, &mut add);
    }
    expected
}

fn add_attention(config: &ModelConfig, add: &mut impl FnMut(&str, TensorForm, &[usize])) {
    let (hidden, query, kv) = (config.hidden, config.query_width(), config.kv_width());
    add("input_layernorm.weight", TensorForm::Vector, &[hidden]);
    for (name, rows, columns) in [("q", query, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, query)] {
        add(&format!("self_attn.{name}_proj.weight"), TensorForm::Matrix, &[rows, columns]);
        if config.attention_bias {
            add(&format!("self_attn.{name}_proj.bias"), TensorForm::Vector, &[rows]);
        }
    }
    add("self_attn.sinks", TensorForm::Vector, &[config.heads]);
    add("post_attention_layernorm.weight", TensorForm::Vector, &[hidden]);
}

fn add_experts(config: &ModelConfig, form: ExpertForm, add: &mut impl FnMut(&str, TensorForm, &[usize])) {
    let (hidden, inner, experts) = (config.hidden, config.intermediate, config.experts);
    add("mlp.router.weight", TensorForm::Matrix, &[experts, hidden]);
    add("mlp.router.bias", TensorForm::Vector, &[experts]);
    for (name, rows, columns) in [("gate_up", 2 * inner, hidden), ("down", hidden, inner)] {
        let blocks = columns / MXFP4_BLOCK;
        add(&format!("mlp.experts.{name}_proj_bias"), TensorForm::Matrix, &[experts, rows]);
        if form == ExpertForm::Dense {
            add(&format!("mlp.experts.{name}_proj"), TensorForm::Matrix, &[experts, columns, rows]);
            continue;
        }
        add(&format!("mlp.experts.{name}_proj_blocks"), TensorForm::Bytes, &[experts, rows, blocks, MXFP4_BLOCK / 2]);
        add(&format!("mlp.experts.{name}_proj_scales"), TensorForm::Bytes, &[experts, rows, blocks]);
    }
}
