//! Runs the models. Each is exhaustive up to so many preemptions of a running thread: Musuvathi and
//! Qadeer (PLDI 2007) found that two are enough for nearly every bug.

use antiphon_models::{actors, pool};
use loom::model::Builder;

fn every_order(preemptions_max: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions_max);
    builder.max_branches = 10_000;
    builder.check(model);
}

#[test]
fn a_thread_that_joins_sees_the_work_and_the_caller_its_results() {
    every_order(3, || pool::runs(2, 1, 2));
}

#[test]
fn the_next_run_does_not_meet_the_last_one() {
    every_order(3, || pool::runs(2, 2, 2));
}

#[test]
fn two_helpers_share_a_run_and_end() {
    every_order(2, || pool::runs(3, 1, 2));
}

#[test]
fn all_that_wait_for_an_empty_registry_are_told() {
    every_order(2, actors::all_that_wait_are_told);
}

#[test]
fn the_last_request_that_ends_tells_that_the_registry_is_empty() {
    every_order(2, actors::the_last_that_ends_tells);
}

#[test]
fn a_request_that_comes_meanwhile_is_waited_for() {
    every_order(3, actors::one_that_comes_meanwhile_is_waited_for);
}
