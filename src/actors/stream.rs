//! StreamActors: one per response, from the scheduler's tokens to the parts that its reader takes.
//!
//! Owns: the text state of all choices, the parts that the reader has not room for, the request's
//! place in the registry. Stops when everything is handed over, when its reader leaves (in any
//! phase, also while nothing is being sent), or when its reader takes nothing for too long. In the
//! last two cases the response's blocks are free before the actor is gone. The scheduler never
//! waits for it, and it never waits for its reader.

use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, SpawnHandle, StreamHandler, WrapFuture};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::actors::budget::{MEMORY_FULL, NoRoom, Reserved};
use crate::actors::ends::TextEnd;
use crate::actors::guard::{guarded, log_failure};
use crate::actors::mail::{Cancel, CancelChoice, CancelledBy, ChoiceEvent, ChoiceEventKind, Feed, Visitor};
use crate::actors::messages::{Finish, FinishKind, Part, PartKind};
use crate::actors::outbox::Outbox;
use crate::actors::registry::Ticket;
use crate::actors::scheduling::SchedulerActor;
use crate::actors::snapshot::Phase;
use crate::actors::text::{AfterToken, ChoiceText};
use crate::actors::text_rules::TextRules;
use crate::batch::Micros;
use crate::clock::Clock;
use crate::metrics::{Metrics, RequestOutcome, RequestRecord};
use crate::scheduler::FinishReason;

/// Parts that a reader may leave untaken before it counts as slow.
pub(super) const PARTS_MAX_COUNT: usize = 64;

/// What every StreamActor of a server has in common.
#[derive(Debug, Clone)]
pub(super) struct StreamSetup {
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// A reader that takes nothing for so long is cut off.
    pub(super) slow_reader: Duration,
}

/// The actor.
#[derive(Debug)]
pub(super) struct StreamActor {
    setup: StreamSetup,
    scheduler: Addr<SchedulerActor>,
    ticket: Ticket,
    /// `None` once the request has ended.
    record: Option<RequestRecord>,
    /// What its sequences hold.
    _prompt: Option<Reserved>,
    choices: Vec<ChoiceText>,
    outbox: Outbox,
    parts: mpsc::Sender<Part>,
    /// Waits for room in `parts`.
    blocked: bool,
    /// Ended a choice before the scheduler did.
    cut_short: bool,
    /// When gathered text is due, and the timer for it.
    timer: Option<(Micros, SpawnHandle)>,
    leaving: bool,
}

impl StreamActor {
    /// A stream of a choice for each of `rules`, whose reader holds the other end of `parts`, and
    /// of `memory`.
    pub(super) fn new(
        setup: StreamSetup,
        scheduler: Addr<SchedulerActor>,
        visitor: Visitor,
        rules: &[TextRules],
        parts: mpsc::Sender<Part>,
        memory: Reserved,
    ) -> Self {
        Self {
            setup,
            scheduler,
            ticket: visitor.ticket,
            record: Some(visitor.record),
            _prompt: visitor.memory,
            choices: (0..).zip(rules).map(|(choice, rules)| ChoiceText::new(choice, rules)).collect(),
            outbox: Outbox::new(memory),
            parts,
            blocked: false,
            cut_short: false,
            timer: None,
            leaving: false,
        }
    }

    /// Takes over what the scheduler sends in `feed`. To be called before the actor runs.
    pub(super) fn listen(feed: mpsc::Receiver<Feed>, ctx: &mut Context<Self>) {
        Self::add_stream(ReceiverStream::new(feed), ctx);
    }

