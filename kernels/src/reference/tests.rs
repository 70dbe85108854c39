//! Each twin against numbers worked out by hand or by PyTorch; the goldens of whole models are the
//! engine's tests.

use super::*;
use crate::kv::{KvLayout, KvMemory, KvSlice};
use crate::rope::{Angles, Rope, RopeScaling};
use crate::weights::{Bf16Matrix, Experts, Mxfp4Matrix, Mxfp4Stack, Routes, SwiGlu};

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{got} is not {expected}");
    }
}

#[test]
fn bf16_is_the_upper_half_of_f32() {
    let bytes = [0x80, 0x3f, 0x00, 0xc0, 0x01, 0x00, 0x80, 0xff, 0xc0, 0x7f];
    let values = bf16_to_f32(&bytes);
    assert_eq!(values[..4], [1.0, -2.0, f32::from_bits(0x1_0000), f32::NEG_INFINITY]);
    assert!(values[4].is_nan());
}

#[test]
fn mxfp4_values_and_scales() {
    // Every nibble once in order, then every nibble once in order at twice the scale.
    let codes: Vec<u8> = (0..8).map(|pair| (2 * pair) | ((2 * pair + 1) << 4)).collect();
    let blocks: Vec<u8> = codes.iter().chain(&codes).copied().collect();
    let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for (scale, factor) in [(127, 1.0), (128, 2.0), (120, 1.0 / 128.0), (0, 2f32.powi(-127)), (254, 2f32.powi(127))] {
        let values = mxfp4_to_f32(&Mxfp4Matrix::new(&blocks, &[scale], 1, 32).unwrap());
        for (code, value) in values.iter().take(16).enumerate() {
            let sign = if code < 8 { 1.0 } else { -1.0 };
            assert_eq!(*value, sign * magnitudes[code % 8] * factor, "code {code}, scale {scale}");
        }
        assert_eq!(values[..16], values[16..]);
    }
    let nan = mxfp4_to_f32(&Mxfp4Matrix::new(&blocks, &[255], 1, 32).unwrap());
    assert!(nan.iter().all(|value| value.is_nan()));
}

#[test]
fn rounding_to_int8_keeps_a_scale_for_each_block_of_a_row() {
    // 127 keeps the integers as they are; the second row and the second block of a row have scales
    // of their own.
    let mut x = vec![0.0; 2 * 34];
    (x[0], x[1], x[2], x[32], x[33]) = (127.0, -3.4, 0.5, 0.254, 0.0015);
    (x[34], x[35]) = (-1270.0, 4.0);
    let rounded = int8_activations(&x, 34);
    assert_close(&rounded[..3], &[127.0, -3.0, 0.0]);
    assert_close(&rounded[32..36], &[0.254, 0.002, -1270.0, 0.0]);
    // What eight bits lose beside a large value, sixteen keep.
    let mut x = vec![0.0; 32];
    (x[0], x[1]) = (32_512.0, 2.4);
    assert_eq!(int8_activations(&x, 32)[1], 0.0);
    assert_close(&int16_activations(&x, 32)[..2], &[32_512.0, 2.0]);
    // 254 and 2 are exact in bf16, and so is their scale of 2.
    let bytes: Vec<u8> = [254.0, 3.0, -2.0, 0.0].map(|value| half::bf16::from_f32(value).to_le_bytes()).concat();
    assert_eq!(int8_weights(&bytes, 4), [254.0, 4.0, -2.0, 0.0]);
}

#[test]
fn dense_operations() {
    assert_eq!(embed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, &[2, 0]), [5.0, 6.0, 1.0, 2.0]);
    // mean of squares 12.5, plus 12.5 as eps: divided by 5.
    assert_close(&rms_norm(&[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0], 12.5), &[0.6, 1.6, 0.0, 0.0]);
    let weight = [1.0, 2.0, 3.0, 0.0, -1.0, 1.0];
    assert_eq!(linear(&[1.0, 1.0, 1.0, 2.0, 0.0, 1.0], &weight, 3, Some(&[10.0, 20.0])), [16.0, 20.0, 15.0, 21.0]);
    assert_eq!(linear(&[1.0, 1.0, 1.0], &weight, 3, None), [6.0, 0.0]);
    let mut x = [1.0, 2.0];
    add(&mut x, &[0.5, -2.0]);
    assert_eq!(x, [1.5, 0.0]);
    let logprobs = log_softmax(&[0.0, 3f32.ln(), f32::NEG_INFINITY]);
    assert_close(&logprobs[..2], &[0.25f32.ln(), 0.75f32.ln()]);
    assert_eq!(logprobs[2], f32::NEG_INFINITY);
    assert!(log_softmax(&[0.0, f32::NAN]).iter().all(|value| value.is_nan()));
}

#[test]
fn rotary_turns_halves() {
    let rope = Rope { concentration: 2.0, ..Rope::new(10_000.0, 4, &RopeScaling::Default) };
    let angles = Angles::new(&rope, &[0, 5]);
    let mut x = [1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 0.0, 1.0];
    rotary(&mut x, 1, 4, &angles);
    let (fast, slow) = (5f32, 0.05f32);
    assert_close(&x[..4], &[2.0, 4.0, 6.0, 8.0]);
    assert_close(&x[4..], &[2.0 * fast.cos(), -2.0 * slow.sin(), 2.0 * fast.sin(), 2.0 * slow.cos()]);
}

