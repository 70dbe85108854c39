use proptest::prelude::*;

use super::*;
use crate::cpu::product::{self, Mxfp4F32, NO_SUMS, TokenSums};
use crate::cpu::simd::{Band, Kernel, Simd};
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

    /// The twin's result on activations rounded as `math` does, before and between the projections.
    fn rounded(&self, x: &[f32], routes: &Routes, math: Math) -> Vec<f32> {
        let (experts, hidden, intermediate) = (self.experts(), self.hidden, self.intermediate);
        let mut out = vec![0.0; x.len()];
        let round = match math {
            Math::Exact => unreachable!("nothing is rounded"),
            Math::Int16 => reference::int16_activations,
            Math::Fast => reference::int8_activations,
        };
        let x = round(x, hidden);
        for (route, (&expert, weight)) in routes.experts.iter().zip(&routes.weights).enumerate() {
            let (token, expert) = (route / routes.top_k, expert as usize);
            let gate_up = reference::mxfp4_to_f32(&experts.gate_up().expert(expert));
            let bias = reference::bf16_to_f32(experts.gate_up_bias().row(expert));
            let inner = reference::linear(&x[token * hidden..][..hidden], &gate_up, hidden, Some(&bias));
            let inner = reference::int16_activations(&reference::swiglu(&inner, self.swiglu), intermediate);
            let down = reference::mxfp4_to_f32(&experts.down().expert(expert));
            let bias = reference::bf16_to_f32(experts.down_bias().row(expert));
            let result = reference::linear(&inner, &down, intermediate, Some(&bias));
            out[token * hidden..][..hidden].iter_mut().zip(result).for_each(|(out, value)| *out += weight * value);
        }
        out
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
        let exact = reference::experts(&x, &layer.experts(), &routes);
        for cpu in cpus() {
            let mut cpu = cpu.with_math(Math::Exact);
            let packed = cpu.pack_experts(&layer.experts());
            let mut out = vec![0.0; x.len()];
            cpu.experts_add(&x, &packed, &routes, &mut out);
            assert_near(&out, &exact, |_| 1e-5 * magnitude(&exact), cpu.isa().name());
            // A value that lies between two integers may go to the other one.
            for (math, most, average) in [(Math::Int16, 1e-4, 2e-5), (Math::Fast, 1e-2, 2e-4)] {
                cpu.set_math(math);
                let rounded = layer.rounded(&x, &routes, math);
                let mut out = vec![0.0; x.len()];
                cpu.experts_add(&x, &packed, &routes, &mut out);
                assert_near(&out, &rounded, |_| most * magnitude(&rounded), cpu.isa().name());
                let off = out.iter().zip(&rounded).map(|(out, rounded)| (out - rounded).abs()).sum::<f32>() / out.len() as f32;
                prop_assert!(off <= average * magnitude(&rounded), "off by {} on the average", off);
            }
        }
    }

    #[test]
    fn a_token_has_the_same_bits_in_any_company(
        seed: u64, tokens in 2usize..50, hidden in 1usize..20, intermediate in 1usize..5, threads in 1usize..5,
    ) {
        let mut numbers = Numbers(seed);
        let layer = Layer::new(&mut numbers, 3, 32 * hidden, 32 * intermediate);
        let x = numbers.values(tokens * layer.hidden);
        let routes = layer.routes(&mut numbers, tokens, 2);
        for math in [Math::Exact, Math::Int16, Math::Fast] {
            let mut wide = Vec::new();
            for isa in Isa::available() {
                let mut out = vec![0.25; x.len()];
                let mut cpu = Cpu::with_isa(threads, isa).with_math(math);
                let packed = cpu.pack_experts(&layer.experts());
                cpu.experts_add(&x, &packed, &routes, &mut out);
                let mut cpu = Cpu::with_isa(1, isa).with_math(math);
                for token in 0..tokens {
                    let range = token * layer.hidden..(token + 1) * layer.hidden;
                    let mut alone = vec![0.25; layer.hidden];
                    cpu.experts_add(&x[range.clone()], &packed, &only(&routes, token), &mut alone);
                    prop_assert_eq!(bits(&alone), bits(&out[range]), "token {} on {:?}", token, isa);
                }
                if isa.name() != "portable" {
                    wide.push(bits(&out));
                }
            }
            prop_assert!(wide.windows(2).all(|pair| pair[0] == pair[1]), "instruction sets that fuse agree");
        }
    }

    #[test]
    fn routes_as_their_twin(seed: u64, tokens in 1usize..9, count in 1usize..33, width in 1usize..200, top_k in 1usize..9) {
        let mut numbers = Numbers(seed);
        let (x, weight, bias) = (numbers.values(tokens * width), numbers.bf16(count * width), numbers.values(count));
        for mut cpu in cpus() {
            let matrix = cpu.pack(&[Bf16Matrix::new(&weight, count, width).unwrap()], Format::Bf16);
            let mut routes = Routes::new(top_k.min(count));
            cpu.route(&x, &matrix, &bias, &mut routes);
            let mut logits = vec![0.0; tokens * count];
            cpu.linear(&x, &matrix, Some(&bias), &mut logits);
            prop_assert_eq!(routes, reference::route(&logits, count, top_k.min(count)));
        }
    }
}

/// Zero weights leave the biases as logits: equals, signed zeros and NaN are ordered as in the
/// twin.
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
        let weight = cpu.pack(&[Bf16Matrix::new(&[0; 16], 4, 2).unwrap()], Format::Bf16);
        for bias in &biases {
            for top_k in 1..=4 {
                let mut routes = Routes::new(top_k);
                cpu.route(&[0.0, 0.0], &weight, bias, &mut routes);
                let expected = reference::route(bias, 4, top_k);
                assert_eq!(routes.experts, expected.experts, "{bias:?}");
                assert_eq!(format!("{:?}", routes.weights), format!("{:?}", expected.weights), "{bias:?}");
            }
        }
    }
}

