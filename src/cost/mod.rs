//! How long a step takes on some machine: the cost model.
//!
//! Owns: the model's terms, its file, the models in the binary, and the fit to steps of a server.
//! Promises: a figure that is no number of its kind, or a key that is not known, is an error with
//! file and line; the same steps give the same fit. Absent on purpose: clocks and engines; what
//! waits as long as a model says is `engine::simulated`, what plans with it is `capacity`.
//!
//! A step takes `fixed + work + max(bytes / bandwidth, operations / rate)`: a linear part, which a
//! fit finds, and a roof, which follows from a device's data sheet. A model has either or both.

mod built_in;
mod file;
mod fit;
mod timeline;

pub use built_in::built_in_names;
pub use file::Figure;
pub use fit::{FitQuality, fit};
pub use timeline::{ObservedStep, ObservedSteps};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::batch::StepWork;

/// Why there is no cost model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// Neither a built-in name nor a file.
    #[error("no cost model `{name}`; expected {} or the path of a .toml file", built_in_names().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The file cannot be read.
    #[error("cost model {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not say what a cost model says.
    #[error("cost model {name}, line {line}: {message}")]
    Invalid {
        /// The file.
        name: String,
        /// Where, counted from one.
        line: usize,
        /// What was found, and what was expected.
        message: String,
    },
    /// What should be a timeline is none.
    #[error("{place}: {message}; expected what /debug/timeline of an antiphon server answers")]
    Timeline {
        /// The file or the server.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// There are too few steps to fit a model to.
    #[error(
        "{steps} steps that can be used; expected at least {expected}: load the server first, with prompts of several lengths"
    )]
    TooFewSteps {
        /// How many there are.
        steps: usize,
        /// How many are needed.
        expected: usize,
    },
}

/// What a cost model's figures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CostKind {
    /// Computed from a device's data sheet and a model's shape; nothing was measured.
    Estimate,
    /// Fitted to steps that a server recorded.
    Fit,
}

impl CostKind {
    /// As it stands in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Estimate => "estimate",
            Self::Fit => "fit",
        }
    }
}

/// Microseconds of a step, by what it computes.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepCosts {
    /// Of every step.
    pub fixed_us: Figure,
    /// A token of a prompt.
    pub prefill_token_us: Figure,
    /// A sequence that decodes.
    pub decode_sequence_us: Figure,
    /// A position that a slice reads: [`StepWork::context_tokens`].
    pub context_token_us: Figure,
    /// A pair of a prefilled token and a position that it sees: [`StepWork::prefill_pairs`].
    pub prefill_pair_us: Figure,
}

impl StepCosts {
    /// The terms, in the order of [`terms`].
    pub(crate) fn from_terms(terms: [f64; TERMS]) -> Self {
        let [fixed_us, prefill_token_us, decode_sequence_us, context_token_us, prefill_pair_us] = terms.map(Figure);
        Self { fixed_us, prefill_token_us, decode_sequence_us, context_token_us, prefill_pair_us }
    }

    fn micros(&self, work: &StepWork) -> f64 {
        let costs =
            [self.fixed_us, self.prefill_token_us, self.decode_sequence_us, self.context_token_us, self.prefill_pair_us];
        costs.iter().zip(terms(work)).map(|(cost, count)| cost.0 * count).sum()
    }
}

impl Default for StepCosts {
    fn default() -> Self {
        Self::from_terms([0.0; TERMS])
    }
}

/// Terms of the linear part.
pub(crate) const TERMS: usize = 5;

/// How often each term of [`StepCosts`] counts in a step.
fn terms(work: &StepWork) -> [f64; TERMS] {
    let counts = [work.prefill_tokens, work.decode_sequences, work.context_tokens, work.prefill_pairs];
    let [prefill, decode, context, pairs] = counts.map(|count| count as f64);
    [1.0, prefill, decode, context, pairs]
}

/// What bounds a step on a device that reads weights and multiplies: bytes or operations, whichever
/// takes longer.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RoofCosts {
    /// Memory bandwidth that is reached, in 10^9 bytes a second.
    pub memory_gb_per_s: Figure,
    /// Operations that are reached, in 10^12 a second.
    pub tflop_per_s: Figure,
    /// Weights that every step reads, in bytes.
    pub dense_bytes: Figure,
    /// Weights of all experts of all layers, in bytes; a step reads those that its tokens go to.
    pub expert_bytes: Figure,
    /// Experts of a layer.
    pub experts: Figure,
    /// Experts of a layer that a token goes to.
    pub experts_per_token: Figure,
    /// Operations of a token, attention left out.
    pub token_flop: Figure,
    /// Operations of attention for a pair of a token and a position that it sees.
    pub pair_flop: Figure,
    /// Keys and values of a position in the layers that see everything, in bytes.
    pub context_token_bytes: Figure,
    /// Keys and values that a sequence reads in the layers that see a window, in bytes.
    pub sequence_bytes: Figure,
}

