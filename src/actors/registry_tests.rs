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
