//! What a refused request is told, against what it then takes: seeded loads and a clock that steps
//! move.

use super::*;
use crate::batch::Sampled;

/// What a step takes, and what each token of a prompt and each decoded one adds: about what the CPU
/// engine does with gpt-oss-20b.
const STEP_MICROS: u64 = 20_000;
const PREFILL_MICROS: u64 = 1_000;
const DECODE_MICROS: u64 = 5_000;

const STOP: TokenId = TokenId(1);

/// What clients ask for.
#[derive(Debug, Clone, Copy)]
struct Load {
    name: &'static str,
    /// Most prompts of a request.
    prompts_max: u64,
    /// Shortest and longest prompt.
    prompt_tokens: (u64, u64),
    /// Least and most tokens asked for.
    max_tokens: (u64, u64),
    /// One token of so many ends an answer.
    stop_one_of: u64,
}

const LOADS: [Load; 3] = [
    Load {
        name: "short prompts, long answers",
        prompts_max: 8,
        prompt_tokens: (10, 60),
        max_tokens: (100, 400),
        stop_one_of: 300,
    },
    Load {
        name: "long prompts, short answers",
        prompts_max: 8,
        prompt_tokens: (500, 2_000),
        max_tokens: (2, 20),
        stop_one_of: 1_000_000,
    },
    Load { name: "many prompts a request", prompts_max: 40, prompt_tokens: (5, 300), max_tokens: (10, 200), stop_one_of: 100 },
];

/// A scheduler under a load.
struct Counter {
    core: Scheduler,
    load: Load,
    now: Micros,
    dice: u64,
    events: Vec<SequenceEvent>,
}

impl Counter {
    fn new(load: Load, seed: u64, waiting_max_micros: u64) -> Self {
        let limits = SchedulerLimits {
            block_tokens: 128,
            global_blocks: 520,
            sliding_blocks: 100,
            sliding_window_tokens: 128,
            context_tokens_max: 4_096,
            token_budget_tokens: 512,
            prefill_slice_tokens: 128,
            running_max_count: 16,
            waiting_max_count: 64,
            waiting_max_tokens: 1 << 20,
            waiting_max_micros,
            priority_micros: 1_000_000,
            growth_reserve_percent: 25,
            ..SchedulerLimits::default()
        };
        let dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut counter = Self { core: Scheduler::new(limits), load, now: Micros(0), dice, events: Vec::new() };
        // Enough answers for a forecast, and steps of all sizes.
        for _ in 0..40 {
            let request = counter.request();
            counter.submit(&request).expect("an empty queue has room");
            while counter.step() {}
        }
        counter.events.clear();
        counter
    }

    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        least + (self.dice >> 33) % (most - least + 1)
    }

    fn request(&mut self) -> Vec<NewSequence> {
        let max_tokens = self.between(self.load.max_tokens) as u32;
        let sampling = Arc::new(Sampling { stop_tokens: vec![STOP], ..Sampling::default() });
        let prompts = self.between((1, self.load.prompts_max));
        let prompt = |tokens| NewSequence {
            prompt: vec![TokenId(9); tokens as usize],
            max_tokens,
            sampling: Arc::clone(&sampling),
            cache_salt: CacheSalt::default(),
            in_session: false,
            priority: 0,
        };
        (0..prompts).map(|_| prompt(self.between(self.load.prompt_tokens))).collect()
    }

    fn submit(&mut self, request: &[NewSequence]) -> Result<SeqId, Reject> {
        self.core.submit_all(request.to_vec(), self.now)
    }

    /// One step, if there is anything to compute.
    fn step(&mut self) -> bool {
        let Plan::Step(batch) = self.core.plan(self.now, &mut self.events) else { return false };
        let slices = batch.slices.clone();
        let mut reports = Vec::new();
        let mut micros = STEP_MICROS;
        for slice in slices {
            let decodes = slice.draw.as_ref().is_some_and(|draw| draw.generated_count > 0);
            micros += if decodes { DECODE_MICROS } else { slice.len() as u64 * PREFILL_MICROS };
            if slice.draw.is_some() {
                let stops = self.between((1, self.load.stop_one_of)) == 1;
                let token = if stops { STOP } else { TokenId(9) };
                reports.push(Sampled { seq: slice.seq, token: Some(Ok(token)), logprobs: None, prompt_logprobs: Vec::new() });
            }
        }
        // No two steps take quite the same.
        let micros = micros * self.between((85, 115)) / 100;
        self.now = self.now.plus(micros);
        self.core.commit(StepResult::Done(reports), self.now, &mut self.events);
        true
    }

    /// Requests come until one is refused; it comes again after every step until it is taken.
    /// Answers what it was told and what it took, in microseconds.
    fn refusal(&mut self) -> (u64, u64) {
        loop {
            let request = self.request();
            if let Err(reject) = self.submit(&request) {
                let (refused, said) = (self.now, taken_after(reject));
                while self.submit(&request).is_err() {
                    assert!(self.step(), "an empty queue refuses nothing");
                }
                return (said, self.now.since(refused));
            }
            if self.between((0, 2)) == 0 {
                self.step();
            }
        }
    }
}

