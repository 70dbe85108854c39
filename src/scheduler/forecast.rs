//! When what waits would begin, by what was observed of steps and answers.
//!
//! A request that is refused is told when it would be taken, and one that would wait past the
//! queue's limit is refused at once. For both the queue is run forward: places and blocks are given
//! up and taken in the order of the queue. Held sequences enter when others of their request end,
//! and prompts share what decoding leaves of the token budget, but for the share of them that was
//! found computed lately.
//!
//! Lengths of answers are not known. Answers end by themselves at an observed rate a token, as if
//! the next token were as likely to be the last one whatever came before, and at `max_tokens` at
//! the latest. Quantiles of that are dealt out evenly: nothing is drawn. A step takes what steps
//! took lately, by how many tokens of prompts and sequences that decode were in them: a line of
//! least squares.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::{NewSequence, Scheduler};
use crate::batch::SeqId;

/// Older steps weigh half after this much computing time.
const HALF_LIFE_MICROS: f64 = 5_000_000.0;
/// What an ended answer leaves of the weight of those before it: some fifty count.
const ANSWER_DECAY: f64 = 0.98;
/// An answer's mean length as long as none was observed; it weighs as much as one answer.
const UNKNOWN_ANSWER_TOKENS: f64 = 512.0;
/// So many answers must have ended before a request is refused because of what it would wait: a
/// guess refuses no request.
const ANSWERS_MIN_COUNT: u64 = 16;
/// More slices of a step are counted as so many wider ones.
const SLICES_MAX_COUNT: usize = 16;
/// Parts of a step in which the forecast counts.
const STEP: u64 = 1_024;

/// Microseconds that a step takes, and that each token of a prompt and each sequence that decodes
/// adds.
#[derive(Debug, Clone, Copy, Default)]
struct Costs {
    step: f64,
    prefill_token: f64,
    decoding: f64,
}

/// A step as it is observed: prompt tokens, sequences that decode, microseconds.
type StepSample = [f64; 3];

/// What was observed lately.
#[derive(Debug, Default)]
pub(super) struct RecentSteps {
    /// Sums over steps, older ones weighing less: of one, of the samples, and of their products.
    weight: f64,
    sums: StepSample,
    products: [StepSample; 3],
    /// Over answers: tokens generated, and how many answers ended before they had to.
    generated: f64,
    stopped: f64,
    /// How many ended, older ones weighing less.
    ended: f64,
    ended_count: u64,
    /// Over sequences that began: their tokens, and those of them that were found computed.
    begun: f64,
    found: f64,
}

impl RecentSteps {
    /// A step with so many prompt tokens and so many sequences that decode, which drew so many
    /// tokens, took so long.
    pub(super) fn note_step(&mut self, prefill_tokens: usize, decoding_count: usize, drawn_count: u64, micros: u64) {
        let sample = [prefill_tokens as f64, decoding_count as f64, micros as f64];
        let decay = 0.5_f64.powf(micros as f64 / HALF_LIFE_MICROS);
        self.weight = self.weight * decay + 1.0;
        for (row, value) in sample.into_iter().enumerate() {
            self.sums[row] = self.sums[row] * decay + value;
            for (column, other) in sample.into_iter().enumerate() {
                self.products[row][column] = self.products[row][column] * decay + value * other;
            }
        }
        self.generated += drawn_count as f64;
    }

    /// An answer ended, before it had all tokens asked for or with them.
    pub(super) fn note_end(&mut self, before_all: bool) {
        self.generated *= ANSWER_DECAY;
        self.stopped = self.stopped * ANSWER_DECAY + f64::from(u8::from(before_all));
        self.ended = self.ended * ANSWER_DECAY + 1.0;
        self.ended_count += 1;
    }

    /// Tokens of an answer, by those that ended lately, whatever ended them.
    pub(super) fn answer_tokens(&self) -> usize {
        (self.generated / self.ended.max(1.0)) as usize
    }

    /// A sequence of so many tokens began, of which so many were found computed.
    pub(super) fn note_found(&mut self, tokens: usize, found: usize) {
        self.begun = self.begun * ANSWER_DECAY + tokens as f64;
        self.found = self.found * ANSWER_DECAY + found as f64;
    }

    /// How many of so many tokens are to be computed, if of those that come as many are found
    /// computed as lately.
    fn to_compute(&self, tokens: usize) -> usize {
        let found = tokens as f64 * self.found / self.begun.max(1.0);
        tokens.saturating_sub(found as usize).max(1)
    }

