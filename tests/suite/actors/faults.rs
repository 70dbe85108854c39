//! Engines that fail, panic and hang, and requests that are poison to them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use antiphon::actors::messages::{FinishKind, Generate, Refusal, ResponseInput};
use antiphon::actors::snapshot::EngineState;
use antiphon::batch::{SeqId, TokenId};
use antiphon::engine::fake::{EngineFault, FakeAnswer};

use super::world::{Plan, Said, World, long, read, wait_until, world};

async fn all_answers(world: &World) -> Vec<Vec<Said>> {
    let requests = (0..12_u32).map(|i| world.answer(long(&format!("r{i}"), 20 + i * 13, i, 30)));
    futures_util::future::join_all(requests).await
}

/// Whether the engine is given its next step while it computes one or not.
fn answers_with(faults: Vec<EngineFault>) -> Vec<Vec<Said>> {
    let answers = answers_of(faults.clone(), 2);
    assert_eq!(answers_of(faults, 1), answers);
    answers
}

fn answers_of(faults: Vec<EngineFault>, steps_max: usize) -> Vec<Vec<Said>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let restarts = faults.len() as u64;
    world(Plan { faults, steps_max, global_blocks: 100, ..Plan::default() }, |world| async move {
        sender.send(all_answers(&world).await).expect("the receiver waits");
        assert_eq!(world.service.snapshot().engine_restarts_total, restarts);
        assert!(world.service.snapshot().ready);
        world
    });
    receiver.recv().expect("the answers were sent")
}

/// Step 0 is the first engine's probe, and each engine that is built after it takes one more.
#[test]
fn an_engine_that_dies_in_mid_stream_changes_no_answer() {
    let undisturbed = answers_with(Vec::new());
    assert_eq!(answers_with(vec![EngineFault::FailsAtStep(12)]), undisturbed);
    assert_eq!(answers_with(vec![EngineFault::PanicsAtStep(12)]), undisturbed);
    let often = (0..6).map(|death| EngineFault::PanicsAtStep(3 + death * 9)).collect();
    assert_eq!(answers_with(often), undisturbed);
}

#[test]
fn a_poisonous_request_fails_alone() {
    let undisturbed = answers_with(Vec::new());
    assert!(undisturbed.iter().all(|answer| !answer[0].tokens.contains(&POISON)), "choose another seed");
    for fault in [EngineFault::PanicsOnToken(POISON), EngineFault::FailsOnToken(POISON)] {
        let undisturbed = undisturbed.clone();
        world(Plan { faults: vec![fault], global_blocks: 100, ..Plan::default() }, |world| async move {
            let (poisoned, answers) = futures_util::join!(world.answer(poison("poison", 60)), all_answers(&world));
            assert!(matches!(poisoned[0].finish.kind, FinishKind::Failed { code: "engine_failed", .. }));
            assert_eq!(answers, undisturbed);
            assert_eq!(world.service.snapshot().engine, EngineState::Ready);
            assert_eq!(world.metrics.stats(world.clock.now()).requests.failed, 1);
            world
        });
    }
}

/// Kills every engine that computes it, if the plan says so.
const POISON: TokenId = TokenId(2_000);

fn poison(request_id: &str, tokens: usize) -> Generate {
    Generate { inputs: vec![ResponseInput::Tokens(vec![POISON; tokens])], ..long(request_id, 1, 1, 5) }
}

/// Never says what is poison.
fn quiet() -> FakeAnswer {
    FakeAnswer::Script { tokens: Vec::new(), stop: TokenId(65) }
}

#[test]
fn a_request_that_is_poison_alone_does_not_take_the_server_with_it() {
    world(Plan { faults: vec![EngineFault::PanicsOnToken(POISON)], answer: quiet(), ..Plan::default() }, |world| async move {
        for round in 0..5 {
            let said = world.answer(poison(&format!("poison {round}"), 10)).await;
            assert!(matches!(said[0].finish.kind, FinishKind::Failed { code: "engine_failed", .. }));
            wait_until("the engine is back", || world.service.snapshot().ready).await;
            let said = world.answer(long(&format!("good {round}"), 10, 1, 5)).await;
            assert_eq!(said[0].finish.kind, FinishKind::Length);
        }
        world
    });
}

