//! Readers that leave, in every phase: their blocks are free, their entries gone, and no other
//! notices.

use std::time::Duration;

use antiphon::actors::messages::{FinishKind, Generate, ResponseInput};
use antiphon::actors::snapshot::Phase;
use antiphon::engine::fake::FakeAnswer;

use super::world::{Dice, Plan, World, holds_nothing, long, next, plain, read, wait_until, world};

/// Never stops by itself.
fn endless() -> Plan {
    let token = super::world::tokenizer().encode_text("a")[0];
    Plan { answer: FakeAnswer::Script { tokens: Vec::new(), stop: token }, ..Plan::default() }
}

async fn reaches(world: &World, request_id: &str, phase: Phase) {
    wait_until("the request is in the phase", || {
        world.service.live_requests().iter().any(|live| live.request_id == request_id && live.phase == phase)
    })
    .await;
}

#[test]
fn cancelled_while_queued() {
    world(one_at_a_time(), |world| async move {
        let running = world.accepted(plain("running", "x", 200)).await;
        reaches(&world, "running", Phase::Decode).await;
        let queued = world.accepted(plain("queued", "x", 200)).await;
        assert_eq!(world.service.snapshot().scheduler.waiting_count, 1);
        assert!(world.service.cancel("queued").await);
        assert_eq!(world.service.snapshot().scheduler.waiting_count, 0);
        assert_eq!(read(queued, 1).await[0].finish.kind, FinishKind::Cancelled);
        // The running one was not touched.
        assert_eq!(read(running, 1).await[0].tokens.len(), 200);
        world
    });
}

#[test]
fn left_while_queued() {
    world(one_at_a_time(), |world| async move {
        let running = world.accepted(plain("running", "x", 200)).await;
        reaches(&world, "running", Phase::Decode).await;
        drop(world.accepted(plain("queued", "x", 200)).await);
        wait_until("the queue is empty", || world.service.snapshot().scheduler.waiting_count == 0).await;
        assert_eq!(read(running, 1).await[0].tokens.len(), 200);
        world
    });
}

/// All prompts and choices of a request are one entry, and one cancel ends them, whether they run
/// or are held.
#[test]
fn many_prompts_are_cancelled_as_one() {
    world(endless(), |world| async move {
        let prompts = (0..40).map(|prompt| ResponseInput::Text(format!("p{prompt}"))).collect();
        let many = Generate { inputs: prompts, choices_count: 2, ..plain("many", "", 3_000) };
        let accepted = world.accepted(many).await;
        reaches(&world, "many", Phase::Decode).await;
        assert_eq!(world.service.live_requests().len(), 1);
        assert!(world.service.cancel("many").await);
        let scheduler = world.service.snapshot().scheduler;
        assert_eq!((scheduler.waiting_count, scheduler.blocks().in_use_count()), (0, 0));
        assert!(read(accepted, 80).await.iter().all(|said| said.finish.kind == FinishKind::Cancelled));
        world
    });
}

fn one_at_a_time() -> Plan {
    let mut plan = endless();
    plan.scheduling.running_max_count = 1;
    plan.step_time = Duration::from_millis(1);
    plan
}

/// The engine stands in a slice of the prompt, or between two tokens, when the request is cancelled
/// or its reader leaves.
#[test]
fn cancelled_or_left_in_the_middle_of_a_step() {
    for (phase, by_id) in [(Phase::Prefill, true), (Phase::Prefill, false), (Phase::Decode, true), (Phase::Decode, false)] {
        world(endless(), |world| async move {
            if phase == Phase::Prefill {
                world.brake.pull();
            }
            let accepted = world.accepted(long("a", 1_000, 1, 3_000)).await;
            reaches(&world, "a", phase).await;
            world.brake.pull();
            world.brake.holds().await;
            assert!(world.service.snapshot().scheduler.blocks().in_use_count() > 0);
            if by_id {
                assert!(world.service.cancel("a").await);
                // Free at once, although the step still computes.
                holds_nothing(&world.service.snapshot());
                assert_eq!(read(accepted, 1).await[0].finish.kind, FinishKind::Cancelled);
            } else {
                drop(accepted);
                world.is_empty().await;
            }
            assert!(!world.service.cancel("a").await);
            world
        });
    }
}

#[test]
fn left_while_everything_is_generated_and_nothing_is_read() {
    world(endless(), |world| async move {
        let accepted = world.accepted(plain("a", "x", 300)).await;
        reaches(&world, "a", Phase::Sending).await;
        holds_nothing(&world.service.snapshot());
        drop(accepted);
        world.is_empty().await;
        world
    });
}

