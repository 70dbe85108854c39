//! The SchedulerActor: a shell around the scheduler core and the engine's thread.
//!
//! Owns: the core, the jobs of the engine's thread, the threads of the streams. Promises: it never
//! waits: submits, cancels and counts are taken while a step computes; every submit is answered at
//! once; an engine that dies loses no request. A core that panics, an engine that fails whatever it
//! is given (see `supervision.rs`) or hangs past the watchdog is the end: every request
//! ends with an error, and the process is told to exit. Decisions by time are the core's: here is
//! one timer, set to what the core asks for, and a heartbeat.

use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, Arbiter, AsyncContext, Context, Handler, SpawnHandle, StreamHandler};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::actors::budget::{Budget, Reserved};
use crate::actors::ends::TextEnd;
use crate::actors::engine_seat::{EngineSeat, HEARTBEAT_MICROS, SeatCommand};
use crate::actors::engine_thread::{EngineJob, JobReport};
use crate::actors::guard::guarded;
use crate::actors::mail::{
    Cancel, CancelChoice, CancelledBy, ChoiceEvent, ChoiceEventKind, EndAll, Feed, Look, Stop, Submit, Visitor,
};
use crate::actors::messages::{Accepted, Part, Refusal};
use crate::actors::offload::{Fetched, Offloading};
use crate::actors::options::SchedulingOptions;
use crate::actors::parts::PartReceiver;
use crate::actors::refusal::{of_reject, refuse};
use crate::actors::routes::{CANCELLED, FEED_MAX_COUNT};
use crate::actors::snapshot::{EngineState, Phase};
use crate::actors::status::Status;
use crate::actors::stepper::{Next, Stepper};
use crate::actors::stream::{PARTS_MAX_COUNT, StreamActor, StreamSetup};
use crate::actors::stream_threads::StreamThreads;
use crate::actors::text_rules::TextRules;
use crate::batch::{Batch, Micros, Sampled, StepResult};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::scheduler::NewSequence;

/// What the actor is given.
#[derive(Debug)]
pub(super) struct SchedulerSetup {
    pub(super) clock: Clock,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Metrics,
    pub(super) options: SchedulingOptions,
    pub(super) stream: StreamSetup,
    pub(super) stream_threads: StreamThreads,
    pub(super) budget: Arc<Budget>,
    pub(super) jobs: std_mpsc::Sender<EngineJob>,
    pub(super) reports: mpsc::Receiver<JobReport>,
}

/// The actor.
#[derive(Debug)]
pub(super) struct SchedulerActor {
    clock: Clock,
    status: Arc<Status>,
    metrics: Metrics,
    options: SchedulingOptions,
    stream: StreamSetup,
    stream_threads: StreamThreads,
    budget: Arc<Budget>,
    /// `None` once the engine is given up.
    jobs: Option<std_mpsc::Sender<EngineJob>>,
    /// Moves into the context when the actor starts.
    reports: Option<mpsc::Receiver<JobReport>>,
    /// `None` until an engine is loaded, and once it is given up.
    stepper: Option<Stepper>,
    seat: EngineSeat,
    /// Batches to be filled for the next steps.
    spares: Vec<Batch>,
    timer: Option<(Micros, SpawnHandle)>,
    offloading: Offloading,
    /// Takes nothing more.
    closed: bool,
    /// The engine's thread has ended.
    thread_ended: bool,
    /// The callers that wait for that.
    stopped: Option<oneshot::Sender<()>>,
}

impl SchedulerActor {
    /// An actor without an engine; it has one built when it starts.
    pub(super) fn new(setup: SchedulerSetup) -> Self {
        Self {
            clock: setup.clock,
            status: setup.status,
            metrics: setup.metrics,
            options: setup.options,
            stream: setup.stream,
            stream_threads: setup.stream_threads,
            budget: setup.budget,
            jobs: Some(setup.jobs),
            reports: Some(setup.reports),
            stepper: None,
            seat: EngineSeat::new(),
            spares: Vec::new(),
            timer: None,
            offloading: Offloading::default(),
            closed: false,
            thread_ended: false,
            stopped: None,
        }
    }

