//! The models in the binary: estimates from the roof of a GPU and the shape of gpt-oss.
//!
//! A device's figures are what is reached, not what its data sheet promises. On an H200 a copy
//! reached 4.3 of 4.8 TB/s, and a library's product of 8,192 reached 790 of 989 TFLOP/s
//! (`docs/gpu.md`); the other devices are assumed to reach the same shares, 0.9 and 0.8.
//! What a step takes besides is assumed: 300 µs, for the gaps between some 250 launches.

use super::file::Figure;
use super::{CostKind, CostModel, EngineShape, RequestCosts, RoofCosts, StepCosts, answer_tokens};

/// A GPU, as its data sheet has it.
struct GpuSheet {
    name: &'static str,
    /// Memory that can be taken, in 10^9 bytes.
    memory_gb: f64,
    /// Bandwidth that is reached, in 10^9 bytes a second.
    reached_gb_per_s: f64,
    /// Operations with bf16 and without sparsity that are reached, in 10^12 a second.
    reached_tflop_per_s: f64,
    source: &'static str,
}

const GPUS: [GpuSheet; 3] = [
    GpuSheet {
        name: "h100",
        memory_gb: 80.0,
        reached_gb_per_s: 0.9 * 3_350.0,
        reached_tflop_per_s: 790.0,
        source: "NVIDIA H100 SXM data sheet: 80 GB, 3.35 TB/s, 989 TFLOP/s of bf16",
    },
    GpuSheet {
        name: "h200",
        memory_gb: 141.0,
        reached_gb_per_s: 4_300.0,
        reached_tflop_per_s: 790.0,
        source: "NVIDIA H200 SXM data sheet: 141 GB, 4.8 TB/s, 989 TFLOP/s of bf16",
    },
    GpuSheet {
        name: "b200",
        memory_gb: 180.0,
        reached_gb_per_s: 0.9 * 8_000.0,
        reached_tflop_per_s: 0.8 * 2_250.0,
        source: "NVIDIA HGX B200 data sheet, a GPU's eighth: 180 GB, 8 TB/s, 2,250 TFLOP/s of bf16",
    },
];

/// A model of OpenAI's, as its `config.json` has it.
struct ModelSheet {
    name: &'static str,
    layers: f64,
    experts: f64,
}

const MODELS: [ModelSheet; 2] =
    [ModelSheet { name: "20b", layers: 24.0, experts: 32.0 }, ModelSheet { name: "120b", layers: 36.0, experts: 128.0 }];

// What both have in common, of config.json: hidden and intermediate 2,880, 64 query heads and 8 of
// keys and values of 64 values each, a vocabulary of 201,088, 4 experts a token.
const HIDDEN: f64 = 2_880.0;
const QUERY_WIDTH: f64 = 64.0 * 64.0;
const KV_WIDTH: f64 = 8.0 * 64.0;
const VOCABULARY: f64 = 201_088.0;
const EXPERTS_PER_TOKEN: f64 = 4.0;
const WINDOW_TOKENS: f64 = 128.0;
const BYTES_OF_BF16: f64 = 2.0;
/// MXFP4: 32 values of 4 bits and a scale of 8.
const BYTES_OF_MXFP4: f64 = 17.0 / 32.0;
/// The share of a GPU's memory that `serve` takes unless told otherwise.
const MEMORY_SHARE: f64 = 0.9;
/// What a step computes with, in bytes.
const SCRATCH_BYTES: f64 = 2e9;
const FIXED_US: f64 = 300.0;

/// The names of all of them.
#[must_use]
pub fn built_in_names() -> Vec<String> {
    GPUS.iter().flat_map(|gpu| MODELS.iter().map(|model| format!("{}-{}", gpu.name, model.name))).collect()
}

/// The model of this name.
pub(super) fn model(name: &str) -> Option<CostModel> {
    let (gpu, model) = name.split_once('-')?;
    Some(estimate(GPUS.iter().find(|known| known.name == gpu)?, MODELS.iter().find(|known| known.name == model)?))
}

fn estimate(gpu: &GpuSheet, model: &ModelSheet) -> CostModel {
    let attention = HIDDEN * (QUERY_WIDTH + 2.0 * KV_WIDTH) + QUERY_WIDTH * HIDDEN;
    let expert = 3.0 * HIDDEN * HIDDEN;
    let dense_bytes = BYTES_OF_BF16 * (model.layers * (attention + HIDDEN * model.experts) + VOCABULARY * HIDDEN);
    let expert_bytes = BYTES_OF_MXFP4 * model.layers * model.experts * expert;
    // The embedding is in memory too, and hardly read.
    let weights_bytes = dense_bytes + expert_bytes + BYTES_OF_BF16 * VOCABULARY * HIDDEN;
    // Every other layer sees everything, the others a window.
    let group_token_bytes = model.layers / 2.0 * 2.0 * KV_WIDTH * BYTES_OF_BF16;
    let kv_bytes = (gpu.memory_gb * 1e9 * MEMORY_SHARE - weights_bytes - SCRATCH_BYTES).max(0.0);
    let whole = |value: f64| Figure(value.round());
    CostModel {
        name: format!("{}-{}", gpu.name, model.name),
        kind: CostKind::Estimate,
        source: format!(
            "not measured: an estimate from the roof of the GPU ({}; 0.9 of the bytes and 0.8 of the operations are reached, as on an \
             H200) and config.json of gpt-oss-{}; {FIXED_US} us a step are assumed besides",
            gpu.source, model.name
        ),
        step: StepCosts { fixed_us: Figure(FIXED_US), ..StepCosts::default() },
        roof: Some(RoofCosts {
            memory_gb_per_s: whole(gpu.reached_gb_per_s),
            tflop_per_s: whole(gpu.reached_tflop_per_s),
            dense_bytes: whole(dense_bytes),
            expert_bytes: whole(expert_bytes),
            experts: whole(model.experts),
            experts_per_token: whole(EXPERTS_PER_TOKEN),
            token_flop: whole(2.0 * model.layers * (attention + EXPERTS_PER_TOKEN * expert)),
            // Scores and values: two products, an addition and a multiplication each.
            pair_flop: whole(4.0 * QUERY_WIDTH * model.layers / 2.0),
            context_token_bytes: whole(group_token_bytes),
            sequence_bytes: whole(WINDOW_TOKENS * group_token_bytes),
        }),
        request: RequestCosts::default(),
        engine: EngineShape {
            kv_bytes: whole(kv_bytes),
            global_blocks: None,
            sliding_blocks: None,
            block_tokens: Figure(16.0),
            global_token_bytes: whole(group_token_bytes),
            sliding_token_bytes: whole(group_token_bytes),
            sliding_window_tokens: whole(WINDOW_TOKENS),
            context_tokens_max: Figure(131_072.0),
            steps_max: Figure(2.0),
            answer_tokens: answer_tokens(),
        },
    }
}
