//! What is taken and what is refused, and how a server empties itself.

use std::time::Duration;

use antiphon::actors::messages::{FinishKind, Generate, KeyId, Refusal, ResponseInput};
use antiphon::batch::{Sampling, TokenId};
use antiphon::engine::fake::FakeAnswer;

use super::world::{Plan, World, long, plain, read, wait_until, world};

fn endless() -> Plan {
    let token = super::world::tokenizer().encode_text("a")[0];
    Plan { answer: FakeAnswer::Script { tokens: Vec::new(), stop: token }, ..Plan::default() }
}

async fn refused(world: &World, generate: Generate) -> Refusal {
    world.service.generate(generate).await.expect_err("the request is refused")
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let mut plan = endless();
    plan.scheduling.waiting_max_count = 3;
    world(plan, |world| async move {
        world.brake.pull();
        let running = world.accepted(plain("running", "x", 10)).await;
        world.brake.holds().await;
        let mut waiting = Vec::new();
        for i in 0..3 {
            waiting.push(world.accepted(plain(&format!("r{i}"), "x", 10)).await);
        }
        match refused(&world, plain("late", "x", 10)).await {
            Refusal::QueueFull { retry_after_seconds, .. } => assert!((1..=60).contains(&retry_after_seconds)),
            other => panic!("{other:?}"),
        }
        world.brake.release();
        for accepted in waiting.into_iter().chain([running]) {
            assert_eq!(read(accepted, 1).await[0].tokens.len(), 10);
        }
        world
    });
}

