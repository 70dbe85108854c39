//! The core together with what follows from its events: streams fed, orphans cancelled, counts
//! published.
//!
//! Owns: the scheduler core and the routes. Promises: after [`Stepper::deliver`] every event of the
//! core is on its way to its stream, no sequence without a stream is left in the core, and the
//! published counts are the core's. Every call publishes counts and delivers events before it
//! returns, except `plan`, `plan_ahead` and `commit`: call `deliver` after them. Absent on purpose:
//! the engine, mailboxes, timers, clocks.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::actors::ends::TextEnd;
use crate::actors::flight::RecordedStep;
use crate::actors::mail::Feed;
use crate::actors::registry::{LiveEntry, ResponseId};
use crate::actors::routes::Routes;
use crate::actors::snapshot::{SchedulerLook, SequenceView, ViewSize};
use crate::actors::status::Status;
use crate::actors::token_rate::TokenRate;
use crate::batch::{Batch, KvCopies, Micros, SeqId, Spill, StepResult, StoredBlock};
use crate::metrics::{Metrics, StepRecord};
use crate::scheduler::{FinishReason, NewSequence, Plan, Reject, Scheduler, SchedulerCounts, SchedulerLimits, SequenceEvent};

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Compute the batch that was filled.
    Step,
    /// Nothing until then, or until something is submitted.
    Idle(Option<Micros>),
}

/// The core and its surroundings.
#[derive(Debug)]
pub(super) struct Stepper {
    core: Scheduler,
    routes: Routes,
    pace: TokenRate,
    events: Vec<SequenceEvent>,
    /// Steps that were planned and have not ended, oldest first.
    under_way: VecDeque<RecordedStep>,
    status: Arc<Status>,
    metrics: Metrics,
}

impl Stepper {
    /// An empty core.
    pub(super) fn new(limits: SchedulerLimits, status: Arc<Status>, metrics: Metrics) -> Self {
        let stepper = Self {
            core: Scheduler::new(limits),
            routes: Routes::default(),
            pace: TokenRate::default(),
            events: Vec::new(),
            under_way: VecDeque::new(),
            status,
            metrics,
        };
        stepper.publish();
        stepper
    }

    /// Evicted blocks go to a store of so many places, which holds these.
    pub(super) fn offload_to(&mut self, places: usize, stored: Vec<StoredBlock>) {
        self.core.offload_to(places, stored);
        self.publish();
    }

    /// What is to be copied beside the step that was planned.
    pub(super) fn take_copies(&mut self) -> KvCopies {
        self.core.take_copies()
    }

    /// The sequence that waits for what is read of the store.
    pub(super) fn awaits_fetched(&self) -> Option<SeqId> {
        self.core.awaits_fetched()
    }

    /// What was read for it.
    pub(super) fn fetched(&mut self, seq: SeqId, is_read: Vec<bool>, now: Micros) {
        self.core.fetched(seq, is_read, now);
    }

    /// What is to be stored at the end.
    pub(super) fn spill_cached(&mut self) -> Vec<Spill> {
        self.core.spill_cached()
    }

    /// Takes all sequences of a response, or none; their events go to `feed`, choice by choice.
    ///
    /// # Errors
    /// [`Reject`] as the core says; then `feed` is dropped.
    pub(super) fn submit(
        &mut self,
        live: Arc<LiveEntry>,
        sequences: Vec<NewSequence>,
        feed: mpsc::Sender<Feed>,
        now: Micros,
    ) -> Result<(), Reject> {
        let choices_count = sequences.len();
        let request = self.core.submit_all(sequences, now)?;
        self.routes.open(live, request, choices_count, feed);
        self.publish();
        Ok(())
    }

    /// Ends a response whose stream knows already. True if it had anything left to compute.
    pub(super) fn cancel(&mut self, response: ResponseId) -> bool {
        let live = self.routes.close(response);
        self.cancel_all(live.as_slice());
        live.is_some()
    }

    /// Ends one choice whose stream knows already.
    pub(super) fn cancel_choice(&mut self, response: ResponseId, choice: u32) {
        if let Some(seq) = self.routes.close_choice(response, choice) {
            self.core.cancel(seq);
        }
        self.deliver();
    }

    /// Ends a response and tells its stream why. True if it had anything left to compute.
    pub(super) fn end(&mut self, response: ResponseId, end: &TextEnd) -> bool {
        let live = self.routes.end(response, end);
        self.cancel_all(live.as_slice());
        live.is_some()
    }

