//! What the prefix cache changes: how much is computed, and not a bit of any answer.

use std::ops::Range;
use std::sync::Arc;

use antiphon::batch::{Batch, Micros, Sampled, Sampling, SeqId, StepResult, TokenId};
use antiphon::engine::Engine;
use antiphon::engine::cpu::{CpuEngine, CpuOptions, Format, Math};
use antiphon::scheduler::{CacheSalt, HashKey, NewSequence, Plan, Scheduler, SchedulerLimits, SequenceEvent};

use super::files::Golden;

/// Long enough that many an answer needs a block of its own.
const ANSWER_TOKENS: u32 = 9;

/// Tokens and the bits of their log-probabilities, the likeliest ones' too.
type Answer = Vec<(TokenId, Vec<u32>)>;

/// The core on the embedded model.
struct Server {
    core: Scheduler,
    engine: CpuEngine,
    now: Micros,
    events: Vec<SequenceEvent>,
}

impl Server {
    fn start(golden: &Golden, blocks: usize, caches: bool, (math, dense): (Math, Format)) -> Self {
        let options = CpuOptions {
            threads: 2,
            block_tokens: CpuOptions::BLOCK_TOKENS,
            global_blocks: blocks,
            sliding_blocks: blocks,
            step_tokens_max: 256,
            step_slices_max: 16,
            math,
            dense,
            isa: None,
        };
        let engine = CpuEngine::load(Arc::clone(&golden.checkpoint), &options, &mut |_| {});
        let engine_limits = engine.limits();
        let limits = SchedulerLimits {
            block_tokens: engine_limits.block_tokens,
            global_blocks: blocks,
            sliding_blocks: blocks,
            sliding_window_tokens: engine_limits.sliding_window_tokens,
            context_tokens_max: engine_limits.context_tokens_max.min(blocks * engine_limits.block_tokens),
            token_budget_tokens: 256,
            prefill_slice_tokens: 64,
            running_max_count: 16,
            waiting_max_count: 1_000,
            waiting_max_tokens: 1 << 20,
            prefix_cache: caches.then_some(HashKey([3, 5])),
            ..SchedulerLimits::default()
        };
        Self { core: Scheduler::new(limits), engine, now: Micros(0), events: Vec::new() }
    }

    fn submit(&mut self, prompt: &[TokenId], max_tokens: u32) -> SeqId {
        let sampling = Arc::new(Sampling { logprobs: Some(3), ..Sampling::default() });
        let cache_salt = CacheSalt::default();
        let new = NewSequence { prompt: prompt.to_vec(), max_tokens, sampling, cache_salt, in_session: false, priority: 0 };
        self.core.submit(new, self.now).expect("the queue has room")
    }

    fn step(&mut self) -> bool {
        self.now = self.now.plus(1_000);
        let Plan::Step(batch) = self.core.plan(self.now, &mut self.events) else { return false };
        let batch: Batch = batch.clone();
        let mut sampled: Vec<Sampled> = Vec::new();
        self.engine.execute(&batch, &mut sampled).expect("the CPU does not fail");
        self.core.commit(StepResult::Done(sampled), self.now, &mut self.events);
        true
    }

    /// The answers to all prompts, which run beside each other, and how many of their tokens were
    /// found computed.
    fn serve(&mut self, prompts: &[&[TokenId]], max_tokens: u32) -> (Vec<Answer>, Vec<usize>) {
        let seqs: Vec<SeqId> = prompts.iter().map(|prompt| self.submit(prompt, max_tokens)).collect();
        while self.step() {}
        let answers = seqs.iter().map(|seq| self.answer(*seq)).collect();
        let found = seqs.iter().map(|seq| self.found(*seq)).collect();
        self.events.clear();
        (answers, found)
    }

    fn answer(&self, seq: SeqId) -> Answer {
        let heard = self.events.iter().filter_map(|event| match event {
            SequenceEvent::Token { seq: of, token, logprobs: Some(logprobs) } if *of == seq => {
                let all = std::iter::once(&logprobs.chosen).chain(&logprobs.top);
                let bits = all.flat_map(|logprob| [logprob.token.0, logprob.rank, logprob.logprob.to_bits()]);
                Some((*token, bits.collect()))
            }
            _ => None,
        });
        heard.collect()
    }

    fn found(&self, seq: SeqId) -> usize {
        let found = self.events.iter().find_map(|event| match event {
            SequenceEvent::Began { seq: of, cached_tokens, .. } if *of == seq => Some(*cached_tokens),
            _ => None,
        });
        found.unwrap_or(0)
    }
}

