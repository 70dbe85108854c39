use super::*;

const POISON: TokenId = TokenId(499);

/// A stage whose engine fails whenever it computes [`POISON`], or at one of these steps.
fn stage(steps: &[u64]) -> Stage {
    let faults = steps.iter().map(|step| EngineFault::FailsAtStep(*step)).chain([EngineFault::FailsOnToken(POISON)]).collect();
    Stage::with(limits(), FakeAnswer::Hash { seed: 1 }, faults)
}

/// Submits a prompt with poison at this position.
fn submit_poisoned(stage: &mut Stage, len: usize, position: usize) -> SeqId {
    let mut new = sequence(len, 9, Sampling::default());
    new.prompt[position] = POISON;
    stage.scheduler.submit(new, stage.now).unwrap()
}

#[test]
fn a_lost_step_costs_nobody_a_token() {
    let mut stage = stage(&[4, 9]);
    let seqs: Vec<(usize, SeqId)> = [5, 20, 3].map(|len| (len, stage.submit(len, 9))).to_vec();
    stage.finish();
    for (len, seq) in seqs {
        assert_eq!(stage.heard(seq), (alone(len, 9), Some(FinishReason::Length)));
    }
}

#[test]
fn the_suspects_are_tried_alone_by_age_and_the_acquitted_go_on_between() {
    let mut stage = stage(&[2]);
    let [a, b] = [5, 6].map(|len| stage.submit(len, 9));
    assert_eq!(stage.step(), [(a, 5), (b, 6)]);
    assert_eq!(stage.step(), [(a, 1), (b, 1)]);
    let fresh = stage.submit(3, 9);
    // The third step is lost; the fresh one was in it too.
    assert_eq!(stage.step(), [(a, 1), (b, 1), (fresh, 3)]);
    let counts = stage.scheduler.counts();
    assert_eq!((counts.waiting_count, counts.blocks().in_use_count(), counts.preemptions_total), (3, 0, 0));
    assert_eq!(stage.step(), [(a, 7)], "a trial, with the two tokens that it has");
    assert_eq!(stage.step(), [(a, 1)], "it goes on");
    assert_eq!(stage.step(), [(b, 8)]);
    assert_eq!(stage.step(), [(a, 1), (b, 1)]);
    assert_eq!(stage.step(), [(fresh, 3)]);
    assert_eq!(stage.step(), [(a, 1), (b, 1), (fresh, 1)]);
}

#[test]
fn only_the_culprit_fails_and_only_two_steps_are_lost_for_it_alone() {
    let mut stage = stage(&[]);
    let a = stage.submit(5, 9);
    // The poison is in the second slice: the first one alone proves nothing.
    let culprit = submit_poisoned(&mut stage, 30, 20);
    let b = stage.submit(7, 9);
    let steps = stage.finish();
    assert_eq!(stage.heard(culprit), (vec![], Some(FinishReason::EngineFailed)));
    let alone_in_steps = steps.iter().filter(|step| step.len() == 1 && step[0] == (culprit, 14)).count();
    assert_eq!(alone_in_steps, 2);
    assert_eq!((stage.heard(a).0, stage.heard(b).0), (alone(5, 9), alone(7, 9)));
}

#[test]
fn one_that_is_alone_from_the_beginning_is_given_up_after_two_steps() {
    let mut stage = stage(&[]);
    let culprit = submit_poisoned(&mut stage, 3, 1);
    assert_eq!(stage.finish().len(), 2);
    assert_eq!(stage.heard(culprit), (vec![], Some(FinishReason::EngineFailed)));
}

#[test]
fn a_device_that_fails_once_by_itself_is_nobodys_fault() {
    let mut stage = stage(&[1]);
    let seq = stage.submit(3, 5);
    stage.finish();
    assert_eq!(stage.heard(seq), (alone(3, 5), Some(FinishReason::Length)));
}

#[test]
fn a_suspect_may_be_cancelled() {
    let mut stage = stage(&[]);
    let culprit = submit_poisoned(&mut stage, 3, 1);
    let other = stage.submit(5, 9);
    stage.step();
    stage.scheduler.cancel(culprit);
    // The other was in the lost step too: it is tried, and that is all.
    stage.finish();
    assert_eq!(stage.heard(other).0, alone(5, 9));
}

#[test]
fn two_culprits_are_both_found() {
    let mut stage = stage(&[]);
    let first = submit_poisoned(&mut stage, 3, 1);
    let good = stage.submit(4, 9);
    let second = submit_poisoned(&mut stage, 40, 39);
    stage.finish();
    for culprit in [first, second] {
        assert_eq!(stage.heard(culprit).1, Some(FinishReason::EngineFailed));
    }
    assert_eq!(stage.heard(good).0, alone(4, 9));
}
