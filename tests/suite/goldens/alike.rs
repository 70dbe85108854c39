//! The same bits, however a sequence is computed.

use super::SLICINGS;
use super::driver::{Driver, EXACT, ROUNDED, Sequence};
use super::files::Golden;
use antiphon::batch::{Batch, TokenId};
use antiphon::engine::cpu::{Format, Math};

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|logit| logit.to_bits()).collect()
}

/// The longest prompt of a golden, longer than every window.
fn longest(golden: &Golden) -> &[TokenId] {
    &golden.cases.iter().max_by_key(|case| case.prompt.len()).unwrap().prompt
}

#[test]
fn slices_threads_and_blocks_do_not_show() {
    for golden in [Golden::open("g1"), Golden::open("g2"), Golden::tiny()] {
        let prompt = longest(&golden);
        assert!(prompt.len() > 2 * golden.checkpoint.config().sliding_window_tokens, "the window must slide");
        // The size of a block is the engine's own: sums over keys go block by block.
        for block_tokens in [1, 6, 16, 40] {
            check_slices(&golden, prompt, block_tokens, EXACT);
        }
        ROUNDED.into_iter().for_each(|arithmetic| check_slices(&golden, prompt, 16, arithmetic));
    }
}

fn check_slices(golden: &Golden, prompt: &[TokenId], block_tokens: usize, arithmetic: (Math, Format)) {
    let driver = |threads, seed| Driver::with_arithmetic(golden, threads, block_tokens, seed, arithmetic);
    let expected = bits(&driver(1, 1).logits(prompt, usize::MAX));
    for (threads, seed) in [(1, 5), (2, 9), (3, 2)] {
        let mut driver = driver(threads, seed);
        for slice_tokens in SLICINGS.into_iter().chain([33]) {
            let got = bits(&driver.logits(prompt, slice_tokens));
            assert!(got == expected, "{arithmetic:?}, {threads} threads, blocks of {block_tokens}, slices of {slice_tokens}");
        }
    }
}

#[test]
fn the_rest_of_the_batch_does_not_show() {
    for golden in [Golden::open("g1"), Golden::open("g2")] {
        check_batch(&golden, EXACT);
        ROUNDED.into_iter().for_each(|arithmetic| check_batch(&golden, arithmetic));
    }
}

fn check_batch(golden: &Golden, arithmetic: (Math, Format)) {
    let prompts: Vec<&[TokenId]> = golden.cases.iter().map(|case| case.prompt.as_slice()).collect();
    let mut driver = Driver::with_arithmetic(golden, 2, 6, 1, arithmetic);
    let alone: Vec<Vec<u32>> = prompts.iter().map(|prompt| bits(&driver.logits(prompt, usize::MAX))).collect();
    let mut sequences: Vec<Sequence> = prompts.iter().map(|prompt| Sequence::new(prompt)).collect();
    let mut together: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    for step in 0.. {
        let mut batch = Batch::default();
        let mut owner = Vec::new();
        for (index, sequence) in sequences.iter_mut().enumerate() {
            // Lengths that change from step to step, with steps that leave a sequence out.
            let len = sequence.left().min((step * 5 + index * 3) % 11);
            if len > 0 {
                driver.add(&mut batch, sequence, len, None);
                owner.extend(std::iter::repeat_n(index, len));
            }
        }
        if sequences.iter().all(|sequence| sequence.left() == 0) && batch.slices.is_empty() {
            break;
        }
        driver.engine.inspect(&batch, &mut |_, _| {}, &mut |row, logits| {
            together[owner[row]].extend(logits.iter().map(|logit| logit.to_bits()));
        });
        for sequence in &mut sequences {
            driver.slide(sequence);
        }
    }
    for (index, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert!(together == alone, "sequence {index} differs from what it is alone");
    }
}
