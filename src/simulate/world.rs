//! A scheduler, an engine that remembers, clients that come and go, and a clock: one seed's world.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use super::client::{Client, expect};
use super::config::Config;
use super::rng::Rng;
use crate::batch::{Batch, EngineLimits, Micros, Sampled, SeqId, StepResult};
use crate::engine::Engine;
use crate::engine::fake::{FakeEngine, FakeError};
use crate::scheduler::{Event, NewSequence, Plan, Reject, Scheduler};

/// Most live sequences: more would only take longer.
const LIVE_MAX_COUNT: usize = 150;

/// One world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) limits: EngineLimits,
    rng: Rng,
    pub(super) scheduler: Scheduler,
    engine: FakeEngine,
    now: Micros,
    /// The latest time that the scheduler was told in a plan or before.
    pub(super) told: Micros,
    pub(super) committed_at: Micros,
    pub(super) clients: BTreeMap<SeqId, Client>,
    /// The step that was planned while the last one was computed.
    ahead: Option<Batch>,
    newest: Option<SeqId>,
    ended: Vec<SeqId>,
    /// Fraction of a request that is still to arrive.
    arriving: f64,
    pub(super) report: Report,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let config = Config::new(&mut rng);
        let engine = FakeEngine::new(config.engine());
        Self {
            limits: engine.limits(),
            scheduler: Scheduler::new(config.limits),
            engine,
            rng,
            config,
            now: Micros(0),
            told: Micros(0),
            committed_at: Micros(0),
            clients: BTreeMap::new(),
            ahead: None,
            newest: None,
            ended: Vec::new(),
            arriving: 0.0,
            report: Report { seed, ..Report::default() },
        }
    }

    /// One turn with everything that may happen: arrivals, cancels, losses.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        self.arriving += self.config.arrivals;
        let in_flight = self.rng.chance(self.config.arrives_in_flight);
        if !in_flight {
            self.arrive()?;
        }
        self.cancel()?;
        if let Some(batch) = self.next(false)? {
            self.plan_ahead(&batch)?;
            // What was cancelled meanwhile is computed all the same, and nobody must hear of it, least of all who came instead.
            self.cancel()?;
            if in_flight {
                self.arrive()?;
            }
            self.cancel()?;
            self.plan_ahead(&batch)?;
            let lost = self.rng.chance(self.config.lost);
            let result = self.compute(&batch, lost)?;
            self.commit(&batch, result)?;
        }
        Ok(())
    }

    /// No more arrivals, cancels and losses: everything that lives must end in a bounded number of steps.
    ///
    /// The bound: in every step that is no trial the oldest running sequence computes at least a token, in every trial the
    /// oldest suspect does, and trials and other steps take turns; each step may be held once. Only poison still loses steps,
    /// and each loss starts the count anew: a poisoned sequence loses one with others, and two alone.
    pub(super) fn drain(&mut self) -> Result<(), String> {
        let tokens: usize = self.clients.values().map(Client::tokens_max).sum();
        let lost_max = self.report.lost_total + if self.config.poison { 3 * self.clients.len() as u64 } else { 0 };
        let mut plans_left = 4 * tokens + 10;
        while !self.clients.is_empty() || self.ahead.is_some() {
            expect(plans_left > 0, || format!("{} sequences do not end", self.clients.len()))?;
            plans_left -= 1;
            if let Some(batch) = self.next(true)? {
                self.plan_ahead(&batch)?;
                let result = self.compute(&batch, false)?;
                if matches!(result, StepResult::Lost) {
                    plans_left = 4 * tokens + 10;
                    expect(self.report.lost_total <= lost_max, || "steps are lost again and again".into())?;
                }
                self.commit(&batch, result)?;
            }
        }
        let counts = self.scheduler.counts();
        expect(counts.blocks().in_use_count() == 0, || format!("blocks leaked: {counts:?}"))?;
        expect(counts.waiting_count + counts.prefill_count + counts.decode_count == 0, || format!("ghosts: {counts:?}"))?;
        let idle = matches!(self.scheduler.plan(self.now, &mut Vec::new()), Plan::Idle { until: None });
        expect(idle, || "there is work after the end".into())
    }

    /// Sequences preempted so far.
    pub(super) fn preemptions_total(&self) -> u64 {
        self.scheduler.counts().preemptions_total
    }

    fn arrive(&mut self) -> Result<(), String> {
        while self.arriving >= 1.0 {
            self.arriving -= 1.0;
            if self.clients.len() < LIVE_MAX_COUNT {
                let request = self.config.request(&mut self.rng);
                self.submit(request)?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, mut request: Vec<NewSequence>) -> Result<(), String> {
        let taken = match request.len() {
            1 => self.scheduler.submit(request[0].clone(), self.now).map(|seq| vec![seq]),
            _ => self.scheduler.submit_all(request.clone(), self.now),
        };
        self.scheduler.check_all();
        self.told = if taken.is_ok() { self.now } else { self.told };
        let expected = self.expected_reject(&request);
        match taken {
            Ok(seqs) => {
                expect(expected.is_none(), || format!("took {seqs:?}, expected {expected:?}"))?;
                self.report.taken_total += seqs.len() as u64;
                for (seq, new) in seqs.into_iter().zip(request.drain(..)) {
                    expect(self.newest < Some(seq), || format!("{seq:?} after {:?}", self.newest))?;
                    self.newest = Some(seq);
                    self.clients.insert(seq, Client::new(new, self.now));
                }
                Ok(())
            }
            Err(reject) => {
                self.report.rejected_total += 1;
                let kind = std::mem::discriminant::<Reject>;
                expect(expected.as_ref().map(kind) == Some(kind(&reject)), || format!("{reject:?}, expected {expected:?}"))
            }
        }
    }

    fn cancel(&mut self) -> Result<(), String> {
        if !self.rng.chance(self.config.cancel) {
            return Ok(());
        }
        let live: Vec<SeqId> = self.clients.keys().copied().collect();
        let seq = match self.rng.uniform(0..=9) {
            0 => SeqId(u64::MAX),
            1 if !self.ended.is_empty() => self.rng.pick(&self.ended),
            _ if !live.is_empty() => self.rng.pick(&live),
            _ => return Ok(()),
        };
        let before = self.scheduler.counts();
        self.scheduler.cancel(seq);
        self.scheduler.check_all();
        if self.clients.remove(&seq).is_some() {
            self.ended.push(seq);
            self.report.cancelled_total += 1;
        } else {
            expect(self.scheduler.counts() == before, || format!("cancelling the unknown {seq:?} changes something"))?;
        }
        Ok(())
    }

    /// The step that was planned ahead, or else a plan.
    pub(super) fn next(&mut self, patient: bool) -> Result<Option<Batch>, String> {
        match self.ahead.take() {
            Some(batch) => Ok(Some(batch)),
            None => self.plan(patient),
        }
    }

    /// Now and then plans the step after `batch`, which is computed now, and checks the plan.
    fn plan_ahead(&mut self, batch: &Batch) -> Result<(), String> {
        if self.ahead.is_some() || !self.rng.chance(self.config.ahead) {
            return Ok(());
        }
        let mut events = Vec::new();
        let ahead = self.scheduler.plan_ahead(self.now, &mut events).cloned();
        self.scheduler.check_all();
        self.take_events(&events, &BTreeSet::new())?;
        if let Some(ahead) = &ahead {
            self.told = self.told.max(self.now);
            self.report.ahead_total += 1;
            Self::check_awaited(batch, ahead)?;
            for slice in &batch.slices {
                if let Some(client) = self.clients.get_mut(&slice.seq) {
                    client.presume(slice);
                }
            }
            self.check_batch(ahead)?;
            self.check_late()?;
        }
        self.ahead = ahead;
        Ok(())
    }

    /// Plans and checks the plan. If there is nothing to do time passes: all that the plan says if `patient`, or less, as when
    /// something else happens meanwhile.
    pub(super) fn plan(&mut self, patient: bool) -> Result<Option<Batch>, String> {
        if self.rng.chance(self.config.jump) {
            self.now = self.now.plus(self.rng.uniform(0..=3_600_000_000) as u64);
        }
        // A clock that goes back must be the same to the core as one that stands still.
        let told = if self.rng.chance(0.01) { Micros(self.now.0 / 2) } else { self.now };
        self.told = self.told.max(told);
        let mut events = Vec::new();
        let planned = match self.scheduler.plan(told, &mut events) {
            Plan::Step(batch) => Ok(batch.clone()),
            Plan::Idle { until } => Err(until),
        };
        self.scheduler.check_all();
        self.take_events(&events, &BTreeSet::new())?;
        let batch = match planned {
            Ok(batch) => {
                self.check_batch(&batch)?;
                Some(batch)
            }
            Err(until) => {
                self.check_idle(until)?;
                self.report.held_total += u64::from(until.is_some());
                let wait = until.map_or(1_000, |until| until.since(self.now)).max(1);
                let passed = if patient { wait } else { self.rng.magnitude(1..=wait as usize) as u64 };
                self.now = self.now.plus(passed);
                None
            }
        };
        self.check_late()?;
        Ok(batch)
    }

    pub(super) fn compute(&mut self, batch: &Batch, lost: bool) -> Result<StepResult, String> {
        self.now = self.now.plus(self.rng.magnitude(1..=30_000) as u64);
        let mut sampled: Vec<Sampled> = Vec::new();
        match self.engine.compute(batch, &mut sampled) {
            Ok(()) if !lost => Ok(StepResult::Done(sampled)),
            Ok(()) | Err(FakeError::Engine(_)) => {
                self.engine = self.engine.rebuild();
                self.report.lost_total += 1;
                Ok(StepResult::Lost)
            }
            Err(FakeError::Violation(violation)) => Err(violation.to_string()),
        }
    }

    pub(super) fn commit(&mut self, batch: &Batch, result: StepResult) -> Result<(), String> {
        let done = matches!(result, StepResult::Done(_));
        let mut events = Vec::new();
        self.scheduler.commit(result, self.now, &mut events);
        (self.told, self.committed_at) = (self.now, self.now);
        self.scheduler.check_all();
        self.clients.values_mut().for_each(Client::settle);
        if !done {
            self.ahead = None;
        }
        self.report.steps_total += 1;
        self.report.slices_total += batch.slices.len() as u64;
        let alone = batch.slices.len() == 1;
        let mut drew = BTreeSet::new();
        for slice in &batch.slices {
            let Some(client) = self.clients.get_mut(&slice.seq) else { continue };
            if done {
                client.computed_to(slice.end());
                drew.extend(slice.draw.as_ref().map(|_| slice.seq));
            } else {
                client.lost(slice.end(), alone);
            }
        }
        if !done {
            self.clients.values_mut().for_each(|client| client.computed = 0);
        }
        self.take_events(&events, &drew)
    }

    /// Takes the events of a plan or a commit, in which the sequences `drew` drew a token.
    fn take_events(&mut self, events: &[Event], drew: &BTreeSet<SeqId>) -> Result<(), String> {
        let mut heard = BTreeSet::new();
        for event in events {
            let (seq, drawn) = match event {
                Event::PromptLogprobs { seq, .. } => (*seq, false),
                Event::Token { seq, .. } => (*seq, true),
                Event::Finished { seq, .. } => (*seq, false),
            };
            let wrong = |what: String| format!("sequence {}: {what}", seq.0);
            let client = self.clients.get_mut(&seq).ok_or_else(|| wrong(format!("{event:?} after its end")))?;
            expect(!drawn || drew.contains(&seq), || wrong("a token that it did not draw".into()))?;
            heard.insert(seq);
            if client.take(event, &self.config, &self.limits).map_err(wrong)? {
                self.clients.remove(&seq);
                self.ended.push(seq);
                self.report.finished_total += 1;
            } else if drawn {
                self.report.tokens_total += 1;
            }
        }
        let unheard = drew.iter().find(|seq| !heard.contains(seq));
        expect(unheard.is_none(), || format!("{unheard:?} drew a token, and nothing came of it"))
    }
}
