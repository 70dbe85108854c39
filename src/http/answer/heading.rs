//! What every answer carries beside its text: id, model, time, and the `metadata` object.

use serde::Serialize;

/// Tells which build answered.
pub(crate) const FINGERPRINT: &str = concat!("antiphon-", env!("CARGO_PKG_VERSION"));

/// The head of an answer and of each of its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heading {
    /// The request's id, which is the answer's.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The model's name, as the client asked for it.
    pub(crate) model: String,
    /// What the client calls the request.
    pub(crate) client_request_id: Option<String>,
}

/// The `metadata` object of an answer, or of a stream's last chunk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Metadata {
    /// `SYS/v1` or `SYS/v2`.
    pub(crate) prompt_version: String,
    /// The model's id.
    pub(crate) model_id: String,
    /// `20b`, `120b`, `tiny`.
    pub(crate) model_size: String,
    /// How the weights are stored.
    pub(crate) dtype: String,
    /// `none`, `single`.
    pub(crate) gpu_mode: String,
    /// The key of the built prompt.
    pub(crate) cache_key: String,
    /// Whether it was built before.
    pub(crate) cache_hit: bool,
    /// Tokens of the prompt as it came.
    pub(crate) tokens_before: usize,
    /// Tokens of the prompt as it was taken.
    pub(crate) tokens_after: usize,
    /// Whether it was cut, which only happens to one that asks for it.
    pub(crate) truncated: bool,
    /// How it was cut.
    pub(crate) truncation_info: Option<()>,
    /// How it was drawn.
    pub(crate) params: Params,
    /// Seconds since 1970.
    pub(crate) timestamp: u64,
    /// The request's id.
    pub(crate) request_id: String,
    /// What the client calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_request_id: Option<String>,
}

/// The parameters that the cache key is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Params {
    /// Zero is greedy.
    pub(crate) temperature: f64,
    /// In (0, 1].
    pub(crate) top_p: f64,
    /// Most tokens to generate, if the client said.
    pub(crate) max_tokens: Option<u32>,
    /// The seed, if the client gave one.
    pub(crate) seed: Option<i64>,
    /// Texts that end an answer.
    pub(crate) stop_sequences: Vec<String>,
}
