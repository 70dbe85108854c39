//! What the prefix cache changes: how much is computed, and not a bit of any answer.

use std::ops::Range;

use antiphon::batch::TokenId;
use antiphon::engine::cpu::{CpuOptions, Format, Math};

use super::files::Golden;
use super::served::{Answer, Served, Server};

/// Long enough that many an answer needs a block of its own.
const ANSWER_TOKENS: u32 = 9;

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
        let mut cold = Server::start(&golden, Served { blocks: 512, math, ..Served::default() });
        all.iter().map(|prompt| cold.serve(&[prompt], ANSWER_TOKENS).0.remove(0)).collect()
    };
    // Room for all of them: first answers, which find what others have computed, then second ones,
    // which find nearly everything.
    let mut warm = Server::start(&golden, Served { blocks: 25 * count, caches: true, math, ..Served::default() });
    let (mut middle_count, mut found_all, mut copied_count) = (0, 0, 0);
    for (index, prompt) in all.iter().enumerate() {
        let (answers, found) = warm.serve(&[prompt], ANSWER_TOKENS);
        assert!(answers[0] == cold[index], "prompt {index}, of which {} tokens were found the first time", found[0]);
        middle_count += usize::from(found[0] > 0);
        copied_count += usize::from(!found[0].is_multiple_of(CpuOptions::BLOCK_TOKENS));
    }
    for (index, prompt) in all.iter().enumerate() {
        let (answers, found) = warm.serve(&[prompt], ANSWER_TOKENS);
        assert!(answers[0] == cold[index], "prompt {index}, of which {} tokens were found", found[0]);
        let whole = (prompt.len() - 1) / CpuOptions::BLOCK_TOKENS * CpuOptions::BLOCK_TOKENS;
        found_all += usize::from(found[0] >= whole);
    }
    assert!(middle_count > count / 5, "{middle_count} of {count} prompts went on from the middle of another");
    assert!(copied_count > count / 5, "{copied_count} of {count} prompts went on from the middle of a block");
    assert_eq!(found_all, count, "the second time everything but the last block is found");
    // Beside others, in a memory so small that blocks are evicted and sequences preempted.
    let mut tight = Server::start(&golden, Served { blocks: 48, caches: true, math, ..Served::default() });
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

/// What was evicted into a file comes back with the same bits, in this process and in the next.
fn check_restored(math: (Math, Format), count: usize) {
    let golden = Golden::tiny();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kv");
    let prompts = prompts(count, golden.checkpoint.config().vocab_size);
    let mut cold = Server::start(&golden, Served { blocks: 512, math, ..Served::default() });
    let cold: Vec<Answer> = prompts.iter().map(|prompt| cold.serve(&[prompt], ANSWER_TOKENS).0.remove(0)).collect();
    // So few blocks that what one prompt leaves is evicted two prompts later.
    let served = Served { blocks: 48, caches: true, math, ..Served::default() };
    for process in 0..3 {
        let mut server = Server::with_store(&golden, served, Some(&file));
        for round in 0..2 {
            for (index, prompt) in prompts.iter().enumerate() {
                let (answers, found) = server.serve(&[prompt], ANSWER_TOKENS);
                let what = || format!("prompt {index}, process {process}, round {round}, {} tokens found", found[0]);
                assert!(answers[0] == cold[index], "{}", what());
                let whole = (prompt.len() - 1) / CpuOptions::BLOCK_TOKENS * CpuOptions::BLOCK_TOKENS;
                assert!(process + round == 0 || found[0] >= whole, "of {whole}: {}", what());
            }
        }
        let counts = server.core.counts().offload;
        assert!(counts.hits_total >= count as u64 && counts.failed_total == 0, "{counts:?}");
        server.end();
    }
}

#[test]
fn restored_equals_cold_bit_for_bit() {
    check_restored((Math::Int16, Format::Bf16), 40);
    check_restored((Math::Exact, Format::Bf16), 8);
}

/// The n-th turn of a conversation computes what is new: its own tokens, and at most a block of
/// what is old.
#[test]
fn a_conversation_computes_only_what_is_new_in_each_of_twenty_turns() {
    let golden = Golden::tiny();
    let mut server = Server::start(&golden, Served { blocks: 400, caches: true, ..Served::default() });
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