    /// Runs a handler; a panic in it is the core's, and nothing can be trusted after it.
    fn protected(&mut self, work: impl FnOnce(&mut Self)) {
        if let Err(message) = guarded(|| work(self)) {
            let command = self.seat.give_up(format!("the scheduler panicked: {message}"));
            self.obey(command);
        }
    }

    /// Plans and begins the next step, if the engine is free and there is one, and has it followed
    /// by another, if it takes that; then delivers what came of the last.
    ///
    /// The next step first: the engine is idle until then, and nothing waits for delivery.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        if self.seat.is_idle() {
            self.begin_step(ctx);
        }
        if let Some(stepper) = &mut self.stepper {
            stepper.deliver();
        }
    }

    fn begin_step(&mut self, ctx: &mut Context<Self>) {
        let Some(stepper) = &mut self.stepper else { return };
        let (now, mut batch) = (self.clock.now(), self.spares.pop().unwrap_or_default());
        match stepper.plan(now, &mut batch) {
            Next::Step => {
                self.copy();
                self.work(EngineJob::Step(batch));
                self.follow(now);
            }
            Next::Idle(until) => {
                self.copy();
                self.spares.push(batch);
                self.arm(until, ctx);
            }
        }
    }

    /// Gives the engine the step after the one that it began at `began`, if that can be planned
    /// already, and waits for the first.
    fn follow(&mut self, began: Micros) {
        let mut ahead = false;
        if let Some(stepper) = self.stepper.as_mut().filter(|_| self.seat.takes_two_steps()) {
            let mut batch = self.spares.pop().unwrap_or_default();
            ahead = stepper.plan_ahead(began, &mut batch);
            self.copy();
            if ahead {
                self.work(EngineJob::Step(batch));
            } else {
                self.spares.push(batch);
            }
        }
        self.seat.step_begun(began, ahead);
        self.work(EngineJob::Wait);
    }

    /// Has blocks copied, before the step that was planned with it is sent.
    fn copy(&mut self) {
        if let Some(job) = self.stepper.as_mut().and_then(|stepper| self.offloading.begin(stepper)) {
            self.work(EngineJob::Copy(job));
        }
    }

    fn work(&mut self, job: EngineJob) {
        // If the thread is gone, its reports end, and `finished` below says so.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    /// Sets the one timer to when the core wants to plan again.
    fn arm(&mut self, until: Option<Micros>, ctx: &mut Context<Self>) {
        if let Some((at, handle)) = self.timer {
            if until == Some(at) {
                return;
            }
            ctx.cancel_future(handle);
        }
        self.timer = until.map(|at| {
            let wait = Duration::from_micros(at.since(self.clock.now()));
            let handle = ctx.run_later(wait, |actor, ctx| {
                actor.timer = None;
                actor.protected(|actor| actor.pump(ctx));
            });
            (at, handle)
        });
    }

    fn take_report(&mut self, report: JobReport, ctx: &mut Context<Self>) {
        let now = self.clock.now();
        self.status.beat(now);
        let command = match report {
            JobReport::Built { limits, store } => {
                self.offloading.opened(store);
                self.seat.built(limits)
            }
            JobReport::NotBuilt { message } => self.seat.not_built(message, now),
            JobReport::Done { batch, sampled } => {
                self.commit_done(batch, sampled, now);
                SeatCommand::Nothing
            }
            JobReport::Died { batch, message } => {
                let given_up_count = self.commit_lost(batch, now);
                self.seat.engine_died(message, given_up_count, now)
            }
        };
        self.obey(command);
        self.pump(ctx);
    }

    fn commit_done(&mut self, batch: Batch, sampled: Vec<Sampled>, now: Micros) {
        let Some(step) = self.seat.step_done() else { return };
        if let Some(stepper) = &mut self.stepper {
            stepper.commit(StepResult::Done(sampled), &batch, step.began, now);
        }
        self.spares.push(batch);
        if step.ahead {
            self.follow(now);
        }
    }

    /// Takes a lost step back. Returns how many sequences the core gave up for it.
    fn commit_lost(&mut self, batch: Batch, now: Micros) -> usize {
        let Some(step) = self.seat.step_lost() else { return 0 };
        let commit = |stepper: &mut Stepper| stepper.commit(StepResult::Lost, &batch, step.began, now);
        let given_up_count = self.stepper.as_mut().map_or(0, commit);
        self.spares.push(batch);
        given_up_count
    }

    /// Does what the seat asks for after an event.
    fn obey(&mut self, command: SeatCommand) {
        match command {
            SeatCommand::Nothing => {}
            SeatCommand::Start(limits) => {
                let core = self.offloading.limits(self.options.core_limits(&limits));
                let mut stepper = Stepper::new(core, Arc::clone(&self.status), self.metrics.clone());
                self.offloading.attach(&mut stepper, &self.status);
                self.stepper = Some(stepper);
                self.status.set_limits(self.options.model_limits(&limits));
                self.status.set_engine(EngineState::Ready);
            }
            SeatCommand::Resume => {
                self.status.add_restart();
                self.metrics.engine_restarted();
                self.status.set_engine(EngineState::Ready);
            }
            SeatCommand::Rebuild(message) => {
                tracing::error!(message, "the engine died");
                self.status.set_engine(EngineState::Restarting);
                self.work(EngineJob::Build);
            }
            SeatCommand::GiveUp(message) => self.die(message),
        }
    }

    /// The end: every request ends with an error, and the process is told.
    fn die(&mut self, message: String) {
        tracing::error!(message, "the engine is given up");
        self.status.set_dead(message);
        self.jobs = None;
        if let Some(stepper) = self.stepper.take() {
            stepper.abandon(&TextEnd::Failed {
                code: "engine_failed",
                message: "The engine failed and cannot be restarted.".to_owned(),
            });
        }
    }

    fn beat(&mut self, ctx: &mut Context<Self>) {
        if self.seat.is_awaited() {
            let command = self.seat.beat(self.status.watchdog_micros());
            self.obey(command);
        } else {
            self.status.beat(self.clock.now());
        }
        if !self.seat.is_over() {
            ctx.run_later(Duration::from_micros(HEARTBEAT_MICROS), Self::beat);
        }
    }

    fn submit(&mut self, submit: Submit, ctx: &mut Context<Self>) {
        let Submit { prepared, mut visitor, pass: _pass, reply } = submit;
        if reply.is_closed() {
            // The client left while its prompt was built; dropping the visitor takes the request
            // out.
            return;
        }
        let (feed, inbox) = mpsc::channel(FEED_MAX_COUNT);
        let choices_count = u32::try_from(prepared.sequences.len()).unwrap_or(u32::MAX);
        let prompt_tokens = prepared.prompt_tokens();
        let taken = if visitor.ticket.is_cancelled() {
            // Cancelled by id before the scheduler saw it: it begins and ends, and never holds a
            // block.
            let ended = |choice| ChoiceEvent { choice, kind: ChoiceEventKind::Ended { end: CANCELLED, logprobs: None } };
            // Fits: the channel is empty.
            let _ = feed.try_send(Feed((0..choices_count).map(ended).collect()));
            Ok(())
        } else {
            self.admit(&visitor, prepared.sequences, feed, prepared.param)
        };
        match taken {
            Ok(()) => {
                visitor.record.admitted(prompt_tokens);
                visitor.ticket.reached(Phase::Queued);
                let (sender, parts) = mpsc::channel(PARTS_MAX_COUNT);
                let parts = PartReceiver::new(parts, self.budget.open());
                self.open_stream(visitor, prepared.rules, (sender, parts.memory()), inbox, ctx.address());
                // If the caller left, the receiver is dropped: to the stream, a reader left.
                let _ = reply.send(Ok(Accepted { prompts: prepared.reports, parts }));
            }
            Err(refusal) => refuse(refusal, visitor, reply, self.clock.now()),
        }
        self.pump(ctx);
    }

    fn admit(
        &mut self,
        visitor: &Visitor,
        sequences: Vec<NewSequence>,
        feed: mpsc::Sender<Feed>,
        param: &'static str,
    ) -> Result<(), Refusal> {
        let unavailable = |code| Refusal::Unavailable { retry_after_seconds: 1, code };
        if self.closed {
            return Err(unavailable("draining"));
        }
        let Some(stepper) = &mut self.stepper else {
            let code = if self.status.engine() == EngineState::Dead { "engine_dead" } else { "loading" };
            return Err(unavailable(code));
        };
        let now = self.clock.now();
        stepper.submit(visitor.ticket.live(), sequences, feed, now).map_err(|reject| {
            let refusal = of_reject(reject, param);
            if let Refusal::QueueFull { retry_after_seconds, .. } = refusal {
                self.status.set_retry_after(retry_after_seconds, now);
            }
            refusal
        })
    }

    fn open_stream(
        &mut self,
        visitor: Visitor,
        rules: Vec<TextRules>,
        (parts, memory): (mpsc::Sender<Part>, Reserved),
        inbox: mpsc::Receiver<Feed>,
        scheduler: Addr<Self>,
    ) {
        let setup = self.stream.clone();
        StreamActor::start_in_arbiter(&self.stream_threads.next_thread(), move |ctx| {
            StreamActor::listen(inbox, ctx);
            StreamActor::new(setup, scheduler, visitor, &rules, parts, memory)
        });
    }
}

