//! What config.json and generation_config.json say, checked.
//!
//! Owns: the shape of the model. Promises: every dimension comes from the file, each number is one
//! that a model can have, and a message about one that is not names file, key, value and
//! expectation. Absent on purpose: tensors, bytes.
//!
//! Spellings and defaults are those of `GptOssConfig` in transformers 5.23, and of 4.x where it
//! wrote other keys. Sizes that shape tensors have no defaults here: a checkpoint without them is
//! broken.

mod fields;
mod rope;
mod sampling_defaults;
#[cfg(test)]
mod tests;

pub use rope::RopeConfig;
pub use sampling_defaults::SamplingDefaults;

use crate::batch::{KvGroup, TokenId};
use crate::engine::checkpoint::CheckpointError;
use antiphon_kernels::weights::MXFP4_BLOCK;
use fields::ConfigFields;
use serde_json::Value;

/// Name of the file that states the model's shape.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the file that states stop tokens and sampling defaults; may be absent.
pub const GENERATION_FILE: &str = "generation_config.json";

// Bounds that no model comes near; they keep every product of sizes within 64 bits and refuse
// absurd files before anything is allocated.
const LAYERS_MAX: usize = 4096;
const WIDTH_MAX: usize = 1 << 20;
const HEADS_MAX: usize = 1 << 16;
const EXPERTS_MAX: usize = 1 << 16;
const VOCAB_MAX: usize = 1 << 24;
const CONTEXT_MAX: usize = 1 << 30;

