//! The shapes that are measured: gpt-oss as its config.json has it, and a tiny one that a CPU
//! computes in a moment.

use antiphon::engine::config::ModelConfig;

/// A shape, and at which sizes it is measured.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) config: ModelConfig,
    /// Sequences of a decode step.
    pub(crate) batches: &'static [usize],
    /// Tokens that each of them has already.
    pub(crate) context: usize,
    /// Tokens of a prompt that is prefilled in one step.
    pub(crate) prompts: &'static [usize],
    /// Tokens of a step at which single kernels are measured.
    pub(crate) kernel_tokens: &'static [usize],
}

/// The shape called `name`.
pub(crate) fn model(name: &str) -> Result<Model, String> {
    let (layers, experts, name) = match name {
        "20b" => (24, 32, "20b"),
        "120b" => (36, 128, "120b"),
        "tiny" => return Ok(tiny()),
        other => return Err(format!("no model is called {other}; expected 20b, 120b or tiny")),
    };
    let shape = Shape {
        layers,
        experts,
        top_k: 4,
        hidden: 2880,
        heads: 64,
        kv_heads: 8,
        head_dim: 64,
        vocab: 201_088,
        window: 128,
        context: 131_072,
    };
    let (batches, kernel_tokens) = (&[1, 8, 32, 128, 256], &[1, 8, 32, 128, 256, 2048]);
    Ok(Model { name, config: shape.config(), batches, context: 1024, prompts: &[512, 2048], kernel_tokens })
}

fn tiny() -> Model {
    let shape = Shape {
        layers: 2,
        experts: 4,
        top_k: 2,
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 320,
        window: 128,
        context: 512,
    };
    Model {
        name: "tiny",
        config: shape.config(),
        batches: &[1, 3],
        context: 130,
        prompts: &[20, 130],
        kernel_tokens: &[1, 130],
    }
}

/// What the host sees of 20b: its heads, window and context, with almost no weights.
pub(crate) fn host() -> Model {
    let shape = Shape {
        layers: 2,
        experts: 2,
        top_k: 1,
        hidden: 32,
        heads: 64,
        kv_heads: 8,
        head_dim: 16,
        vocab: 512,
        window: 128,
        context: 131_072,
    };
    Model {
        name: "host",
        config: shape.config(),
        batches: &[1, 8, 32, 128, 256],
        context: 1024,
        prompts: &[],
        kernel_tokens: &[],
    }
}

struct Shape {
    layers: usize,
    experts: usize,
    top_k: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    window: usize,
    context: usize,
}

impl Shape {
    fn config(&self) -> ModelConfig {
        let kind = |layer: usize| if layer.is_multiple_of(2) { "sliding_attention" } else { "full_attention" };
        let kinds: Vec<&str> = (0..self.layers).map(kind).collect();
        let json = serde_json::json!({
            "model_type": "gpt_oss", "attention_bias": true, "layer_types": kinds, "num_hidden_layers": self.layers,
            "num_local_experts": self.experts, "num_experts_per_tok": self.top_k, "hidden_size": self.hidden,
            "intermediate_size": self.hidden, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim, "vocab_size": self.vocab, "sliding_window": self.window,
            "max_position_embeddings": self.context, "rope_theta": 150_000.0, "swiglu_limit": 7.0, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false, "quantization_config": {"quant_method": "mxfp4"},
        });
        ModelConfig::parse(json.to_string().as_bytes()).expect("a shape of gpt-oss")
    }
}

/// Bytes of an MXFP4 expert, its scales included.
pub(crate) fn expert_bytes(config: &ModelConfig) -> f64 {
    (3 * config.hidden * config.intermediate) as f64 * 17.0 / 32.0
}

/// Bytes of the weights that every step reads: attention, routers, the output projection.
pub(crate) fn dense_bytes(config: &ModelConfig) -> f64 {
    let kv = config.kv_heads * config.head_dim;
    let query = config.heads * config.head_dim;
    let layer = config.hidden * (2 * query + 2 * kv + config.experts);
    2.0 * (config.layers.len() * layer + config.vocab_size * config.hidden) as f64
}

/// Operations of a token in all matrix products of the layers.
pub(crate) fn layer_operations(config: &ModelConfig) -> f64 {
    let (query, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let attention = config.hidden * (2 * query + 2 * kv + config.experts);
    let experts = 3 * config.hidden * config.intermediate * config.experts_per_token;
    2.0 * (config.layers.len() * (attention + experts)) as f64
}
