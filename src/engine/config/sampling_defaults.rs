//! What generation_config.json says: stop tokens and how the checkpoint's makers would sample.

use super::fields::ConfigFields;
use super::{GENERATION_FILE, parse_json, read_eos};
use crate::batch::TokenId;
use crate::engine::checkpoint::CheckpointError;

/// Stop tokens and sampling defaults of a checkpoint; `None` and empty where the file says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplingDefaults {
    /// Tokens that end a sequence.
    pub eos_tokens: Vec<TokenId>,
    /// Zero if the file says `do_sample: false`.
    pub temperature: Option<f64>,
    /// See [`crate::batch::Sampling::top_p`].
    pub top_p: Option<f64>,
    /// See [`crate::batch::Sampling::top_k`].
    pub top_k: Option<u32>,
    /// See [`crate::batch::Sampling::min_p`].
    pub min_p: Option<f32>,
    /// See [`crate::batch::Sampling::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
}

impl SamplingDefaults {
    /// Parses the text of generation_config.json.
    ///
    /// # Errors
    /// [`CheckpointError`] for text that is not JSON, and for a value that cannot be.
    pub fn parse(json: &[u8], vocab_size: usize) -> Result<Self, CheckpointError> {
        let value = parse_json(GENERATION_FILE, json)?;
        let fields = ConfigFields::new(GENERATION_FILE, &value)?;
        let share = |key| fields.number(key, "a number from 0 to 1", |found| (0.0..=1.0).contains(&found));
        let greedy = !fields.flag_or("do_sample", true)?;
        let temperature = fields.number("temperature", "a number from 0 to 1000", |found| (0.0..=1e3).contains(&found))?;
        let fits = |found: f64| found.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&found);
        let top_k = fields.number("top_k", "a whole number, 0 for no bound", fits)?;
        let penalty = fields.number("repetition_penalty", "a number above 0", |found| (1e-3..=1e3).contains(&found))?;
        Ok(Self {
            eos_tokens: read_eos(fields, vocab_size)?,
            temperature: if greedy { Some(0.0) } else { temperature },
            top_p: share("top_p")?.filter(|top_p| *top_p > 0.0),
            top_k: top_k.map(|found| found as u32),
            min_p: share("min_p")?.map(|found| found as f32),
            repetition_penalty: penalty.map(|found| found as f32),
        })
    }
}
