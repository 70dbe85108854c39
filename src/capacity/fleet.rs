//! Replicas under a load, in virtual time: from one event to the next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::iter::Peekable;

use super::demand::{AskedRequest, OfferedLoad};
use super::replica::Replica;
use super::report::CapacityReport;
use super::routing::{Router, Routing};
use super::tally::{RequestFigures, Tally};
use crate::batch::{EngineLimits, Micros, SeqId, TokenId};
use crate::cost::CostModel;
use crate::engine::simulated::{limits, mix};
use crate::load::GoodputTargets;
use crate::profile::Profile;
use crate::scheduler::{FinishReason, HashKey, Reject, SchedulerLimits, SequenceEvent};

/// The servers, and what is wanted of them.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// How long steps take, and what an engine has room for.
    pub cost: CostModel,
    /// How steps are filled, and what may wait.
    pub profile: Profile,
    /// Whether what prompts have in common is computed once.
    pub prefix_cache: bool,
    /// Memory for keys and values of a replica; `None` takes the cost model's.
    pub kv_bytes: Option<u64>,
    /// How many servers; at least one.
    pub replicas: usize,
    /// Which of them gets a request.
    pub routing: Routing,
    /// What makes a request good.
    pub targets: GoodputTargets,
}

impl FleetOptions {
    /// What the engine of a replica has room for.
    #[must_use]
    pub fn engine_limits(&self) -> EngineLimits {
        let batch = &self.profile.batch;
        let (sequences_max, step_tokens_max) = (batch.running_max_count.count(), batch.token_budget_tokens.count());
        limits(&self.cost, self.kv_bytes, u32::MAX as usize, sequences_max, step_tokens_max)
    }

    /// What its core may use: as a server with this profile.
    fn scheduler_limits(&self, engine: &EngineLimits) -> SchedulerLimits {
        let (batch, queue) = (&self.profile.batch, &self.profile.queue);
        let limits = SchedulerLimits {
            token_budget_tokens: batch.token_budget_tokens.count(),
            prefill_slice_tokens: batch.prefill_slice_tokens.count(),
            running_max_count: batch.running_max_count.count(),
            waiting_max_count: queue.waiting_max_count.count(),
            waiting_max_tokens: queue.waiting_max_tokens.count(),
            prefill_window_micros: 1_000 * batch.prefill_window_ms.get(),
            decode_window_micros: 1_000 * batch.decode_window_ms.get(),
            waiting_max_micros: 1_000_000 * queue.waiting_max_seconds.get(),
            priority_micros: 1_000_000 * queue.priority_seconds.get(),
            growth_reserve_percent: batch.growth_reserve_percent.count(),
            itl_target_micros: 1_000 * batch.itl_target_ms.get(),
            prefix_cache: self.prefix_cache.then_some(HashKey([0; 2])),
            ..SchedulerLimits::default()
        };
        limits.within(engine)
    }
}

/// What a fleet does under a load, until all of it is answered.
///
/// # Panics
/// If there is no replica.
#[must_use]
pub fn run(demand: &OfferedLoad, options: &FleetOptions) -> CapacityReport {
    assert!(options.replicas > 0, "a fleet without a server");
    let mut fleet = Fleet::new(demand, options);
    while fleet.advance() {}
    fleet.report()
}

/// Something that comes at a time: in the order of the times, and of equals in that of their
/// making.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Coming {
    at: Micros,
    order: u64,
    asked: AskedRequest,
    /// When it arrived and where it goes, for what is parsed and tokenized meanwhile.
    routed: Option<(Micros, usize)>,
}

/// A request that was taken.
#[derive(Debug)]
struct TakenRequest {
    asked: AskedRequest,
    arrived: Micros,
    first: Option<Micros>,
    last: Micros,
    tokens: u32,
}

/// Sequences are counted, so their numbers need no hash that withstands an attack.
#[derive(Debug, Default)]
struct SeqHasher(u64);

impl Hasher for SeqHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value);
    }
}

type TakenRequests = HashMap<SeqId, TakenRequest, BuildHasherDefault<SeqHasher>>;

struct Fleet<'a> {
    demand: &'a OfferedLoad,
    options: &'a FleetOptions,
    scheduled: Peekable<Box<dyn Iterator<Item = (u64, AskedRequest)> + 'a>>,
    /// What follows from answers, and what is on its way to a queue.
    coming: BinaryHeap<Reverse<Coming>>,
    order: u64,
    /// The first conversation that has not begun.
    next_conversation: u64,
    /// When replicas want to be called; an entry that is not a replica's own time is stale.
    wakes: BinaryHeap<Reverse<(Micros, usize)>>,
    replicas: Vec<Replica>,
    taken: Vec<TakenRequests>,
    router: Router,
    tally: Tally,
    now: Micros,
}

impl<'a> Fleet<'a> {
    fn new(demand: &'a OfferedLoad, options: &'a FleetOptions) -> Self {
        let engine = options.engine_limits();
        let limits = options.scheduler_limits(&engine);
        Self {
            demand,
            options,
            scheduled: demand.scheduled().peekable(),
            coming: BinaryHeap::new(),
            order: 0,
            next_conversation: demand.begun_count(),
            wakes: BinaryHeap::new(),
            replicas: (0..options.replicas).map(|_| Replica::new(limits, engine.steps_max)).collect(),
            taken: (0..options.replicas).map(|_| TakenRequests::default()).collect(),
            router: Router::new(options.routing, options.replicas),
            tally: Tally::new(options.targets),
            now: Micros(0),
        }
    }

