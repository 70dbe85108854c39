//! The embedded model layer by layer: Hugging Face's hidden states, a forward pass of the slow
//! twins, and the engine.

use super::driver::{Driver, Sequence};
use super::files::Golden;
use antiphon::batch::{Batch, KvGroup, TokenId};
use antiphon::engine::checkpoint::Checkpoint;
use antiphon::engine::config::ModelConfig;
use antiphon_kernels::kv::{KvLayout, KvMemory, KvSlice};
use antiphon_kernels::reference;
use antiphon_kernels::rope::{Angles, Rope};
use antiphon_kernels::weights::{Bf16Matrix, Experts, Mxfp4Stack, SwiGlu};

/// The residual stream before the first layer and after each layer, from the slow twins alone.
fn reference_stream(checkpoint: &Checkpoint, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let config = checkpoint.config();
    let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
    let table = reference::bf16_to_f32(&checkpoint.tensor("model.embed_tokens.weight"));
    let positions: Vec<usize> = (0..tokens.len()).collect();
    let angles = Angles::new(&Rope::new(config.rope.theta, config.head_dim, &config.rope.scaling), &positions);
    let mut stream = reference::embed(&table, config.hidden, &ids);
    let mut streams = vec![stream.clone()];
    for layer in 0..config.layers.len() {
        let attended = reference_attention(checkpoint, layer, &stream, &angles);
        reference::add(&mut stream, &attended);
        let added = reference_experts(checkpoint, layer, &stream);
        reference::add(&mut stream, &added);
        streams.push(stream.clone());
    }
    streams
}

fn name(layer: usize, rest: &str) -> String {
    format!("model.layers.{layer}.{rest}")
}

/// All tokens in one block: paging is the engine's affair.
fn reference_attention(checkpoint: &Checkpoint, layer: usize, stream: &[f32], angles: &Angles) -> Vec<f32> {
    let config = checkpoint.config();
    let ModelConfig { heads, kv_heads, head_dim, .. } = *config;
    let linear = |x: &[f32], projection: &str| {
        let weight = reference::bf16_to_f32(&checkpoint.tensor(&name(layer, &format!("self_attn.{projection}_proj.weight"))));
        let bias = checkpoint.vector(&name(layer, &format!("self_attn.{projection}_proj.bias")));
        reference::linear(x, &weight, weight.len() / bias.len(), Some(&bias))
    };
    let normed = reference::rms_norm(stream, &checkpoint.vector(&name(layer, "input_layernorm.weight")), config.rms_norm_eps);
    let (mut queries, mut keys, values) = (linear(&normed, "q"), linear(&normed, "k"), linear(&normed, "v"));
    reference::rotary(&mut queries, heads, head_dim, angles);
    reference::rotary(&mut keys, kv_heads, head_dim, angles);
    let tokens = stream.len() / config.hidden;
    let mut memory = KvMemory::new(KvLayout { blocks: 1, block_tokens: tokens, kv_heads, head_dim });
    let slices = [KvSlice { rows: 0..tokens, start: 0, blocks: &[0], first_block: 0 }];
    memory.store(&slices, &keys, &values);
    let window = (config.layers[layer] == KvGroup::Sliding).then_some(config.sliding_window_tokens);
    let sinks = checkpoint.vector(&name(layer, "self_attn.sinks"));
    linear(&reference::attention(&queries, &sinks, window, &memory, &slices), "o")
}

fn reference_experts(checkpoint: &Checkpoint, layer: usize, stream: &[f32]) -> Vec<f32> {
    let config = checkpoint.config();
    let (hidden, inner, count) = (config.hidden, config.intermediate, config.experts);
    let norm = checkpoint.vector(&name(layer, "post_attention_layernorm.weight"));
    let normed = reference::rms_norm(stream, &norm, config.rms_norm_eps);
    let router = reference::bf16_to_f32(&checkpoint.tensor(&name(layer, "mlp.router.weight")));
    let router_bias = checkpoint.vector(&name(layer, "mlp.router.bias"));
    let scores = reference::linear(&normed, &router, hidden, Some(&router_bias));
    let routes = reference::route(&scores, count, config.experts_per_token);
    let tensor = |rest: &str| checkpoint.tensor(&name(layer, &format!("mlp.experts.{rest}")));
    let (up_blocks, up_scales, up_bias) =
        (tensor("gate_up_proj_blocks"), tensor("gate_up_proj_scales"), tensor("gate_up_proj_bias"));
    let (down_blocks, down_scales, down_bias) =
        (tensor("down_proj_blocks"), tensor("down_proj_scales"), tensor("down_proj_bias"));
    let experts = Experts::new(
        Mxfp4Stack::new(&up_blocks, &up_scales, count, 2 * inner, hidden).unwrap(),
        Bf16Matrix::new(&up_bias, count, 2 * inner).unwrap(),
        Mxfp4Stack::new(&down_blocks, &down_scales, count, hidden, inner).unwrap(),
        Bf16Matrix::new(&down_bias, count, hidden).unwrap(),
        SwiGlu { alpha: config.swiglu_alpha, limit: config.swiglu_limit },
    );
    reference::experts(&normed, &experts.unwrap(), &routes)
}

/// The residual stream as the engine shows it.
fn engine_stream(golden: &Golden, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let mut driver = Driver::new(golden, 2);
    let mut batch = Batch::default();
    driver.add(&mut batch, &mut Sequence::new(tokens), tokens.len(), None);
    let mut streams = Vec::new();
    driver.engine.inspect(
        &batch,
        &mut |layer, stream| {
            assert_eq!(layer, streams.len());
            streams.push(stream.to_vec());
        },
        &mut |_, _| {},
    );
    streams
}

/// The largest difference relative to the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    a.iter().zip(b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn every_layer_agrees() {
    let golden = Golden::tiny_logits();
    let config = golden.checkpoint.config();
    let norm = golden.checkpoint.vector("model.norm.weight");
    for case in &golden.cases {
        let slow = reference_stream(&golden.checkpoint, &case.prompt);
        let fast = engine_stream(&golden, &case.prompt);
        assert_eq!((slow.len(), case.hidden.len()), (fast.len(), fast.len()), "one for each layer and the embedding");
        for (layer, expected) in case.hidden.iter().enumerate() {
            assert!(difference(&fast[layer], &slow[layer]) < 2e-5, "{}: layer {layer} against its twin", case.name);
            // Hugging Face shows the last stream behind the last norm.
            let is_last = layer + 1 == case.hidden.len();
            let shown =
                if is_last { reference::rms_norm(&fast[layer], &norm, config.rms_norm_eps) } else { fast[layer].clone() };
            let off = difference(&shown, expected);
            assert!(off < 2e-5, "{}: layer {layer} differs from Hugging Face's by {off}", case.name);
        }
    }
}
