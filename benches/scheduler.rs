//! The pure core: steps and planned sequences a second, by how many sequences there are; and
//! cancels, by how many wait.
//!
//! `running`: all of them run, and are in every step. `ahead`: the same, and every step that can be
//! is planned while the one before it is computed. `cached`: as `running`, with a prefix cache,
//! which knows every filled block, finds none, and evicts as many as it learns. `lookup`: the plan
//! that admits a prompt which the cache knows. `queued`: sixteen run and the others wait.
//! `histories`: 64 run with 4,096 to 8,192 tokens each, without and with a penalty, for which the
//! engine needs all of them. The engine costs nothing here: the clock runs in plan and commit
//! alone, and reports are made and sequences handed in beside it. Sequences have 64 to 320
//! tokens, one in 256 ends in each step, and another comes; each has a sampling of its own with two
//! stop tokens, as in the server. No loop is longer than the step, so the time for a planned
//! sequence may grow only by what memory costs: with 65,536 running sequences a step walks through
//! some 40 MB, once and in order.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon::batch::{Batch, Micros, Sampled, Sampling, SeqId, StepResult, TokenId};
use antiphon::scheduler::{CacheSalt, HashKey, NewSequence, Plan, Scheduler, SchedulerLimits, SequenceEvent};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Tokens of a prompt, and of an answer.
#[derive(Clone, Copy)]
struct Lengths {
    prompt: usize,
    answer: u32,
}

const SHORT: Lengths = Lengths { prompt: 64, answer: 256 };
const LONG: Lengths = Lengths { prompt: 4_096, answer: 4_096 };

fn limits(running: usize, waiting: usize, lengths: Lengths) -> SchedulerLimits {
    let tokens = lengths.prompt + lengths.answer as usize;
    SchedulerLimits {
        block_tokens: 16,
        global_blocks: running * (tokens / 16 + 1),
        sliding_blocks: running * (lengths.prompt.min(512) / 16 + 9),
        sliding_window_tokens: 128,
        context_tokens_max: tokens,
        // Room for every decode slice, and for the prompts of those that take the place of others.
        token_budget_tokens: running + lengths.prompt * running.div_ceil(16),
        prefill_slice_tokens: lengths.prompt.min(512),
        running_max_count: running,
        waiting_max_count: waiting,
        priority_micros: 10_000_000,
        growth_reserve_percent: 25,
        ..SchedulerLimits::default()
    }
}

/// A core in which a number of sequences run, for ever.
struct Choir {
    core: Scheduler,
    lengths: Lengths,
    presence_penalty: f32,
    events: Vec<SequenceEvent>,
    reports: Vec<Sampled>,
    now: Micros,
    /// Whether steps are planned ahead, and the reports of the one that was.
    plans_ahead: bool,
    ahead: Option<Vec<Sampled>>,
    submitted: u32,
}

impl Choir {
    /// `running` sequences run and `waiting` wait.
    fn new(running: usize, waiting: usize, lengths: Lengths, presence_penalty: f32) -> Self {
        Self::with(running, waiting, lengths, presence_penalty, None)
    }

    /// The same with a prefix cache.
    fn with(running: usize, waiting: usize, lengths: Lengths, presence_penalty: f32, prefix_cache: Option<HashKey>) -> Self {
        // In a step all that are about to run may wait.
        let core = Scheduler::new(SchedulerLimits { prefix_cache, ..limits(running, running + waiting, lengths) });
        let (events, reports, now) = (Vec::new(), Vec::new(), Micros(0));
        let mut choir =
            Self { core, lengths, presence_penalty, events, reports, now, plans_ahead: false, ahead: None, submitted: 0 };
        for i in 0..running + waiting {
            // They end at different times from the beginning.
            let apart = (lengths.answer / running as u32).max(1);
            choir.submit(1 + i as u32 * apart % lengths.answer);
        }
        for _ in 0..lengths.answer {
            choir.step();
        }
        choir
    }

    fn submit(&mut self, max_tokens: u32) {
        // No prompt begins as another: the costliest for a cache, which keeps all of it.
        self.submitted += 1;
        let prompt = vec![TokenId(self.submitted); self.lengths.prompt];
        let presence_penalty = self.presence_penalty;
        let sampling = Sampling { stop_tokens: vec![TokenId(1), TokenId(2)], presence_penalty, ..Sampling::default() };
        let sampling = Arc::new(sampling);
        let new =
            NewSequence { prompt, max_tokens, sampling, cache_salt: CacheSalt::default(), in_session: false, priority: 0 };
        self.core.submit(new, self.now).expect("there is room for all");
    }

    /// One step; the time that the core took for it.
    fn step(&mut self) -> Duration {
        self.now = self.now.plus(1_000);
        let mut time = Duration::ZERO;
        let reports = self.ahead.take().unwrap_or_else(|| {
            let began = Instant::now();
            let Plan::Step(batch) = self.core.plan(self.now, &mut self.events) else { panic!("they always run") };
            time += began.elapsed();
            report(batch, &mut self.reports);
            std::mem::take(&mut self.reports)
        });
        if self.plans_ahead {
            let began = Instant::now();
            let batch = self.core.plan_ahead(self.now, &mut self.events);
            time += began.elapsed();
            self.ahead = batch.map(|batch| {
                let mut reports = Vec::new();
                report(batch, &mut reports);
                reports
            });
        }
        let began = Instant::now();
        self.core.commit(StepResult::Done(reports), self.now, &mut self.events);
        time += began.elapsed();
        let ended = self.events.iter().filter(|event| matches!(event, SequenceEvent::Finished { .. })).count();
        self.events.clear();
        for _ in 0..ended {
            self.submit(self.lengths.answer);
        }
        time
    }
}

