//! The core's checks of itself see what they are there for: each state is broken in one way.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

type Breaking = fn(&mut Scheduler);

/// The first runs, decodes and has generated a token; the second is being prefilled; two wait.
fn stage() -> Stage {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 2, ..limits() });
    stage.submit(6, 9);
    stage.submit(40, 9);
    stage.step();
    stage.submit(5, 9);
    stage.submit(7, 9);
    stage.scheduler.check_all();
    stage
}

fn waiting(core: &mut Scheduler) -> &mut sequence::Sequence {
    let (_, place) = core.waiting.front().expect("two wait");
    &mut core.sequences[place]
}

const BREAKINGS: [(&str, Breaking); 18] = [
    ("more sequences run than may", |core| core.limits.running_max_count = 1),
    ("more sequences wait than may", |core| core.limits.waiting_max_count = 1),
    ("sequence 9 is a suspect and has ended", |core| {
        core.suspects.accuse(SeqId(9), 1, false);
    }),
    ("sequence 1 has got further or not", |core| {
        let place = core.running[1].place;
        core.sequences[place].advances_at = 50;
    }),
    ("a running sequence is at its place", |core| {
        let place = core.running[0].place;
        core.sequences[place].id = SeqId(7);
    }),
    ("sequence 0 runs with nothing to compute", |core| core.running[0].computed = core.running[0].tokens_count),
    ("sequence 1 has no more than it asked for", |core| core.running[1].generated_count = 10),
    ("sequence 0 runs and has never run", |core| {
        let place = core.running[0].place;
        core.sequences[place].has_run = false;
    }),
    ("as many decode as are counted", |core| core.running[1].decoding = true),
    ("sequence 0 decodes or not", |core| core.running[0].tokens_count += 1),
    ("sequence 1 has as many tokens as are counted", |core| core.running[1].tokens_count += 1),
    ("sequence 0 knows its last token", |core| core.running[0].last = TokenId(499)),
    ("sequence 1 gathers log-probabilities or not", |core| core.running[1].awaits_prompt_logprobs = true),
    ("a waiting sequence is at its place", |core| waiting(core).id = SeqId(3)),
    ("the queue's sums are those of its sequences", |core| waiting(core).tokens.push(TokenId(20))),
    ("the queue's sums are those of its sequences", |core| waiting(core).prompt_len += 1),
    ("was never submitted", |core| core.ids = SeqIds::new(0)),
    ("what never ran waits behind what did", |core| waiting(core).has_run = true),
];

#[test]
fn a_state_that_cannot_be_is_noticed() {
    for (message, breaks) in BREAKINGS {
        let mut stage = stage();
        breaks(&mut stage.scheduler);
        let panicked = catch_unwind(AssertUnwindSafe(|| stage.scheduler.check_all())).expect_err(message);
        let said = panicked.downcast_ref::<String>().map(String::as_str).or(panicked.downcast_ref::<&str>().copied());
        assert!(said.is_some_and(|said| said.contains(message)), "{message}: {said:?}");
    }
}
