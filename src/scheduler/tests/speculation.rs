//! Drafts: fewer steps, and the same answers.

use super::ahead::Turning;
use super::*;
use crate::batch::{Allowed, Masks, TokenMasks};

/// One sequence may have seven drafts, two may have four each.
fn guessing() -> SchedulerLimits {
    SchedulerLimits { draft_budget_tokens: 8, slice_drafts_max: 7, ..limits() }
}

/// Repeats what stood eleven tokens before, with a change now and then.
const ECHO: FakeAnswer = FakeAnswer::Echo { seed: 3, period: 11, changes_one_of: 25 };

/// Says these tokens and then 2 for ever.
fn script(tokens: &[u32]) -> FakeAnswer {
    FakeAnswer::Script { tokens: tokens.iter().copied().map(TokenId).collect(), stop: TokenId(2) }
}

impl Stage {
    fn submit_tokens(&mut self, prompt: &[u32], max_tokens: u32, sampling: Sampling) -> SeqId {
        let prompt = prompt.iter().copied().map(TokenId).collect();
        let new = NewSequence { prompt, ..sequence(1, max_tokens, sampling) };
        self.scheduler.submit(new, self.now).expect("the queue has room")
    }
}

#[test]
fn what_repeats_takes_fewer_steps_and_is_the_same() {
    let (mut plain, mut fast) = (Stage::with(limits(), ECHO, Vec::new()), Stage::with(guessing(), ECHO, Vec::new()));
    let sampled = Sampling { temperature: 1.0, seed: 7, logprobs: Some(2), min_tokens: 5, ..Sampling::default() };
    for sampling in [Sampling::default(), sampled] {
        let (seq, same) = (plain.submit_sampled(15, 120, sampling.clone()), fast.submit_sampled(15, 120, sampling));
        let (slow_count, fast_count) = (plain.finish().len(), fast.finish().len());
        assert!(2 * fast_count < slow_count, "{fast_count} steps with drafts, {slow_count} without");
        assert_eq!(plain.heard(seq), fast.heard(same));
    }
    let told = |stage: &Stage| {
        let tokens = stage.events.iter().filter(|event| !matches!(event, SequenceEvent::Drafted { .. }));
        tokens.cloned().collect::<Vec<_>>()
    };
    assert_eq!(told(&plain), told(&fast), "log-probabilities too");
    let DraftCounts { drafts_total, draft_tokens_total, accepted_tokens_total } = fast.scheduler.counts().drafts;
    assert!(drafts_total > 20 && accepted_tokens_total > 100 && accepted_tokens_total < draft_tokens_total);
    assert_eq!(plain.scheduler.counts().drafts, DraftCounts::default());
}

#[test]
fn a_stop_token_among_the_drafts_ends_the_sequence() {
    let mut stage = Stage::with(guessing(), script(&[30, 31, 32, 33]), Vec::new());
    let stops = Sampling { stop_tokens: vec![TokenId(2)], logprobs: Some(0), ..Sampling::default() };
    // What follows the stop token in the prompt follows it in the draft.
    let seq = stage.submit_tokens(&[30, 31, 32, 33, 2, 2, 2, 40], 50, stops);
    stage.finish();
    assert_eq!(stage.heard(seq), ([30, 31, 32, 33].map(TokenId).to_vec(), Some(FinishReason::Stop(TokenId(2)))));
    assert_eq!(stage.scheduler.counts().drafts.accepted_tokens_total, 3, "33, and 2 twice");
    assert_eq!(stage.scheduler.counts().decode_tokens_total, 5, "no token is drawn behind the end");
}

#[test]
fn no_more_is_guessed_than_is_asked_for() {
    for max_tokens in 1..=12 {
        let mut stage = Stage::with(guessing(), FakeAnswer::Echo { seed: 3, period: 4, changes_one_of: 1 << 40 }, Vec::new());
        let seq = stage.submit(8, max_tokens);
        stage.finish();
        let (tokens, end) = stage.heard(seq);
        assert_eq!((tokens.len(), end), (max_tokens as usize, Some(FinishReason::Length)));
        let drafts = stage.scheduler.counts().drafts;
        assert_eq!(drafts.accepted_tokens_total, drafts.draft_tokens_total, "all of it was wanted");
        // The first three tokens are what is found, and the last one is drawn in any case.
        assert_eq!(drafts.drafts_total > 0, max_tokens > 4, "{max_tokens} tokens");
    }
}