    /// The line of least squares through the steps. What did not vary is taken to cost nothing by
    /// itself: it is in the step's own cost then, and steps to come are like those.
    fn costs(&self) -> Costs {
        if self.weight == 0.0 {
            return Costs::default();
        }
        let mean = |of: usize| self.sums[of] / self.weight;
        let spread = |one: usize, other: usize| self.products[one][other] / self.weight - mean(one) * mean(other);
        // Some false spread of one kind of work alone, so that there is a line through steps that
        // are all alike.
        let own = |of: usize| spread(of, of) + 1e-3 * mean(of) * mean(of) + 1e-9;
        let determinant = own(0) * own(1) - spread(0, 1) * spread(0, 1);
        let slope = |of: usize, other: usize| {
            let slope = (spread(of, 2) * own(other) - spread(other, 2) * spread(0, 1)) / determinant;
            // Noise must not make work cost less than nothing, nor more than there was.
            slope.clamp(0.0, if mean(of) > 0.0 { mean(2) / mean(of) } else { 0.0 })
        };
        let (prefill_token, decoding) = (slope(0, 1), slope(1, 0));
        let step = (mean(2) - prefill_token * mean(0) - decoding * mean(1)).max(0.0);
        Costs { step, prefill_token, decoding }
    }

    /// Of answers that may have `tokens_left` more tokens, how many the one at this quantile (0 to
    /// 1) will have.
    fn length(&self, tokens_left: u32, quantile: f64) -> u64 {
        let rate = (self.stopped + 1.0) / (self.generated + UNKNOWN_ANSWER_TOKENS);
        let length = -(1.0 - quantile).ln() / rate;
        (length as u64).clamp(1, u64::from(tokens_left).max(1))
    }
}

/// What would become of those that wait, and of one that came now.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    /// After how many microseconds each would begin, earliest first, and the tokens of its prompt.
    begins: Vec<(u64, usize)>,
    /// After how many the newcomer would.
    pub(super) newcomer_micros: u64,
}

impl Forecast {
    /// After how many microseconds so many sequences and prompt tokens less would wait; all of
    /// them, if there are not so many.
    pub(super) fn gone_micros(&self, sequences_count: usize, prompt_tokens: usize) -> u64 {
        let mut gone_tokens = 0;
        for (index, (micros, tokens)) in self.begins.iter().enumerate() {
            gone_tokens += tokens;
            if index + 1 >= sequences_count && gone_tokens >= prompt_tokens {
                return *micros;
            }
        }
        self.begins.last().map_or(0, |(micros, _)| *micros)
    }
}

/// One that waits.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    /// Where it stands among those that never ran; none if it ran before.
    rank: Option<SeqId>,
    /// Tokens to be computed before it decodes.
    prefill_tokens: usize,
    prompt_tokens: usize,
    tokens_left: u32,
    request: Option<SeqId>,
    is_newcomer: bool,
}

/// Puts `next` into the queue, behind all that go before it and all of its rank.
fn enter(next: Waiting, queue: &mut VecDeque<Waiting>) {
    queue.insert(queue.partition_point(|waiting| waiting.rank <= next.rank), next);
}

/// The queue, run forward. Time is in parts of a step.
struct QueueRun<'s> {
    core: &'s Scheduler,
    /// What runs: its end, its blocks, its request.
    running: BinaryHeap<Reverse<(u64, usize, Option<SeqId>)>>,
    places: usize,
    blocks: usize,
    /// Tokens of a prompt that a step computes.
    slice_tokens: u64,
    /// Until when each slice that a step has room for is taken.
    slices: BinaryHeap<Reverse<u64>>,
    now: u64,
    /// Microseconds that have passed.
    micros: f64,
    costs: Costs,
}

impl QueueRun<'_> {
    /// Lets one run that has to prefill so many tokens and may generate so many, the quantile of
    /// which is this.
    fn begin(&mut self, next: Waiting, blocks: usize, quantile: f64) {
        let mut prefilled = self.now;
        if next.prefill_tokens > 0 {
            let Reverse(free) = self.slices.pop().expect("a step has room for a slice");
            prefilled = free.max(self.now) + next.prefill_tokens as u64 * STEP / self.slice_tokens;
            self.slices.push(Reverse(prefilled));
        }
        let length = self.core.observed.length(next.tokens_left, quantile);
        self.running.push(Reverse((prefilled.saturating_add(length.saturating_mul(STEP)), blocks, next.request)));
        self.places = self.places.saturating_sub(1);
        self.blocks = self.blocks.saturating_sub(blocks);
    }

    /// Whether one that needs so many blocks can begin.
    fn has_room(&self, blocks: usize) -> bool {
        self.places > 0 && self.blocks >= blocks
    }

    /// Lets the next one end; answers its request.
    fn end(&mut self) -> Option<Option<SeqId>> {
        let Reverse((end, blocks, request)) = self.running.pop()?;
        self.pass(end);
        self.places += 1;
        self.blocks += blocks;
        Some(request)
    }

    /// Time passes until then.
    fn pass(&mut self, until: u64) {
        let steps = until.saturating_sub(self.now) as f64 / STEP as f64;
        let prefilling = |Reverse(free): &Reverse<u64>| (*free).min(until).saturating_sub(self.now);
        let prefilled = self.slices.iter().map(prefilling).sum::<u64>() * self.slice_tokens / STEP;
        let decoding = (self.running.len() + 1) as f64;
        self.micros += steps * (self.costs.step + self.costs.decoding * decoding);
        self.micros += self.costs.prefill_token * prefilled as f64;
        self.now = self.now.max(until);
    }
}

