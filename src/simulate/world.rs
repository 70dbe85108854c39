//! A scheduler, an engine that remembers, clients that come and go, and a clock: one seed's world.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::WorldReport;
use super::client::{SimulatedClient, expect};
use super::config::Config;
use super::rng::Rng;
use super::store::SimulatedStore;
use crate::batch::{Batch, BlockId, EngineLimits, KvGroup, Micros, Sampled, SeqId, StepResult};
use crate::engine::Engine;
use crate::engine::fake::{FakeEngine, FakeError};
use crate::scheduler::{CacheSalt, FinishReason, NewSequence, Plan, PrefixCounts, Reject, Scheduler, SequenceEvent};

/// Most live sequences: more would only take longer.
const LIVE_MAX_COUNT: usize = 150;

/// A request of several sequences, of which some have not ended.
#[derive(Debug)]
pub(super) struct SimulatedRequest {
    arrived: Micros,
    /// Those that have not entered the queue, next first.
    pub(super) held: VecDeque<NewSequence>,
    entered_count: usize,
    /// Those that have entered and not ended.
    pub(super) live_count: usize,
}

/// One world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) limits: EngineLimits,
    pub(super) rng: Rng,
    pub(super) scheduler: Scheduler,
    pub(super) engine: FakeEngine,
    pub(super) store: SimulatedStore,
    pub(super) now: Micros,
    /// The latest time that the scheduler was told in a plan or before.
    pub(super) told: Micros,
    pub(super) committed_at: Micros,
    pub(super) clients: BTreeMap<SeqId, SimulatedClient>,
    pub(super) requests: BTreeMap<SeqId, SimulatedRequest>,
    /// The salt of the sequence that wrote each block last.
    pub(super) written_for: BTreeMap<(KvGroup, BlockId), CacheSalt>,
    /// The step that was planned while the last one was computed.
    ahead: Option<Batch>,
    entered_total: u64,
    ended: Vec<SeqId>,
    /// Fraction of a request that is still to arrive.
    arriving: f64,
    pub(super) report: WorldReport,
}

impl World {
    pub(super) fn new(seed: u64, every_feature: bool) -> Self {
        let mut rng = Rng::new(seed);
        let config = Config::new(&mut rng, every_feature);
        let engine = FakeEngine::new(config.engine());
        let mut world = Self {
            limits: engine.limits(),
            scheduler: Scheduler::new(config.limits),
            engine,
            store: SimulatedStore::default(),
            rng,
            config,
            now: Micros(0),
            told: Micros(0),
            committed_at: Micros(0),
            clients: BTreeMap::new(),
            requests: BTreeMap::new(),
            written_for: BTreeMap::new(),
            ahead: None,
            entered_total: 0,
            ended: Vec::new(),
            arriving: 0.0,
            report: WorldReport { seed, ..WorldReport::default() },
        };
        world.open_store();
        world
    }

