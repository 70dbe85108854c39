use proptest::prelude::*;

use super::*;
use crate::reference;
use crate::weights::Bf16Matrix;

const FORMATS: [Format; 2] = [Format::Bf16, Format::Int8];

/// A packed matrix of bf16 bytes.
fn pack(cpu: &mut Cpu, bytes: &[u8], rows: usize, cols: usize, format: Format) -> Packed {
    cpu.pack(&[Bf16Matrix::new(bytes, rows, cols).unwrap()], format)
}

/// The activations and weights that a format leaves, in f32.
fn left(x: &[f32], bytes: &[u8], cols: usize, format: Format) -> (Vec<f32>, Vec<f32>) {
    match format {
        Format::Int8 => (reference::int8_activations(x, cols), reference::int8_weights(bytes, cols)),
        _ => (x.to_vec(), reference::bf16_to_f32(bytes)),
    }
}

/// `sum over k of |weight[n][k] * x[t][k]|`, and a little.
fn tolerances(x: &[f32], weight: &[f32], cols: usize) -> Vec<f32> {
    let absolute = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    let sums = reference::linear(&absolute(x), &absolute(weight), cols, None);
    sums.into_iter().map(|sum| 1e-6 * sum + 1e-7).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn as_its_twin(seed: u64, tokens in 1usize..30, rows in 1usize..70, cols in 1usize..600, with_bias: bool) {
        let mut numbers = Numbers(seed);
        let (x, bytes, bias) = (numbers.values(tokens * cols), numbers.bf16(rows * cols), numbers.values(rows));
        let bias = with_bias.then_some(bias.as_slice());
        for format in FORMATS {
            let (x_left, weight_left) = left(&x, &bytes, cols, format);
            let expected = reference::linear(&x_left, &weight_left, cols, bias);
            let tolerances = tolerances(&x_left, &weight_left, cols);
            for mut cpu in cpus() {
                let weight = pack(&mut cpu, &bytes, rows, cols, format);
                let mut out = vec![f32::NAN; tokens * rows];
                cpu.linear(&x, &weight, bias, &mut out);
                assert_near(&out, &expected, |index| tolerances[index], cpu.isa().name());
                let mut stream = vec![0.5; tokens * rows];
                cpu.linear_add(&x, &weight, bias, &mut stream);
                let sums: Vec<f32> = out.iter().map(|out| 0.5 + out).collect();
                prop_assert_eq!(bits(&stream), bits(&sums));
            }
        }
    }

    /// Alone, among others, last of a tile, on more threads: always the same bits.
    #[test]
    fn a_token_has_the_same_bits_in_any_company(
        seed: u64, tokens in 2usize..40, rows in 1usize..40, cols in 1usize..700, threads in 1usize..5,
    ) {
        let mut numbers = Numbers(seed);
        let (x, bytes, bias) = (numbers.values(tokens * cols), numbers.bf16(rows * cols), numbers.values(rows));
        for format in FORMATS {
            let mut wide = Vec::new();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; tokens * rows];
                let mut cpu = Cpu::with_isa(threads, isa);
                let weight = pack(&mut cpu, &bytes, rows, cols, format);
                cpu.linear(&x, &weight, Some(&bias), &mut out);
                let mut cpu = Cpu::with_isa(1, isa);
                let mut alone = vec![f32::NAN; rows];
                for token in 0..tokens {
                    cpu.linear(&x[token * cols..][..cols], &weight, Some(&bias), &mut alone);
                    prop_assert_eq!(bits(&alone), bits(&out[token * rows..][..rows]), "token {} on {:?}", token, isa);
                }
                // Tiles multiply bf16 in sums of their own.
                if isa.name() != "portable" && (isa.name(), format) != ("AMX", Format::Bf16) {
                    wide.push(bits(&out));
                }
            }
            prop_assert!(wide.windows(2).all(|pair| pair[0] == pair[1]), "instruction sets that fuse agree");
        }
    }
}