impl Scheduler {
    /// Runs the queue forward, with one more sequence of `prompt_tokens` and this priority in its
    /// place. Nothing else comes, so nothing passes it.
    ///
    /// Takes time in proportion to all that wait and run.
    pub(super) fn forecast(&self, prompt_tokens: usize, priority: i32) -> Forecast {
        let mut run = self.run();
        let growth = self.growth_tokens() / self.geometry.block_tokens;
        let running_count = self.running.count() as f64;
        for (index, runner) in self.running.iter().enumerate() {
            let now = Waiting {
                prefill_tokens: if runner.decoding { 0 } else { runner.pending() },
                tokens_left: runner.left_count(),
                request: self.sequences[runner.place].request,
                ..Waiting::default()
            };
            run.begin(now, runner.tables.global.len() + growth, (index + 1) as f64 / (running_count + 1.0));
        }
        let mut held = self.held();
        let newcomer = Waiting {
            rank: Some(self.ids.peek(priority, self.now)),
            prefill_tokens: prompt_tokens,
            prompt_tokens,
            is_newcomer: true,
            ..Waiting::default()
        };
        let mut queue = self.queue(&mut held, newcomer);
        let mut forecast = Forecast::default();
        while let Some(next) = queue.pop_front() {
            let blocks = self.geometry.need(next.prefill_tokens).global + growth;
            while !run.has_room(blocks) {
                let Some(request) = run.end() else { break };
                if let Some(next) = request.and_then(|first| held.get_mut(&first)?.pop_front()) {
                    enter(next, &mut queue);
                }
            }
            let slice_free = run.slices.peek().map_or(0, |Reverse(free)| *free);
            // One more may begin in the step in which a slice becomes free.
            run.pass(slice_free.saturating_sub(STEP - 1));
            let micros = run.micros as u64;
            if next.is_newcomer {
                // It is only asked about: those behind it are not held up by it.
                forecast.newcomer_micros = micros;
            } else {
                forecast.begins.push((micros, next.prompt_tokens));
                // The golden ratio's multiples are spread evenly, however many there are.
                let quantile = (0.5 + forecast.begins.len() as f64 * 0.618_033_988_749_895).fract();
                let prefill_tokens = self.observed.to_compute(next.prefill_tokens);
                run.begin(Waiting { prefill_tokens, ..next }, blocks, quantile);
            }
        }
        forecast
    }

    fn run(&self) -> QueueRun<'_> {
        let decoding = self.limits.running_max().min(self.running.count() + self.waiting.count());
        let room_tokens = self.paced(self.limits.token_budget_tokens.saturating_sub(decoding)).max(1);
        let slices = room_tokens.div_ceil(self.geometry.slice_tokens_max).min(SLICES_MAX_COUNT);
        QueueRun {
            core: self,
            running: BinaryHeap::new(),
            places: self.limits.running_max(),
            blocks: self.pools.global.total_count(),
            slice_tokens: (room_tokens / slices).max(1) as u64,
            slices: (0..slices).map(|_| Reverse(0)).collect(),
            now: 0,
            micros: 0.0,
            costs: self.observed.costs(),
        }
    }

    /// Whether enough was observed to refuse a request because of what it would wait.
    pub(super) fn knows_answers(&self) -> bool {
        self.observed.ended_count >= ANSWERS_MIN_COUNT
    }

    /// Those that wait, those that are held and may enter at once, and the newcomer.
    fn queue(&self, held: &mut BTreeMap<SeqId, VecDeque<Waiting>>, newcomer: Waiting) -> VecDeque<Waiting> {
        let waiting = self.waiting.iter().map(|(seq, place)| {
            let sequence = &self.sequences[place];
            let generated = (sequence.tokens.len() - sequence.prompt_len) as u32;
            Waiting {
                rank: (!sequence.has_run).then_some(seq),
                prefill_tokens: sequence.tokens.len(),
                prompt_tokens: sequence.prompt_len,
                tokens_left: sequence.max_tokens - generated,
                request: sequence.request,
                is_newcomer: false,
            }
        });
        let mut queue: VecDeque<Waiting> = waiting.collect();
        for (first, held) in held {
            // One may always enter, as in `turns`.
            let most = (self.limits.running_max() / 2).max(1);
            let free = most.saturating_sub(self.turns.live_count(*first));
            held.drain(..free.min(held.len())).for_each(|next| enter(next, &mut queue));
        }
        enter(newcomer, &mut queue);
        queue
    }

    fn held(&self) -> BTreeMap<SeqId, VecDeque<Waiting>> {
        let waiting = |first: SeqId, new: &NewSequence| Waiting {
            rank: Some(self.ids.peek(new.priority, self.now)),
            prefill_tokens: new.prompt.len(),
            prompt_tokens: new.prompt.len(),
            tokens_left: new.max_tokens,
            request: Some(first),
            ..Waiting::default()
        };
        let requests = self.turns.held().map(|(first, held)| (first, held.iter().map(|new| waiting(first, new)).collect()));
        requests.collect()
    }
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