/// What an engine reports of a step.
fn report(batch: &Batch, reports: &mut Vec<Sampled>) {
    let drawing = batch.slices.iter().filter(|slice| slice.draw.is_some());
    reports.extend(drawing.map(|slice| Sampled {
        seq: slice.seq,
        token: Some(Ok(TokenId(9))),
        logprobs: None,
        prompt_logprobs: Vec::new(),
    }));
}

fn steps(criterion: &mut Criterion) {
    for (name, running_max, plans_ahead) in [("running", usize::MAX, false), ("ahead", usize::MAX, true), ("queued", 16, false)]
    {
        let mut group = criterion.benchmark_group(format!("scheduler/{name}"));
        for sequences in [16, 256, 4_096, 65_536] {
            let running = sequences.min(running_max);
            let mut choir = Choir::new(running, sequences - running, SHORT, 0.0);
            choir.plans_ahead = plans_ahead;
            group.throughput(Throughput::Elements(running as u64));
            group.bench_function(BenchmarkId::from_parameter(sequences), |bencher| {
                bencher.iter_custom(|steps| (0..steps).map(|_| choir.step()).sum());
            });
        }
        group.finish();
    }
}

/// With a prefix cache: steps in which filled blocks become known, and the plan that admits a
/// prompt of 8,192 tokens of which all but the last block is found.
fn cached(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler/cached");
    for running in [16, 256, 4_096, 65_536] {
        let mut choir = Choir::with(running, 0, SHORT, 0.0, Some(HashKey([1, 2])));
        group.throughput(Throughput::Elements(running as u64));
        group.bench_function(BenchmarkId::from_parameter(running), |bencher| {
            bencher.iter_custom(|steps| (0..steps).map(|_| choir.step()).sum());
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("scheduler/lookup");
    for tokens in [1_024, 8_192] {
        let lengths = Lengths { prompt: tokens, answer: 1 };
        let limits = SchedulerLimits { prefix_cache: Some(HashKey([1, 2])), ..limits(2, 2, lengths) };
        let mut core = Scheduler::new(SchedulerLimits { sliding_blocks: 2 * limits.global_blocks, ..limits });
        let (mut events, mut reports) = (Vec::new(), Vec::new());
        let mut admit = || {
            let (prompt, sampling) = ((0..tokens as u32).map(TokenId).collect(), Arc::new(Sampling::default()));
            let cache_salt = CacheSalt::default();
            core.submit(NewSequence { prompt, max_tokens: 1, sampling, cache_salt, in_session: false, priority: 0 }, Micros(0))
                .expect("there is room");
            let mut time = None;
            loop {
                let began = Instant::now();
                let Plan::Step(batch) = core.plan(Micros(0), &mut events) else { break };
                time.get_or_insert(began.elapsed());
                report(batch, &mut reports);
                core.commit(StepResult::Done(std::mem::take(&mut reports)), Micros(0), &mut events);
            }
            events.clear();
            time.expect("it has a step")
        };
        admit();
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::from_parameter(tokens), |bencher| {
            bencher.iter_custom(|admissions| (0..admissions).map(|_| admit()).sum());
        });
    }
    group.finish();
}

fn histories(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler/histories");
    for (name, presence_penalty) in [("without", 0.0), ("penalty", 0.5)] {
        let mut choir = Choir::new(64, 0, LONG, presence_penalty);
        group.throughput(Throughput::Elements(64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|steps| (0..steps).map(|_| choir.step()).sum());
        });
    }
    group.finish();
}

fn cancels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler/cancel");
    for waiting in [16, 256, 4_096, 65_536] {
        let mut core = Scheduler::new(limits(16, waiting, SHORT));
        let sampling = Arc::new(Sampling::default());
        let submit = |core: &mut Scheduler| -> SeqId {
            let new = NewSequence {
                prompt: vec![TokenId(7); 8],
                max_tokens: 8,
                sampling: Arc::clone(&sampling),
                cache_salt: CacheSalt::default(),
                in_session: false,
                priority: 0,
            };
            core.submit(new, Micros(0)).expect("there is room for all")
        };
        let mut seqs: Vec<SeqId> = (0..waiting).map(|_| submit(&mut core)).collect();
        let mut next = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(waiting), |bencher| {
            bencher.iter(|| {
                // An odd stride visits them in no order.
                next = (next + 40_503) % waiting;
                core.cancel(black_box(seqs[next]));
                seqs[next] = submit(&mut core);
            });
        });
    }
    group.finish();
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(20)
}

criterion_group! { name = scheduler; config = config(); targets = steps, cached, histories, cancels }
criterion_main!(scheduler);