/// So many prompts of 20 to 300 tokens; half of them begin as others do.
fn prompts(count: usize, vocab_size: usize) -> Vec<Vec<TokenId>> {
    let mut random: u64 = 11;
    let mut next = |range: Range<usize>| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        range.start + (random >> 33) as usize % range.len()
    };
    let documents: Vec<Vec<TokenId>> =
        (0..2).map(|_| (0..400).map(|_| TokenId(next(0..vocab_size) as u32)).collect()).collect();
    let prompt = |index: usize| {
        let len = next(20..300);
        let mut prompt: Vec<TokenId> = (0..len).map(|_| TokenId(next(0..vocab_size) as u32)).collect();
        if index.is_multiple_of(2) {
            let same = next(1..len.min(400));
            prompt[..same].copy_from_slice(&documents[index / 2 % 2][..same]);
        }
        prompt
    };
    (0..count).map(prompt).collect()
}

/// Answers how many sequences were preempted.
fn check(math: (Math, Format), count: usize) -> u64 {
    let golden = Golden::tiny();
    let prompts = prompts(count, golden.checkpoint.config().vocab_size);
    let all: Vec<&[TokenId]> = prompts.iter().map(Vec::as_slice).collect();
    let cold: Vec<Answer> = {
        let mut cold = Server::start(&golden, 512, false, math);
        all.iter().map(|prompt| cold.serve(&[prompt], ANSWER_TOKENS).0.remove(0)).collect()
    };
    // Room for all of them: first answers, which find what others have computed, then second ones,
    // which find nearly everything.
    let mut warm = Server::start(&golden, 25 * count, true, math);
    let (mut middle_count, mut found_all) = (0, 0);
    for (index, prompt) in all.iter().enumerate() {
        let (answers, found) = warm.serve(&[prompt], ANSWER_TOKENS);
        assert!(answers[0] == cold[index], "prompt {index}, of which {} tokens were found the first time", found[0]);
        middle_count += usize::from(found[0] > 0);
    }
    for (index, prompt) in all.iter().enumerate() {
        let (answers, found) = warm.serve(&[prompt], ANSWER_TOKENS);
        assert!(answers[0] == cold[index], "prompt {index}, of which {} tokens were found", found[0]);
        let whole = (prompt.len() - 1) / CpuOptions::BLOCK_TOKENS * CpuOptions::BLOCK_TOKENS;
        found_all += usize::from(found[0] == whole);
    }
    assert!(middle_count > count / 5, "{middle_count} of {count} prompts went on from the middle of another");
    assert_eq!(found_all, count, "the second time everything but the last block is found");
    // Beside others, in a memory so small that blocks are evicted and sequences preempted.
    let mut tight = Server::start(&golden, 48, true, math);
    let mut found_tokens = 0;
    for round in 0..2 {
        for (first, together) in all.chunks(7).enumerate() {
            let (answers, found) = tight.serve(together, ANSWER_TOKENS);
            assert!(answers == cold[7 * first..][..together.len()], "prompts {} and on in round {round}", 7 * first);
            found_tokens += found.iter().sum::<usize>();
        }
    }
    let counts = tight.core.counts();
    assert!(found_tokens > 0, "nothing was found, {counts:?}");
    let total = counts.blocks();
    assert_eq!(total.free_count + total.cached_count, total.total_count);
    counts.preemptions_total
}

/// First answer and second, from the middle of another prompt, beside others, after evictions and
/// preemptions: tokens and log-probabilities are the same to the last bit, because keys and values
/// depend on the tokens before them alone.
#[test]
fn cold_equals_warm_bit_for_bit() {
    assert!(check((Math::Int16, Format::Bf16), 200) > 0, "sequences are preempted");
    check((Math::Exact, Format::Bf16), 12);
    check((Math::Fast, Format::Int8), 12);
}

/// The n-th turn of a conversation computes what is new: its own tokens, and at most a block of
/// what is old.
#[test]
fn a_conversation_computes_only_what_is_new_in_each_of_twenty_turns() {
    let golden = Golden::tiny();
    let mut server = Server::start(&golden, 400, true, (Math::Int16, Format::Bf16));
    let news = prompts(20, golden.checkpoint.config().vocab_size);
    let mut history: Vec<TokenId> = Vec::new();
    for (turn, new) in news.iter().enumerate() {
        let new = &new[..new.len().min(60)];
        history.extend_from_slice(new);
        let (answers, found) = server.serve(&[&history], 10);
        let computed = history.len() - found[0];
        // The answer's last token is drawn and not computed.
        let old = if turn == 0 { 0 } else { CpuOptions::BLOCK_TOKENS };
        assert!(computed <= new.len() + old, "turn {turn}: {computed} tokens are computed for {} new ones", new.len());
        history.extend(answers[0].iter().map(|(token, _)| *token));
    }
}