    /// One turn with everything that may happen: arrivals, cancels, losses.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        self.arriving += self.config.arrivals;
        let in_flight = self.rng.chance(self.config.arrives_in_flight);
        if !in_flight {
            self.arrive()?;
        }
        self.cancel()?;
        self.deliver(false);
        if let Some(batch) = self.next(false)? {
            self.plan_ahead(&batch)?;
            // A sequence that was cancelled meanwhile is computed all the same; no client gets its
            // tokens, least of all its successor.
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

    /// No more arrivals, cancels and losses: everything that lives must end in a bounded number of
    /// steps.
    ///
    /// The bound: in every step that is no trial the oldest running sequence computes at least a
    /// token, in every trial the oldest suspect does, and trials and other steps take turns;
    /// each step may be held once. Only poison still loses steps, and each loss starts the
    /// count anew: a poisoned sequence loses one with others, and two alone.
    pub(super) fn drain(&mut self) -> Result<(), String> {
        let held = || self.requests.values().flat_map(|request| &request.held);
        let held_tokens: usize = held().map(|new| new.prompt.len() + new.max_tokens as usize).sum();
        let tokens = self.clients.values().map(SimulatedClient::tokens_max).sum::<usize>() + held_tokens;
        let count = (self.clients.len() + held().count()) as u64;
        let lost_max = self.report.lost_total + if self.config.poison { 3 * count } else { 0 };
        let mut plans_left = 4 * tokens + 10;
        while !self.clients.is_empty() || !self.requests.is_empty() || self.ahead.is_some() {
            expect(plans_left > 0, || format!("{} sequences do not end", self.clients.len()))?;
            plans_left -= 1;
            self.deliver(true);
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

    /// Sequences preempted so far, and what was found computed.
    pub(super) fn totals(&self) -> (u64, PrefixCounts) {
        let counts = self.scheduler.counts();
        (counts.preemptions_total, counts.prefix_cache)
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

    fn submit(&mut self, request: Vec<NewSequence>) -> Result<(), String> {
        let taken = match request.len() {
            1 => self.scheduler.submit(request[0].clone(), self.now),
            _ => self.scheduler.submit_all(request.clone(), self.now),
        };
        self.scheduler.check_all();
        self.told = if taken.is_ok() { self.now } else { self.told };
        let expected = self.expected_reject(&request);
        match taken {
            Ok(first) => {
                expect(expected.is_none(), || format!("took {first:?}, expected {expected:?}"))?;
                self.report.taken_total += request.len() as u64;
                let mut held = VecDeque::from(request);
                let new = held.pop_front().ok_or("a request has a sequence")?;
                if !held.is_empty() {
                    let request = SimulatedRequest { arrived: self.now, held, entered_count: 1, live_count: 1 };
                    self.requests.insert(first, request);
                }
                let entered = self.enters();
                self.clients.insert(first, SimulatedClient::new(new, self.now, entered, first, false));
                self.check_requests()
            }
            Err(reject) => {
                self.report.rejected_total += 1;
                // How long it would wait is an estimate, which the world does not make.
                let may_wait = self.config.limits.waiting_max_micros > 0 && expected.is_none();
                if may_wait && matches!(reject, Reject::WaitsTooLong { .. }) {
                    return Ok(());
                }
                let kind = std::mem::discriminant::<Reject>;
                expect(expected.as_ref().map(kind) == Some(kind(&reject)), || format!("{reject:?}, expected {expected:?}"))
            }
        }
    }

    /// A sequence enters the queue: when, and which of all that did it is.
    fn enters(&mut self) -> (Micros, u64) {
        self.entered_total += 1;
        (self.told, self.entered_total)
    }

    /// A sequence has ended, one way or the other.
    fn leave(&mut self, seq: SeqId) -> Option<SimulatedClient> {
        let client = self.clients.remove(&seq)?;
        self.ended.push(seq);
        if let Some(request) = self.requests.get_mut(&client.request) {
            request.live_count -= 1;
            if request.live_count == 0 && request.held.is_empty() {
                self.requests.remove(&client.request);
            }
        }
        Some(client)
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
        if let Some(client) = self.clients.get(&seq).filter(|_| self.rng.chance(0.5)) {
            return self.cancel_request(client.request);
        }
        self.scheduler.cancel(seq);
        self.scheduler.check_all();
        if self.leave(seq).is_some() {
            self.report.cancelled_total += 1;
            self.check_requests()?;
        } else {
            expect(self.scheduler.counts() == before, || format!("cancelling the unknown {seq:?} changes something"))?;
        }
        Ok(())
    }

    fn cancel_request(&mut self, first: SeqId) -> Result<(), String> {
        self.scheduler.cancel_request(first);
        self.scheduler.check_all();
        if let Some(request) = self.requests.get_mut(&first) {
            self.report.cancelled_total += std::mem::take(&mut request.held).len() as u64;
        }
        let all: Vec<SeqId> = self.clients.iter().filter(|(_, client)| client.request == first).map(|(seq, _)| *seq).collect();
        for seq in all {
            self.leave(seq);
            self.report.cancelled_total += 1;
        }
        self.requests.remove(&first);
        self.check_requests()
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
        let running = self.running();
        self.told = self.told.max(self.now);
        let ahead = self.scheduler.plan_ahead(self.now, &mut events).cloned();
        self.scheduler.check_all();
        if ahead.is_some() {
            self.note_copies(true);
        }
        self.take_events(&events, &BTreeSet::new())?;
        self.check_moves(&running)?;
        if let Some(ahead) = &ahead {
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

    /// Plans and checks the plan. If there is nothing to do time passes: all that the plan says if
    /// `patient`, or less, as when something else happens meanwhile.
    pub(super) fn plan(&mut self, patient: bool) -> Result<Option<Batch>, String> {
        if self.rng.chance(self.config.jump) {
            self.now = self.now.plus(self.rng.uniform(0..=3_600_000_000) as u64);
        }
        // A clock that goes back must be the same to the core as one that stands still.
        let told = if self.rng.chance(0.01) { Micros(self.now.0 / 2) } else { self.now };
        self.told = self.told.max(told);
        let mut events = Vec::new();
        let running = self.running();
        let planned = match self.scheduler.plan(told, &mut events) {
            Plan::Step(batch) => Ok(batch.clone()),
            Plan::Idle { until } => Err(until),
        };
        self.scheduler.check_all();
        self.note_copies(planned.is_ok());
        self.take_events(&events, &BTreeSet::new())?;
        self.check_moves(&running)?;
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
        self.copy_planned();
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
        self.clients.values_mut().for_each(SimulatedClient::settle);
        if !done {
            self.ahead = None;
            self.forget_planned_copies();
        }
        self.report.steps_total += 1;
        self.report.slices_total += batch.slices.len() as u64;
        let alone = batch.slices.len() == 1;
        let mut drew = BTreeSet::new();
        let mut drafted = Vec::new();
        for slice in &batch.slices {
            let Some(client) = self.clients.get_mut(&slice.seq) else { continue };
            if done {
                client.computed_to(slice.end() - slice.drafts);
                if slice.drafts > 0 {
                    drafted.push((slice, client.tokens.len()));
                }
                drew.extend(slice.draw.as_ref().map(|_| slice.seq));
            } else {
                client.lost(slice.end() - slice.drafts, alone);
            }
        }
        if !done {
            self.clients.values_mut().for_each(|client| (client.computed, client.returns_to) = (0, None));
        }
        self.take_events(&events, &drew)?;
        for (slice, tokens_count) in drafted {
            let Some(client) = self.clients.get_mut(&slice.seq) else { continue };
            let drafts = &batch.tokens[slice.tokens.end - slice.drafts..slice.tokens.end];
            client.drafted(drafts, tokens_count).map_err(|wrong| format!("sequence {}: {wrong}", slice.seq.0))?;
        }
        Ok(())
    }

    fn take_entered(&mut self, first: SeqId, index: usize, seq: SeqId) -> Result<(), String> {
        let wrong = |what: &str| format!("sequence {} of request {}, its number {index}: {what}", seq.0, first.0);
        let request = self.requests.get_mut(&first).ok_or_else(|| wrong("it enters after its request's end"))?;
        let new = request.held.pop_front().ok_or_else(|| wrong("there was no other"))?;
        expect(request.entered_count == index, || wrong("out of order"))?;
        request.entered_count += 1;
        request.live_count += 1;
        let arrived = request.arrived;
        let client = SimulatedClient::new(new, arrived, self.enters(), first, true);
        expect(self.clients.insert(seq, client).is_none(), || wrong("its id is another's"))
    }

    /// Takes the events of a plan or a commit, in which the sequences `drew` drew a token.
    fn take_events(&mut self, events: &[SequenceEvent], drew: &BTreeSet<SeqId>) -> Result<(), String> {
        let mut heard = BTreeSet::new();
        let mut failed = BTreeSet::new();
        for event in events {
            let (seq, drawn) = match event {
                SequenceEvent::Entered { request, index, seq } => {
                    self.take_entered(*request, *index, *seq)?;
                    continue;
                }
                SequenceEvent::Began { seq, .. }
                | SequenceEvent::SentBack { seq }
                | SequenceEvent::Resumed { seq }
                | SequenceEvent::PromptLogprobs { seq, .. } => (*seq, false),
                SequenceEvent::Drafted { seq, draft_tokens, accepted_tokens } => {
                    self.report.draft_tokens_total += *draft_tokens as u64;
                    self.report.accepted_tokens_total += *accepted_tokens as u64;
                    (*seq, false)
                }
                SequenceEvent::Token { seq, .. } => (*seq, true),
                SequenceEvent::Finished { seq, .. } => (*seq, false),
            };
            let wrong = |what: String| format!("sequence {}: {what}", seq.0);
            let client = self.clients.get_mut(&seq).ok_or_else(|| wrong(format!("{event:?} after its end")))?;
            expect(!drawn || drew.contains(&seq), || wrong("a token that it did not draw".into()))?;
            heard.insert(seq);
            if client.take(event, &self.config, &self.limits).map_err(wrong)? {
                if let SequenceEvent::Finished { reason, .. } = event {
                    let first = client.request;
                    let is_after = failed.contains(&first) || *reason != FinishReason::RequestFailed;
                    expect(is_after, || wrong(format!("{reason:?}, and only of {failed:?} a sequence failed")))?;
                    failed.extend(reason.is_failure().then_some(first));
                }
                self.leave(seq);
                self.report.finished_total += 1;
            } else if drawn {
                self.report.tokens_total += 1;
            }
        }
        let half = failed.iter().find(|first| self.requests.contains_key(first));
        expect(half.is_none(), || format!("request {half:?} failed, and a part of it lives on"))?;
        self.check_requests()?;
        let unheard = drew.iter().find(|seq| !heard.contains(seq));
        expect(unheard.is_none(), || format!("{unheard:?} drew a token, and nothing came of it"))
    }
}