#[test]
fn taken_back_before_it_was_answered() {
    world(endless(), |world| async move {
        for request in 0..100 {
            let generate = world.service.generate(plain(&format!("r{request}"), &"word ".repeat(2_000), 100));
            let _ = tokio::time::timeout(Duration::from_micros(request * 20), generate).await;
        }
        world.is_empty().await;
        world
    });
}

#[test]
fn cancelled_before_the_scheduler_saw_it() {
    world(endless(), |world| async move {
        let service = world.service.clone();
        // Thousands of tokens, so that the text work takes a while; fewer than the context holds.
        let ask = actix_rt::spawn(async move { service.generate(plain("a", &"word ".repeat(3_000), 100)).await });
        wait_until("it is entered", || !world.service.live_requests().is_empty()).await;
        assert!(world.service.cancel("a").await);
        let accepted = ask.await.expect("no panic").expect("it fits");
        assert_eq!(read(accepted, 1).await[0].finish.kind, FinishKind::Cancelled);
        world
    });
}

#[test]
fn cancelling_twice_or_too_late_or_what_never_was_does_nothing() {
    world(endless(), |world| async move {
        assert!(!world.service.cancel("never").await);
        let said = world.answer(plain("a", "x", 5)).await;
        assert_eq!(said[0].finish.kind, FinishKind::Length);
        world.is_empty().await;
        assert!(!world.service.cancel("a").await);
        let accepted = world.accepted(plain("b", "x", 3_000)).await;
        let (first, second) = futures_util::join!(world.service.cancel("b"), world.service.cancel("b"));
        assert_eq!((first, second), (true, false), "nothing is left for the second");
        assert_eq!(read(accepted, 1).await[0].finish.kind, FinishKind::Cancelled);
        world
    });
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off_and_nobody_waits_for_it() {
    let plan = Plan { slow_reader: Duration::from_millis(100), ..endless() };
    world(plan, |world| async move {
        let slow = world.accepted(plain("slow", "x", 3_000)).await;
        for request in 0..5 {
            let said = world.answer(plain(&format!("r{request}"), "x", 500)).await;
            assert_eq!(said[0].tokens.len(), 500);
        }
        wait_until("the slow one is gone", || world.service.snapshot().requests_active == 0).await;
        // What was in the channel can still be read; then it ends without a finish.
        let mut parts = slow.parts;
        let mut last = None;
        while let Some(part) = next(&mut parts).await {
            last = Some(part);
        }
        let last = last.expect("the channel was full");
        assert!(!matches!(last.kind, antiphon::actors::messages::PartKind::Finished(_)));
        assert_eq!(world.metrics.stats(world.clock.now()).requests.cancelled, 1);
        world
    });
}

/// A thousand clients that leave at random moments, while witnesses are answered as if they were
/// alone.
#[test]
fn a_thousand_clients_leave_and_nothing_stays() {
    let mut plan = Plan { global_blocks: 300, ..Plan::default() };
    plan.scheduling.waiting_max_count = 2_000;
    world(plan, |world| async move {
        let witness = |i: u32| long(&format!("witness {i}"), 50 + i, 500 + i, 60);
        let mut alone = Vec::new();
        for i in 0..4 {
            alone.push(world.answer(witness(i)).await);
        }
        let clients = (0..1_000_u32).map(|client| client_that_leaves(&world, client));
        let witnesses = (0..4).map(|i| world.answer(witness(i)));
        let clients = futures_util::future::join_all(clients);
        let (_, answers) = futures_util::join!(clients, futures_util::future::join_all(witnesses));
        for (alone, answer) in alone.iter().zip(answers) {
            assert_eq!(alone[0].tokens, answer[0].tokens);
            assert_eq!(alone[0].content, answer[0].content);
        }
        world.is_empty().await;
        assert_eq!(world.service.snapshot().sessions_active, 10);
        world
    });
}

async fn client_that_leaves(world: &World, client: u32) {
    let mut dice = Dice::new(u64::from(client));
    let mut request = long(&format!("client {client}"), 1 + dice.below(150) as u32, client, 1 + dice.below(100) as u32);
    request.choices_count = 1 + dice.below(3) as u32;
    request.session = Some(format!("session {}", client % 10));
    tokio::time::sleep(Duration::from_micros(dice.below(200_000))).await;
    let generate = world.service.generate(request);
    if dice.below(10) == 0 {
        let _ = tokio::time::timeout(Duration::from_micros(dice.below(2_000)), generate).await;
        return;
    }
    let mut accepted = generate.await.expect("the queue has room");
    for _ in 0..dice.below(40) {
        if accepted.parts.recv().await.is_none() {
            return;
        }
    }
    if dice.below(4) == 0 {
        world.service.cancel(&format!("client {client}")).await;
        while accepted.parts.recv().await.is_some() {}
    }
}
