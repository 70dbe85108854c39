//! What drafts change: how many steps there are, and not a bit of any answer.

use antiphon::batch::{Sampling, TokenId};
use antiphon::engine::cpu::{CpuOptions, Format, Math};

use super::files::Golden;
use super::served::{Answer, Served, Server};

const ANSWER_TOKENS: u32 = 24;

/// So many prompts that repeat a run of 4 to 30 tokens, drawn from in every way that drafts may be:
/// the likeliest, warm, and with what a request may ask for.
fn asked(count: usize, vocab_size: usize) -> Vec<(Vec<TokenId>, Sampling)> {
    let mut random: u64 = 17;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let sampling = |index: usize| {
        let logprobs = Some(3);
        let seed = index as u64;
        match index % 4 {
            0 | 1 => Sampling { logprobs, ..Sampling::default() },
            2 => Sampling { temperature: 0.4, seed, logprobs, ..Sampling::default() },
            _ => Sampling {
                temperature: 0.9,
                top_p: 0.8,
                top_k: 40,
                min_p: 0.02,
                min_tokens: 9,
                seed,
                logprobs,
                ..Sampling::default()
            },
        }
    };
    let one = |index: usize| {
        let run: Vec<TokenId> = (0..4 + next(27)).map(|_| TokenId(next(vocab_size) as u32)).collect();
        let len = 40 + next(200);
        ((0..len).map(|at| run[at % run.len()]).collect(), sampling(index))
    };
    (0..count).map(one).collect()
}

/// Asks an engine without drafts for one answer after another, then one with drafts: one after
/// another, and beside others in a memory so small that sequences are preempted.
fn check(math: (Math, Format), count: usize) {
    let golden = Golden::tiny();
    let asked = asked(count, golden.checkpoint.config().vocab_size);
    let one_by_one = |server: &mut Server| -> Vec<Answer> {
        asked.iter().map(|one| server.serve_sampled(std::slice::from_ref(one), ANSWER_TOKENS).0.remove(0)).collect()
    };
    let mut plain = Server::start(&golden, Served { math, ..Served::default() });
    let expected = one_by_one(&mut plain);
    assert!(expected.iter().all(|answer| answer.len() == ANSWER_TOKENS as usize));
    let drafts = Served { draft_budget_tokens: 16, math, ..Served::default() };
    let mut fast = Server::start(&golden, drafts);
    let answers = one_by_one(&mut fast);
    for (index, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
        assert!(answer == expected, "prompt {index}, {:?}", asked[index].1);
    }
    let (steps_total, plain_steps_total) = (fast.core.counts().steps_total, plain.core.counts().steps_total);
    assert!(steps_total < plain_steps_total, "{steps_total} steps with drafts, {plain_steps_total} without");
    let counts = fast.core.counts().drafts;
    let (right, wrong) = (counts.accepted_tokens_total, counts.draft_tokens_total - counts.accepted_tokens_total);
    assert!(right > count as u64 && wrong > count as u64 / 4, "both happen: {counts:?}");
    // Beside each other, with the prefix cache: five at a time, so that each has three drafts.
    let mut tight = Server::start(&golden, Served { blocks: 40, caches: true, ..drafts });
    for (first, together) in asked.chunks(5).enumerate() {
        let (answers, _) = tight.serve_sampled(together, ANSWER_TOKENS);
        assert!(answers == expected[5 * first..][..together.len()], "prompts {} and on", 5 * first);
    }
    let counts = tight.core.counts();
    assert!(counts.drafts.accepted_tokens_total > 0, "{counts:?}");
    assert!(count < 100 || counts.preemptions_total > 0, "{counts:?}");
    assert!(CpuOptions::BLOCK_TOKENS < ANSWER_TOKENS as usize, "drafts go over the ends of blocks");
}

/// Tokens and log-probabilities are those of steps without drafts to the last bit, because a row is
/// computed as if it stood alone, and its draw depends on its position.
#[test]
fn drafts_change_no_bit_of_a_hundred_answers() {
    check((Math::Int16, Format::Bf16), 100);
    check((Math::Exact, Format::Bf16), 12);
    check((Math::Fast, Format::Int8), 12);
}
