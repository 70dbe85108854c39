//! The registry: entries go with their tickets, sessions are counted once.

use super::*;

fn registry() -> Arc<Registry> {
    Arc::new(Registry::new(Clock::start()))
}

fn enter(registry: &Arc<Registry>, id: &str, session: Option<&str>) -> Option<Ticket> {
    registry.enter(id.to_owned(), KeyId::default(), session.map(str::to_owned))
}

#[test]
fn an_id_is_live_once_and_free_again_when_its_ticket_goes() {
    let registry = registry();
    let first = enter(&registry, "a", None).expect("the id is free");
    assert!(enter(&registry, "a", None).is_none());
    assert_eq!(registry.count(), 1);
    drop(first);
    assert_eq!(registry.count(), 0);
    assert!(enter(&registry, "a", None).is_some());
}

#[test]
fn a_panic_takes_the_entry_with_it() {
    let registry = registry();
    let inner = Arc::clone(&registry);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _ticket = enter(&inner, "a", Some("s"));
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert_eq!(registry.count(), 0);
}

#[test]
fn the_phase_only_goes_forward() {
    let registry = registry();
    let ticket = enter(&registry, "a", None).expect("the id is free");
    assert_eq!(registry.streams_count(), 0);
    ticket.reached(Phase::Decode);
    ticket.reached(Phase::Prefill);
    assert_eq!(registry.describe(Micros(5_000))[0].phase, Phase::Decode);
    assert_eq!(registry.streams_count(), 1);
    ticket.reached(Phase::Sending);
    assert_eq!(registry.describe(Micros(5_000))[0].phase, Phase::Sending);
}

#[test]
fn live_requests_come_oldest_first() {
    let registry = registry();
    let tickets: Vec<Option<Ticket>> = (0..20).map(|i| enter(&registry, &format!("r{i}"), None)).collect();
    let ids: Vec<String> = registry.describe(Micros(0)).into_iter().map(|live| live.request_id).collect();
    assert_eq!(ids, (0..20).map(|i| format!("r{i}")).collect::<Vec<_>>());
    drop(tickets);
}

#[test]
fn a_session_counts_once_and_for_five_minutes_more() {
    let registry = registry();
    let first = enter(&registry, "a", Some("s"));
    let second = enter(&registry, "b", Some("s"));
    let other = enter(&registry, "c", Some("t"));
    let now = registry.clock.now();
    assert_eq!(registry.sessions_active(now), 2);
    drop((first, second));
    assert_eq!(registry.sessions_active(now), 2);
    // An hour later only the session with a live request is active.
    assert_eq!(registry.sessions_active(now.plus(3_600_000_000)), 1);
    drop(other);
    assert_eq!(registry.sessions_active(registry.clock.now().plus(SESSION_IDLE_MICROS)), 0);
}

#[test]
fn remembered_sessions_are_bounded() {
    let registry = registry();
    let kept = enter(&registry, "kept", Some("kept"));
    for i in 0..SESSIONS_MAX_COUNT + 100 {
        drop(enter(&registry, "a", Some(&format!("s{i}"))));
    }
    assert!(registry.sessions.len() <= SESSIONS_MAX_COUNT);
    assert!(registry.sessions.contains_key("kept"));
    drop(kept);
}

#[test]
fn requests_that_ended_are_remembered_up_to_a_bound_latest_first() {
    let registry = registry();
    for i in 0..RECENT_MAX_COUNT * 2 + 5 {
        let ticket = enter(&registry, &format!("r{i}"), None).expect("the id is free");
        ticket.set_outcome(if i % 2 == 0 { RequestOutcome::Stop } else { RequestOutcome::Length });
        // The first one counts.
        ticket.set_outcome(RequestOutcome::Failed);
    }
    let ids = |count| registry.recent(count).into_iter().map(|ended| ended.request.request_id).collect::<Vec<_>>();
    let latest: Vec<String> = (0..RECENT_MAX_COUNT * 2 + 5).rev().map(|i| format!("r{i}")).collect();
    assert_eq!(ids(usize::MAX), latest[..RECENT_MAX_COUNT], "those before are forgotten");
    assert_eq!(ids(3), latest[..3]);
    let outcomes: Vec<_> = registry.recent(2).into_iter().map(|ended| ended.outcome).collect();
    assert_eq!(outcomes, [Some(RequestOutcome::Stop), Some(RequestOutcome::Length)]);
}

/// Polls a future that waits for an empty registry.
fn is_told(emptied: &mut std::pin::Pin<Box<impl Future<Output = ()>>>) -> bool {
    emptied.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
}

/// On one thread, in the order of these lines; `tests/models` has every order of two threads.
#[test]
fn all_that_wait_for_an_empty_registry_are_told_and_none_before() {
    let registry = registry();
    assert!(is_told(&mut Box::pin(registry.emptied())), "it is empty");
    let tickets = [enter(&registry, "a", None), enter(&registry, "b", None)];
    let mut waiting = [(); 3].map(|()| Box::pin(registry.emptied()));
    assert_eq!(waiting.each_mut().map(is_told), [false; 3]);
    let [first, second] = tickets;
    drop(first);
    assert_eq!(waiting.each_mut().map(is_told), [false; 3], "one is left");
    let third = enter(&registry, "c", None);
    drop(second);
    assert_eq!(waiting.each_mut().map(is_told), [false; 3], "another one came");
    drop(third);
    assert_eq!(waiting.each_mut().map(is_told), [true; 3]);
}