/// The first token after a draft that is wrong in the middle of a block, and in the next block.
#[test]
fn what_was_guessed_wrongly_is_not_known_and_not_read() {
    let cached = SchedulerLimits { prefix_cache: Some(HashKey([1, 2])), ..guessing() };
    let prompt: Vec<u32> = (50..62).collect();
    let said = [50, 51, 52, 80, 81, 82, 83, 84, 85];
    let mut stage = Stage::with(cached, script(&said), Vec::new());
    let seq = stage.submit_tokens(&prompt, 9, Sampling::default());
    stage.finish();
    assert_eq!(stage.heard(seq).0, said.map(TokenId));
    let drafts = stage.scheduler.counts().drafts;
    assert!(drafts.drafts_total > 0 && drafts.accepted_tokens_total == 0, "{drafts:?}");
    // What the draft said, and what was drawn: 12 tokens of the prompt, and 8 that were computed.
    let mut guessed = prompt.clone();
    guessed.extend([50, 51, 52, 53, 54, 55, 56, 57, 58]);
    let mut drawn = prompt;
    drawn.extend(said);
    for (prompt, cached_blocks) in [(guessed, 3), (drawn, 5)] {
        let seq = stage.submit_tokens(&prompt, 1, Sampling::default());
        stage.finish();
        let began = stage.events.iter().find_map(|event| match event {
            SequenceEvent::Began { seq: of, cached_tokens, .. } if *of == seq => Some(*cached_tokens),
            _ => None,
        });
        assert_eq!(began, Some(4 * cached_blocks));
    }
}

#[test]
fn a_sequence_whose_guesses_are_wrong_gives_up_and_tries_again() {
    // After each 30, 31, 32 come other tokens.
    let mut random: u64 = 5;
    let mut other = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        100 + (random >> 33) as u32 % 400
    };
    let round = |_| [30, 31, 32].into_iter().chain((0..17).map(|_| other()).collect::<Vec<_>>());
    let said: Vec<u32> = (0..40).flat_map(round).collect();
    let roomy = SchedulerLimits { global_blocks: 300, ..guessing() };
    let mut stage = Stage::with(roomy, script(&said), Vec::new());
    let seq = stage.submit(5, 800);
    let steps_count = stage.finish().len();
    assert_eq!(stage.heard(seq).0.len(), 800);
    let drafts = stage.scheduler.counts().drafts;
    assert!(drafts.drafts_total < 30, "{drafts:?} of 39 that could be guessed wrongly");
    assert!(drafts.drafts_total > 6, "{drafts:?}: it tries again");
    assert!(steps_count > 790, "{steps_count} steps");
}

#[test]
fn the_drafts_of_a_step_are_shared_and_a_large_batch_has_none() {
    let mut stage = Stage::with(guessing(), FakeAnswer::Echo { seed: 3, period: 4, changes_one_of: 1 << 40 }, Vec::new());
    let mut lens = Vec::new();
    for count in 1..=6 {
        (0..count).for_each(|len| {
            stage.submit(8 + len, 40);
        });
        let steps = stage.finish();
        let longest = |slices: &Vec<(SeqId, usize)>| slices.iter().map(|(_, len)| *len).max().unwrap_or(0);
        // Prefill slices are longer, and in the first steps.
        lens.push(steps[3..].iter().filter(|slices| slices.len() == count).map(longest).max().unwrap_or(0));
    }
    assert_eq!(lens, [8, 5, 3, 3, 2, 2], "one and 8, 4, 2, 2, 1, 1 drafts, seven at most");
    let none = SchedulerLimits { draft_budget_tokens: 2, ..guessing() };
    let mut stage = Stage::with(none, ECHO, Vec::new());
    (0..3).for_each(|len| {
        stage.submit(8 + len, 20);
    });
    stage.finish();
    assert_eq!(stage.scheduler.counts().drafts, DraftCounts::default());
}

/// Allows everything.
#[derive(Debug)]
struct AllAllowed;

