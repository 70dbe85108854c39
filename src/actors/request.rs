//! RequestActors: the text work of requests, on threads of their own.
//!
//! A megabyte of text takes milliseconds to tokenize; on an HTTP worker that would hold up every
//! other stream of that worker. Promises: a request whose text work panics fails alone. The bound
//! on how much waits here is the gate's, not the mailbox's.

use std::sync::Arc;

use actix::{Actor, Addr, Handler, SyncContext};

use crate::actors::budget::{Budget, Reserved, Use};
use crate::actors::guard::{guarded, log_failure};
use crate::actors::mail::{Detokenize, Prepare, Prepared, Submit, Tokenize};
use crate::actors::messages::{Generate, Refusal, ResponseInput};
use crate::actors::prepare::TextWork;
use crate::actors::refusal::refuse;
use crate::actors::scheduling::SchedulerActor;
use crate::actors::snapshot::ModelLimits;
use crate::actors::status::Status;
use crate::batch::TokenId;
use crate::clock::Clock;
use crate::metrics::{Metrics, PromptCacheLookup};

/// One thread of text work.
#[derive(Debug, Clone)]
pub(super) struct RequestActor {
    pub(super) text: TextWork,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) budget: Arc<Budget>,
    pub(super) scheduler: Addr<SchedulerActor>,
}

impl Actor for RequestActor {
    type Context = SyncContext<Self>;
}

impl RequestActor {
    fn limits(&self) -> Result<ModelLimits, Refusal> {
        self.status.limits().ok_or(Refusal::Unavailable { retry_after_seconds: 1, code: "loading" })
    }

    /// Runs `work`; a panic in it is this request's alone.
    fn alone<T>(&self, request_id: &str, work: impl FnOnce(&Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        guarded(|| work(self)).unwrap_or_else(|message| {
            self.metrics.request_panicked();
            Err(Refusal::Internal { error_id: log_failure(request_id, &message) })
        })
    }

    fn prepare(&self, generate: Generate) -> Result<(Prepared, Reserved), Refusal> {
        let are_chats: Vec<bool> = generate.inputs.iter().map(|input| matches!(input, ResponseInput::Chat(_))).collect();
        let prepared = self.text.prepare(generate, &self.limits()?)?;
        for (report, _) in prepared.reports.iter().zip(are_chats).filter(|(_, is_chat)| *is_chat) {
            let lookup = if report.cache_hit { PromptCacheLookup::Hit } else { PromptCacheLookup::Miss };
            self.metrics.prompt_looked_up(lookup, self.text.builder.counts().cache_size);
        }
        let memory = self.budget.reserve(Use::Request, prepared.bytes())?;
        Ok((prepared, memory))
    }
}

impl Handler<Prepare> for RequestActor {
    type Result = ();

    fn handle(&mut self, message: Prepare, _: &mut Self::Context) {
        let Prepare { generate, mut visitor, pass, reply } = message;
        if reply.is_closed() {
            // The client left while this waited; dropping the visitor takes the request out.
            return;
        }
        let request_id = visitor.ticket.request_id.clone();
        match self.alone(&request_id, |actor| actor.prepare(generate)) {
            Ok((prepared, memory)) => {
                visitor.memory = Some(memory);
                visitor.ticket.set_prompt_tokens(prepared.prompt_tokens());
                // Without a receiver the reply is dropped with the message, and the service says
                // so.
                let _ = self.scheduler.try_send(Submit { prepared, visitor, pass, reply });
            }
            Err(refusal) => refuse(refusal, visitor, reply, self.clock.now()),
        }
    }
}

impl Handler<Tokenize> for RequestActor {
    type Result = Result<Vec<TokenId>, Refusal>;

    fn handle(&mut self, message: Tokenize, _: &mut Self::Context) -> Self::Result {
        let Tokenize { input, owner, memory: _memory, pass: _pass } = message;
        self.alone("/tokenize", |actor| actor.text.tokenize(input, owner, actor.limits()?.vocab_size))
    }
}

impl Handler<Detokenize> for RequestActor {
    type Result = Result<String, Refusal>;

    fn handle(&mut self, message: Detokenize, _: &mut Self::Context) -> Self::Result {
        let Detokenize { tokens, memory: _memory, pass: _pass } = message;
        self.alone("/detokenize", |actor| actor.text.detokenize(&tokens, actor.limits()?.vocab_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::fixtures::{metrics, start_options, text_work};
    use crate::actors::start::start;

    #[test]
    fn text_work_that_panics_fails_its_request_alone() {
        actix_rt::System::new().block_on(async {
            let options = start_options();
            let text = text_work();
            let service = start(options).unwrap();
            service.loaded().await.unwrap();
            let inner = service.inner();
            let (status, clock, scheduler) = (Arc::clone(&inner.status), inner.clock, inner.scheduler.clone());
            let budget = Arc::clone(&inner.budget);
            let actor = RequestActor { text, status, metrics: metrics(), clock, budget, scheduler };
            let refusal = actor.alone::<()>("a", |_| panic!("as told"));
            assert!(matches!(refusal, Err(Refusal::Internal { error_id }) if error_id.len() == 32));
            let text = actor.metrics.exposition(crate::metrics::Names::All, clock.now());
            let panics = text.lines().find(|line| line.contains("request_panics_total{")).unwrap();
            assert!(panics.ends_with(" 1"), "{panics}");
            assert_eq!(actor.alone("b", |actor| actor.limits()).unwrap(), service.limits().unwrap());
            service.stop().await;
        });
    }
}