    /// Goes on to the next event; `false` if there is none.
    fn advance(&mut self) -> bool {
        let wake = self.wakes.peek().map(|Reverse((at, _))| *at);
        let coming = self.coming.peek().map(|Reverse(coming)| coming.at);
        let scheduled = self.scheduled.peek().map(|(at, _)| Micros(*at));
        let Some(at) = [wake, coming, scheduled].into_iter().flatten().min() else { return false };
        self.now = self.now.max(at);
        // Of what happens at once, a step ends first.
        if wake == Some(at) {
            let Reverse((at, replica)) = self.wakes.pop().expect("it was looked at");
            if self.replicas[replica].wake() == Some(at) {
                self.replicas[replica].called(at, &self.options.cost);
                self.settle(replica);
            }
        } else if coming == Some(at) {
            let Reverse(coming) = self.coming.pop().expect("it was looked at");
            match coming.routed {
                Some((arrived, replica)) => self.submit(coming.asked, arrived, replica),
                None => self.arrive(coming.asked),
            }
        } else if let Some((_, asked)) = self.scheduled.next() {
            self.arrive(asked);
        }
        true
    }

    fn come(&mut self, at: Micros, asked: AskedRequest, routed: Option<(Micros, usize)>) {
        self.order += 1;
        self.coming.push(Reverse(Coming { at, order: self.order, asked, routed }));
    }

    /// A request arrives at the gateway.
    fn arrive(&mut self, asked: AskedRequest) {
        self.tally.counts.arrived += 1;
        let replica = self.router.choose(asked.conversation);
        match self.options.cost.request.micros(asked.prompt_tokens as usize) {
            0 => self.submit(asked, self.now, replica),
            micros => self.come(self.now.plus(micros), asked, Some((self.now, replica))),
        }
    }

    fn submit(&mut self, asked: AskedRequest, arrived: Micros, replica: usize) {
        let prompt = if self.options.prefix_cache || self.demand.shares_tokens() {
            self.demand.prompt(&asked)
        } else {
            vec![TokenId(0); asked.prompt_tokens as usize]
        };
        match self.replicas[replica].submit(prompt, asked.output_tokens, asked.key, self.now, &self.options.cost) {
            Ok(seq) => {
                let taken = TakenRequest { asked, arrived, first: None, last: arrived, tokens: 0 };
                self.taken[replica].insert(seq, taken);
            }
            Err(reject) => {
                match reject {
                    Reject::QueueFull { .. } | Reject::WaitsTooLong { .. } => self.tally.counts.refused += 1,
                    _ => self.tally.counts.impossible += 1,
                }
                self.router.ended(replica);
                self.go_on(&asked, false);
            }
        }
        self.settle(replica);
    }

    /// What the end of a request makes its client do.
    fn go_on(&mut self, asked: &AskedRequest, is_answered: bool) {
        if let Some((after, next)) = self.demand.after(asked, is_answered, &mut self.next_conversation) {
            self.come(self.now.plus(after), next, None);
        }
    }

    /// Takes what happened at a replica, and notes when it wants to be called.
    fn settle(&mut self, replica: usize) {
        let mut events = std::mem::take(&mut self.replicas[replica].events);
        for event in events.drain(..) {
            match event {
                SequenceEvent::Token { seq, .. } => self.token(replica, seq),
                SequenceEvent::Finished { seq, reason, .. } => self.finished(replica, seq, reason),
                _ => {}
            }
        }
        self.replicas[replica].events = events;
        if let Some(at) = self.replicas[replica].wake() {
            self.wakes.push(Reverse((at, replica)));
        }
    }

    fn token(&mut self, replica: usize, seq: SeqId) {
        let taken = self.taken[replica].get_mut(&seq).expect("a sequence that draws was taken");
        if taken.first.is_none() {
            taken.first = Some(self.now);
        } else {
            self.tally.gap(self.now.since(taken.last));
        }
        taken.last = self.now;
        taken.tokens += 1;
    }

    fn finished(&mut self, replica: usize, seq: SeqId, reason: FinishReason) {
        let taken = self.taken[replica].remove(&seq).expect("a sequence that ends was taken");
        self.router.ended(replica);
        let is_answered = reason == FinishReason::Length;
        if is_answered {
            let TakenRequest { asked, arrived, first, last, tokens } = taken;
            let first = first.expect("an answer has a token");
            self.tally.answered(RequestFigures {
                prompt_tokens: asked.prompt_tokens,
                output_tokens: tokens,
                ttft_micros: first.since(arrived),
                decode_micros: last.since(first),
                e2e_micros: self.now.since(arrived),
            });
        } else {
            self.tally.counts.timed_out += 1;
        }
        self.go_on(&taken.asked, is_answered);
    }

    fn report(self) -> CapacityReport {
        CapacityReport::of(self.options, self.tally, &self.replicas, self.now)
    }
}