impl TokenMasks for AllAllowed {
    fn drawn(&self, _: u32, _: TokenId) {}

    fn allowed(&self, _: u32) -> Allowed {
        Allowed::All
    }
}

#[test]
fn a_draw_that_follows_from_the_draws_before_is_not_guessed() {
    let mut stage = Stage::with(guessing(), ECHO, Vec::new());
    let masks = Some(Masks(Arc::new(AllAllowed)));
    for sampling in [
        Sampling { presence_penalty: 0.5, ..Sampling::default() },
        Sampling { repetition_penalty: 1.1, ..Sampling::default() },
        Sampling { masks, ..Sampling::default() },
    ] {
        stage.submit_sampled(15, 60, sampling);
        stage.finish();
        assert_eq!(stage.scheduler.counts().drafts, DraftCounts::default());
    }
}

/// What its mask gives is drawn where the mask changes, whether it was guessed or not.
#[test]
fn under_a_mask_that_holds_on_a_sequence_guesses() {
    for period in [7, 11, 13] {
        let echo = FakeAnswer::Echo { seed: 5, period, changes_one_of: 25 };
        let run = |limits: SchedulerLimits| {
            let mut stage = Stage::with(limits, echo.clone(), Vec::new());
            let seqs = [15, 20].map(|len| stage.submit_sampled(len, 120, Turning::sampling()));
            let steps_count = stage.finish().len();
            (seqs.map(|seq| stage.heard(seq).0), steps_count, stage.scheduler.counts().drafts.accepted_tokens_total)
        };
        let (plain, slow_count, _) = run(limits());
        let (fast, fast_count, accepted_tokens) = run(guessing());
        assert_eq!(fast, plain);
        assert!(fast_count < slow_count && accepted_tokens > 20, "{fast_count} of {slow_count} steps, {accepted_tokens}");
    }
}

#[test]
fn drafts_take_no_tokens_and_no_blocks_from_others() {
    // A prompt that takes all that a step has left.
    let mut stage = Stage::with(guessing(), FakeAnswer::Echo { seed: 3, period: 4, changes_one_of: 1 << 40 }, Vec::new());
    let fast = stage.submit(8, 200);
    (0..4).for_each(|_| {
        stage.step();
    });
    let long = stage.submit(120, 1);
    let other = stage.submit(120, 1);
    assert_eq!(stage.step(), [(fast, 1), (long, 16), (other, 15)]);
    stage.finish();
    // Blocks of four tokens: 5 for each of two sequences of 20, and no more. They run beside each
    // other to their ends, as without drafts.
    let tight = SchedulerLimits { global_blocks: 10, sliding_blocks: 10, ..guessing() };
    let mut stage = Stage::with(tight, FakeAnswer::Echo { seed: 3, period: 4, changes_one_of: 1 << 40 }, Vec::new());
    let seqs = [8, 8].map(|len| stage.submit(len, 13));
    stage.finish();
    assert_eq!(stage.scheduler.counts().preemptions_total, 0);
    assert_eq!(seqs.map(|seq| stage.heard(seq).0.len()), [13, 13]);
    assert!(stage.scheduler.counts().drafts.accepted_tokens_total > 0);
}

#[test]
fn where_a_sequence_guesses_no_step_is_planned_ahead() {
    let mut stage = Stage::with(guessing(), FakeAnswer::Echo { seed: 3, period: 4, changes_one_of: 1 << 40 }, Vec::new());
    let seq = stage.submit(8, 60);
    let (mut ahead_count, mut steps_count) = (0, 0);
    let mut ahead = None;
    while ahead.is_some() || stage.running_count() + stage.scheduler.counts().waiting_count > 0 {
        let batch = ahead.take().unwrap_or_else(|| stage.plan().expect("it runs"));
        ahead = stage.scheduler.plan_ahead(stage.now, &mut stage.events).cloned();
        (ahead_count, steps_count) = (ahead_count + usize::from(ahead.is_some()), steps_count + 1);
        let result = stage.compute(&batch);
        stage.commit(result);
    }
    assert_eq!(stage.heard(seq).0.len(), 60);
    assert!(ahead_count > 0 && ahead_count < 5 && steps_count < 25, "{ahead_count} ahead of {steps_count}");
}