    /// Runs `work` on the text state. A panic, or no memory for what it says, ends this response
    /// and nothing else.
    fn on_text(&mut self, ctx: &mut Context<Self>, work: impl FnOnce(&mut Self) -> Result<(), NoRoom>) {
        if self.leaving {
            return;
        }
        match guarded(|| work(self)) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                self.outbox.forget_texts();
                self.end(MEMORY_FULL, "The server has no memory left for this answer, which waits to be read.");
            }
            Err(message) => {
                self.setup.metrics.request_panicked();
                self.fail(&message);
            }
        }
        self.write(ctx);
        self.arm(ctx);
    }

    fn take(&mut self, event: ChoiceEvent, now: Micros) -> Result<(), NoRoom> {
        let ChoiceEvent { choice, kind } = event;
        let Some(text) = self.choices.get_mut(choice as usize) else { return Ok(()) };
        if self.outbox.has_finished(choice) {
            return Ok(());
        }
        let mut out = Vec::new();
        match kind {
            ChoiceEventKind::Began(cached) => text.begin(cached),
            ChoiceEventKind::Prompt(logprobs) => text.take_prompt(&logprobs, &mut out),
            ChoiceEventKind::Token { token, logprobs } => {
                if text.take(token, logprobs.as_deref(), now, &mut out) == AfterToken::Stopped {
                    self.cut_short = true;
                    // Fails only if the scheduler is gone, and its blocks with it.
                    let _ = self.scheduler.try_send(CancelChoice { response: self.ticket.response, choice });
                }
            }
            ChoiceEventKind::Ended { end, logprobs } => text.finish(end, logprobs.as_deref(), now, &mut out),
        }
        self.outbox.extend(out)?;
        if self.outbox.has_finished(choice) {
            for (kind, count) in text.recoveries().iter() {
                self.setup.metrics.parser_recovered(kind.name(), u64::from(count));
            }
        }
        Ok(())
    }

    /// Ends every choice that has not ended with an error, and gives up its text state: that may be
    /// what panicked.
    fn fail(&mut self, message: &str) {
        log_failure(&self.ticket.request_id, message);
        self.end("internal_error", "The server failed while it read the model's answer.");
    }

    /// Ends every choice that has not ended with an error, and has the scheduler forget them.
    fn end(&mut self, code: &'static str, message: &str) {
        for (choice, text) in (0..).zip(std::mem::take(&mut self.choices)) {
            if self.outbox.has_finished(choice) {
                continue;
            }
            let kind = FinishKind::Failed { code, message: message.to_owned() };
            let (completion_tokens, cached) = (text.completion_tokens(), text.cached());
            let finish = Finish { kind, reasoning_tokens: 0, completion_tokens, thinking_stop: None };
            let (tokens, logprobs) = (Vec::new(), Vec::new());
            let kind = PartKind::Finished(finish);
            let end = Part { choice, kind, tokens, logprobs, completion_tokens, reasoning_tokens: 0, cached };
            self.outbox.push(end).expect("an end is taken without memory for it");
        }
        self.cut_short = true;
        self.cancel();
    }

    /// Hands over as many parts as the reader has room for.
    fn write(&mut self, ctx: &mut Context<Self>) {
        while !self.blocked && !self.leaving {
            let Some(part) = self.outbox.pop() else { break };
            let brings_text = brings_text(&part);
            match self.parts.try_send(part) {
                Ok(()) => self.note_sent(brings_text),
                Err(TrySendError::Full(part)) => {
                    self.outbox.put_back(part);
                    self.wait_for_room(ctx);
                }
                Err(TrySendError::Closed(_)) => self.leave(ctx),
            }
        }
        if !self.leaving && self.all_finished() {
            self.ticket.reached(Phase::Sending);
            if self.outbox.is_empty() {
                self.end_record(self.outbox.outcome());
                self.leaving = true;
                if self.cut_short {
                    self.stop_when_freed(ctx);
                } else {
                    ctx.stop();
                }
            }
        }
    }

    fn note_sent(&mut self, brings_text: bool) {
        if brings_text && let Some(record) = &mut self.record {
            let now = self.setup.clock.now();
            record.first_content(now);
            self.ticket.sent_text(now);
        }
    }

    fn wait_for_room(&mut self, ctx: &mut Context<Self>) {
        self.blocked = true;
        let room = tokio::time::timeout(self.setup.slow_reader, self.parts.clone().reserve_owned());
        ctx.spawn(room.into_actor(self).map(|room, actor, ctx| match room {
            Ok(Ok(permit)) => {
                actor.blocked = false;
                if let Some(part) = actor.outbox.pop() {
                    let brings_text = brings_text(&part);
                    permit.send(part);
                    actor.note_sent(brings_text);
                }
                actor.write(ctx);
            }
            Ok(Err(_)) => actor.leave(ctx),
            Err(_) => {
                tracing::info!(request_id = actor.ticket.request_id, "a reader took nothing for too long and was cut off");
                actor.leave(ctx);
            }
        }));
    }

    /// The reader is gone, or as good as gone: frees what the response holds, then stops.
    fn leave(&mut self, ctx: &mut Context<Self>) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        self.end_record(RequestOutcome::Cancelled);
        self.stop_when_freed(ctx);
    }

    /// Stops once the scheduler holds nothing of the response: until then the registry keeps the
    /// request.
    fn stop_when_freed(&mut self, ctx: &mut Context<Self>) {
        ctx.wait(self.cancel().into_actor(self).map(|_, _, ctx| ctx.stop()));
    }

    /// Frees what the response holds; resolves once that is done, or if there is no scheduler any
    /// more.
    fn cancel(&self) -> oneshot::Receiver<bool> {
        let (freed, receiver) = oneshot::channel();
        let message = Cancel { response: self.ticket.response, by: CancelledBy::Stream, freed };
        // If the scheduler is gone, the message is dropped and the receiver resolves.
        let _ = self.scheduler.try_send(message);
        receiver
    }

    /// Sets the one timer to when gathered text is due.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some(due) = self.choices.iter().filter_map(ChoiceText::deadline).min() else { return };
        match self.timer {
            // A timer that rings early finds nothing due and is set again.
            Some((at, _)) if at <= due => return,
            Some((_, handle)) => {
                ctx.cancel_future(handle);
            }
            None => {}
        }
        let wait = Duration::from_micros(due.since(self.setup.clock.now()));
        let handle = ctx.run_later(wait, |actor, ctx| {
            actor.timer = None;
            actor.on_text(ctx, |actor| {
                let now = actor.setup.clock.now();
                let mut out = Vec::new();
                for choice in &mut actor.choices {
                    choice.flush_due(now, &mut out);
                }
                actor.outbox.extend(out)
            });
        });
        self.timer = Some((due, handle));
    }

    fn note_tokens(&mut self, events: &[ChoiceEvent], now: Micros) {
        let Some(record) = &mut self.record else { return };
        for same_choice in events.chunk_by(|one, next| one.choice == next.choice) {
            let is_token = |event: &&ChoiceEvent| matches!(event.kind, ChoiceEventKind::Token { .. });
            let count = same_choice.iter().filter(is_token).count();
            if count > 0 {
                record.tokens(same_choice[0].choice, count, now);
            }
            let broken = TextEnd::Finished(FinishReason::NotFinite);
            if same_choice.iter().any(|event| matches!(&event.kind, ChoiceEventKind::Ended { end, .. } if *end == broken)) {
                self.setup.metrics.nan_logits();
            }
        }
    }

    fn all_finished(&self) -> bool {
        (0..).zip(&self.choices).all(|(choice, _)| self.outbox.has_finished(choice))
    }

    fn end_record(&mut self, outcome: RequestOutcome) {
        if let Some(record) = self.record.take() {
            self.ticket.set_outcome(outcome);
            record.ended(outcome, self.setup.clock.now());
        }
    }
}

/// Whether a part is content in the sense of TTFT.
fn brings_text(part: &Part) -> bool {
    !matches!(part.kind, PartKind::Prompt | PartKind::Finished(_))
}

impl Actor for StreamActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let parts = self.parts.clone();
        ctx.spawn(async move { parts.closed().await }.into_actor(self).map(|(), actor, ctx| actor.leave(ctx)));
    }
}

impl StreamHandler<Feed> for StreamActor {
    fn handle(&mut self, Feed(events): Feed, ctx: &mut Context<Self>) {
        let now = self.setup.clock.now();
        self.note_tokens(&events, now);
        self.on_text(ctx, |actor| events.into_iter().try_for_each(|event| actor.take(event, now)));
    }

    /// The scheduler sends nothing more: everything has ended, or it gave this response up.
    fn finished(&mut self, ctx: &mut Context<Self>) {
        if !self.leaving && !self.all_finished() {
            self.fail("the scheduler gave the response up");
            self.write(ctx);
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
