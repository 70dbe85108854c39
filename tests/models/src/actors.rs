//! The registry of live requests, and its models.

use std::sync::Arc;

use antiphon::clock::Clock;
use loom::future::block_on;
use loom::thread;

pub(crate) use antiphon::actors::{messages, snapshot};

use messages::KeyId;
use registry::{Registry, Ticket};

#[path = "../../../src/actors/registry.rs"]
#[allow(dead_code, reason = "a model uses what it needs of the file")]
mod registry;

#[path = "../../../src/actors/ttft.rs"]
#[allow(dead_code, reason = "a model uses what the registry needs of the file")]
mod ttft;

fn enter(registry: &Arc<Registry>, id: &str) -> Ticket {
    registry.enter(id.to_owned(), KeyId::default(), None).expect("the id is free")
}

/// A request ends on one thread while two others wait for the registry to be empty: both are told,
/// whenever they looked.
pub fn all_that_wait_are_told() {
    let registry = Arc::new(Registry::new(Clock::start()));
    let ticket = enter(&registry, "a");
    let ends = thread::spawn(move || drop(ticket));
    let waits = {
        let registry = Arc::clone(&registry);
        thread::spawn(move || block_on(registry.emptied()))
    };
    block_on(registry.emptied());
    assert_eq!(registry.count(), 0, "none is told before");
    waits.join().expect("it ends");
    ends.join().expect("it ends");
}

/// Two requests end on threads of their own.
pub fn the_last_that_ends_tells() {
    let registry = Arc::new(Registry::new(Clock::start()));
    let endings = ["a", "b"].map(|id| enter(&registry, id)).map(|ticket| thread::spawn(move || drop(ticket)));
    block_on(registry.emptied());
    assert_eq!(registry.count(), 0, "none is told before");
    endings.into_iter().for_each(|ending| ending.join().expect("it ends"));
}

/// A request enters while another one ends: a waiter is told once both have ended.
pub fn one_that_comes_meanwhile_is_waited_for() {
    let registry = Arc::new(Registry::new(Clock::start()));
    let first = enter(&registry, "a");
    let comes = {
        let registry = Arc::clone(&registry);
        thread::spawn(move || {
            let second = enter(&registry, "b");
            drop(first);
            drop(second);
        })
    };
    block_on(registry.emptied());
    assert_eq!(registry.count(), 0, "none is told before");
    comes.join().expect("it ends");
}