impl RoofCosts {
    fn micros(&self, work: &StepWork) -> f64 {
        let tokens = work.tokens() as f64;
        // A router that spreads tokens evenly: an expert is missed by all with this probability.
        let missed = (1.0 - self.experts_per_token.0 / self.experts.0.max(1.0)).max(0.0);
        let touched = 1.0 - missed.powf(tokens);
        let keys = work.context_tokens as f64 * self.context_token_bytes.0 + tokens * self.sequence_bytes.0;
        let bytes = self.dense_bytes.0 + self.expert_bytes.0 * touched + keys;
        let flop = tokens * self.token_flop.0 + work.prefill_pairs as f64 * self.pair_flop.0;
        // 10^9 bytes a second are 10^3 a microsecond; 10^12 operations are 10^6.
        (bytes / (self.memory_gb_per_s.0 * 1e3)).max(flop / (self.tflop_per_s.0 * 1e6))
    }
}

/// What a request takes before the scheduler sees it: to be parsed and tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestCosts {
    /// Of every request, in microseconds.
    pub fixed_us: Figure,
    /// A token of its prompt, in microseconds.
    pub prompt_token_us: Figure,
}

impl RequestCosts {
    /// Microseconds until a request with a prompt of so many tokens is in the queue.
    #[must_use]
    pub fn micros(&self, prompt_tokens: usize) -> u64 {
        (self.fixed_us.0 + self.prompt_token_us.0 * prompt_tokens as f64).round() as u64
    }
}

/// The memory for keys and values, and how many steps the engine takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EngineShape {
    /// Memory for keys and values, in bytes.
    pub kv_bytes: Figure,
    /// Blocks for the layers that see everything, and for those that see a window, where they are
    /// known; else they follow from the memory and the profile.
    pub global_blocks: Option<Figure>,
    /// See there.
    pub sliding_blocks: Option<Figure>,
    /// Tokens of a block.
    pub block_tokens: Figure,
    /// A token's keys and values in the layers that see everything, in bytes.
    pub global_token_bytes: Figure,
    /// The same in the layers that see a window.
    pub sliding_token_bytes: Figure,
    /// Tokens of that window.
    pub sliding_window_tokens: Figure,
    /// Most tokens of a sequence.
    pub context_tokens_max: Figure,
    /// Steps that may be under way: 2 if the next is planned while one is computed.
    pub steps_max: Figure,
    /// Tokens after which a made-up answer ends by itself (`--device sim`).
    #[serde(default = "answer_tokens")]
    pub answer_tokens: Figure,
}

/// Tokens of a made-up answer, unless a file says otherwise.
fn answer_tokens() -> Figure {
    Figure(256.0)
}

/// How long a machine takes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CostModel {
    /// What it is called.
    pub name: String,
    /// Whether its figures were measured.
    pub kind: CostKind,
    /// Where they come from.
    pub source: String,
    /// The linear part of a step.
    #[serde(default)]
    pub step: StepCosts,
    /// What bounds it besides.
    pub roof: Option<RoofCosts>,
    /// What comes before a step.
    #[serde(default)]
    pub request: RequestCosts,
    /// What the engine has room for.
    pub engine: EngineShape,
}

impl CostModel {
    /// Microseconds of a step; at least one.
    #[must_use]
    pub fn step_micros(&self, work: &StepWork) -> u64 {
        let micros = self.step.micros(work) + self.roof.map_or(0.0, |roof| roof.micros(work));
        (micros.round() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(prefill_tokens: u64, decode_sequences: u64, context_tokens: u64) -> StepWork {
        StepWork { prefill_tokens, decode_sequences, context_tokens, prefill_pairs: 0 }
    }

    /// The roof of `docs/performance.md` for an H200: 1,150 and 10,200 tokens/s with 1 and 32
    /// sequences of 1,024 tokens, from 4.3 TB/s and 790 TFLOP/s.
    #[test]
    fn the_roof_of_gpt_oss_20b_is_that_of_the_page() {
        let model = CostModel::load("h200-20b").expect("it is built in");
        let roof = model.roof.expect("it has a roof");
        for (sequences, tokens_per_s) in [(1, 1_150.0), (32, 10_200.0), (256, 52_818.0)] {
            let micros = roof.micros(&work(0, sequences, sequences * 1_024));
            let found = sequences as f64 / micros * 1e6;
            assert!((found / tokens_per_s - 1.0).abs() < 0.06, "{sequences}: {found} tokens/s, {tokens_per_s} expected");
        }
    }

    #[test]
    fn more_work_takes_longer_and_a_long_prompt_is_bound_by_operations() {
        for name in built_in_names() {
            let model = CostModel::load(&name).expect("it is built in");
            let time = |work| model.step_micros(&work);
            let order = [work(0, 1, 100), work(0, 8, 800), work(0, 64, 6_400), work(2_048, 64, 8_448), work(8_192, 64, 14_592)];
            assert!(order.map(time).is_sorted_by(|one, other| one < other), "{name}: {:?}", order.map(time));
            let roof = model.roof.expect("it has a roof");
            let bytes = RoofCosts { tflop_per_s: Figure(1e9), ..roof };
            let long = work(8_192, 0, 8_192);
            assert!(roof.micros(&long) > bytes.micros(&long), "{name}");
            assert!(model.source.contains("not measured") && model.kind == CostKind::Estimate, "{name}");
        }
    }
}