/// A distance shorter than a line, one behind the end of a group and of the matrix, none.
#[test]
fn how_far_ahead_weights_are_prefetched_changes_no_bit() {
    let mut numbers = Numbers(31);
    let layer = Layer::new(&mut numbers, 3, 96, 64);
    let bytes = numbers.bf16(50 * 96);
    for (tokens, isa) in [1, 2, 9].into_iter().flat_map(|tokens| Isa::available().into_iter().map(move |isa| (tokens, isa))) {
        let x = numbers.values(tokens * 96);
        let routes = layer.routes(&mut numbers, tokens, 2);
        let compute = |isa: Isa, math: Math| {
            let mut cpu = Cpu::with_isa(2, isa).with_math(math);
            let packed = cpu.pack_experts(&layer.experts());
            let mut out = vec![0.0; tokens * 96];
            cpu.experts_add(&x, &packed, &routes, &mut out);
            for format in Format::DENSE {
                let weight = cpu.pack(&[Bf16Matrix::new(&bytes, 50, 96).unwrap()], format);
                let mut logits = vec![0.0; tokens * 50];
                cpu.linear(&x, &weight, None, &mut logits);
                out.extend(logits);
            }
            bits(&out)
        };
        for math in Math::ALL {
            let expected = compute(isa, math);
            for distance in [0, 1, 4096, 1 << 20] {
                let ahead = Ahead { bf16: distance, integers: distance, several: distance.max(1) };
                assert_eq!(compute(isa.with_ahead(ahead), math), expected, "{distance} bytes, {math:?} on {isa:?}");
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
    for math in [Math::Exact, Math::Int16, Math::Fast] {
        for cpu in cpus() {
            let mut cpu = cpu.with_math(math);
            let packed = cpu.pack_experts(&layer.experts());
            x[70] = 0.5;
            let mut expected = vec![0.0; x.len()];
            cpu.experts_add(&x, &packed, &routes, &mut expected);
            for broken in [f32::NAN, f32::from_bits(0x7fc0_7fff), f32::INFINITY] {
                x[70] = broken;
                let mut out = vec![0.0; x.len()];
                cpu.experts_add(&x, &packed, &routes, &mut out);
                assert!(out[64..128].iter().all(|value| value.is_nan()), "{math:?}");
                expected[64..128].copy_from_slice(&out[64..128]);
                assert_eq!(bits(&out), bits(&expected));
            }
        }
    }
}

#[test]
fn each_arithmetic_rounds_in_its_own_way() {
    let mut numbers = Numbers(5);
    let layer = Layer::new(&mut numbers, 2, 256, 128);
    let x = numbers.values(4 * 256);
    let routes = layer.routes(&mut numbers, 4, 2);
    for mut cpu in cpus() {
        let packed = cpu.pack_experts(&layer.experts());
        let [exact, int16, fast] = [Math::Exact, Math::Int16, Math::Fast].map(|math| {
            let mut out = vec![0.0; x.len()];
            cpu.set_math(math);
            cpu.experts_add(&x, &packed, &routes, &mut out);
            out
        });
        let off = |out: &[f32]| out.iter().zip(&exact).map(|(out, exact)| (out - exact).abs()).sum::<f32>() / magnitude(&exact);
        let name = cpu.isa().name();
        assert!(off(&int16) > 0.0 && off(&fast) > 20.0 * off(&int16), "{name}: {} and {}", off(&int16), off(&fast));
    }
}

/// Every value and scale of MXFP4, seen through a single active column.
#[test]
fn packed_weights_are_the_checkpoints() {
    let mut numbers = Numbers(11);
    for scale in [0, 1, 100, 127, 200, 251, 255] {
        let mut layer = Layer::new(&mut numbers, 2, 64, 32);
        layer.bytes[4].fill(scale);
        let experts = layer.experts();
        let mut cpu = Cpu::new(1);
        let packed = cpu.pack_experts(&experts);
        let wanted = reference::mxfp4_to_f32(&experts.down().expert(1));
        for column in 0..32 {
            let mut x = [0.0; 32];
            x[column] = 1.0;
            for band in 0..2 {
                let mut sums = NO_SUMS;
                cpu.isa().run(OneBand { band: packed.down.band(2 + band), x: &x, sums: &mut sums });
                for row in 0..32 {
                    let wanted = wanted[(band * 32 + row) * 32 + column];
                    // Scales that no normal number has are zero or not finite.
                    let same = match scale {
                        0 => sums[0][row] == 0.0,
                        255 => !sums[0][row].is_finite(),
                        _ => sums[0][row] == wanted,
                    };
                    assert!(same, "scale {scale}, row {row} of band {band}, column {column}: {}, {wanted}", sums[0][row]);
                }
            }
        }
    }
}

/// One band of MXFP4 times one token.
struct OneBand<'a> {
    band: Band<'a>,
    x: &'a [f32],
    sums: &'a mut TokenSums,
}

impl Kernel for OneBand<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        product::band::<S, Mxfp4F32>(s, self.band, &[self.x], self.sums);
    }
}

#[test]
#[should_panic(expected = "a route to expert 2 of 2")]
fn a_route_to_nowhere_is_a_bug() {
    let layer = Layer::new(&mut Numbers(1), 2, 32, 32);
    let routes = Routes { top_k: 1, experts: vec![2], weights: vec![1.0] };
    let mut cpu = Cpu::new(1);
    let packed = cpu.pack_experts(&layer.experts());
    cpu.experts_add(&[0.0; 32], &packed, &routes, &mut [0.0; 32]);
}
