//! What a seed's world is like: each seed has other limits, other clients and other faults ("swarm
//! testing").
//!
//! Source: Groce et al. 2012, "Swarm Testing": a feature that is switched off in some runs leaves
//! room for others to be driven to their corners.

use std::sync::Arc;

use super::rng::Rng;
use crate::batch::{EngineLimits, Sampling, TokenId};
use crate::engine::fake::{EngineFault, FakeAnswer, FakeOptions};
use crate::scheduler::{CacheSalt, HashKey, NewSequence, SchedulerLimits};

/// Rows of the simulated vocabulary.
const VOCAB_SIZE: usize = 300;
/// Steps that compute this token fail, in worlds where there is poison.
pub(super) const POISON: TokenId = TokenId(13);
/// Sequences that hold this token have no finite logits, in worlds where there is rot.
pub(super) const ROT: TokenId = TokenId(17);
/// Longer sequences than this only make a step slow, since the fake engine reads every position of
/// every slice.
const LONG_TOKENS: usize = 700;

/// One world.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) limits: SchedulerLimits,
    /// What the engine draws.
    pub(super) answer: FakeAnswer,
    /// Requests that arrive before each plan.
    pub(super) arrivals: f64,
    /// Of those, how many arrive while a step computes.
    pub(super) arrives_in_flight: f64,
    /// How likely a sequence is cancelled before a plan, and while a step computes.
    pub(super) cancel: f64,
    /// How likely a step is lost for no fault of its sequences.
    pub(super) lost: f64,
    /// How likely the next step is planned while one is computed, if it can be.
    pub(super) ahead: f64,
    /// How likely the clock jumps by up to an hour.
    pub(super) jump: f64,
    /// Some prompts hold [`POISON`].
    pub(super) poison: bool,
    /// Some prompts hold [`ROT`].
    pub(super) rot: bool,
    /// Most choices of a prompt.
    choices_max: usize,
    /// Most prompts of a request.
    prompts_max: usize,
    /// Some requests ask for penalties, stop tokens, log-probabilities.
    rich: bool,
    /// Most tokens that a request asks for.
    max_tokens: usize,
    /// How likely a prompt begins as an earlier one did.
    shared: f64,
    /// What such prompts begin with.
    documents: Vec<Vec<TokenId>>,
    /// Requests have priorities from minus this to this.
    priority_max: i32,
    /// Blocks that the store takes; zero: there is none.
    pub(super) store_places: usize,
    /// How many kinds of clients find nothing that another kind has computed.
    salts: usize,
}

/// What is drawn where answers are guessed mostly repeats something.
fn answer(rng: &mut Rng, guesses: bool) -> FakeAnswer {
    let seed = rng.uniform(0..=usize::MAX - 1) as u64;
    if guesses && rng.chance(0.8) {
        FakeAnswer::Echo { seed, period: rng.magnitude(1..=40), changes_one_of: rng.magnitude(2..=64) as u64 }
    } else {
        FakeAnswer::Hash { seed }
    }
}