/// Two query heads on one KV head of two dimensions, three stored tokens whose keys pick the
/// query's first value.
fn small_memory() -> KvMemory {
    let mut memory = KvMemory::new(KvLayout { blocks: 3, block_tokens: 2, kv_heads: 1, head_dim: 2 });
    let slice = KvSlice { rows: 0..3, start: 0, blocks: &[2, 0], first_block: 0 };
    let keys = [0.0, 0.0, 2f32.sqrt(), 0.0, 2.0 * 2f32.sqrt(), 0.0];
    memory.store(&[slice], &keys, &[1.0, 0.0, 0.0, 1.0, 5.0, 5.0]);
    memory
}

#[test]
fn attention_with_sink_causality_and_window() {
    let memory = small_memory();
    let slice = KvSlice { rows: 0..1, start: 1, blocks: &[2, 0], first_block: 0 };
    // Scores 0 and ln 3 for the first head, 0 and 0 for the second; the sinks weigh 1 and 2.
    let q = [3f32.ln(), 7.0, 0.0, 7.0];
    let sinks = [0.0, 2f32.ln()];
    let out = attention(&q, &sinks, None, &memory, std::slice::from_ref(&slice));
    assert_close(&out, &[0.2, 0.6, 0.25, 0.25]);
    let out = attention(&q, &sinks, Some(1), &memory, std::slice::from_ref(&slice));
    assert_close(&out, &[0.0, 0.75, 0.0, 1.0 / 3.0]);
    // The third token's window of one lies in the table's second block; the first may be gone.
    let slice = KvSlice { rows: 0..1, start: 2, blocks: &[0], first_block: 1 };
    let out = attention(&[0.0, 0.0, 0.0, 0.0], &[0.0, 0.0], Some(1), &memory, &[slice]);
    assert_close(&out, &[2.5, 2.5, 2.5, 2.5]);
}

#[test]
fn routes_take_the_largest_and_the_first_among_equals() {
    let third = 1.0 / 3.0;
    let routes = route(&[0.0, 1.0, 1.0, -3.0, 1.0, /*  */ 2f32.ln(), 0.0, -0.0, 0.0, -9.0], 5, 3);
    assert_eq!(routes.experts, [1, 2, 4, 0, 1, 2]);
    assert_close(&routes.weights, &[third, third, third, 0.5, 0.25, 0.25]);
    let routes = route(&[0.0, f32::NAN, 9.0, f32::NAN], 4, 3);
    assert_eq!(routes.experts, [1, 3, 2]);
    assert!(routes.weights.iter().all(|weight| weight.is_nan()));
}

#[test]
fn swiglu_clamps_and_keeps_nan() {
    let activation = SwiGlu { alpha: 1.702, limit: 7.0 };
    let sigmoid = |x: f32| 1.0 / (1.0 + (-1.702 * x).exp());
    let x = [1.0, 2.0, 9.0, 9.0, -9.0, -9.0, 0.0, 3.0];
    let expected = [3.0 * sigmoid(1.0), 8.0 * 7.0 * sigmoid(7.0), -6.0 * -9.0 * sigmoid(-9.0), 0.0];
    assert_close(&swiglu(&x, activation), &expected);
    let nan = swiglu(&[f32::NAN, 1.0, 1.0, f32::NAN], activation);
    assert!(nan.iter().all(|value| value.is_nan()));
}

#[test]
fn experts_are_summed_by_weight() {
    // One block a row: the first value of each row is the nibble's, all others zero. Hidden and
    // intermediate are 32.
    let row = |nibble: u8| std::iter::once(nibble).chain([0; 15]);
    let gate_up: Vec<u8> = (0..2).flat_map(|_| row(2).chain(row(4)).chain((0..62).flat_map(|_| row(0)))).collect();
    let down: Vec<u8> = row(2).chain((0..31).flat_map(|_| row(0))).chain(row(4)).chain((0..31).flat_map(|_| row(0))).collect();
    let (gate_up_scales, down_scales) = ([127; 128], [127; 64]);
    let gate_up_bias = [0; 2 * 64 * 2];
    let mut down_bias = [0; 2 * 32 * 2];
    down_bias[64..66].copy_from_slice(&[0x80, 0x3f]);
    let weights = Experts::new(
        Mxfp4Stack::new(&gate_up, &gate_up_scales, 2, 64, 32).unwrap(),
        Bf16Matrix::new(&gate_up_bias, 2, 64).unwrap(),
        Mxfp4Stack::new(&down, &down_scales, 2, 32, 32).unwrap(),
        Bf16Matrix::new(&down_bias, 2, 32).unwrap(),
        SwiGlu::default(),
    )
    .unwrap();
    let mut x = [0.0; 32];
    x[0] = 1.5;
    // gate 1.5, up 3: the first expert gives the activation, the second twice that and its bias of
    // one.
    let inner = 4.0 * 1.5 / (1.0 + (-1.702f32 * 1.5).exp());
    assert_close(&expert(&x, &weights, 0)[..2], &[inner, 0.0]);
    assert_close(&expert(&x, &weights, 1)[..2], &[2.0 * inner + 1.0, 0.0]);
    let routes = Routes { top_k: 2, experts: vec![1, 0], weights: vec![0.75, 0.25] };
    assert_close(&experts(&x, &weights, &routes)[..2], &[0.75 * (2.0 * inner + 1.0) + 0.25 * inner, 0.0]);
}