    /// Ends every response and tells the streams why.
    pub(super) fn end_all(&mut self, end: &TextEnd) {
        let live = self.routes.end_all(end);
        self.cancel_all(&live);
    }

    /// Tells every stream that it ended and why, without the core, which may be what broke.
    pub(super) fn abandon(mut self, end: &TextEnd) {
        self.status.set_counts(SchedulerCounts::default());
        self.note_events();
        self.routes.end_all(end);
        self.routes.flush();
    }

    /// What to compute next; for [`Next::Step`] it is in `batch`, which holds an earlier one or
    /// none before. To be followed by [`Stepper::deliver`].
    pub(super) fn plan(&mut self, now: Micros, batch: &mut Batch) -> Next {
        let before = self.core.counts();
        let next = match self.core.plan(now, &mut self.events) {
            Plan::Step(planned) => {
                std::mem::swap(planned, batch);
                Next::Step
            }
            Plan::Idle { until } => Next::Idle(until),
        };
        if next == Next::Step {
            self.planned(batch, RecordedStep::planned(now, false, &before, &self.core.counts()));
        }
        next
    }

    /// Whether the step after the one that is computed is planned already; it is in `batch` then.
    pub(super) fn plan_ahead(&mut self, now: Micros, batch: &mut Batch) -> bool {
        let before = self.core.counts();
        let Some(planned) = self.core.plan_ahead(now, &mut self.events) else { return false };
        std::mem::swap(planned, batch);
        self.planned(batch, RecordedStep::planned(now, true, &before, &self.core.counts()));
        true
    }

    fn planned(&mut self, batch: &Batch, mut step: RecordedStep) {
        self.routes.planned(batch, &mut step);
        self.under_way.push_back(step);
        // Before the engine begins: a reader that sees it compute finds the step's blocks in the
        // counts.
        self.publish();
    }

    /// Takes the result of the oldest step that the engine was given, which was `batch`. Answers
    /// how many sequences the core gave up because the engine fails on them. To be followed by
    /// [`Stepper::deliver`].
    pub(super) fn commit(&mut self, result: StepResult, batch: &Batch, began: Micros, now: Micros) -> usize {
        let computed = matches!(result, StepResult::Done(_));
        let before = self.core.counts();
        self.core.commit(result, now, &mut self.events);
        let after = self.core.counts();
        let drawn = (after.decode_tokens_total - before.decode_tokens_total) as usize;
        let step = self.under_way.pop_front().expect("a step that is committed was planned");
        let step = step.drafted(&before.drafts, &after.drafts);
        self.status.flight().record(step.ended(computed.then_some(drawn), began, now));
        if !computed {
            // What was planned ahead of it is lost with it.
            self.under_way.clear();
        } else {
            self.pace.observe(batch.tokens.len(), began, now);
            self.status.observe_step(now.since(began), self.pace.tokens_per_second());
            let step = StepRecord {
                slices_count: batch.slices.len(),
                prefill_tokens: (after.prefill_tokens_total - before.prefill_tokens_total) as usize,
                decode_tokens: drawn,
                seconds: now.since(began) as f64 / 1e6,
            };
            self.metrics.step_committed(step, now);
        }
        let given_up =
            |event: &&SequenceEvent| matches!(event, SequenceEvent::Finished { reason: FinishReason::EngineFailed, .. });
        self.events.iter().filter(given_up).count()
    }

    /// What the core looks like now, by requests.
    pub(super) fn look(&self, size: ViewSize) -> SchedulerLook {
        let view = self.core.view(size);
        let owners = |sequences: &[SequenceView]| sequences.iter().map(|sequence| self.routes.owner(sequence.seq)).collect();
        SchedulerLook { running: owners(&view.running), waiting: owners(&view.waiting), view }
    }

    fn cancel_all(&mut self, requests: &[SeqId]) {
        for request in requests {
            self.core.cancel_request(*request);
        }
        self.deliver();
    }

    /// Hands the core's events on, and frees the requests whose stream does not take them. The
    /// counts go first: a reader that has seen the end of a response finds it gone from them.
    pub(super) fn deliver(&mut self) {
        self.note_events();
        self.publish();
        let orphans = self.routes.flush();
        if !orphans.is_empty() {
            for orphan in orphans {
                self.core.cancel_request(orphan);
            }
            self.publish();
        }
    }

    fn note_events(&mut self) {
        for event in self.events.drain(..) {
            self.routes.note(event);
        }
    }

    fn publish(&self) {
        self.status.set_counts(self.core.counts());
    }
}
