//! Rotary embedding as config.json states it, in the spellings of transformers 4 and 5.
//!
//! Source: `modeling_rope_utils.py` of transformers 5.23. Kinds whose frequencies depend on a
//! sequence's length (`dynamic`, `longrope`) are refused: keys that are stored already would have
//! to turn again.

use super::CONTEXT_MAX;
use super::fields::ConfigFields;
use crate::engine::checkpoint::CheckpointError;
use antiphon_kernels::rope::{RopeScaling, Yarn};

/// Largest factor or base that is believed.
const HUGE: f64 = 1e12;
/// `default_theta` of transformers' `GptOssConfig`.
const THETA_DEFAULT: f64 = 150_000.0;
/// What [`is_above_zero`] accepts.
const ABOVE_ZERO: &str = "a number above 0";

fn is_above_zero(number: f64) -> bool {
    (1e-12..=HUGE).contains(&number)
}

/// Rotary embedding of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies, above one.
    pub theta: f64,
    /// How they are changed for contexts longer than the model was first trained on.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Reads `rope_scaling` (transformers 4) or `rope_parameters` (5), with `rope_theta` beside or
    /// inside.
    ///
    /// Without either, or with `null`, it is what transformers 5 then takes for GPT-OSS: YaRN 32
    /// over 4,096.
    pub(super) fn read(config: ConfigFields<'_>, context_tokens: usize) -> Result<Self, CheckpointError> {
        let beside = read_theta(config)?;
        check_whole_heads(config)?;
        let scaling = config.object("rope_scaling")?.filter(|fields| !fields.is_empty());
        let Some(fields) = scaling.map_or_else(|| config.object("rope_parameters"), |fields| Ok(Some(fields)))? else {
            let yarn = Yarn { truncate: false, ..Yarn::new(32.0, 4096) };
            return Ok(Self { theta: beside.unwrap_or(THETA_DEFAULT), scaling: RopeScaling::Yarn(yarn) });
        };
        check_whole_heads(fields)?;
        let theta = read_theta(fields)?.or(beside).unwrap_or(THETA_DEFAULT);
        Ok(Self { theta, scaling: read_scaling(config, fields, context_tokens)? })
    }
}

/// A base must be above 1, or the pairs would not slow down.
fn read_theta(fields: ConfigFields<'_>) -> Result<Option<f64>, CheckpointError> {
    fields.number("rope_theta", "a number above 1", |theta| theta > 1.0 && theta <= HUGE)
}

/// GPT-OSS turns every pair of a head.
fn check_whole_heads(fields: ConfigFields<'_>) -> Result<(), CheckpointError> {
    fields.number("partial_rotary_factor", "1, as GPT-OSS turns whole heads", |factor| factor == 1.0).map(|_| ())
}

/// How many times longer the context became.
fn read_factor(fields: ConfigFields<'_>) -> Result<Option<f64>, CheckpointError> {
    fields.number("factor", "a number of at least 1", |factor| (1.0..=HUGE).contains(&factor))
}

/// Reads the object that names the kind.
fn read_scaling(
    config: ConfigFields<'_>,
    fields: ConfigFields<'_>,
    context_tokens: usize,
) -> Result<RopeScaling, CheckpointError> {
    for kind in ["sliding_attention", "full_attention"] {
        if fields.is_present(kind) {
            return Err(fields.wrong(kind, "nothing, as GPT-OSS turns all its layers alike"));
        }
    }
    let kind_key = if fields.is_present("rope_type") { "rope_type" } else { "type" };
    let factor = || read_factor(fields)?.ok_or_else(|| fields.wrong("factor", "a number of at least 1"));
    match fields.text(kind_key)?.unwrap_or("default") {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "yarn" => read_yarn(config, fields, context_tokens).map(RopeScaling::Yarn),
        "llama3" => {
            let part = |key| {
                let found = fields.number(key, ABOVE_ZERO, is_above_zero)?;
                found.ok_or_else(|| fields.wrong(key, ABOVE_ZERO))
            };
            let (low_freq_factor, high_freq_factor) = (part("low_freq_factor")?, part("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(fields.wrong("high_freq_factor", format!("more than low_freq_factor, {low_freq_factor}")));
            }
            let original_context_tokens = original_context(config, fields, context_tokens)?;
            Ok(RopeScaling::Llama3 { factor: factor()?, low_freq_factor, high_freq_factor, original_context_tokens })
        }
        _ => Err(fields.wrong(kind_key, "default, linear, yarn or llama3")),
    }
}

/// Reads YaRN's keys. Zero for a beta means its default, as in transformers.
fn read_yarn(config: ConfigFields<'_>, fields: ConfigFields<'_>, context_tokens: usize) -> Result<Yarn, CheckpointError> {
    let original = original_context(config, fields, context_tokens)?;
    let ratio = context_tokens as f64 / original as f64;
    let mut yarn = Yarn::new(read_factor(fields)?.unwrap_or(ratio), original);
    let at_least_zero = |number: f64| (0.0..=HUGE).contains(&number);
    let stated = |key| Ok(fields.number(key, "a number of at least 0", at_least_zero)?.filter(|number| *number != 0.0));
    yarn.beta_fast = stated("beta_fast")?.unwrap_or(yarn.beta_fast);
    yarn.beta_slow = stated("beta_slow")?.unwrap_or(yarn.beta_slow);
    yarn.truncate = fields.flag_or("truncate", yarn.truncate)?;
    yarn.attention_factor = fields.number("attention_factor", ABOVE_ZERO, is_above_zero)?;
    yarn.mscale = stated("mscale")?;
    yarn.mscale_all_dim = stated("mscale_all_dim")?;
    Ok(yarn)
}

/// The length of the first training: beside the object, inside it, or the whole context.
fn original_context(
    config: ConfigFields<'_>,
    fields: ConfigFields<'_>,
    context_tokens: usize,
) -> Result<usize, CheckpointError> {
    const KEY: &str = "original_max_position_embeddings";
    if config.get(KEY).is_some() {
        return config.count(KEY, CONTEXT_MAX);
    }
    fields.count_or(KEY, context_tokens, CONTEXT_MAX)
}