#[test]
fn one_prompt_that_fails_takes_the_others_of_its_request_with_it() {
    let undisturbed = Arc::new(Mutex::new(Vec::new()));
    for faults in [Vec::new(), vec![EngineFault::FailsOnToken(POISON)], vec![EngineFault::NotFiniteOnToken(POISON)]] {
        let (undisturbed, is_first) = (Arc::clone(&undisturbed), faults.is_empty());
        let engine_fails = matches!(faults.as_slice(), [EngineFault::FailsOnToken(_)]);
        world(Plan { faults, answer: quiet(), ..Plan::default() }, |world| async move {
            let tokens = |token: TokenId| ResponseInput::Tokens(vec![token; 10]);
            let mut inputs: Vec<ResponseInput> = (0..60).map(|i| tokens(TokenId(i))).collect();
            if !is_first {
                inputs[33] = tokens(POISON);
            }
            let sixty = Generate { inputs, ..long("sixty", 1, 1, 20) };
            let (sixty, answers) = futures_util::join!(world.accepted(sixty), all_answers(&world));
            let said = read(sixty, 60).await;
            let failed = |wanted: &str| {
                let is = |said: &&Said| matches!(&said.finish.kind, FinishKind::Failed { code, .. } if *code == wanted);
                said.iter().filter(is).count()
            };
            if is_first {
                assert!(said.iter().all(|said| said.tokens.len() == 20));
                *undisturbed.lock().unwrap() = answers;
            } else {
                assert_eq!(failed(if engine_fails { "engine_failed" } else { "model_numeric_error" }), 1);
                assert!(failed("request_failed") > 20, "those that were not through");
                assert_eq!(answers, *undisturbed.lock().unwrap(), "the others notice nothing");
                assert_eq!(world.metrics.stats(world.clock.now()).requests.failed, 1);
            }
            world
        });
    }
}

#[test]
fn logits_that_are_not_finite_fail_their_sequence_alone() {
    let fault = EngineFault::NotFiniteFor { seq: SeqId(3), generated_count: 7 };
    world(Plan { faults: vec![fault], answer: quiet(), ..Plan::default() }, |world| async move {
        let answers = all_answers(&world).await;
        let failed: Vec<&Said> = answers
            .iter()
            .map(|answer| &answer[0])
            .filter(|said| matches!(said.finish.kind, FinishKind::Failed { .. }))
            .collect();
        assert_eq!(failed.len(), 1);
        assert!(matches!(failed[0].finish.kind, FinishKind::Failed { code: "model_numeric_error", .. }));
        assert_eq!(failed[0].tokens.len(), 7);
        world
    });
}

#[test]
fn an_engine_that_cannot_be_rebuilt_ends_everything() {
    // Step 0 is the first probe; a step dies, and then three probes.
    let faults = (10..14).map(EngineFault::PanicsAtStep).collect();
    world(Plan { faults, answer: quiet(), ..Plan::default() }, |world| async move {
        let requests: Vec<_> = (0..5_u32).map(|i| world.accepted(long(&format!("r{i}"), 20, i, 3_000))).collect();
        let accepted = futures_util::future::join_all(requests).await;
        for accepted in accepted {
            let said = read(accepted, 1).await;
            assert!(matches!(said[0].finish.kind, FinishKind::Failed { code: "engine_failed", .. }));
        }
        assert!(world.service.died().await.contains("as told"));
        let snapshot = world.service.snapshot();
        assert_eq!(snapshot.engine, EngineState::Dead);
        assert!(!snapshot.alive && !snapshot.ready);
        let refusal = world.service.generate(long("late", 10, 1, 1)).await.expect_err("nothing is taken any more");
        assert!(matches!(refusal, Refusal::Unavailable { code: "engine_dead", .. }));
        world
    });
}

#[test]
fn an_engine_that_fails_on_everything_ends_everything() {
    world(Plan { faults: vec![EngineFault::FailsOnToken(POISON)], answer: quiet(), ..Plan::default() }, |world| async move {
        for round in 0..3 {
            wait_until("the engine is back", || world.service.snapshot().ready).await;
            let said = world.answer(poison(&format!("poison {round}"), 10)).await;
            assert!(matches!(said[0].finish.kind, FinishKind::Failed { code: "engine_failed", .. }));
        }
        world.service.died().await;
        world
    });
}

#[test]
fn an_engine_that_cannot_be_built_is_told_at_the_start() {
    actix_rt::System::new().block_on(async {
        let world = World::start(Plan { faults: vec![EngineFault::PanicsAtStep(0)], ..Plan::default() });
        let error = world.service.loaded().await.expect_err("it cannot compute");
        assert!(error.to_string().contains("as told"), "{error}");
        world.service.stop().await;
    });
}

#[test]
fn an_engine_that_hangs_is_seen_by_the_watchdog() {
    let plan = Plan { watchdog: Duration::from_secs(1), answer: quiet(), ..Plan::default() };
    world(plan, |world| async move {
        world.brake.pull();
        let accepted = world.accepted(long("a", 10, 1, 10)).await;
        let said = read(accepted, 1).await;
        assert!(matches!(said[0].finish.kind, FinishKind::Failed { code: "engine_failed", .. }));
        assert!(world.service.died().await.contains("has not answered"));
        assert!(!world.service.snapshot().alive);
        world
    });
}

#[test]
fn while_an_engine_is_rebuilt_requests_are_refused_and_those_taken_wait() {
    world(Plan { faults: vec![EngineFault::FailsAtStep(5)], answer: quiet(), ..Plan::default() }, |world| async move {
        let accepted = world.accepted(long("a", 10, 1, 2_000)).await;
        let said = read(accepted, 1).await;
        assert_eq!(said[0].finish.kind, FinishKind::Length);
        assert_eq!(world.service.snapshot().engine_restarts_total, 1);
        world
    });
}
