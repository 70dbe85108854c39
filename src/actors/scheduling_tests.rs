//! A request that was cancelled while its prompt was built, as the SchedulerActor takes it.

use super::*;
use crate::actors::fixtures::{generate, soon, start_options, text_work};
use crate::actors::messages::{FinishKind, Generate, KeyId, PartKind, ResponseInput};
use crate::actors::start::start;

#[test]
fn what_was_cancelled_before_the_scheduler_saw_it_is_never_computed() {
    actix_rt::System::new().block_on(async {
        let service = start(start_options()).unwrap();
        let limits = service.loaded().await.unwrap();
        let inner = service.inner();
        let ticket = inner.registry.enter("a".to_owned(), KeyId::default(), None).unwrap();
        assert!(service.cancel("a").await, "everything of it is left to compute");
        let work = text_work();
        let request = Generate { choices_count: 3, ..generate(ResponseInput::Text("Hi".to_owned())) };
        let prepared = work.prepare(request, &limits).unwrap();
        let visitor = Visitor { ticket, record: inner.metrics.received(inner.clock.now()), memory: None };
        let (pass, (reply, answer)) = (inner.gate.enter().unwrap(), oneshot::channel());
        inner.scheduler.try_send(Submit { prepared, visitor, pass, reply }).unwrap();
        let mut accepted = soon(answer).await.unwrap().unwrap();
        for choice in 0..3 {
            let part = soon(accepted.parts.recv()).await.expect("each choice is told");
            let PartKind::Finished(finish) = &part.kind else { panic!("nothing of it is computed: {part:?}") };
            assert_eq!((part.choice, &finish.kind, finish.completion_tokens), (choice, &FinishKind::Cancelled, 0));
        }
        assert!(soon(accepted.parts.recv()).await.is_none());
        soon(inner.registry.emptied()).await;
        let snapshot = service.snapshot();
        assert_eq!((snapshot.scheduler.steps_total, snapshot.scheduler.waiting_count), (0, 0));
        let requests = inner.metrics.stats(inner.clock.now()).requests;
        assert_eq!((requests.total, requests.cancelled, requests.active), (1, 1, 0));
        assert!(!service.cancel("a").await, "it has ended");
        service.stop().await;
    });
}

/// The samples of a family, whatever its labels.
fn sample(text: &str, name: &str) -> Vec<f64> {
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix('{')?.rsplit(' ').next()?.parse().ok();
    text.lines().filter_map(of).collect()
}

#[test]
fn what_steps_compute_is_recorded_by_what_it_was() {
    actix_rt::System::new().block_on(async {
        let service = start(start_options()).unwrap();
        service.loaded().await.unwrap();
        // More than a slice of 64, so that some steps draw nothing; the fake engine's answers never
        // end by themselves.
        let tokens = (0..150).map(crate::batch::TokenId).collect();
        let request = Generate { ignore_eos: true, max_tokens: Some(7), ..generate(ResponseInput::Tokens(tokens)) };
        let mut accepted = soon(service.generate(request)).await.unwrap();
        while soon(accepted.parts.recv()).await.is_some() {}
        let inner = service.inner();
        soon(inner.registry.emptied()).await;
        let text = inner.metrics.exposition(crate::metrics::Names::All, inner.clock.now());
        assert_eq!(sample(&text, "antiphon_prefill_tokens_total"), [150.0]);
        assert_eq!(sample(&text, "antiphon_generated_tokens_total"), [7.0]);
        assert_eq!(sample(&text, "antiphon_steps_total"), [service.snapshot().scheduler.steps_total as f64]);
        service.stop().await;
    });
}