impl Config {
    /// With `every_feature` no feature of the core is switched off.
    pub(super) fn new(rng: &mut Rng, every_feature: bool) -> Self {
        let on = |rng: &mut Rng, share: f64| rng.chance(share) || every_feature;
        let block_tokens = rng.magnitude(1..=32);
        let global_blocks = rng.magnitude(8..=512);
        let sliding_blocks = rng.magnitude(8..=512);
        let token_budget_tokens = rng.magnitude(16..=4096);
        let guesses = on(rng, 0.5);
        let micros = |rng: &mut Rng, max: usize| if on(rng, 0.5) { rng.magnitude(1..=max) as u64 } else { 0 };
        let limits = SchedulerLimits {
            block_tokens,
            global_blocks,
            sliding_blocks,
            sliding_window_tokens: rng.magnitude(1..=128),
            context_tokens_max: if rng.chance(0.2) { 200 } else { 8 * global_blocks * block_tokens },
            token_budget_tokens,
            prefill_slice_tokens: rng.magnitude(1..=token_budget_tokens),
            running_max_count: rng.magnitude(1..=64),
            waiting_max_count: rng.magnitude(4..=200),
            waiting_max_tokens: rng.magnitude(50..=100_000),
            prefill_window_micros: micros(rng, 50_000),
            decode_window_micros: micros(rng, 50_000),
            waiting_max_micros: if rng.chance(0.7) { 0 } else { rng.magnitude(1_000..=10_000_000) as u64 },
            priority_micros: micros(rng, 10_000_000),
            growth_reserve_percent: rng.pick(&[0, 25, 100]),
            draft_budget_tokens: if guesses { rng.magnitude(1..=256) } else { 0 },
            slice_drafts_max: if guesses { rng.magnitude(1..=31) } else { 0 },
            copies_blocks: on(rng, 0.7),
            itl_target_micros: micros(rng, 50_000),
            prefix_cache: on(rng, 0.8).then(|| HashKey([rng.uniform(0..=usize::MAX - 1) as u64, 7])),
        };
        let sometimes = |rng: &mut Rng, most: f64| if on(rng, 0.5) { most * rng.uniform(0..=100) as f64 / 100.0 } else { 0.0 };
        let (shared, salts) = (sometimes(rng, 0.9), rng.uniform(1..=3));
        let priority_max = if on(rng, 0.5) { rng.magnitude(1..=120) as i32 } else { 0 };
        let mut config = Self {
            priority_max,
            shared,
            salts,
            store_places: 0,
            documents: Vec::new(),
            limits,
            answer: answer(rng, guesses),
            arrivals: rng.magnitude(1..=100) as f64 / 10.0,
            arrives_in_flight: sometimes(rng, 1.0),
            cancel: sometimes(rng, 0.5),
            lost: sometimes(rng, 0.1),
            ahead: sometimes(rng, 1.0),
            jump: sometimes(rng, 0.05),
            poison: rng.chance(0.3),
            rot: rng.chance(0.3),
            choices_max: rng.uniform(1..=4),
            prompts_max: if rng.chance(0.5) { 1 } else { rng.magnitude(2..=24) },
            rich: rng.chance(0.7),
            max_tokens: rng.magnitude(1..=200),
        };
        config.documents = (0..rng.uniform(1..=3)).map(|_| config.filled(rng, LONG_TOKENS / 2)).collect();
        config.store_places = if on(rng, 0.5) { rng.magnitude(1..=1_000) } else { 0 };
        config
    }

    /// The engine that belongs to this world.
    pub(super) fn engine(&self) -> FakeOptions {
        let mut faults = Vec::new();
        if self.poison {
            faults.push(EngineFault::FailsOnToken(POISON));
        }
        if self.rot {
            faults.push(EngineFault::NotFiniteOnToken(ROT));
        }
        FakeOptions {
            limits: EngineLimits {
                block_tokens: self.limits.block_tokens,
                global_blocks: self.limits.global_blocks,
                sliding_blocks: self.limits.sliding_blocks,
                sliding_window_tokens: self.limits.sliding_window_tokens,
                step_tokens_max: self.limits.token_budget_tokens,
                step_slices_max: self.limits.running_max_count,
                context_tokens_max: self.limits.context_tokens_max,
                vocab_size: VOCAB_SIZE,
                slice_drafts_max: self.limits.slice_drafts_max,
                copies_blocks: self.limits.copies_blocks,
                steps_max: 2,
                global_block_bytes: 32 * self.limits.block_tokens,
                sliding_block_bytes: 32 * self.limits.block_tokens,
            },
            answer: self.answer.clone(),
            faults,
            ..FakeOptions::default()
        }
    }

