//! Streams whose text panics, whose reader leaves or takes nothing, and what of them is left
//! meanwhile.

use std::sync::Arc;

use actix::dev::channel;

use super::*;
use crate::actors::fixtures::{soon, start_options, tokenizer};
use crate::actors::messages::{AnswerOptions, Coalescing};
use crate::actors::registry::Registry;
use crate::actors::service::Service;
use crate::actors::start::start;
use crate::actors::text_rules::TextForm;
use crate::batch::TokenId;
use crate::prompt::stop::StopSet;

/// How long a reader of these tests may take nothing.
const SLOW_READER: Duration = Duration::from_millis(100);

/// Opens a stream of one choice on this thread.
fn open(
    service: &Service,
    registry: &Arc<Registry>,
    id: &str,
    reading: TextForm,
) -> (mpsc::Sender<Feed>, mpsc::Receiver<Part>) {
    open_beside(service, service.inner().scheduler.clone(), registry, id, rules(reading, &[]))
}

fn rules(reading: TextForm, stop_strings: &[String]) -> TextRules {
    let stop = Arc::new(StopSet::new(stop_strings));
    TextRules {
        tokenizer: tokenizer(),
        reading,
        stop,
        coalescing: Coalescing { max_ms: 0, max_chars: 0 },
        thinking: crate::prompt::constraint::ThinkingBounds::free(),
        options: AnswerOptions::default(),
    }
}

/// As [`open`], beside this scheduler.
fn open_beside(
    service: &Service,
    scheduler: Addr<SchedulerActor>,
    registry: &Arc<Registry>,
    id: &str,
    rules: TextRules,
) -> (mpsc::Sender<Feed>, mpsc::Receiver<Part>) {
    let inner = service.inner();
    let setup = StreamSetup { clock: inner.clock, metrics: inner.metrics.clone(), slow_reader: SLOW_READER };
    let ticket = registry.enter(id.to_owned(), crate::actors::messages::KeyId::default(), None).unwrap();
    let visitor = Visitor { ticket, record: inner.metrics.received(inner.clock.now()), memory: None };
    let (feed, inbox) = mpsc::channel(8);
    let (parts, receiver) = mpsc::channel(8);
    let memory = inner.budget.open();
    StreamActor::create(move |ctx| {
        StreamActor::listen(inbox, ctx);
        StreamActor::new(setup, scheduler, visitor, &[rules], parts, memory)
    });
    (feed, receiver)
}

fn token(token: TokenId) -> Feed {
    Feed(vec![ChoiceEvent { choice: 0, kind: ChoiceEventKind::Token { token, logprobs: None } }])
}

#[test]
fn a_panic_in_one_stream_ends_that_stream_alone() {
    actix_rt::System::new().block_on(async {
        let service = start(start_options()).unwrap();
        service.loaded().await.unwrap();
        let registry = Arc::new(Registry::new(service.inner().clock));
        let (poison_feed, mut poisoned) = open(&service, &registry, "poison", TextForm::Poison);
        let (witness_feed, mut witness) = open(&service, &registry, "witness", TextForm::Plain);
        let word = tokenizer().encode_text("word")[0];
        for _ in 0..3 {
            // The poisoned one has ended after the first.
            let _ = poison_feed.send(token(word)).await;
            witness_feed.send(token(word)).await.unwrap();
            let part = witness.recv().await.unwrap();
            assert_eq!(part.tokens, [word]);
        }
        let end = poisoned.recv().await.unwrap();
        let PartKind::Finished(Finish { kind: FinishKind::Failed { code, .. }, .. }) = end.kind else { panic!("{end:?}") };
        assert_eq!(code, "internal_error");
        assert!(poisoned.recv().await.is_none());
        drop((witness, witness_feed, poison_feed));
        registry.emptied().await;
        let text = service.inner().metrics.exposition(crate::metrics::Names::All, service.inner().clock.now());
        // Its HELP and TYPE are there without a panic too.
        let panics = text.lines().find(|line| line.starts_with("antiphon_request_panics_total{")).unwrap();
        assert!(panics.ends_with(" 1"), "{panics}");
        let stats = service.inner().metrics.stats(service.inner().clock.now()).requests;
        assert_eq!((stats.failed, stats.cancelled, stats.active), (1, 1, 0));
        service.stop().await;
    });
}

#[test]
fn a_stream_whose_scheduler_lets_go_ends_with_an_error() {
    actix_rt::System::new().block_on(async {
        let service = start(start_options()).unwrap();
        service.loaded().await.unwrap();
        let registry = Arc::new(Registry::new(service.inner().clock));
        let (feed, mut parts) = open(&service, &registry, "a", TextForm::Plain);
        drop(feed);
        let end = parts.recv().await.unwrap();
        assert!(matches!(end.kind, PartKind::Finished(Finish { kind: FinishKind::Failed { .. }, .. })));
        assert!(parts.recv().await.is_none());
        service.stop().await;
    });
}

/// The scheduler's answer is held back: its mailbox is not read until the test drops it.
#[test]
fn a_request_stays_in_the_registry_until_the_scheduler_holds_nothing_of_it() {
    enum Way {
        ReaderLeaves,
        TextPanics,
        StopString,
    }
    for way in [Way::ReaderLeaves, Way::TextPanics, Way::StopString] {
        actix_rt::System::new().block_on(async {
            let service = start(start_options()).unwrap();
            service.loaded().await.unwrap();
            let registry = Arc::new(Registry::new(service.inner().clock));
            let (sender, mailbox) = channel::channel(0);
            let word = tokenizer().encode_text("word");
            let rules = match way {
                Way::ReaderLeaves => rules(TextForm::Plain, &[]),
                Way::TextPanics => rules(TextForm::Poison, &[]),
                Way::StopString => rules(TextForm::Plain, &["word".to_owned()]),
            };
            let (feed, parts) = open_beside(&service, Addr::new(sender), &registry, "a", rules);
            let mut parts = Some(parts);
            match way {
                Way::ReaderLeaves => parts = None,
                Way::TextPanics | Way::StopString => {
                    feed.send(Feed(word.into_iter().flat_map(|word| token(word).0).collect())).await.unwrap();
                }
            }
            let ended = || {
                let requests = service.inner().metrics.stats(service.inner().clock.now()).requests;
                requests.total == 1 && requests.active == 0
            };
            soon(async {
                while !ended() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
                assert_eq!(registry.count(), 1, "its blocks are not free yet");
            }
            drop(mailbox);
            soon(registry.emptied()).await;
            drop(parts);
            service.stop().await;
        });
    }
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off_when_its_time_is_up_and_not_before() {
    actix_rt::System::new().block_on(async {
        let service = start(start_options()).unwrap();
        service.loaded().await.unwrap();
        let registry = Arc::new(Registry::new(service.inner().clock));
        let (feed, mut slow) = open(&service, &registry, "slow", TextForm::Plain);
        let word = tokenizer().encode_text("word")[0];
        // The channel holds eight parts; the last of these waits for room.
        for _ in 0..9 {
            feed.send(token(word)).await.unwrap();
        }
        let began = tokio::time::Instant::now();
        soon(registry.emptied()).await;
        assert!(began.elapsed() >= SLOW_READER, "{:?}", began.elapsed());
        let stats = service.inner().metrics.stats(service.inner().clock.now()).requests;
        assert_eq!((stats.cancelled, stats.active), (1, 0));
        for _ in 0..8 {
            assert_eq!(soon(slow.recv()).await.expect("it was in the channel").tokens, [word]);
        }
        assert!(soon(slow.recv()).await.is_none(), "and no end: it was not read");
        service.stop().await;
    });
}
