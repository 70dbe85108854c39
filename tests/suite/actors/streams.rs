//! What a reader gets: all of it, in order, whatever else is going on.

use std::time::Duration;

use antiphon::actors::messages::{Coalescing, FinishKind, Generate, KeyId, PartKind, ResponseInput};
use antiphon::actors::snapshot::Phase;
use antiphon::batch::Sampling;
use antiphon::engine::fake::FakeAnswer;
use antiphon::prompt::conversation::{Conversation, Message};

use super::world::{Dice, Plan, Said, World, long, next, plain, read, wait_until, world};

const TEXT: &str = "def hello():\n    print(\"안녕, 세상 👩\u{200d}👩\u{200d}👧\")\n\n\nhello()  # e\u{301}\n";

#[test]
fn a_response_is_the_engine_s_tokens_in_order() {
    world(Plan::saying(TEXT), |world| async move {
        let said = world.answer(plain("a", "Say it.", 100)).await.remove(0);
        assert_eq!(said.content, TEXT);
        assert_eq!(said.finish.kind, FinishKind::Stop { matched: None });
        let mut expected = world.tokenizer.encode_text(TEXT);
        expected.push(world.tokenizer.control().return_);
        assert_eq!(said.tokens, expected);
        world
    });
}

#[test]
fn a_response_ends_with_the_tokens_asked_for() {
    world(Plan::saying(TEXT), |world| async move {
        let said = world.answer(plain("a", "Say it.", 3)).await.remove(0);
        assert_eq!(said.finish.kind, FinishKind::Length);
        assert_eq!(said.tokens, world.tokenizer.encode_text(TEXT)[..3]);
        world
    });
}

#[test]
fn without_a_limit_a_response_may_fill_the_context() {
    let answer = FakeAnswer::Script { tokens: Vec::new(), stop: super::world::tokenizer().encode_text("a")[0] };
    world(Plan { answer, global_blocks: 20, ..Plan::default() }, |world| async move {
        let said = world.answer(Generate { max_tokens: None, ..long("a", 100, 1, 0) }).await.remove(0);
        assert_eq!(said.finish.kind, FinishKind::Length);
        assert_eq!(said.tokens.len(), 20 * 16 - 100);
        world
    });
}

/// What requests of many lengths say, asked one after another and then all at once.
#[test]
fn answers_do_not_depend_on_who_else_is_answered() {
    let requests = || (0..40_u32).map(|i| long(&format!("r{i}"), 1 + i * 5, i, 1 + i % 17));
    world(Plan { global_blocks: 60, ..Plan::default() }, |world| async move {
        let mut alone: Vec<Vec<Said>> = Vec::new();
        for request in requests() {
            alone.push(world.answer(request).await);
        }
        let together: Vec<_> = requests().map(|request| world.answer(request)).collect();
        for (one, other) in alone.iter().zip(futures_util::future::join_all(together).await) {
            assert_eq!(one[0].tokens, other[0].tokens);
            assert_eq!(one[0].content, other[0].content);
            assert_eq!(one[0].content, world.text_of(&one[0].tokens));
        }
        world
    });
}

#[test]
fn a_chat_is_answered_in_channels() {
    let tokenizer = super::world::tokenizer();
    let output = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>Hello!";
    let tokens = tokenizer.encode_with_control(output);
    let count = tokens.len() as u32;
    let answer = FakeAnswer::Script { tokens, stop: tokenizer.control().return_ };
    world(Plan { answer, ..Plan::default() }, |world| async move {
        let user = Message::User { content: "Hi".to_owned() };
        let input = ResponseInput::Chat(Conversation { messages: vec![user], ..Conversation::default() });
        let said = world.answer(Generate { inputs: vec![input], ..plain("a", "", 100) }).await.remove(0);
        assert_eq!((said.reasoning.as_str(), said.content.as_str()), ("Think.", "Hello!"));
        let think = world.tokenizer.encode_text("Think.").len() as u32;
        assert_eq!((said.finish.reasoning_tokens, said.finish.completion_tokens), (think, count + 1));
        world
    });
}