#[test]
fn a_sequence_that_guessed_in_a_lost_step_guesses_no_more() {
    let faults = vec![EngineFault::FailsAtStep(6)];
    let mut stage = Stage::with(guessing(), FakeAnswer::Echo { seed: 3, period: 4, changes_one_of: 1 << 40 }, faults);
    let seq = stage.submit(8, 60);
    let mut last_counts = DraftCounts::default();
    for _ in 0..6 {
        stage.step();
        last_counts = stage.scheduler.counts().drafts;
    }
    assert!(stage.step()[0].1 > 1, "the lost step has drafts");
    stage.finish();
    assert!(last_counts.drafts_total > 0);
    assert_eq!(stage.scheduler.counts().drafts, last_counts);
    assert_eq!(stage.heard(seq).0.len(), 60);
}

/// A text in pieces as a tokenizer cuts it, more or less: words at underscores, spaces before them,
/// and each other character. The same piece has the same token.
fn pieces(text: &str, known: &mut Vec<String>) -> Vec<u32> {
    let mut pieces: Vec<String> = Vec::new();
    let mut begins = true;
    for letter in text.chars() {
        let is_word = letter.is_alphanumeric();
        match pieces.last_mut() {
            Some(last) if !begins && is_word => last.push(letter),
            Some(last) if letter == ' ' && last.ends_with(' ') => last.push(' '),
            _ => pieces.push(letter.to_string()),
        }
        begins = !is_word;
    }
    let token = |piece: String| {
        let at = known.iter().position(|known| *known == piece).unwrap_or_else(|| {
            known.push(piece);
            known.len() - 1
        });
        20 + at as u32
    };
    pieces.into_iter().map(token).collect()
}

/// Tokens a step, and the share of guesses that were right, where `answer` is said after `prompt`.
fn replayed(prompt: &str, answer: &str) -> (f64, f64) {
    let mut known = Vec::new();
    let (prompt, answer) = (pieces(prompt, &mut known), pieces(answer, &mut known));
    let roomy = SchedulerLimits {
        global_blocks: 4_000,
        sliding_blocks: 4_000,
        context_tokens_max: 4_000,
        token_budget_tokens: 512,
        prefill_slice_tokens: 512,
        draft_budget_tokens: 16,
        slice_drafts_max: 15,
        ..limits()
    };
    assert!(prompt.len() + answer.len() < 4_000 && known.len() + 20 < 512, "{} {}", prompt.len(), known.len());
    let mut stage = Stage::with(roomy, script(&answer), Vec::new());
    let seq = stage.submit_tokens(&prompt, answer.len() as u32, Sampling::default());
    let steps_count = stage.finish().len() - prompt.len().div_ceil(512);
    assert_eq!(stage.heard(seq).0, answer.iter().copied().map(TokenId).collect::<Vec<_>>());
    let DraftCounts { draft_tokens_total, accepted_tokens_total, .. } = stage.scheduler.counts().drafts;
    (answer.len() as f64 / steps_count as f64, accepted_tokens_total as f64 / draft_tokens_total as f64)
}

/// Code is said again with a function renamed, with a line left out and one put in, and with every
/// call renamed; and a text that repeats nothing. What follows the last three tokens would be right
/// for 54 of 100 guesses, where a function is renamed.
#[test]
fn code_that_is_repeated_with_changes_is_guessed_far_and_right() {
    let code = include_str!("../planning.rs");
    let code = &code[..code.floor_char_boundary(4_000)];
    let renamed = code.replace("catch_up", "give_slices");
    let edited =
        code.replace("        self.step.begin();\n", "").replace("self.guess();", "self.guess();\n        self.note(now);");
    let all_renamed = code.replace("self.", "core.");
    for (what, answer, tokens_min, right_min) in
        [("renamed", renamed, 13.0, 0.95), ("edited", edited, 13.0, 0.9), ("all renamed", all_renamed, 10.0, 0.7)]
    {
        let (tokens, right) = replayed(code, &answer);
        assert!(tokens >= tokens_min && right >= right_min, "{what}: {tokens:.2} tokens a step, {right:.2} right");
    }
}
