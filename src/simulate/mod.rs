//! Simulated worlds for the scheduler: a seed decides the limits, the clients, the faults and the
//! clock.
//!
//! Owns: worlds. Promises: a seed gives the same world for ever; every call to the scheduler is
//! followed by a check of everything that can be checked. The real scheduler runs, none of its time
//! or randomness is its own, and an engine that remembers what every KV slot holds answers it
//! ([`crate::engine::fake`]). Absent on purpose: threads, text, the network.
//!
//! A world has two parts. In the first anything may happen: arrivals, cancels in any phase, lost
//! steps, sequences at which the engine fails, clock jumps (safety). In the second nothing new
//! happens, and everything must end in a bounded number of steps, and every block be free
//! (liveness).

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::world::World;
use crate::scheduler::PrefixCounts;

mod checks;
mod client;
mod config;
mod order;
mod rng;
mod store;
#[cfg(test)]
mod tests;
mod world;

/// How long a world lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Plans of the first part.
    pub turns: usize,
    /// Whether every feature of the core is on in every world. Else each is off in some, so that
    /// others are driven to their corners.
    pub every_feature: bool,
}

impl Default for Options {
    /// Long enough for queues to fill and empty many times.
    fn default() -> Self {
        Self { turns: 80, every_feature: false }
    }
}

/// What happened in a world.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorldReport {
    /// The world's seed.
    pub seed: u64,
    /// Steps committed, lost ones included.
    pub steps_total: u64,
    /// Slices of those steps.
    pub slices_total: u64,
    /// Sequences taken.
    pub taken_total: u64,
    /// Requests rejected.
    pub rejected_total: u64,
    /// Sequences cancelled.
    pub cancelled_total: u64,
    /// Sequences that ended otherwise.
    pub finished_total: u64,
    /// Tokens received by clients.
    pub tokens_total: u64,
    /// Steps lost.
    pub lost_total: u64,
    /// Sequences preempted.
    pub preemptions_total: u64,
    /// Steps planned while another was computed.
    pub ahead_total: u64,
    /// Prompts of which some tokens were found computed, and those tokens.
    pub hits_total: u64,
    /// See there.
    pub hit_tokens_total: u64,
    /// Preempted sequences of which some were.
    pub resumed_total: u64,
    /// Blocks that came back from the store.
    pub restored_total: u64,
    /// Tokens that were guessed.
    pub draft_tokens_total: u64,
    /// Those of them that were right.
    pub accepted_tokens_total: u64,
    /// Plans that held a step although something could be computed.
    pub held_total: u64,
    /// What was wrong, if anything was; the world ended there.
    pub failure: Option<String>,
}

impl WorldReport {
    /// Adds the counts of another world; its failure stays its own.
    pub fn add(&mut self, other: &Self) {
        self.steps_total += other.steps_total;
        self.slices_total += other.slices_total;
        self.taken_total += other.taken_total;
        self.rejected_total += other.rejected_total;
        self.cancelled_total += other.cancelled_total;
        self.finished_total += other.finished_total;
        self.tokens_total += other.tokens_total;
        self.lost_total += other.lost_total;
        self.preemptions_total += other.preemptions_total;
        self.ahead_total += other.ahead_total;
        self.hits_total += other.hits_total;
        self.hit_tokens_total += other.hit_tokens_total;
        self.resumed_total += other.resumed_total;
        self.restored_total += other.restored_total;
        self.held_total += other.held_total;
        self.draft_tokens_total += other.draft_tokens_total;
        self.accepted_tokens_total += other.accepted_tokens_total;
    }
}

/// Lives through the world of `seed`. A scheduler that panics is a failure like any other.
#[must_use]
pub fn run(seed: u64, options: &Options) -> WorldReport {
    let mut world = World::new(seed, options.every_feature);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..options.turns {
            world.turn()?;
        }
        world.drain()
    }));
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(wrong)) => Some(wrong),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Some(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned())
        }
    };
    let (preemptions_total, PrefixCounts { hits_total, hit_tokens_total, resumed_total, .. }) = world.totals();
    WorldReport { failure, preemptions_total, hits_total, hit_tokens_total, resumed_total, ..world.report }
}
