use super::*;
use crate::batch::PositionLogprobs;

fn script(tokens: &[u32], stop: u32) -> FakeAnswer {
    FakeAnswer::Script { tokens: tokens.iter().copied().map(TokenId).collect(), stop: TokenId(stop) }
}

fn prompt_reports(stage: &Stage) -> Vec<(usize, &Vec<PositionLogprobs>)> {
    let reports = stage.events.iter().filter(|event| !matches!(event, SequenceEvent::Began { .. })).enumerate();
    reports
        .filter_map(|(i, event)| match event {
            SequenceEvent::PromptLogprobs { logprobs, .. } => Some((i, logprobs)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_stop_token_ends_the_sequence_and_is_no_token() {
    let mut stage = Stage::with(limits(), script(&[7, 8], 2), Vec::new());
    let sampling = Sampling { stop_tokens: vec![TokenId(2)], logprobs: Some(1), ..Sampling::default() };
    let seq = stage.submit_sampled(3, 9, sampling);
    stage.finish();
    assert_eq!(stage.heard(seq), (vec![TokenId(7), TokenId(8)], Some(FinishReason::Stop(TokenId(2)))));
    let Some(SequenceEvent::Finished { logprobs: Some(logprobs), .. }) = stage.events.last() else {
        panic!("the end says how likely")
    };
    assert_eq!((logprobs.chosen.token, logprobs.top.len()), (TokenId(2), 1));
    assert_eq!(stage.scheduler.counts().decode_tokens_total, 3);
}

#[test]
fn a_token_that_others_stop_at_is_a_token() {
    let mut stage = Stage::with(limits(), script(&[7, 2, 8], 2), Vec::new());
    let seq = stage.submit(3, 4);
    stage.finish();
    assert_eq!(stage.heard(seq), ([7, 2, 8, 2].map(TokenId).to_vec(), Some(FinishReason::Length)));
}

#[test]
fn the_length_ends_it_before_a_stop_token_that_would_come_next() {
    let mut stage = Stage::with(limits(), script(&[7, 8], 2), Vec::new());
    let seq = stage.submit_sampled(3, 2, Sampling { stop_tokens: vec![TokenId(2)], ..Sampling::default() });
    stage.finish();
    assert_eq!(stage.heard(seq), ([7, 8].map(TokenId).to_vec(), Some(FinishReason::Length)));
}

#[test]
fn logits_that_are_not_finite_end_only_their_sequence() {
    let rotten = EngineFault::NotFiniteFor { seq: SeqId(1), generated_count: 2 };
    let mut stage = Stage::with(limits(), FakeAnswer::Hash { seed: 1 }, vec![rotten]);
    let seqs = [4, 5, 6].map(|len| stage.submit(len, 6));
    stage.finish();
    assert_eq!(stage.heard(seqs[1]), (alone(5, 6)[..2].to_vec(), Some(FinishReason::NotFinite)));
    assert_eq!((stage.heard(seqs[0]).0, stage.heard(seqs[2]).0), (alone(4, 6), alone(6, 6)));
}

#[test]
fn a_prompts_log_probabilities_are_gathered_over_its_slices() {
    let mut stage = Stage::new(limits());
    let new = sequence(37, 3, Sampling { prompt_logprobs: true, logprobs: Some(2), ..Sampling::default() });
    stage.scheduler.submit(new.clone(), stage.now).unwrap();
    stage.finish();
    let reports = prompt_reports(&stage);
    let [(0, logprobs)] = reports[..] else { panic!("one report, before all tokens: {reports:?}") };
    let chosen: Vec<TokenId> = logprobs.iter().map(|logprobs| logprobs.chosen.token).collect();
    assert_eq!(chosen, new.prompt[1..]);
    assert!(logprobs.iter().all(|logprobs| logprobs.top.len() == 2), "also in slices that draw nothing");
}

#[test]
fn a_prompt_of_one_token_reports_nothing_about_it() {
    let mut stage = Stage::new(limits());
    stage.submit_sampled(1, 2, Sampling { prompt_logprobs: true, ..Sampling::default() });
    stage.finish();
    assert_eq!(prompt_reports(&stage), [(0, &vec![])]);
}

#[test]
fn a_prompt_that_is_computed_again_is_reported_once() {
    // Lost in the middle of the prompt, and again in the middle of the answer.
    let faults = vec![EngineFault::FailsAtStep(1), EngineFault::FailsAtStep(6)];
    let mut stage = Stage::with(limits(), FakeAnswer::Hash { seed: 1 }, faults);
    let new = sequence(37, 5, Sampling { prompt_logprobs: true, ..Sampling::default() });
    let seq = stage.scheduler.submit(new.clone(), stage.now).unwrap();
    stage.finish();
    let reports = prompt_reports(&stage);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].1.iter().map(|logprobs| logprobs.chosen.token).collect::<Vec<_>>(), new.prompt[1..]);
    assert_eq!(stage.heard(seq), (alone(37, 5), Some(FinishReason::Length)));
}

/// A history is as long as the context: copied in each step it would cost more than all the rest of
/// a plan.
#[test]
fn a_history_is_copied_once_and_grows_from_then_on() {
    // Few blocks, because the checks of a debug build count them in memory of their own.
    let few = SchedulerLimits { block_tokens: 16, global_blocks: 60, sliding_blocks: 60, ..limits() };
    let mut stage = Stage::new(few);
    for _ in 0..3 {
        stage.submit_sampled(200, 60, Sampling { presence_penalty: 0.5, ..Sampling::default() });
    }
    while stage.scheduler.counts().decode_count < 3 {
        stage.step();
    }
    let mut allocated_bytes = 0;
    for _ in 0..40 {
        let allocated = allocation_counter::measure(|| {
            assert!(matches!(stage.scheduler.plan(stage.now, &mut stage.events), Plan::Step(_)));
        });
        allocated_bytes += allocated.bytes_total;
        let batch = stage.scheduler.step.batch.clone();
        let result = stage.compute(&batch);
        stage.commit(result);
    }
    let copied_bytes = 40 * 3 * 200 * size_of::<TokenId>() as u64;
    assert!(allocated_bytes < copied_bytes / 2, "{allocated_bytes} bytes in 40 steps");
    stage.finish();
}

#[test]
fn histories_travel_only_with_those_that_need_them() {
    let mut stage = Stage::new(limits());
    stage.submit(3, 4);
    stage.submit_sampled(5, 4, Sampling { presence_penalty: 0.5, ..Sampling::default() });
    stage.step();
    let batch = stage.plan().unwrap();
    let draws: Vec<_> = batch.slices.iter().map(|slice| slice.draw.as_ref().unwrap()).collect();
    assert_eq!((draws[0].history.len(), draws[0].generated_count), (0, 1));
    assert_eq!((draws[1].history.len(), draws[1].history_prompt_len, draws[1].generated_count), (6, 5, 1));
    let result = stage.compute(&batch);
    stage.commit(result);
    stage.finish();
}