#[test]
fn matrices_below_each_other_are_one() {
    let mut numbers = Numbers(6);
    let (x, bytes) = (numbers.values(3 * 70), numbers.bf16(40 * 70));
    for mut cpu in cpus() {
        for format in FORMATS {
            let whole = pack(&mut cpu, &bytes, 40, 70, format);
            let (first, second) = bytes.split_at(2 * 70 * 19);
            let parts = [Bf16Matrix::new(first, 19, 70).unwrap(), Bf16Matrix::new(second, 21, 70).unwrap()];
            let parts = cpu.pack(&parts, format);
            let mut out = [vec![0.0; 3 * 40], vec![0.0; 3 * 40]];
            cpu.linear(&x, &whole, None, &mut out[0]);
            cpu.linear(&x, &parts, None, &mut out[1]);
            assert_eq!(bits(&out[0]), bits(&out[1]));
            assert_eq!(parts.bytes(), format.bytes(40, 70));
        }
    }
}

#[test]
fn shapes_of_the_released_models() {
    let mut numbers = Numbers(20);
    for (rows, cols) in [(64, 2880), (33, 4096), (128, 2880)] {
        let (x, bytes) = (numbers.values(3 * cols), numbers.bf16(rows * cols));
        for format in FORMATS {
            let (x_left, weight_left) = left(&x, &bytes, cols, format);
            let expected = reference::linear(&x_left, &weight_left, cols, None);
            let tolerances = tolerances(&x_left, &weight_left, cols);
            for mut cpu in cpus() {
                let weight = pack(&mut cpu, &bytes, rows, cols, format);
                let mut out = vec![f32::NAN; 3 * rows];
                cpu.linear(&x, &weight, None, &mut out);
                assert_near(&out, &expected, |index| tolerances[index], cpu.isa().name());
            }
        }
    }
}

#[test]
fn a_broken_token_breaks_itself_alone() {
    let mut numbers = Numbers(4);
    let (mut x, bytes) = (numbers.values(5 * 50), numbers.bf16(20 * 50));
    for mut cpu in cpus() {
        for format in FORMATS {
            let weight = pack(&mut cpu, &bytes, 20, 50, format);
            x[2 * 50 + 7] = 0.5;
            let mut expected = vec![0.0; 100];
            cpu.linear(&x, &weight, None, &mut expected);
            for broken in [f32::NAN, f32::INFINITY] {
                x[2 * 50 + 7] = broken;
                let mut out = vec![0.0; 100];
                cpu.linear(&x, &weight, None, &mut out);
                assert!(out[40..60].iter().all(|value| !value.is_finite()));
                expected[40..60].copy_from_slice(&out[40..60]);
                assert_eq!(bits(&out), bits(&expected));
            }
        }
    }
}

#[test]
fn a_broken_weight_is_seen() {
    let mut numbers = Numbers(5);
    let (x, mut bytes) = (numbers.values(50), numbers.bf16(20 * 50));
    bytes[2 * (3 * 50 + 40)..][..2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    for mut cpu in cpus() {
        for format in FORMATS {
            let weight = pack(&mut cpu, &bytes, 20, 50, format);
            let mut out = vec![0.0; 20];
            cpu.linear(&x, &weight, None, &mut out);
            assert!(out.iter().enumerate().all(|(row, value)| value.is_nan() == (row == 3)), "{format:?}");
        }
    }
}

#[test]
fn no_token_is_no_work() {
    for mut cpu in cpus() {
        for format in FORMATS {
            let weight = pack(&mut cpu, &[0; 8], 2, 2, format);
            cpu.linear(&[], &weight, None, &mut []);
        }
    }
}

#[test]
#[should_panic(expected = "3 outputs for each of 2 tokens")]
fn a_wrong_length_is_a_bug() {
    let mut cpu = Cpu::new(1);
    let weight = pack(&mut cpu, &[0; 12], 3, 2, Format::Bf16);
    cpu.linear(&[0.0; 4], &weight, None, &mut [0.0; 5]);
}
