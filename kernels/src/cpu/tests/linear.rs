use proptest::prelude::*;

use super::*;
use crate::reference;
use crate::weights::Bf16Matrix;

/// `sum over k of |weight[n][k] * x[t][k]|`, and a little.
fn tolerances(x: &[f32], weight: &[f32], cols: usize) -> Vec<f32> {
    let absolute = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    let sums = reference::linear(&absolute(x), &absolute(weight), cols, None);
    sums.into_iter().map(|sum| 1e-6 * sum + 1e-7).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn as_its_twin(seed: u64, tokens in 1usize..70, rows in 1usize..70, cols in 1usize..600, with_bias: bool) {
        let mut numbers = Numbers(seed);
        let (x, bytes, bias) = (numbers.values(tokens * cols), numbers.bf16(rows * cols), numbers.values(rows));
        let bias = with_bias.then_some(bias.as_slice());
        let weight = Bf16Matrix::new(&bytes, rows, cols).unwrap();
        let widened = reference::bf16_to_f32(&bytes);
        let expected = reference::linear(&x, &widened, cols, bias);
        let tolerances = tolerances(&x, &widened, cols);
        for mut cpu in cpus() {
            let mut out = vec![f32::NAN; tokens * rows];
            cpu.linear(&x, &weight, bias, &mut out);
            assert_near(&out, &expected, |index| tolerances[index], cpu.isa().name());
        }
    }

    /// Alone, among others, last of a block of tokens, on more threads: always the same bits.
    #[test]
    fn a_token_has_the_same_bits_in_any_company(
        seed: u64, tokens in 2usize..140, rows in 1usize..40, cols in 1usize..700, threads in 1usize..5,
    ) {
        let mut numbers = Numbers(seed);
        let (x, bytes, bias) = (numbers.values(tokens * cols), numbers.bf16(rows * cols), numbers.values(rows));
        let weight = Bf16Matrix::new(&bytes, rows, cols).unwrap();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; tokens * rows];
            Cpu::with_isa(threads, isa).linear(&x, &weight, Some(&bias), &mut out);
            let mut cpu = Cpu::with_isa(1, isa);
            let mut alone = vec![f32::NAN; rows];
            for token in 0..tokens {
                cpu.linear(&x[token * cols..][..cols], &weight, Some(&bias), &mut alone);
                prop_assert_eq!(bits(&alone), bits(&out[token * rows..][..rows]), "token {} on {:?}", token, isa);
            }
        }
    }
}

#[test]
fn shapes_of_the_released_models() {
    let mut numbers = Numbers(20);
    for (rows, cols) in [(64, 2880), (33, 4096), (128, 2880)] {
        let (x, bytes) = (numbers.values(3 * cols), numbers.bf16(rows * cols));
        let widened = reference::bf16_to_f32(&bytes);
        let expected = reference::linear(&x, &widened, cols, None);
        let tolerances = tolerances(&x, &widened, cols);
        for mut cpu in cpus() {
            let mut out = vec![f32::NAN; 3 * rows];
            cpu.linear(&x, &Bf16Matrix::new(&bytes, rows, cols).unwrap(), None, &mut out);
            assert_near(&out, &expected, |index| tolerances[index], cpu.isa().name());
        }
    }
}

#[test]
fn weights_may_lie_at_any_address() {
    let mut numbers = Numbers(3);
    let (x, bytes) = (numbers.values(2 * 100), numbers.bf16(9 * 100));
    for mut cpu in cpus() {
        let mut expected = vec![0.0; 18];
        cpu.linear(&x, &Bf16Matrix::new(&bytes, 9, 100).unwrap(), None, &mut expected);
        for shift in 1..4 {
            let shifted: Vec<u8> = vec![0; shift].into_iter().chain(bytes.iter().copied()).collect();
            let mut out = vec![0.0; 18];
            cpu.linear(&x, &Bf16Matrix::new(&shifted[shift..], 9, 100).unwrap(), None, &mut out);
            assert_eq!(bits(&out), bits(&expected));
        }
    }
}

#[test]
fn a_broken_token_breaks_itself_alone() {
    let mut numbers = Numbers(4);
    let (mut x, bytes) = (numbers.values(5 * 50), numbers.bf16(20 * 50));
    let weight = Bf16Matrix::new(&bytes, 20, 50).unwrap();
    for mut cpu in cpus() {
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

#[test]
fn no_token_is_no_work() {
    for mut cpu in cpus() {
        cpu.linear(&[], &Bf16Matrix::new(&[0; 8], 2, 2).unwrap(), None, &mut []);
    }
}

#[test]
#[should_panic(expected = "3 outputs for each of 2 tokens")]
fn a_wrong_length_is_a_bug() {
    Cpu::new(1).linear(&[0.0; 4], &Bf16Matrix::new(&[0; 12], 3, 2).unwrap(), None, &mut [0.0; 5]);
}