/// Twenty answers have ended, so that there is a forecast; the one that runs takes five seconds
/// more.
#[test]
fn what_would_wait_past_the_limit_is_refused_at_once() {
    let mut plan = endless();
    plan.step_time = Duration::from_millis(5);
    plan.scheduling.running_max_count = 1;
    plan.scheduling.waiting_max = Duration::from_millis(500);
    world(plan, |world| async move {
        for i in 0..20 {
            world.answer(plain(&format!("r{i}"), "x", 5)).await;
        }
        let running = world.accepted(plain("running", "x", 1_000)).await;
        wait_until("it runs", || world.service.snapshot().scheduler.decode_count == 1).await;
        match refused(&world, plain("late", "x", 10)).await {
            Refusal::QueueFull { retry_after_seconds, message } => {
                assert!((1..=60).contains(&retry_after_seconds) && message.contains("would wait"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(world.service.snapshot().scheduler.waiting_count, 0);
        drop(running);
        world.is_empty().await;
        assert_eq!(world.answer(plain("late", "x", 10)).await[0].tokens.len(), 10);
        world
    });
}

#[test]
fn choices_are_taken_all_or_none() {
    let mut plan = endless();
    plan.scheduling.waiting_max_count = 3;
    world(plan, |world| async move {
        world.brake.pull();
        let running = world.accepted(plain("running", "x", 10)).await;
        world.brake.holds().await;
        let choices = |name: &str, count| Generate { choices_count: count, ..plain(name, "x", 10) };
        let two = world.accepted(choices("two", 2)).await;
        assert!(matches!(refused(&world, choices("two more", 2)).await, Refusal::QueueFull { .. }));
        assert_eq!(world.service.snapshot().scheduler.waiting_count, 2, "none of the two waits");
        let one = world.accepted(choices("one", 1)).await;
        assert_eq!(world.service.snapshot().scheduler.waiting_count, 3);
        // So many never fit, however empty the queue is.
        assert!(matches!(refused(&world, choices("four", 4)).await, Refusal::Invalid { .. }));
        world.brake.release();
        assert_eq!((read(two, 2).await.len(), read(one, 1).await.len()), (2, 1));
        assert_eq!(read(running, 1).await.len(), 1);
        world
    });
}

#[test]
fn text_work_is_bounded() {
    world(Plan { preparing_max_count: 0, ..Plan::default() }, |world| async move {
        assert!(matches!(refused(&world, plain("a", "x", 10)).await, Refusal::QueueFull { .. }));
        let refusal = world
            .service
            .tokenize(ResponseInput::Text("x".to_owned()), KeyId::default(), None)
            .await
            .expect_err("the bound is zero");
        assert!(matches!(refusal, Refusal::QueueFull { .. }));
        world
    });
}

fn param_and_code(refusal: &Refusal) -> (Option<&str>, Option<&str>) {
    match refusal {
        Refusal::Invalid { param, code, .. } => (param.as_deref(), *code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_served_names_the_parameter() {
    world(Plan { global_blocks: 100, ..Plan::default() }, |world| async move {
        let too_long = refused(&world, long("a", 100 * 16 + 1, 1, 1)).await;
        assert_eq!(param_and_code(&too_long), (Some("prompt"), Some("context_length_exceeded")));
        let too_many = refused(&world, plain("a", "x", 100_000)).await;
        assert_eq!(param_and_code(&too_many), (Some("prompt"), Some("context_length_exceeded")));
        let empty = refused(&world, plain("a", "", 1)).await;
        assert_eq!(param_and_code(&empty), (Some("prompt"), None));
        let none = refused(&world, plain("a", "x", 0)).await;
        assert_eq!(param_and_code(&none), (Some("max_tokens"), None));
        let unknown = Generate { inputs: vec![ResponseInput::Tokens(vec![TokenId(2_048)])], ..plain("a", "", 1) };
        assert_eq!(param_and_code(&refused(&world, unknown).await), (Some("prompt"), None));
        let sampling = Sampling { logit_bias: vec![(TokenId(9_999), 1.0)], ..Sampling::default() };
        let biased = Generate { sampling, ..plain("a", "x", 1) };
        assert_eq!(param_and_code(&refused(&world, biased).await), (Some("logit_bias"), None));
        let unknown = world.service.detokenize(vec![TokenId(2_048)], None).await.expect_err("no such token");
        assert_eq!(param_and_code(&unknown), (Some("tokens"), None));
        world
    });
}

#[test]
fn an_id_is_live_once() {
    world(endless(), |world| async move {
        let first = world.accepted(plain("same", "x", 3_000)).await;
        assert_eq!(param_and_code(&refused(&world, plain("same", "x", 5)).await), (None, Some("duplicate_request_id")));
        assert!(world.service.cancel("same").await);
        read(first, 1).await;
        world.is_empty().await;
        assert_eq!(world.answer(plain("same", "x", 5)).await[0].tokens.len(), 5);
        world
    });
}

#[test]
fn sessions_are_counted_once_and_for_a_while() {
    world(endless(), |world| async move {
        for (id, session) in [("a", Some("s")), ("b", Some("s")), ("c", Some("t")), ("d", None)] {
            world.answer(Generate { session: session.map(str::to_owned), ..plain(id, "x", 2) }).await;
        }
        assert_eq!(world.service.snapshot().sessions_active, 2);
        world
    });
}

#[test]
fn a_request_that_waits_too_long_ends_with_an_error() {
    let mut plan = endless();
    plan.scheduling.running_max_count = 1;
    plan.scheduling.waiting_max = Duration::from_millis(50);
    plan.step_time = Duration::from_millis(5);
    world(plan, |world| async move {
        let running = world.accepted(plain("running", "x", 3_000)).await;
        wait_until("it runs", || world.service.snapshot().scheduler.decode_count == 1).await;
        let said = world.answer(plain("waiting", "x", 10)).await;
        assert!(matches!(said[0].finish.kind, FinishKind::Failed { code: "queue_timeout", .. }));
        drop(running);
        world
    });
}

/// With windows the core asks to be woken by time alone: nothing else happens meanwhile.
#[test]
fn a_held_step_is_begun_when_its_window_ends() {
    let mut plan = endless();
    plan.scheduling.prefill_window = Duration::from_millis(30);
    plan.scheduling.decode_window = Duration::from_millis(10);
    world(plan, |world| async move {
        assert_eq!(world.answer(plain("a", "x", 5)).await[0].tokens.len(), 5);
        world
    });
}

#[test]
fn a_drain_lets_the_running_finish_and_takes_nothing_new() {
    let plan = Plan { step_time: Duration::from_millis(1), ..endless() };
    world(plan, |world| async move {
        let running = world.accepted(plain("running", "x", 100)).await;
        world.service.begin_drain();
        assert!(!world.service.snapshot().ready);
        assert!(world.service.snapshot().alive);
        assert!(matches!(refused(&world, plain("late", "x", 1)).await, Refusal::Unavailable { code: "draining", .. }));
        let (drained, said) = futures_util::join!(world.service.drained(Duration::from_secs(60)), read(running, 1));
        assert_eq!(drained.ended_count, 0);
        assert_eq!(said[0].tokens.len(), 100);
        world
    });
}

#[test]
fn a_drain_that_runs_out_of_time_ends_the_rest_with_an_error() {
    let plan = Plan { step_time: Duration::from_millis(1), ..endless() };
    world(plan, |world| async move {
        let running = world.accepted(plain("running", "x", 4_000)).await;
        world.service.begin_drain();
        let (drained, said) = futures_util::join!(world.service.drained(Duration::from_millis(50)), read(running, 1));
        assert_eq!(drained.ended_count, 1);
        assert!(matches!(said[0].finish.kind, FinishKind::Failed { code: "server_shutdown", .. }));
        assert!(!said[0].content.is_empty());
        world
    });
}
