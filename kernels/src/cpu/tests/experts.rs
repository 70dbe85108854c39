use proptest::prelude::*;

use super::*;
use crate::reference;
use crate::weights::{Bf16Matrix, Experts, Mxfp4Stack, Routes, SwiGlu};

/// The bytes of a layer's experts.
struct Layer {
    count: usize,
    hidden: usize,
    intermediate: usize,
    bytes: [Vec<u8>; 6],
    swiglu: SwiGlu,
}

impl Layer {
    fn new(numbers: &mut Numbers, count: usize, hidden: usize, intermediate: usize) -> Self {
        let values = count * hidden * intermediate;
        let bytes = [
            numbers.bytes(values),
            numbers.scales(values / 16),
            numbers.bf16(count * 2 * intermediate),
            numbers.bytes(values / 2),
            numbers.scales(values / 32),
            numbers.bf16(count * hidden),
        ];
        Self { count, hidden, intermediate, bytes, swiglu: SwiGlu { alpha: 1.702, limit: 2.0 } }
    }

    fn experts(&self) -> Experts<'_> {
        let Self { count, hidden, intermediate, .. } = *self;
        let [gate_up, gate_up_scales, gate_up_bias, down, down_scales, down_bias] = &self.bytes;
        Experts::new(
            Mxfp4Stack::new(gate_up, gate_up_scales, count, 2 * intermediate, hidden).unwrap(),
            Bf16Matrix::new(gate_up_bias, count, 2 * intermediate).unwrap(),
            Mxfp4Stack::new(down, down_scales, count, hidden, intermediate).unwrap(),
            Bf16Matrix::new(down_bias, count, hidden).unwrap(),
            self.swiglu,
        )
        .unwrap()
    }

    /// Routes of `tokens` tokens by a random router.
    fn routes(&self, numbers: &mut Numbers, tokens: usize, top_k: usize) -> Routes {
        reference::route(&numbers.values(tokens * self.count), self.count, top_k)
    }
}

/// The routes of one token.
fn only(routes: &Routes, token: usize) -> Routes {
    let range = token * routes.top_k..(token + 1) * routes.top_k;
    Routes { top_k: routes.top_k, experts: routes.experts[range.clone()].to_vec(), weights: routes.weights[range].to_vec() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn as_their_twin(
        seed: u64, tokens in 1usize..20, count in 1usize..8, hidden in 1usize..7, intermediate in 1usize..7, top_k in 1usize..8,
    ) {
        let mut numbers = Numbers(seed);
        let layer = Layer::new(&mut numbers, count, 32 * hidden, 32 * intermediate);
        let x = numbers.values(tokens * layer.hidden);
        let routes = layer.routes(&mut numbers, tokens, top_k.min(count));
        let expected = reference::experts(&x, &layer.experts(), &routes);
        let tolerance = 1e-5 * magnitude(&expected);
        for mut cpu in cpus() {
            let mut out = vec![f32::NAN; x.len()];
            cpu.experts(&x, &layer.experts(), &routes, &mut out);
            assert_near(&out, &expected, |_| tolerance, cpu.isa().name());
        }
    }

    #[test]
    fn a_token_has_the_same_bits_in_any_company(
        seed: u64, tokens in 2usize..150, hidden in 1usize..20, intermediate in 1usize..5, threads in 1usize..5,
    ) {
        let mut numbers = Numbers(seed);
        let layer = Layer::new(&mut numbers, 3, 32 * hidden, 32 * intermediate);
        let x = numbers.values(tokens * layer.hidden);
        let routes = layer.routes(&mut numbers, tokens, 2);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; x.len()];
            Cpu::with_isa(threads, isa).experts(&x, &layer.experts(), &routes, &mut out);
            let mut cpu = Cpu::with_isa(1, isa);
            for token in 0..tokens {
                let range = token * layer.hidden..(token + 1) * layer.hidden;
                let mut alone = vec![f32::NAN; layer.hidden];
                cpu.experts(&x[range.clone()], &layer.experts(), &only(&routes, token), &mut alone);
                prop_assert_eq!(bits(&alone), bits(&out[range]), "token {} on {:?}", token, isa);
            }
        }
    }

    #[test]
    fn routes_as_their_twin(seed: u64, tokens in 1usize..9, count in 1usize..33, width in 1usize..200, top_k in 1usize..9) {
        let mut numbers = Numbers(seed);
        let (x, weight, bias) = (numbers.values(tokens * width), numbers.bf16(count * width), numbers.values(count));
        for mut cpu in cpus() {
            let matrix = Bf16Matrix::new(&weight, count, width).unwrap();
            let mut routes = Routes::new(top_k.min(count));
            cpu.route(&x, &matrix, &bias, &mut routes);
            let mut logits = vec![0.0; tokens * count];
            cpu.linear(&x, &matrix, Some(&bias), &mut logits);
            prop_assert_eq!(routes, reference::route(&logits, count, top_k.min(count)));
        }
    }
}

/// Zero weights leave the biases as logits: equals, signed zeros and NaN are ordered as in the twin.
#[test]
fn the_choice_of_experts_at_its_edges() {
    let biases = [
        vec![1.0, 1.0, 0.0, 1.0],
        vec![-0.0, 0.0, -0.0, 0.0],
        vec![0.0, f32::NAN, 5.0, f32::NAN],
        vec![f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0],
        vec![f32::INFINITY, 0.0, f32::INFINITY, f32::NAN],
    ];
    for mut cpu in cpus() {
        for bias in &biases {
            for top_k in 1..=4 {
                let mut routes = Routes::new(top_k);
                cpu.route(&[0.0, 0.0], &Bf16Matrix::new(&[0; 16], 4, 2).unwrap(), bias, &mut routes);
                let expected = reference::route(bias, 4, top_k);
                assert_eq!(routes.experts, expected.experts, "{bias:?}");
                assert_eq!(format!("{:?}", routes.weights), format!("{:?}", expected.weights), "{bias:?}");
            }
        }
    }
}

#[test]
fn a_broken_token_breaks_itself_alone() {
    let mut numbers = Numbers(9);
    let layer = Layer::new(&mut numbers, 2, 64, 32);
    let mut x = numbers.values(4 * 64);
    let routes = layer.routes(&mut numbers, 4, 2);
    for mut cpu in cpus() {
        x[70] = 0.5;
        let mut expected = vec![0.0; x.len()];
        cpu.experts(&x, &layer.experts(), &routes, &mut expected);
        x[70] = f32::NAN;
        let mut out = vec![0.0; x.len()];
        cpu.experts(&x, &layer.experts(), &routes, &mut out);
        assert!(out[64..128].iter().all(|value| value.is_nan()));
        expected[64..128].copy_from_slice(&out[64..128]);
        assert_eq!(bits(&out), bits(&expected));
    }
}

#[test]
#[should_panic(expected = "a route to expert 2 of 2")]
fn a_route_to_nowhere_is_a_bug() {
    let layer = Layer::new(&mut Numbers(1), 2, 32, 32);
    let routes = Routes { top_k: 1, experts: vec![2], weights: vec![1.0] };
    Cpu::new(1).experts(&[0.0; 32], &layer.experts(), &routes, &mut [0.0; 32]);
}
