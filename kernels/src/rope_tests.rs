//! The expected numbers were printed by `transformers` 5.23 (`GptOssRotaryEmbedding` in float32).

use super::*;

/// Asserts equality within two units in the last place: `powf` of two mathematics libraries may
/// differ by one.
fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (pair, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= 2.4e-7 * expected.abs(), "pair {pair}: {got} is not {expected}");
    }
}

fn gpt_oss() -> Yarn {
    Yarn { truncate: false, ..Yarn::new(32.0, 4096) }
}

fn short() -> Yarn {
    Yarn { truncate: false, ..Yarn::new(8.0, 48) }
}

#[test]
fn default_and_linear() {
    let rope = Rope::new(10000.0, 8, &RopeScaling::Default);
    assert_close(&rope.frequencies, &[1.0, 0.1, 0.01, 0.001]);
    assert_eq!(rope.concentration, 1.0);
    let rope = Rope::new(10000.0, 8, &RopeScaling::Linear { factor: 4.0 });
    assert_close(&rope.frequencies, &[0.25, 0.025, 0.0025, 0.00025]);
}

#[test]
fn yarn_as_in_gpt_oss() {
    let rope = Rope::new(150_000.0, 16, &RopeScaling::Yarn(gpt_oss()));
    let expected =
        [1.0, 0.225_418, 0.050_813_273, 0.006_794_959_3, 0.000_456_483_92, 1.818_833_7e-5, 4.099_978_5e-6, 9.242_089_6e-7];
    assert_close(&rope.frequencies, &expected);
    assert_close(&[rope.concentration], &[1.346_573_6]);
}

#[test]
fn yarn_with_truncated_ramp() {
    let rope = Rope::new(150_000.0, 16, &RopeScaling::Yarn(Yarn::new(32.0, 4096)));
    assert_close(&rope.frequencies[3..5], &[0.007_755_465_3, 0.000_914_454_34]);
}

#[test]
fn yarn_with_a_ramp_below_the_first_pair() {
    let rope = Rope::new(10_000.0, 16, &RopeScaling::Yarn(short()));
    assert_close(&rope.frequencies[..4], &[1.0, 0.159_557_28, 0.012_5, 0.003_952_847_3]);
    assert_close(&[rope.concentration], &[1.207_944_2]);
}

#[test]
fn yarn_concentration_may_be_stated() {
    let stated = Yarn { attention_factor: Some(1.5), ..short() };
    assert_eq!(Rope::new(10_000.0, 8, &RopeScaling::Yarn(stated)).concentration, 1.5);
    let scaled = Yarn { mscale: Some(0.7), mscale_all_dim: Some(1.2), ..short() };
    assert_close(&[Rope::new(10_000.0, 8, &RopeScaling::Yarn(scaled)).concentration], &[0.916_791_26]);
    let alone = Yarn { mscale: Some(0.7), ..short() };
    assert_close(&[Rope::new(10_000.0, 8, &RopeScaling::Yarn(alone)).concentration], &[1.207_944_2]);
    let unstretched = Yarn { factor: 1.0, ..short() };
    assert_eq!(Rope::new(10_000.0, 8, &RopeScaling::Yarn(unstretched)).concentration, 1.0);
}

#[test]
fn llama3() {
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_tokens: 8192 };
    let rope = Rope::new(500_000.0, 16, &scaling);
    let expected =
        [1.0, 0.193_922_76, 0.037_606_03, 0.007_292_665, 0.000_524_846, 3.428_102_4e-5, 6.647_869_7e-6, 1.289_173_2e-6];
    assert_close(&rope.frequencies, &expected);
}

#[test]
fn angles_up_to_the_longest_context() {
    let rope = Rope::new(150_000.0, 16, &RopeScaling::Yarn(gpt_oss()));
    let angles = Angles::new(&rope, &[0, 1, 7, 1000, 131_071]);
    let check = |token: usize, pair: usize, cos: f32, sin: f32| {
        let at = token * 8 + pair;
        // One bit of a frequency times 131,071 positions.
        let tolerance = if token == 4 { 2e-2 * rope.frequencies[pair] + 2e-6 } else { 1e-4 * rope.frequencies[pair] + 3e-7 };
        assert!((angles.cos[at] - cos).abs() < tolerance, "cos {token} {pair}: {} is not {cos}", angles.cos[at]);
        assert!((angles.sin[at] - sin).abs() < tolerance, "sin {token} {pair}: {} is not {sin}", angles.sin[at]);
    };
    check(0, 3, 1.346_573_6, 0.0);
    check(1, 0, 0.727_556_9, 1.133_102_5);
    check(2, 1, -0.009_600_602, 1.346_539_4);
    check(3, 0, 0.757_284_8, 1.113_454_2);
    check(3, 5, 1.346_350_9, 0.024_490_586);
    check(4, 0, -1.101_475, -0.774_605_3);
    check(4, 7, 1.336_705_8, 0.162_721_23);
    assert_eq!(angles.cos.len(), 5 * 8);
}
