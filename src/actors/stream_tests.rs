//! A stream whose text panics, beside one whose text does not.

use std::sync::Arc;

use super::*;
use crate::actors::fixtures::{start_options, tokenizer};
use crate::actors::messages::Coalescing;
use crate::actors::registry::Registry;
use crate::actors::service::Service;
use crate::actors::start::start;
use crate::actors::text::Reading;
use crate::batch::TokenId;
use crate::prompt::stop::StopSet;

/// Opens a stream of one choice on this thread.
fn open(service: &Service, registry: &Arc<Registry>, id: &str, reading: Reading) -> (mpsc::Sender<Feed>, mpsc::Receiver<Part>) {
    let inner = service.inner();
    let setup = StreamSetup { clock: inner.clock, metrics: inner.metrics.clone(), slow_reader: Duration::from_secs(60) };
    let ticket = registry.enter(id.to_owned(), crate::actors::messages::KeyId::default(), None).unwrap();
    let visitor = Visitor { ticket, record: inner.metrics.received(inner.clock.now()), memory: None };
    let rules = TextRules {
        tokenizer: tokenizer(),
        reading,
        stop: Arc::new(StopSet::new(&[])),
        coalescing: Coalescing { max_ms: 0, max_chars: 0 },
    };
    let (feed, inbox) = mpsc::channel(8);
    let (parts, receiver) = mpsc::channel(8);
    let (scheduler, memory) = (inner.scheduler.clone(), inner.budget.open());
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
        let (poison_feed, mut poisoned) = open(&service, &registry, "poison", Reading::Poison);
        let (witness_feed, mut witness) = open(&service, &registry, "witness", Reading::Plain);
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
        let (feed, mut parts) = open(&service, &registry, "a", Reading::Plain);
        drop(feed);
        let end = parts.recv().await.unwrap();
        assert!(matches!(end.kind, PartKind::Finished(Finish { kind: FinishKind::Failed { .. }, .. })));
        assert!(parts.recv().await.is_none());
        service.stop().await;
    });
}
