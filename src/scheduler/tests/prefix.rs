//! What prompts find computed, and what they never find.

use super::*;

/// As [`limits`], with a cache.
pub(super) fn caching() -> SchedulerLimits {
    SchedulerLimits { prefix_cache: Some(HashKey([1, 2])), ..limits() }
}

pub(super) fn prompt(tokens: impl IntoIterator<Item = u32>) -> NewSequence {
    let prompt = tokens.into_iter().map(TokenId).collect();
    NewSequence {
        prompt,
        max_tokens: 1,
        sampling: Arc::new(Sampling::default()),
        cache_salt: CacheSalt::default(),
        in_session: false,
        priority: 0,
    }
}

impl Stage {
    pub(super) fn take(&mut self, new: NewSequence) -> SeqId {
        self.scheduler.submit(new, self.now).expect("the queue has room")
    }

    /// Lives through a prompt; what of it was found computed.
    fn serve(&mut self, new: NewSequence) -> (usize, Option<Miss>) {
        let seq = self.take(new);
        self.finish();
        self.found(seq)
    }

    pub(super) fn found(&self, seq: SeqId) -> (usize, Option<Miss>) {
        let found = self.events.iter().find_map(|event| match event {
            SequenceEvent::Began { seq: of, cached_tokens, miss, .. } if *of == seq => Some((*cached_tokens, *miss)),
            _ => None,
        });
        found.expect("it began")
    }

    fn cached(&self) -> (usize, usize) {
        let counts = self.scheduler.counts();
        (counts.global_blocks.cached_count, counts.sliding_blocks.cached_count)
    }
}

pub(super) const UNKNOWN: (usize, Option<Miss>) = (0, Some(Miss::Unknown));

#[test]
fn a_prompt_finds_the_whole_blocks_that_it_has_in_common_with_another() {
    let mut stage = Stage::new(caching());
    assert_eq!(stage.serve(prompt(20..43)), UNKNOWN);
    // Five blocks of four tokens are filled; each found again, but never the last token.
    assert_eq!(stage.serve(prompt(20..43)), (20, None));
    assert_eq!(stage.serve(prompt(20..40)), (16, None));
    assert_eq!(stage.serve(prompt((20..31).chain([7, 8, 9]))), (8, None));
    assert_eq!(stage.serve(prompt([7].into_iter().chain(21..43))), UNKNOWN);
    assert_eq!(stage.serve(prompt(20..24)), (0, Some(Miss::Short)));
    let counts = stage.scheduler.counts().prefix_cache;
    assert_eq!((counts.hits_total, counts.hit_tokens_total, counts.queried_tokens_total), (3, 44, 23 + 23 + 20 + 14 + 23 + 4));
}

#[test]
fn nothing_is_found_before_it_is_computed() {
    let mut stage = Stage::new(SchedulerLimits { token_budget_tokens: 200, prefill_slice_tokens: 100, ..caching() });
    // Two in one step: neither finds what the other computes in it.
    let both = [stage.take(prompt(20..50)), stage.take(prompt(20..50))];
    let batch = stage.plan().unwrap();
    // One that comes while it is computed finds nothing in a plan ahead of its end but what the end
    // is presumed to bring.
    let result = stage.compute(&batch);
    assert_eq!(both.map(|seq| stage.found(seq)), [UNKNOWN; 2]);
    assert_eq!(stage.cached(), (0, 0));
    stage.commit(result);
    assert_eq!(stage.serve(prompt(20..50)), (28, None));
    // What both computed is held once.
    assert_eq!(stage.cached(), (7, 7));
}

/// Thirty tokens fill seven blocks; the next token sees the last two of them, and the two tokens
/// behind them are each one's own.
#[test]
fn what_two_compute_beside_each_other_they_hold_once_in_both_groups() {
    let mut stage = Stage::new(SchedulerLimits { token_budget_tokens: 200, prefill_slice_tokens: 100, ..caching() });
    let both = [(); 2].map(|()| stage.take(NewSequence { max_tokens: 5, ..prompt(20..50) }));
    assert_eq!(stage.step(), both.map(|seq| (seq, 30)));
    let counts = stage.scheduler.counts();
    let held = [counts.global_blocks, counts.sliding_blocks].map(|blocks| blocks.in_use_count());
    assert_eq!(held, [7 + 2, 2 + 2]);
    stage.finish();
}

#[test]
fn a_step_planned_ahead_finds_what_the_step_before_it_computes() {
    let mut stage = Stage::new(SchedulerLimits { token_budget_tokens: 200, prefill_slice_tokens: 100, ..caching() });
    stage.take(NewSequence { max_tokens: 3, ..prompt(20..50) });
    let first = stage.plan().unwrap();
    let later = stage.take(prompt(20..50));
    let ahead = stage.scheduler.plan_ahead(stage.now, &mut stage.events).expect("it prefills little").clone();
    assert_eq!(stage.found(later), (28, None));
    let result = stage.compute(&first);
    stage.commit(result);
    let result = stage.compute(&ahead);
    stage.commit(result);
    stage.finish();
}