#[test]
fn coalescing_changes_the_pieces_and_not_the_text() {
    let plan = Plan { step_time: Duration::from_millis(2), ..Plan::saying(&TEXT.repeat(5)) };
    world(plan, |world| async move {
        let at_once = world.answer(plain("a", "x", 1_000)).await.remove(0);
        let coalescing = Coalescing { max_ms: 40, max_chars: 30 };
        let gathered = world.answer(Generate { coalescing, ..plain("b", "x", 1_000) }).await.remove(0);
        assert_eq!(at_once.content, TEXT.repeat(5));
        assert_eq!(gathered.content, at_once.content);
        assert_eq!(gathered.tokens, at_once.tokens);
        assert!(gathered.pieces.len() * 2 < at_once.pieces.len(), "{} {}", gathered.pieces.len(), at_once.pieces.len());
        world
    });
}

/// Gathered text is sent when its time has come, although the engine stands still and no token
/// follows.
#[test]
fn gathered_text_does_not_wait_for_the_next_token() {
    let plan = Plan { step_time: Duration::from_millis(1), ..Plan::saying("one two three four five six seven eight nine ten") };
    world(plan, |world| async move {
        let coalescing = Coalescing { max_ms: 100, max_chars: 0 };
        let mut accepted = world.accepted(Generate { coalescing, ..plain("a", "x", 100) }).await;
        let first = next(&mut accepted.parts).await.expect("the first text is sent at once");
        // The next tokens are gathered, and then the engine stands still.
        wait_until("some tokens are generated", || world.service.snapshot().scheduler.decode_tokens_total >= 5).await;
        world.brake.pull();
        let second = next(&mut accepted.parts).await.expect("what was gathered is sent");
        world.brake.release();
        let mut parts = vec![first, second];
        while let Some(part) = next(&mut accepted.parts).await {
            parts.push(part);
        }
        assert_eq!(super::world::said(0, &parts).content, "one two three four five six seven eight nine ten");
        world
    });
}

#[test]
fn stop_strings_end_a_response_over_token_borders_and_free_its_blocks() {
    world(Plan::saying("alpha beta gamma delta epsilon zeta eta theta"), |world| async move {
        let request = Generate { stop_strings: vec!["nothing".into(), "mma del".into()], ..plain("a", "x", 1_000) };
        let said = world.answer(request).await.remove(0);
        assert_eq!(said.content, "alpha beta ga");
        assert_eq!(said.finish.kind, FinishKind::Stop { matched: Some("mma del".into()) });
        world.is_empty().await;
        world
    });
}

#[test]
fn a_stop_string_that_never_completes_is_text() {
    world(Plan::saying("alpha beta gam"), |world| async move {
        let request = Generate { stop_strings: vec!["gamma".into()], ..plain("a", "x", 1_000) };
        let said = world.answer(request).await.remove(0);
        assert_eq!(said.content, "alpha beta gam");
        assert_eq!(said.finish.kind, FinishKind::Stop { matched: None });
        world
    });
}

#[test]
fn choices_are_drawn_with_seeds_of_their_own() {
    world(Plan::default(), |world| async move {
        let sampled = |seed| Sampling { temperature: 1.0, seed, ..Sampling::default() };
        let request = Generate { choices_count: 3, sampling: sampled(7), ignore_eos: true, ..plain("a", "x", 20) };
        let together = world.answer(request).await;
        for (seed, choice) in (7..).zip(&together) {
            let request = Generate { sampling: sampled(seed), ignore_eos: true, ..plain("b", "x", 20) };
            let alone = world.answer(request).await.remove(0);
            assert_eq!(alone.tokens, choice.tokens);
        }
        assert_ne!(together[0].tokens, together[1].tokens);
        world
    });
}

#[test]
fn a_stop_string_ends_its_choice_and_no_other() {
    world(Plan::default(), |world| async move {
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let ask = |id: &str, stop_strings| Generate {
            choices_count: 4,
            sampling: sampling.clone(),
            stop_strings,
            ignore_eos: true,
            ..plain(id, "x", 40)
        };
        let whole = world.answer(ask("a", Vec::new())).await;
        let stop: String = whole[2].content.chars().skip(whole[2].content.chars().count() / 2).take(6).collect();
        let stopped = world.answer(ask("b", vec![stop.clone()])).await;
        for (whole, stopped) in whole.iter().zip(&stopped) {
            match whole.content.find(&stop) {
                Some(at) => assert_eq!(stopped.content, whole.content[..at]),
                None => assert_eq!((&stopped.content, &stopped.tokens), (&whole.content, &whole.tokens)),
            }
        }
        world
    });
}

