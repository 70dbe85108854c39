use proptest::prelude::*;

use super::*;
use crate::reference;
use crate::rope::{Angles, Rope, RopeScaling};
use crate::weights::Bf16Matrix;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn norm_as_its_twin(seed: u64, tokens in 1usize..40, width in 1usize..3000) {
        let mut numbers = Numbers(seed);
        let (x, scale) = (numbers.values(tokens * width), numbers.values(width));
        let expected = reference::rms_norm(&x, &scale, 1e-5);
        for mut cpu in cpus() {
            let mut out = vec![f32::NAN; x.len()];
            cpu.rms_norm(&x, &scale, 1e-5, &mut out);
            assert_near(&out, &expected, |index| 2e-6 * expected[index].abs(), cpu.isa().name());
            let mut alone = vec![f32::NAN; width];
            cpu.rms_norm(&x[(tokens - 1) * width..], &scale, 1e-5, &mut alone);
            prop_assert_eq!(bits(&alone), bits(&out[(tokens - 1) * width..]));
        }
    }

    #[test]
    fn rotary_embedding_and_sum_equal_their_twins(seed: u64, tokens in 1usize..20, heads in 1usize..9, half in 1usize..65) {
        let mut numbers = Numbers(seed);
        let width = heads * 2 * half;
        let positions: Vec<usize> = (0..tokens).map(|_| numbers.below(100_000)).collect();
        let angles = Angles::new(&Rope::new(150_000.0, 2 * half, &RopeScaling::Default), &positions);
        let (x, y, table) = (numbers.values(tokens * width), numbers.values(tokens * width), numbers.bf16(7 * width));
        let ids: Vec<u32> = (0..tokens).map(|_| numbers.below(7) as u32).collect();
        for mut cpu in cpus() {
            let (mut got, mut expected) = (x.clone(), x.clone());
            cpu.rotary(&mut got, heads, 2 * half, &angles);
            reference::rotary(&mut expected, heads, 2 * half, &angles);
            prop_assert_eq!(bits(&got), bits(&expected));
            cpu.add(&mut got, &y);
            reference::add(&mut expected, &y);
            prop_assert_eq!(bits(&got), bits(&expected));
            cpu.embed(&Bf16Matrix::new(&table, 7, width).unwrap(), &ids, &mut got);
            prop_assert_eq!(bits(&got), bits(&reference::embed(&reference::bf16_to_f32(&table), width, &ids)));
        }
    }

    #[test]
    fn log_softmax_as_its_twin(seed: u64, vocab in 1usize..30_000, spread in 1f32..40.0) {
        let logits: Vec<f32> = Numbers(seed).values(vocab).into_iter().map(|value| value * spread).collect();
        let expected = reference::log_softmax(&logits);
        let tolerance = 2e-6 * magnitude(&expected);
        for mut cpu in cpus() {
            let mut out = vec![f32::NAN; vocab];
            cpu.log_softmax(&logits, &mut out);
            assert_near(&out, &expected, |_| tolerance, cpu.isa().name());
        }
    }
}

#[test]
fn a_large_sum_is_shared_by_threads() {
    let mut numbers = Numbers(1);
    let (mut x, y) = (numbers.values(100_001), numbers.values(100_001));
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
    Cpu::new(3).add(&mut x, &y);
    assert_eq!(x, expected);
}

#[test]
fn nan_among_the_logits_is_seen() {
    for mut cpu in cpus() {
        let mut out = [0.0; 3];
        cpu.log_softmax(&[1.0, f32::NAN, 2.0], &mut out);
        assert!(out.iter().all(|value| value.is_nan()));
    }
}

#[test]
#[should_panic(expected = "row 7 of a bf16 matrix of 7 rows")]
fn a_token_outside_the_table_is_a_bug() {
    Cpu::new(1).embed(&Bf16Matrix::new(&[0; 28], 7, 2).unwrap(), &[7], &mut [0.0; 2]);
}