#[test]
fn salts_keep_apart_what_is_found_and_not_what_is_answered() {
    let mut stage = Stage::new(caching());
    let salted = |salt| NewSequence { cache_salt: CacheSalt([salt, 0]), ..prompt(20..50) };
    assert_eq!(stage.serve(salted(1)), UNKNOWN);
    assert_eq!(stage.serve(salted(2)), UNKNOWN);
    assert_eq!(stage.serve(prompt(20..50)), UNKNOWN);
    assert_eq!([1, 2].map(|salt| stage.serve(salted(salt))), [(28, None); 2]);
}

#[test]
fn what_is_cancelled_or_preempted_leaves_its_blocks_and_comes_back_through_them() {
    let mut stage = Stage::new(caching());
    let cancelled = stage.take(prompt(20..80));
    stage.step();
    stage.scheduler.cancel(cancelled);
    assert_eq!(stage.cached().0, 4, "of a slice of sixteen tokens");
    assert_eq!(stage.serve(prompt(20..80)), (16, None));

    // Two, with blocks for one and a half.
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 15, ..caching() });
    let answers = [20..44, 50..74].map(|tokens| stage.take(NewSequence { max_tokens: 20, ..prompt(tokens) }));
    stage.finish();
    let counts = stage.scheduler.counts();
    assert!(counts.preemptions_total > 0 && counts.prefix_cache.resumed_total > 0, "{counts:?}");
    assert!(counts.prefill_tokens_total < 24 + 24 + 24 + 8, "it does not compute its prompt again: {counts:?}");
    for (seq, tokens) in answers.into_iter().zip([20..44, 50..74]) {
        let mut alone = Stage::new(limits());
        let only = alone.take(NewSequence { max_tokens: 20, ..prompt(tokens) });
        alone.finish();
        assert_eq!(stage.heard(seq), alone.heard(only));
    }
}

#[test]
fn cached_blocks_make_room_the_longest_unused_first() {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 16, ..caching() });
    stage.serve(prompt(20..41));
    stage.serve(prompt(50..71));
    stage.serve(prompt(80..101));
    assert_eq!(stage.cached().0, 15);
    // One block is free, and the six of the next prompt take five of the first one's.
    stage.serve(prompt(110..131));
    assert_eq!(stage.serve(prompt(50..71)), (20, None));
    assert_eq!(stage.serve(prompt(20..41)), UNKNOWN);
    // Of what is left of a prompt the beginning stays longest.
    assert_eq!(stage.serve(prompt(110..131)), (20, None));
    let counts = stage.scheduler.counts();
    assert_eq!(counts.global_blocks.free_count + counts.global_blocks.cached_count, 16);
}

#[test]
fn what_a_session_has_used_goes_after_what_others_have() {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 24, ..caching() });
    let session = || NewSequence { in_session: true, ..prompt(20..41) };
    stage.serve(session());
    for other in 0..8 {
        assert_eq!(stage.serve(prompt([other; 40])), UNKNOWN);
    }
    assert_eq!(stage.serve(session()), (20, None));
    // Half of the blocks are theirs, no more: of three of eleven filled blocks one and a bit is
    // left when others come.
    for own in 0..3 {
        stage.serve(NewSequence { in_session: true, ..prompt((100..144).map(|token| token + 50 * own)) });
    }
    stage.serve(prompt(400..440));
    let left = |stage: &mut Stage, own: u32| stage.serve(prompt((100..144).map(|token| token + 50 * own)));
    assert_eq!(left(&mut stage, 0), UNKNOWN);
    assert_eq!(left(&mut stage, 2), (40, None));
}

#[test]
fn a_chain_is_cut_to_where_a_window_is_whole() {
    // Room for one sequence's window and slices: of a long prompt only the last windows stay in the
    // sliding group.
    let mut stage = Stage::new(SchedulerLimits { sliding_blocks: 7, ..caching() });
    stage.serve(prompt(20..120));
    assert_eq!(stage.cached(), (25, 7));
    assert_eq!(stage.serve(prompt(20..120)), (96, None), "the window before its end is kept");
    let middle = || prompt((20..70).chain([7, 8, 9]));
    assert_eq!(stage.serve(middle()), (4, None), "of the others only the first is left");
    // Where a chain was cut its window is kept from then on.
    assert_eq!(stage.serve(middle()), (52, None));
    let other = || prompt((20..68).chain([3, 4, 5, 6]));
    assert_eq!(stage.serve(other()), (48, None));
    assert_eq!(stage.serve(prompt(20..120)).1, None);
}