/// While a step computes, requests are taken, refused and cancelled, and counts are read.
#[test]
fn nothing_waits_for_a_step() {
    world(Plan::saying(TEXT), |world| async move {
        world.brake.pull();
        let running = world.accepted(plain("running", "x", 100)).await;
        world.brake.holds().await;
        let queued = world.accepted(plain("queued", "x", 100)).await;
        let cancelled = world.accepted(plain("cancelled", "x", 100)).await;
        assert!(world.service.generate(long("too long", 5_000, 1, 1)).await.is_err());
        assert_eq!(world.service.snapshot().scheduler.waiting_count, 2);
        assert!(world.service.cancel("cancelled").await);
        assert_eq!(world.service.snapshot().scheduler.waiting_count, 1);
        let said = read(cancelled, 1).await.remove(0);
        assert_eq!(said.finish.kind, FinishKind::Cancelled);
        let phases: Vec<Phase> = world.service.live_requests().iter().map(|live| live.phase).collect();
        assert_eq!(phases, [Phase::Prefill, Phase::Queued]);
        world.brake.release();
        assert_eq!(read(running, 1).await[0].content, TEXT);
        assert_eq!(read(queued, 1).await[0].content, TEXT);
        world
    });
}

#[test]
fn log_probabilities_come_with_the_tokens_they_are_of() {
    world(Plan::saying("some words to say"), |world| async move {
        let sampling = Sampling { logprobs: Some(2), prompt_logprobs: true, ..Sampling::default() };
        let request = Generate { sampling, ..long("a", 150, 3, 100) };
        let mut accepted = world.accepted(request).await;
        let first = next(&mut accepted.parts).await.expect("the prompt's come first");
        assert_eq!(first.kind, PartKind::Prompt);
        assert_eq!(first.logprobs.len(), 149);
        let mut text = Vec::new();
        let mut finish_logprobs = 0;
        while let Some(part) = next(&mut accepted.parts).await {
            if matches!(part.kind, PartKind::Finished(_)) {
                finish_logprobs = part.logprobs.len();
                continue;
            }
            assert_eq!(part.logprobs.len(), part.tokens.len());
            for (logprobs, token) in part.logprobs.iter().zip(&part.tokens) {
                assert_eq!(logprobs.token.token, *token);
                assert_eq!(logprobs.bytes, world.tokenizer.bytes_of(*token));
                assert_eq!(logprobs.top.len(), 2);
                text.extend(&logprobs.bytes);
            }
        }
        assert_eq!(String::from_utf8_lossy(&text), "some words to say");
        assert_eq!(finish_logprobs, 1);
        world
    });
}

/// A reader that comes late and reads in bursts gets the same text.
#[test]
fn an_unsteady_reader_gets_everything() {
    world(Plan::saying(&TEXT.repeat(20)), |world| async move {
        let mut dice = Dice::new(5);
        let mut accepted = world.accepted(plain("a", "x", 4_000)).await;
        let mut parts = Vec::new();
        // By now the channel is full, and text is gathered behind it.
        wait_until("everything is generated", || phase_of(&world, "a") == Some(Phase::Sending)).await;
        while let Some(part) = next(&mut accepted.parts).await {
            parts.push(part);
            if dice.below(8) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(super::world::said(0, &parts).content, TEXT.repeat(20));
        world
    });
}

fn phase_of(world: &World, request_id: &str) -> Option<Phase> {
    let live = world.service.live_requests();
    live.iter().find(|live| live.request_id == request_id).map(|live| live.phase)
}

#[test]
fn text_and_tokens_are_turned_into_each_other() {
    world(Plan::default(), |world| async move {
        let tokens = world
            .service
            .tokenize(ResponseInput::Text(TEXT.to_owned()), KeyId::default(), None)
            .await
            .expect("text is tokenized");
        assert_eq!(tokens, world.tokenizer.encode_text(TEXT));
        assert_eq!(world.service.detokenize(tokens, None).await.expect("tokens are text"), TEXT);
        world
    });
}