impl Actor for SchedulerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(reports) = self.reports.take() {
            Self::add_stream(ReceiverStream::new(reports), ctx);
        }
        self.offloading.answers_to(ctx.address());
        self.work(EngineJob::Build);
        self.beat(ctx);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.stream_threads.stop();
        Arbiter::current().stop();
    }
}

impl StreamHandler<JobReport> for SchedulerActor {
    fn handle(&mut self, report: JobReport, ctx: &mut Context<Self>) {
        self.protected(|actor| actor.take_report(report, ctx));
    }

    /// The engine's thread has ended, and the engine with it.
    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.thread_ended = true;
        if let Some(stopped) = self.stopped.take() {
            // The caller may have gone.
            let _ = stopped.send(());
            ctx.stop();
        } else {
            let command = self.seat.thread_ended();
            self.obey(command);
        }
    }
}

impl Handler<Submit> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, submit: Submit, ctx: &mut Context<Self>) {
        self.protected(|actor| actor.submit(submit, ctx));
    }
}

impl Handler<Fetched> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, fetched: Fetched, ctx: &mut Context<Self>) {
        self.protected(|actor| {
            if let Some(stepper) = &mut actor.stepper {
                actor.offloading.arrived(fetched, stepper, actor.clock.now());
            }
            actor.pump(ctx);
        });
    }
}

