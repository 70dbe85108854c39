//! Where the engine's thread stands, as the SchedulerActor knows it: a state machine, without
//! threads, actors or clocks.
//!
//! Owns: what the thread does, the engine's limits, strikes, and the heartbeats without a report.
//! Promises: an engine is rebuilt after it died, unless nothing works any more (see
//! `supervision.rs`); a rebuilt engine has the first one's limits; a thread that is silent past the
//! watchdog is given up; Dead and Stopped are for ever. Absent on purpose: the jobs and reports
//! themselves, and the core. Events come in as calls, with the time as `now`; what is to be
//! done comes out as a [`SeatCommand`].
//!
//! ```text
//!            built             step_begun
//! Loading ----------> Idle <--------------> Computing
//!    |                 ^      step_done         | step_lost
//!    | not_built       | built                  v
//!    v                 +------------------ Restarting
//!  Dead <--- strikes, other limits, silence, a panic: from every state
//! Stopped <--- stop: from every state
//! ```

use crate::actors::supervision::Strikes;
use crate::batch::{EngineLimits, Micros};

/// How often the actor shows that it lives, and looks whether the engine does.
pub(super) const HEARTBEAT_MICROS: u64 = 1_000_000;

/// What the engine's thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeatState {
    /// It builds the first engine.
    Loading,
    /// It waits for a step.
    Idle,
    /// It computes a step.
    Computing(ComputedStep),
    /// It builds an engine after one died.
    Restarting,
    /// The engine is given up.
    Dead,
    /// The actor was told to stop.
    Stopped,
}

/// A step that the engine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ComputedStep {
    /// When the engine could begin it.
    pub(super) began: Micros,
    /// The engine has the next step as well.
    pub(super) ahead: bool,
}

/// What an event asks of the actor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub(super) enum SeatCommand {
    /// Nothing.
    Nothing,
    /// Make a core for an engine with these limits: it is the first.
    Start(EngineLimits),
    /// Go on with the core: another engine is there.
    Resume,
    /// Have another engine built, since one died for this reason.
    Rebuild(String),
    /// Give the engine up: every request ends, for this reason.
    GiveUp(String),
}

/// What the engine's thread does, and how often it failed.
#[derive(Debug)]
pub(super) struct EngineSeat {
    state: SeatState,
    limits: Option<EngineLimits>,
    strikes: Strikes,
    /// Heartbeats since the thread last reported while it had something to do.
    silent_beats: u64,
}

impl EngineSeat {
    /// The first engine is being built.
    pub(super) fn new() -> Self {
        Self { state: SeatState::Loading, limits: None, strikes: Strikes::default(), silent_beats: 0 }
    }

    /// A step can be given to the engine.
    pub(super) fn is_idle(&self) -> bool {
        self.state == SeatState::Idle
    }

    /// Nothing is asked of the engine any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, SeatState::Dead | SeatState::Stopped)
    }

    /// Whether the engine takes a step while it computes one.
    pub(super) fn takes_two_steps(&self) -> bool {
        self.limits.is_some_and(|limits| limits.steps_max > 1)
    }

    /// An engine is built.
    pub(super) fn built(&mut self, limits: EngineLimits) -> SeatCommand {
        if self.report() {
            return SeatCommand::Nothing;
        }
        match self.limits {
            Some(first) if first != limits => {
                self.give_up(format!("the engine was rebuilt with other limits: {limits:?} instead of {first:?}"))
            }
            first => {
                self.state = SeatState::Idle;
                self.limits = Some(limits);
                if first.is_none() { SeatCommand::Start(limits) } else { SeatCommand::Resume }
            }
        }
    }

    /// No engine could be built: the end if it is the first one, a strike otherwise.
    pub(super) fn not_built(&mut self, message: String, now: Micros) -> SeatCommand {
        if self.report() {
            return SeatCommand::Nothing;
        }
        if self.limits.is_none() { self.give_up(message) } else { self.restart(message, 1, now) }
    }

    /// The engine was given a step, which it could begin at `began`; `ahead`: and the one after it.
    ///
    /// # Panics
    /// If it is building one, or computes one already.
    pub(super) fn step_begun(&mut self, began: Micros, ahead: bool) {
        assert!(self.is_idle(), "a step is given to an engine that waits for one: {:?}", self.state);
        self.state = SeatState::Computing(ComputedStep { began, ahead });
        self.silent_beats = 0;
    }

    /// The step is computed; the step that it was. `None` if nothing is wanted of it any more.
    pub(super) fn step_done(&mut self) -> Option<ComputedStep> {
        let step = self.step_reported()?;
        self.strikes.succeeded();
        Some(step)
    }

    /// The engine failed in the step, and is gone; the step that it was.
    /// [`EngineSeat::engine_died`] is to follow.
    pub(super) fn step_lost(&mut self) -> Option<ComputedStep> {
        self.step_reported()
    }

    /// An engine died, and the core gave up `given_up_count` sequences for it, each of which is a
    /// strike.
    pub(super) fn engine_died(&mut self, message: String, given_up_count: usize, now: Micros) -> SeatCommand {
        if self.is_over() { SeatCommand::Nothing } else { self.restart(message, given_up_count, now) }
    }

    /// A heartbeat without a report. A thread that is to report is given up once it has been silent
    /// for longer than `watchdog_micros`; the first engine may take as long as it likes. Beats
    /// are counted, not time: a process that was stopped for a minute has missed its beats too.
    pub(super) fn beat(&mut self, watchdog_micros: u64) -> SeatCommand {
        if !self.is_awaited() {
            return SeatCommand::Nothing;
        }
        self.silent_beats += 1;
        if self.silent_beats * HEARTBEAT_MICROS > watchdog_micros {
            return self.give_up(format!("the engine has not answered for {} seconds", self.silent_beats));
        }
        SeatCommand::Nothing
    }

    /// Whether the thread is to report within the watchdog's time.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self.state, SeatState::Computing(_) | SeatState::Restarting)
    }

    /// The engine's thread has ended.
    pub(super) fn thread_ended(&mut self) -> SeatCommand {
        if self.is_over() { SeatCommand::Nothing } else { self.give_up("the engine's thread ended".to_owned()) }
    }

    /// Nothing can be trusted any more.
    pub(super) fn give_up(&mut self, message: String) -> SeatCommand {
        self.state = SeatState::Dead;
        SeatCommand::GiveUp(message)
    }

    /// The actor is told to stop.
    pub(super) fn stop(&mut self) {
        self.state = SeatState::Stopped;
    }

    fn restart(&mut self, message: String, strikes_count: usize, now: Micros) -> SeatCommand {
        if !self.strikes.add(strikes_count, now) {
            return self.give_up(format!("the engine died again and again: {message}"));
        }
        self.state = SeatState::Restarting;
        self.silent_beats = 0;
        SeatCommand::Rebuild(message)
    }

    /// Notes that the thread reported; whether that comes too late to matter.
    fn report(&mut self) -> bool {
        self.silent_beats = 0;
        self.is_over()
    }

    fn step_reported(&mut self) -> Option<ComputedStep> {
        if self.report() {
            return None;
        }
        let SeatState::Computing(step) = std::mem::replace(&mut self.state, SeatState::Idle) else {
            unreachable!("a step is reported only while one computes")
        };
        Some(step)
    }
}

#[cfg(test)]
#[path = "engine_seat_tests.rs"]
mod tests;