/// The shape of a GPT-OSS model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Rows of the embedding and of the output projection.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside an expert.
    pub intermediate: usize,
    /// The layers' kinds, first layer first.
    pub layers: Vec<KvGroup>,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key and value heads of a layer; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even. `heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token passes through.
    pub experts_per_token: usize,
    /// How many tokens a sliding-window layer sees, the token itself included.
    pub sliding_window_tokens: usize,
    /// Most tokens of a sequence.
    pub context_tokens_max: usize,
    /// Added to the mean square in each norm.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Gain of the sigmoid in the experts.
    pub swiglu_alpha: f32,
    /// Bound of gate and up in the experts.
    pub swiglu_limit: f32,
    /// Whether the four projections of attention have biases.
    pub attention_bias: bool,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Tokens that end a sequence; empty if the file states none.
    pub eos_tokens: Vec<TokenId>,
}

impl ModelConfig {
    /// Parses the text of config.json.
    ///
    /// # Errors
    /// [`CheckpointError`] for text that is not JSON, and for each key that is missing or cannot
    /// be.
    pub fn parse(json: &[u8]) -> Result<Self, CheckpointError> {
        let value = parse_json(CONFIG_FILE, json)?;
        let fields = ConfigFields::new(CONFIG_FILE, &value)?;
        check_kind(fields)?;
        check_quantization(fields)?;
        let hidden = read_width(fields, "hidden_size")?;
        let intermediate = read_width(fields, "intermediate_size")?;
        let (heads, kv_heads, head_dim) = read_heads(fields, hidden)?;
        let (experts, experts_per_token) = read_experts(fields)?;
        let layers = read_layers(fields)?;
        let context_tokens_max = fields.count_or("max_position_embeddings", 131_072, CONTEXT_MAX)?;
        let vocab_size = fields.count("vocab_size", VOCAB_MAX)?;
        Ok(Self {
            sliding_window_tokens: read_window(fields, &layers, context_tokens_max)?,
            rope: RopeConfig::read(fields, context_tokens_max)?,
            eos_tokens: read_eos(fields, vocab_size)?,
            rms_norm_eps: positive(fields, "rms_norm_eps", 1e-5, 1.0)?,
            swiglu_alpha: positive(fields, "swiglu_alpha", 1.702, 1e6)?,
            swiglu_limit: positive(fields, "swiglu_limit", 7.0, 1e9)?,
            attention_bias: fields.flag_or("attention_bias", true)?,
            tied_embeddings: fields.flag_or("tie_word_embeddings", false)?,
            vocab_size,
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads,
            head_dim,
            experts,
            experts_per_token,
            context_tokens_max,
        })
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// How many layers are of this kind.
    #[must_use]
    pub fn layers_of(&self, group: KvGroup) -> usize {
        self.layers.iter().filter(|layer| **layer == group).count()
    }

    /// Weights in the model, embeddings included.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (hidden, heads, experts) = (self.hidden as u64, self.heads as u64, self.experts as u64);
        let (query, kv, inner) = (self.query_width() as u64, self.kv_width() as u64, self.intermediate as u64);
        let biases = if self.attention_bias { query + 2 * kv + hidden } else { 0 };
        let attention = 2 * hidden * (query + kv) + biases + heads;
        let expert = 3 * hidden * inner + 2 * inner + hidden;
        let layer = attention + experts * (expert + hidden + 1) + 2 * hidden;
        let tables = if self.tied_embeddings { 1 } else { 2 };
        self.layers.len() as u64 * layer + tables * self.vocab_size as u64 * hidden + hidden
    }
}

/// Parses a JSON file; the message of a bad one has line and column.
pub(super) fn parse_json(file: &str, json: &[u8]) -> Result<Value, CheckpointError> {
    serde_json::from_slice(json).map_err(|error| CheckpointError::Json { file: file.to_owned(), message: error.to_string() })
}

/// The model must be GPT-OSS, in a type of number that there is.
fn check_kind(fields: ConfigFields<'_>) -> Result<(), CheckpointError> {
    match fields.text("model_type")? {
        Some("gpt_oss") => {}
        _ => return Err(fields.wrong("model_type", "\"gpt_oss\"")),
    }
    match fields.text("hidden_act")? {
        // The gate of an expert: with another function in it the answers would be those of no
        // model.
        None | Some("silu") => {}
        Some(_) => return Err(fields.wrong("hidden_act", "\"silu\"")),
    }
    for key in ["dtype", "torch_dtype"] {
        match fields.text(key)? {
            None | Some("bfloat16" | "float16" | "float32" | "auto") => {}
            Some(_) => return Err(fields.wrong(key, "bfloat16, float16, float32 or auto")),
        }
    }
    Ok(())
}

/// Quantised experts must be MXFP4, as in the released checkpoints; of no quantisation the tensors
/// say what they are.
fn check_quantization(fields: ConfigFields<'_>) -> Result<(), CheckpointError> {
    let Some(quantization) = fields.object("quantization_config")? else { return Ok(()) };
    match quantization.text("quant_method")? {
        Some("mxfp4") => Ok(()),
        _ => Err(quantization.wrong("quant_method", "\"mxfp4\"")),
    }
}

/// A width along which experts multiply; their rows are made of whole MXFP4 blocks.
fn read_width(fields: ConfigFields<'_>, key: &str) -> Result<usize, CheckpointError> {
    let width = fields.count(key, WIDTH_MAX)?;
    if !width.is_multiple_of(MXFP4_BLOCK) {
        return Err(fields.wrong(key, format!("a multiple of {MXFP4_BLOCK}, as the experts are MXFP4")));
    }
    Ok(width)
}

/// Query heads, key and value heads, width of a head.
fn read_heads(fields: ConfigFields<'_>, hidden: usize) -> Result<(usize, usize, usize), CheckpointError> {
    let heads = fields.count("num_attention_heads", HEADS_MAX)?;
    // `null` means one key head for each query head in transformers; a file without the key is
    // broken.
    let kv_heads = match fields.get("num_key_value_heads") {
        None if fields.is_present("num_key_value_heads") => heads,
        _ => fields.count("num_key_value_heads", HEADS_MAX)?,
    };
    if !heads.is_multiple_of(kv_heads) {
        return Err(fields.wrong("num_key_value_heads", format!("a divisor of num_attention_heads, {heads}")));
    }
    // Absent is 64 and `null` is hidden / heads, as in `GptOssConfig`.
    let default = if fields.is_present("head_dim") { hidden / heads } else { 64 };
    let head_dim = fields.count_or("head_dim", default, HEADS_MAX)?;
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(fields.wrong("head_dim", "an even number above 0, as rotary embedding turns pairs"));
    }
    Ok((heads, kv_heads, head_dim))
}

/// Experts of a layer, and how many a token passes through.
fn read_experts(fields: ConfigFields<'_>) -> Result<(usize, usize), CheckpointError> {
    let key = if fields.get("num_local_experts").is_none() && fields.is_present("num_experts") {
        "num_experts"
    } else {
        "num_local_experts"
    };
    let experts = fields.count(key, EXPERTS_MAX)?;
    let key = if fields.get("num_experts_per_tok").is_none() && fields.is_present("experts_per_token") {
        "experts_per_token"
    } else {
        "num_experts_per_tok"
    };
    let experts_per_token = fields.count(key, EXPERTS_MAX)?;
    if experts_per_token > experts {
        return Err(fields.wrong(key, format!("at most the number of experts, {experts}")));
    }
    Ok((experts, experts_per_token))
}

/// The layers' kinds; without `layer_types` they alternate, sliding first.
fn read_layers(fields: ConfigFields<'_>) -> Result<Vec<KvGroup>, CheckpointError> {
    let layers = fields.count("num_hidden_layers", LAYERS_MAX)?;
    let Some(value) = fields.get("layer_types") else {
        let kind = |layer: usize| if layer.is_multiple_of(2) { KvGroup::Sliding } else { KvGroup::Global };
        return Ok((0..layers).map(kind).collect());
    };
    let expected = format!("a list of {layers} strings (num_hidden_layers), each sliding_attention or full_attention");
    let kinds = value.as_array().filter(|kinds| kinds.len() == layers);
    let kind = |value: &Value| match value.as_str() {
        Some("sliding_attention") => Some(KvGroup::Sliding),
        Some("full_attention") => Some(KvGroup::Global),
        _ => None,
    };
    let kinds = kinds.and_then(|kinds| kinds.iter().map(kind).collect::<Option<Vec<_>>>());
    kinds.ok_or_else(|| fields.wrong("layer_types", expected))
}

/// The window of sliding layers; `null` is allowed where no layer needs it, and then is the whole
/// context.
fn read_window(fields: ConfigFields<'_>, layers: &[KvGroup], context_tokens: usize) -> Result<usize, CheckpointError> {
    const KEY: &str = "sliding_window";
    if fields.is_present(KEY) && fields.get(KEY).is_none() {
        if layers.contains(&KvGroup::Sliding) {
            return Err(fields.wrong(KEY, "a number of tokens, as layer_types has sliding layers"));
        }
        return Ok(context_tokens);
    }
    fields.count_or(KEY, 128, CONTEXT_MAX)
}

/// `eos_token_id`: one token or a list of them, each within the vocabulary.
fn read_eos(fields: ConfigFields<'_>, vocab_size: usize) -> Result<Vec<TokenId>, CheckpointError> {
    const KEY: &str = "eos_token_id";
    let Some(value) = fields.get(KEY) else { return Ok(Vec::new()) };
    let single = std::slice::from_ref(value);
    let ids = value.as_array().map_or(single, Vec::as_slice);
    let token = |id: &Value| {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok())?;
        ((id as usize) < vocab_size).then_some(TokenId(id))
    };
    let tokens: Option<Vec<_>> = ids.iter().map(token).collect();
    tokens.ok_or_else(|| fields.wrong(KEY, format!("a token id, or a list of them, each below vocab_size, {vocab_size}")))
}

/// A number above 0 and at most `max`, or `default` if absent.
fn positive(fields: ConfigFields<'_>, key: &str, default: f64, max: f64) -> Result<f32, CheckpointError> {
    let within = |number: f64| (1e-30..=max).contains(&number);
    Ok(fields.number(key, &format!("a number above 0, at most {max}"), within)?.unwrap_or(default) as f32)
}