fn taken_after(reject: Reject) -> u64 {
    match reject {
        Reject::QueueFull { taken_after_micros, .. } | Reject::WaitsTooLong { taken_after_micros, .. } => taken_after_micros,
        other => panic!("{other:?}"),
    }
}

/// What was said and what was needed over some refusals, in microseconds. In a `burst` all that was
/// taken has ended before.
fn told(load: Load, seed: u64, waiting_max_micros: u64, is_burst: bool) -> Vec<(u64, u64)> {
    let mut counter = Counter::new(load, seed, waiting_max_micros);
    let mut told = Vec::new();
    for _ in 0..6 {
        told.push(counter.refusal());
        for _ in 0..if is_burst { usize::MAX } else { 100 } {
            if !counter.step() {
                break;
            }
        }
    }
    told
}

/// On average: an answer may end at any token, and a single request is taken when one ends.
#[test]
fn refused_requests_are_told_when_they_are_taken_within_half_of_that_on_three_loads() {
    for load in LOADS {
        for (is_burst, waiting_max_micros) in [(false, 0), (true, 0), (false, 15_000_000), (true, 15_000_000)] {
            let told: Vec<(u64, u64)> = (0..2).flat_map(|seed| told(load, seed, waiting_max_micros, is_burst)).collect();
            let (said, needed) = told.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            let what = format!("{}, burst: {is_burst}, limit {waiting_max_micros}: {told:?}", load.name);
            assert!(said.abs_diff(needed) <= needed / 2, "{said} said, {needed} needed; {what}");
        }
    }
}

#[test]
fn what_would_wait_past_the_limit_is_refused_at_once_and_what_is_taken_has_its_turn() {
    for load in LOADS {
        let mut counter = Counter::new(load, 1, 15_000_000);
        let (mut taken_count, mut refused_count) = (0, 0);
        for _ in 0..1_000 {
            let request = counter.request();
            match counter.submit(&request) {
                Ok(_) => taken_count += 1,
                Err(Reject::WaitsTooLong { wait_micros, taken_after_micros, .. }) => {
                    assert_eq!(wait_micros - taken_after_micros, 15_000_000);
                    refused_count += 1;
                }
                Err(_) => {}
            }
            counter.step();
        }
        let timeout =
            |event: &&SequenceEvent| matches!(event, SequenceEvent::Finished { reason: FinishReason::QueueTimeout, .. });
        let timeouts_count = counter.events.iter().filter(timeout).count();
        let counts = (taken_count, refused_count, timeouts_count);
        assert!(
            10 * timeouts_count <= taken_count && refused_count > 10,
            "{}: taken, refused, too late: {counts:?}",
            load.name
        );
    }
}

/// Six wait whose prompts take three blocks each; places and tokens there are for all.
#[test]
fn the_forecast_lets_begin_what_the_blocks_hold() {
    let newcomer_waits = |global_blocks| {
        let mut stage = Stage::new(SchedulerLimits { global_blocks, ..limits() });
        for _ in 0..20 {
            stage.submit(4, 4);
            stage.finish();
        }
        for _ in 0..6 {
            stage.submit(12, 8);
        }
        stage.scheduler.forecast(12, 0).newcomer_micros
    };
    let [two, three, seven] = [6, 9, 21].map(newcomer_waits);
    assert!(two > three && three > seven, "with blocks for so many at a time: {two}, {three}, {seven}");
}

/// What the forecast says when every step took 50 ms, whatever was in it, in such steps.
fn steps(micros: u64) -> f64 {
    micros as f64 / 50_000.0
}

fn observe(stage: &mut Stage) {
    stage.scheduler.observed = RecentSteps::default();
    (0..10).for_each(|_| stage.scheduler.observed.note_step(0, 16, 0, 50_000));
}

/// In how many steps one with a prompt of `tokens` that came now would begin.
fn newcomer(stage: &mut Stage, tokens: usize) -> f64 {
    observe(stage);
    steps(stage.scheduler.forecast(tokens, 0).newcomer_micros)
}

