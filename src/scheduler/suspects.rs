//! Finding the sequence at which the engine fails.
//!
//! A lost step says that something in it was too much for the engine, not what. Its sequences
//! become **suspects**. As long as there are any, **a step holds either one suspect and nothing
//! else (a trial), or no suspect**; trials and other steps take turns, so that the others' answers
//! go on.
//!
//! A suspect is acquitted when it has computed, in trials, everything up to the end of its slice in
//! the lost step. Its first trial that succeeds is not enough, because a long prompt may be
//! harmless up to the slice that is not.
//!
//! A suspect whose steps are lost twice while it is alone in them is given up. Twice, because a
//! device may fail by itself once, whatever is computed, and the innocent should not pay; not more
//! often, because each loss costs all sequences the recomputing of everything. For the same reason
//! suspects are tried one by one and not by bisection. Bisection loses a step for each halving: six
//! for 64 sequences, and two more to be sure. This way loses two whatever their number, and what is
//! prefilled alone does not have to be prefilled again.

use std::collections::BTreeMap;

use super::Scheduler;
use super::running::Runner;
use super::windows::AdmissionWindow;
use crate::batch::SeqId;

/// Steps lost while a sequence was alone in them, after which it is given up.
const LOST_ALONE_MAX: u32 = 2;

#[derive(Debug, Clone, Copy, Default)]
struct Suspicion {
    /// Acquitted once so many tokens are computed.
    acquitted_at: usize,
    lost_alone: u32,
}

/// The suspects of lost steps.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    suspicions: BTreeMap<SeqId, Suspicion>,
    /// The step before was a trial.
    tried_last: bool,
}

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.suspicions.is_empty()
    }

    pub(super) fn contain(&self, seq: SeqId) -> bool {
        self.suspicions.contains_key(&seq)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SeqId> {
        self.suspicions.keys().copied()
    }

    fn oldest(&self) -> Option<SeqId> {
        self.suspicions.first_key_value().map(|(seq, _)| *seq)
    }

    /// A step that was to compute `seq` up to `end` was lost. Answers whether `seq` is to be given
    /// up.
    pub(super) fn accuse(&mut self, seq: SeqId, end: usize, alone: bool) -> bool {
        let suspicion = self.suspicions.entry(seq).or_default();
        suspicion.acquitted_at = suspicion.acquitted_at.max(end);
        suspicion.lost_alone += u32::from(alone);
        suspicion.lost_alone >= LOST_ALONE_MAX
    }

    /// `seq` has computed `computed` tokens.
    pub(super) fn note_computed(&mut self, seq: SeqId, computed: usize) {
        if self.suspicions.get(&seq).is_some_and(|suspicion| computed >= suspicion.acquitted_at) {
            self.suspicions.remove(&seq);
        }
    }

    /// `seq` has ended.
    pub(super) fn forget(&mut self, seq: SeqId) {
        self.suspicions.remove(&seq);
    }
}

impl Scheduler {
    /// Chooses the next step while there are suspects: a trial, if the step before was none and it
    /// is possible, or a step of the others, or a trial after all.
    pub(super) fn choose_apart(&mut self) {
        let trial = !self.suspects.tried_last && self.choose_trial();
        if !trial {
            self.choose_others();
        }
        self.suspects.tried_last = trial || (self.step.is_empty() && self.choose_trial());
        assert!(!self.step.is_empty(), "there are suspects, and none can run");
    }

    /// A step of the oldest suspect alone; `false` if it waits and cannot be admitted, or was
    /// preempted just now.
    fn choose_trial(&mut self) -> bool {
        let Some(suspect) = self.suspects.oldest() else { return false };
        if self.running.find(suspect).is_some() {
            self.choose_some(|_, runner| runner.seq == suspect);
        } else if self.waiting.front().is_some_and(|(front, _)| front == suspect) {
            self.admit_front(self.limits.token_budget_tokens);
        }
        !self.step.is_empty()
    }

    /// A step of those that are no suspects.
    fn choose_others(&mut self) {
        let room = self.choose_some(|core, runner| !core.suspects.contain(runner.seq));
        self.admit(AdmissionWindow::Open, room);
    }

    fn choose_some(&mut self, is_candidate: impl Fn(&Self, &Runner) -> bool) -> usize {
        let decoding = self.running.iter().filter(|runner| runner.decoding && is_candidate(self, runner));
        self.catch_up(decoding.count(), is_candidate)
    }
}