impl Handler<Cancel> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, Cancel { response, by, freed }: Cancel, ctx: &mut Context<Self>) {
        self.protected(|actor| {
            let was_live = actor.stepper.as_mut().is_some_and(|stepper| match by {
                CancelledBy::Stream => stepper.cancel(response),
                CancelledBy::Id => stepper.end(response, &CANCELLED),
            });
            // The caller may have gone.
            let _ = freed.send(was_live);
            actor.pump(ctx);
        });
    }
}

impl Handler<CancelChoice> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, CancelChoice { response, choice }: CancelChoice, ctx: &mut Context<Self>) {
        self.protected(|actor| {
            if let Some(stepper) = &mut actor.stepper {
                stepper.cancel_choice(response, choice);
            }
            actor.pump(ctx);
        });
    }
}

impl Handler<Look> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, Look { size, reply }: Look, _: &mut Context<Self>) {
        self.protected(|actor| {
            if let Some(stepper) = actor.stepper.as_ref().filter(|_| !reply.is_closed()) {
                // The caller may have gone.
                let _ = reply.send(stepper.look(size));
            }
        });
    }
}

impl Handler<EndAll> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, EndAll: EndAll, _: &mut Context<Self>) {
        self.protected(|actor| {
            actor.closed = true;
            if let Some(stepper) = &mut actor.stepper {
                stepper
                    .end_all(&TextEnd::Failed { code: "server_shutdown", message: "The server is shutting down.".to_owned() });
            }
        });
    }
}

impl Handler<Stop> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, Stop { stopped }: Stop, ctx: &mut Context<Self>) {
        self.closed = true;
        self.seat.stop();
        if let Some(stepper) = &mut self.stepper {
            let spills = self.offloading.last_spills(stepper);
            self.work(EngineJob::Keep(spills));
        }
        self.jobs = None;
        self.stopped = Some(stopped);
        if self.thread_ended {
            StreamHandler::finished(self, ctx);
        }
    }
}

#[cfg(test)]
#[path = "scheduling_tests.rs"]
mod tests;