/// A step counts in parts of 1,024.
fn assert_steps(found: f64, right: f64, what: &str) {
    assert!((found - right).abs() < 0.003, "{what}: {found} steps, by hand {right}");
}

/// What a step has beside the answers, 31 or 30 tokens, is two slices of 15.
#[test]
fn a_newcomer_begins_where_the_queue_run_by_hand_says() {
    let one = SchedulerLimits { running_max_count: 1, ..limits() };
    let mut stage = Stage::new(one);
    assert_steps(newcomer(&mut stage, 30), 0.0, "nothing is before it");
    stage.submit(30, 5);
    assert_steps(newcomer(&mut stage, 30), 2.0 + 5.0, "one waits: two slices and five tokens");
    stage.step();
    assert_steps(newcomer(&mut stage, 30), 14.0 / 15.0 + 5.0, "it has one slice of 16 behind it");
    stage.step();
    assert_steps(newcomer(&mut stage, 30), 4.0, "it has its first token");
    // Half of a prompt was found computed lately.
    let mut stage = Stage::new(one);
    stage.submit(30, 5);
    observe(&mut stage);
    stage.scheduler.observed.note_found(100, 50);
    assert_steps(steps(stage.scheduler.forecast(30, 0).newcomer_micros), 1.0 + 5.0, "half of the prompt is known");
}

#[test]
fn a_newcomer_waits_for_blocks_and_for_a_slice() {
    for (prompt_tokens, right) in [(16, 0.0), (20, 24.0 / 15.0 + 5.0)] {
        let mut stage = Stage::new(SchedulerLimits { global_blocks: 10, ..limits() });
        stage.submit(24, 5);
        assert_steps(newcomer(&mut stage, prompt_tokens), right, "six of ten blocks are taken");
    }
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 1_000, sliding_blocks: 1_000, ..limits() });
    stage.submit(150, 5);
    assert_steps(newcomer(&mut stage, 10), 0.0, "the second slice is free");
    stage.submit(150, 5);
    let waits = newcomer(&mut stage, 10);
    assert_steps(waits, 9.0, "both are taken for ten steps, and it begins in the last of them");
    assert!(waits >= 9.0, "not in the one before");
}

/// Answers end as if each token were the last one in 512.
#[test]
fn the_ends_of_answers_are_dealt_out_evenly() {
    let mut stage =
        Stage::new(SchedulerLimits { running_max_count: 2, global_blocks: 1_000, sliding_blocks: 1_000, ..limits() });
    stage.submit(16, 900);
    stage.submit(16, 900);
    stage.step();
    assert_eq!(stage.scheduler.counts().decode_count, 2);
    // 512 ln 1.5, which is where the first third of them has ended.
    assert_steps(newcomer(&mut stage, 16), 207.0, "the first of two");
    // One more waits: it ends after 512 * -ln(1 - 0.118) more, sooner than the second one does.
    stage.submit(16, 900);
    assert_steps(newcomer(&mut stage, 16), 207.0 + 16.0 / 15.0 + 64.0, "the one that waits");
}

#[test]
fn the_held_enter_when_others_of_their_request_end() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 2, ..limits() });
    let request = |count, max_tokens| vec![sequence(15, max_tokens, Sampling::default()); count];
    stage.scheduler.submit_all(request(3, 3), stage.now).expect("there is room");
    stage.submit(15, 10);
    stage.submit(15, 10);
    observe(&mut stage);
    let forecast = stage.scheduler.forecast(15, 0);
    // The request's first ends after 1 + 3 steps and a single one takes its place, until 15; the
    // other single one ends after 1 + 10: then the newcomer could begin, and the request's second.
    assert_steps(steps(forecast.newcomer_micros), 11.0, "the newcomer");
    let gone = |count, tokens| steps(forecast.gone_micros(count, tokens));
    for (count, right) in [(1, 0.0), (2, 0.0), (3, 4.0), (4, 11.0), (5, 11.0)] {
        assert_steps(gone(count, 0), right, &format!("{count} have begun"));
    }
    assert_steps(gone(0, 30), 0.0, "two prompts have begun");
    assert_steps(gone(0, 31), 4.0, "three prompts have begun");
    // Of four places a request may have two, so one of the held enters at once.
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 4, ..limits() });
    stage.scheduler.submit_all(request(3, 3), stage.now).expect("there is room");
    observe(&mut stage);
    let forecast = stage.scheduler.forecast(15, 0);
    assert_steps(steps(forecast.newcomer_micros), 0.0, "a third one beside two of the request");
    assert_steps(steps(forecast.gone_micros(0, 30)), 0.0, "two prompts have begun");
}