    /// A request: one prompt or several, and one to four choices of each.
    pub(super) fn request(&self, rng: &mut Rng) -> Vec<NewSequence> {
        let mut prompts = vec![self.prompt(rng)];
        if rng.chance(0.2) {
            prompts.extend((1..rng.uniform(1..=self.prompts_max)).map(|_| self.short_prompt(rng)));
        }
        let max_tokens = if rng.chance(0.02) { 0 } else { rng.uniform(1..=self.max_tokens) as u32 };
        let sampling = self.sampling(rng, max_tokens);
        let in_session = rng.chance(0.3);
        let priority = rng.uniform(0..=2 * self.priority_max as usize) as i32 - self.priority_max;
        let cache_salt = CacheSalt([rng.uniform(1..=self.salts) as u64; 2]);
        let choices = rng.uniform(1..=self.choices_max);
        let sequences = prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, choices)).enumerate();
        sequences
            .map(|(index, prompt)| {
                let sampling = Sampling { seed: sampling.seed + index as u64, ..sampling.clone() };
                let (prompt, sampling) = (prompt.clone(), Arc::new(sampling));
                NewSequence { prompt, max_tokens, sampling, cache_salt, in_session, priority }
            })
            .collect()
    }

    /// One that is seldom rejected: else no request of many prompts is taken.
    fn short_prompt(&self, rng: &mut Rng) -> Vec<TokenId> {
        let capacity = self.limits.global_blocks * self.limits.block_tokens;
        let len = rng.magnitude(1..=(capacity / 4).clamp(1, LONG_TOKENS / 4));
        self.begun(rng, len)
    }

    fn prompt(&self, rng: &mut Rng) -> Vec<TokenId> {
        let capacity = self.limits.global_blocks * self.limits.block_tokens;
        let len = match rng.uniform(0..=19) {
            0 => 0,
            // Up to four times what there is room for: most are rejected, some fit because they end
            // in time.
            1 | 2 => rng.uniform(capacity..=4 * capacity),
            3 | 4 => rng.uniform(1..=capacity.min(LONG_TOKENS)),
            _ => rng.magnitude(1..=capacity.min(LONG_TOKENS)),
        };
        self.begun(rng, len)
    }

    /// So many tokens, which may begin as those of other prompts do: with a part of a document.
    fn begun(&self, rng: &mut Rng, len: usize) -> Vec<TokenId> {
        let mut prompt = self.filled(rng, len);
        if len > 0 && rng.chance(self.shared) {
            let document = &self.documents[rng.uniform(0..=self.documents.len() - 1)];
            let same = rng.uniform(1..=len.min(document.len()));
            prompt[..same].copy_from_slice(&document[..same]);
        }
        prompt
    }

    fn filled(&self, rng: &mut Rng, len: usize) -> Vec<TokenId> {
        let mut prompt: Vec<TokenId> = (0..len).map(|_| TokenId(rng.uniform(20..=VOCAB_SIZE - 1) as u32)).collect();
        for (present, token) in [(self.poison, POISON), (self.rot, ROT)] {
            if present && len > 0 && rng.chance(0.1) {
                prompt[rng.uniform(0..=len - 1)] = token;
            }
        }
        prompt
    }

    fn sampling(&self, rng: &mut Rng, max_tokens: u32) -> Sampling {
        if !self.rich {
            return Sampling::default();
        }
        // A few stop tokens of 300 end a sequence now and then; many end it soon.
        let stops = if rng.chance(0.5) { 0 } else { rng.magnitude(1..=60) as u32 };
        Sampling {
            temperature: rng.pick(&[0.0, 1.0]),
            seed: rng.uniform(0..=1_000) as u64,
            presence_penalty: if rng.chance(0.2) { 0.5 } else { 0.0 },
            stop_tokens: (100..100 + stops).map(TokenId).collect(),
            min_tokens: if rng.chance(0.2) { rng.uniform(0..=max_tokens as usize) as u32 } else { 0 },
            logprobs: rng.pick(&[None, None, Some(0), Some(3)]),
            prompt_logprobs: rng.chance(0.2),
            ..Sampling::default()
        }
    }
}
