//! One server: the scheduler core, and steps that take as long as the cost model says.
//!
//! The calls are those of the SchedulerActor: after a commit the next step is planned at once, and
//! for an engine that takes two steps the one behind it too, if that is possible
//! (`scheduler::Scheduler::plan_ahead`).

use std::collections::VecDeque;
use std::sync::Arc;

use super::demand::token_at;
use crate::batch::{Batch, Micros, Sampled, Sampling, SeqId, StepResult, StepWork, TokenId};
use crate::cost::CostModel;
use crate::scheduler::{CacheSalt, NewSequence, Plan, Reject, Scheduler, SchedulerCounts, SchedulerLimits, SequenceEvent};

/// A step under way.
#[derive(Debug)]
struct StepInFlight {
    ends: Micros,
    reports: Vec<Sampled>,
}

/// Sums over time, in microseconds times what is named.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReplicaSums {
    /// Time in which steps were computed.
    pub(super) busy_micros: f64,
    /// Share of the global blocks in use, over time.
    pub(super) kv_share_micros: f64,
    /// The largest share.
    pub(super) kv_share_max: f64,
    /// Sequences that decoded, over all steps.
    pub(super) decoded: u64,
}

/// A server.
#[derive(Debug)]
pub(super) struct Replica {
    core: Scheduler,
    steps_max: usize,
    under_way: VecDeque<StepInFlight>,
    /// When it wants to be called next; `None` until something is submitted.
    wake: Option<Micros>,
    /// Up to when the sums go, and the share of blocks in use since.
    summed: (Micros, f64),
    sums: ReplicaSums,
    /// What happened since it was taken last.
    pub(super) events: Vec<SequenceEvent>,
}

impl Replica {
    pub(super) fn new(limits: SchedulerLimits, steps_max: usize) -> Self {
        Self {
            core: Scheduler::new(limits),
            steps_max,
            under_way: VecDeque::new(),
            wake: None,
            summed: (Micros(0), 0.0),
            sums: ReplicaSums::default(),
            events: Vec::new(),
        }
    }

    /// When it wants to be called next.
    pub(super) fn wake(&self) -> Option<Micros> {
        self.under_way.front().map_or(self.wake, |step| Some(step.ends))
    }

    pub(super) fn counts(&self) -> SchedulerCounts {
        self.core.counts()
    }

    pub(super) fn sums(&self) -> ReplicaSums {
        self.sums
    }

    /// Takes a request; `key` is what the tokens of its answer follow from.
    ///
    /// # Errors
    /// As the core says.
    pub(super) fn submit(
        &mut self,
        prompt: Vec<TokenId>,
        output_tokens: u32,
        key: u64,
        now: Micros,
        cost: &CostModel,
    ) -> Result<SeqId, Reject> {
        let sampling = Arc::new(Sampling { seed: key, ..Sampling::default() });
        let sequence = NewSequence {
            prompt,
            max_tokens: output_tokens,
            sampling,
            cache_salt: CacheSalt::default(),
            in_session: false,
            priority: 0,
        };
        let taken = self.core.submit(sequence, now);
        if taken.is_ok() && self.under_way.is_empty() {
            self.begin(now, cost);
        }
        taken
    }

    /// It is `now` the time of [`Replica::wake`].
    pub(super) fn called(&mut self, now: Micros, cost: &CostModel) {
        let Some(step) = self.under_way.pop_front() else { return self.begin(now, cost) };
        self.sum_up(now);
        self.core.commit(StepResult::Done(step.reports), now, &mut self.events);
        if self.under_way.is_empty() { self.begin(now, cost) } else { self.follow(now, cost) }
    }

    /// Plans the next step, and the one behind it.
    fn begin(&mut self, now: Micros, cost: &CostModel) {
        self.sum_up(now);
        match self.core.plan(now, &mut self.events) {
            Plan::Step(batch) => {
                let step = compute(batch, now, cost, &mut self.sums);
                self.under_way.push_back(step);
                self.follow(now, cost);
            }
            // A core that wants to be called at once would stop the time.
            Plan::Idle { until } => self.wake = until.map(|until| until.max(now.plus(1))),
        }
        self.note_use();
    }

    fn follow(&mut self, now: Micros, cost: &CostModel) {
        let Some(begins) = self.under_way.back().map(|step| step.ends).filter(|_| self.steps_max > 1) else { return };
        if let Some(batch) = self.core.plan_ahead(now, &mut self.events) {
            let step = compute(batch, begins, cost, &mut self.sums);
            self.under_way.push_back(step);
        }
        self.note_use();
    }

    fn note_use(&mut self) {
        self.summed.1 = self.core.counts().global_blocks.in_use_share();
        self.sums.kv_share_max = self.sums.kv_share_max.max(self.summed.1);
    }

    fn sum_up(&mut self, now: Micros) {
        let (until, share) = self.summed;
        self.sums.kv_share_micros += now.since(until) as f64 * share;
        self.summed = (now, share);
    }
}

/// The step of `batch` that begins at `begins`: when it ends, and what it draws.
fn compute(batch: &Batch, begins: Micros, cost: &CostModel, sums: &mut ReplicaSums) -> StepInFlight {
    let work = StepWork::of(batch);
    let micros = cost.step_micros(&work);
    sums.busy_micros += micros as f64;
    sums.decoded += work.decode_sequences;
    let drawing = batch.slices.iter().filter_map(|slice| Some((slice, slice.draw.as_ref()?)));
    let reports = drawing.map(|(slice, draw)| Sampled {
        seq: slice.seq,
        token: Some(Ok(token_at(draw.sampling.seed, slice.end()))),
        logprobs: None,
        prompt_logprobs: Vec::new(),
    });
    StepInFlight { ends: begins.plus(micros), reports: reports.collect() }
}