#[test]
fn an_engine_that_failed_and_a_draw_that_failed_leave_nothing_to_find() {
    let mut stage = Stage::with(caching(), FakeAnswer::Hash { seed: 1 }, vec![EngineFault::FailsAtStep(2)]);
    stage.serve(prompt(20..43));
    assert_eq!(stage.cached().0, 5);
    let lost = stage.take(prompt(20..43));
    stage.step();
    assert_eq!(stage.found(lost), (20, None));
    assert_eq!((stage.cached(), stage.scheduler.counts().blocks().in_use_count()), ((0, 0), 0));
    stage.finish();
    assert_eq!(stage.scheduler.counts().prefix_cache.resumed_total, 0);

    let mut stage = Stage::with(caching(), FakeAnswer::Hash { seed: 1 }, vec![EngineFault::NotFiniteOnToken(TokenId(9))]);
    let runs = stage.take(NewSequence { max_tokens: 30, ..prompt(20..43) });
    (0..4).for_each(|_| drop(stage.step()));
    let broken = stage.take(prompt([9; 10]));
    stage.step();
    assert_eq!(stage.heard(broken).1, Some(FinishReason::NotFinite));
    assert_eq!(stage.cached(), (0, 0));
    // What runs makes its blocks known again.
    stage.finish();
    assert_eq!(stage.heard(runs).1, Some(FinishReason::Length));
    assert_eq!(stage.serve(prompt(20..43)), (0, Some(Miss::Window)), "but for the windows that it has left behind");
    assert_eq!(stage.serve(prompt(20..43)), (20, None));
}

#[test]
fn the_choices_of_a_long_prompt_compute_it_once() {
    let mut stage = Stage::new(caching());
    let choice = || NewSequence { max_tokens: 5, ..prompt(20..61) };
    let first = stage.scheduler.submit_all(vec![choice(), choice(), choice(), prompt(70..90)], stage.now).unwrap();
    stage.finish();
    let counts = stage.scheduler.counts();
    assert_eq!(counts.prefill_tokens_total, 41 + 1 + 1 + 20, "of the second and the third the last token alone");
    assert_eq!((counts.prefix_cache.hits_total, counts.prefix_cache.hit_tokens_total), (2, 80));
    let answers: Vec<_> = (0..3).map(|later| stage.heard(SeqId(first.0 + later))).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0.len() == 5), "{answers:?}");
}

#[test]
fn log_probabilities_of_a_prompt_are_of_all_its_tokens() {
    let mut stage = Stage::new(caching());
    let asks = || {
        let sampling = Sampling { logprobs: Some(1), prompt_logprobs: true, ..Sampling::default() };
        NewSequence { sampling: Arc::new(sampling), ..prompt(20..43) }
    };
    assert_eq!([stage.serve(asks()), stage.serve(asks())], [(0, Some(Miss::PromptLogprobs)); 2]);
    assert_eq!(stage.serve(prompt(20..43)), (20, None), "others find what it computed");
}

#[test]
fn a_shared_prefix_takes_its_room_once() {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 18, ..caching() });
    stage.serve(prompt(20..57));
    // Each needs eleven blocks, nine of which are the same.
    let many: Vec<SeqId> =
        (0..4).map(|own| stage.take(NewSequence { max_tokens: 6, ..prompt((20..56).chain([own + 1, own + 2])) })).collect();
    stage.step();
    assert_eq!(stage.running_count(), 4, "four times eleven are more than eighteen");
    assert!(many.iter().all(|seq| stage.found(*seq) == (36, None)));
    stage.finish();
}

#[test]
fn without_a_key_nothing_is_kept() {
    let mut stage = Stage::new(limits());
    let seq = stage.take(prompt(20..43));
    stage.finish();
    assert_eq!(stage.found(seq), (0, None));
    assert_eq!((stage.cached(), stage.scheduler.counts().prefix_cache), ((0, 0), PrefixCounts::default()));
}

/// Ten agents take turns: each call sends all of the one before and a tenth more, behind a prompt
/// that all have in common.
#[test]
fn of_an_agents_calls_nine_tenths_were_seen_before_and_are_not_computed() {
    let mut stage = Stage::new(SchedulerLimits { global_blocks: 4_000, sliding_blocks: 4_000, ..caching() });
    let (mut sent, mut computed) = (0, 0);
    for call in 0..8_u32 {
        for agent in 0..10_u32 {
            let own = |step: u32| (0..24).map(move |at| 100 + (agent * 8 + step) % 97 + at * (agent + 1) % 89);
            let tokens: Vec<u32> = (20..236).chain((0..=call).flat_map(own)).collect();
            let seen = if call > 0 { tokens.len() - 24 } else { usize::from(agent > 0) * 216 };
            let before = stage.scheduler.counts().prefill_tokens_total;
            assert_eq!(stage.serve(prompt(tokens.iter().copied())).0, seen, "call {call} of agent {agent}");
            let prefilled = (stage.scheduler.counts().prefill_tokens_total - before) as usize;
            assert_eq!(prefilled, tokens.len() - seen);
            (sent, computed) = (sent + tokens.len(), computed + prefilled);
        }
    }
    // All but the common prompt and what each call adds.
    assert_eq!(computed, 216 + 80 * 24);
    assert!(computed * 10 < sent, "{computed} of {sent}");
}
