//! What a step reports: draws in batch order, log-probabilities of the model.

use super::driver::{Driver, Sequence, ask_prompt_logprobs};
use super::files::Golden;
use antiphon::batch::{Batch, Sampled, Sampling, SeqId, TokenId};

/// Ten of the vocabulary at most differ this much from the sum over all of it.
const LOGPROB_TOLERANCE: f32 = 1e-5;

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    antiphon_kernels::reference::log_softmax(logits)
}

#[test]
fn reports_come_in_batch_order_for_those_who_asked() {
    let golden = Golden::open("g2");
    let mut driver = Driver::new(&golden, 2);
    let mut batch = Batch::default();
    let warm = Sampling { temperature: 1.0, seed: 7, logprobs: Some(2), ..Sampling::default() };
    for (index, case) in golden.cases.iter().enumerate() {
        let mut sequence = Sequence::new(&case.prompt);
        sequence.seq = index as u64;
        let len = sequence.left();
        driver.add(&mut batch, &mut sequence, len, (index % 2 == 1).then(|| warm.clone()));
    }
    let sampled = driver.execute(&batch);
    let who: Vec<SeqId> = sampled.iter().map(|sampled| sampled.seq).collect();
    assert_eq!(who, [SeqId(1), SeqId(3), SeqId(5)]);
    for Sampled { token, logprobs, prompt_logprobs, .. } in &sampled {
        let logprobs = logprobs.as_ref().unwrap();
        assert_eq!(token.unwrap().unwrap(), logprobs.chosen.token);
        assert_eq!(logprobs.top.len(), 2);
        assert!(prompt_logprobs.is_empty());
    }
    // Alone, with the same seed, the third draws the same token.
    let mut batch = Batch::default();
    driver.add(&mut batch, &mut Sequence::new(&golden.cases[3].prompt), golden.cases[3].prompt.len(), Some(warm));
    assert_eq!(driver.execute(&batch)[0].token, sampled[1].token);
}

#[test]
fn prompt_logprobs_are_those_of_the_logits_however_the_prompt_is_sliced() {
    let golden = Golden::open("g1");
    // Longer than the rows that are computed at once.
    let prompt = &golden.cases.iter().find(|case| case.prompt.len() == 150).unwrap().prompt;
    let mut driver = Driver::new(&golden, 2);
    let rows = driver.logits(prompt, usize::MAX);
    for slice_tokens in [150, 40, 1] {
        let mut sequence = Sequence::new(prompt);
        let mut reports = Vec::new();
        while sequence.left() > 0 {
            let mut batch = Batch::default();
            let (start, len) = (sequence.computed, sequence.left().min(slice_tokens));
            let is_last = len == sequence.left();
            driver.add(&mut batch, &mut sequence, len, is_last.then(Sampling::default));
            let targets = &prompt[start + 1..(start + len + 1).min(prompt.len())];
            ask_prompt_logprobs(&mut batch, targets, 3);
            let sampled = driver.execute(&batch);
            driver.slide(&mut sequence);
            assert_eq!((sampled.len(), sampled[0].token.is_some()), (1, is_last));
            reports.extend(sampled.into_iter().flat_map(|sampled| sampled.prompt_logprobs));
        }
        driver.release(sequence);
        assert_eq!(reports.len(), prompt.len() - 1);
        for ((report, row), token) in reports.iter().zip(&rows).zip(&prompt[1..]) {
            let expected = log_softmax(row);
            assert_eq!(report.chosen.token, *token);
            assert!((report.chosen.logprob - expected[token.0 as usize]).abs() < LOGPROB_TOLERANCE);
            let above = row.iter().filter(|logit| **logit > row[token.0 as usize]).count();
            assert_eq!(report.chosen.rank as usize, above + 1);
            let likeliest = (0_u32..).zip(row).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            assert_eq!((report.top[0].token, report.top.len()), (TokenId(likeliest), 3));
        }
    }
}
