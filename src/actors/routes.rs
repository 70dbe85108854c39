//! Which response a sequence belongs to, and what is on its way there.
//!
//! Owns: the senders to all StreamActors. Promises: a response's events go out in the order of the
//! scheduler, one message a step; a sequence is either known here or ended. Never waits: a stream
//! whose inbox is full or gone is given up.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::actors::ends::TextEnd;
use crate::actors::flight::{RecordedSlice, RecordedStep};
use crate::actors::mail::{ChoiceEvent, ChoiceEventKind, Feed};
use crate::actors::messages::Cached;
use crate::actors::registry::{LiveEntry, ResponseId};
use crate::actors::snapshot::{Owner, Phase};
use crate::actors::ttft::BegunPrompt;
use crate::batch::{Batch, SeqId, StepWork};
use crate::scheduler::{FinishReason, SequenceEvent};

/// Steps that a StreamActor may lag behind before its response is given up: seconds of the fastest
/// engine. It takes microseconds for each, so only a thread that hangs gets here.
pub(super) const FEED_MAX_COUNT: usize = 4_096;

#[derive(Debug)]
struct Route {
    live: Arc<LiveEntry>,
    feed: mpsc::Sender<Feed>,
    /// What the core calls the request.
    request: SeqId,
    choices: Vec<ChoiceRoute>,
    pending: Vec<ChoiceEvent>,
}

/// A choice, as the core knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChoiceRoute {
    /// It has not entered the queue.
    Held,
    /// It waits or runs.
    Live(SeqId),
    /// It has ended.
    Ended,
}

impl Route {
    fn has_ended(&self) -> bool {
        self.choices.iter().all(|choice| *choice == ChoiceRoute::Ended)
    }
}

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    responses: HashMap<ResponseId, Route>,
    /// Whose request it is, by the core's name for it.
    requests: HashMap<SeqId, ResponseId>,
    sequences: HashMap<SeqId, (ResponseId, u32)>,
    /// Responses with pending events, oldest event first.
    touched: Vec<ResponseId>,
}

impl Routes {
    /// A response was admitted as `request`, which is the sequence of its first choice; the others
    /// enter later.
    pub(super) fn open(&mut self, live: Arc<LiveEntry>, request: SeqId, choices_count: usize, feed: mpsc::Sender<Feed>) {
        let response = live.response;
        let choices = vec![ChoiceRoute::Held; choices_count];
        self.responses.insert(response, Route { live, feed, request, choices, pending: Vec::new() });
        self.requests.insert(request, response);
        self.enter(request, 0, request);
    }

    /// A choice of a request is this sequence.
    fn enter(&mut self, request: SeqId, index: usize, seq: SeqId) {
        let Some(response) = self.requests.get(&request) else { return };
        let Some(choice) = self.responses.get_mut(response).and_then(|route| route.choices.get_mut(index)) else { return };
        *choice = ChoiceRoute::Live(seq);
        self.sequences.insert(seq, (*response, u32::try_from(index).expect("choices are counted in 32 bits")));
    }

    /// The sequences of a planned step that compute their prompt are in prefill now; `step` gets
    /// their slices.
    pub(super) fn planned(&self, batch: &Batch, step: &mut RecordedStep) {
        step.computes(StepWork::of(batch));
        for slice in &batch.slices {
            if slice.draw.as_ref().is_some_and(|draw| draw.generated_count > 0) {
                continue;
            }
            if let Some((live, choice)) = self.live(slice.seq) {
                live.reached(Phase::Prefill);
                if choice == 0 {
                    live.add_slice();
                }
                step.add_slice(RecordedSlice { live: Arc::clone(live), start: slice.start, tokens: slice.len() });
            }
        }
    }

    /// Notes an event of the scheduler for its response. Events of sequences that were given up are
    /// dropped.
    pub(super) fn note(&mut self, event: SequenceEvent) {
        match event {
            SequenceEvent::Entered { request, index, seq } => self.enter(request, index, seq),
            SequenceEvent::Began { seq, prompt_tokens, cached_tokens, missed_tokens, miss, held_micros } => {
                let computed_tokens = prompt_tokens - cached_tokens;
                if let Some(live) = self.first(seq) {
                    live.began(BegunPrompt { held_micros, cached_tokens, computed_tokens, missed_tokens });
                }
                self.add(seq, ChoiceEventKind::Began(Cached::of(cached_tokens, miss)));
            }
            SequenceEvent::SentBack { seq } => self.first(seq).into_iter().for_each(|live| live.sent_back()),
            SequenceEvent::Resumed { seq } => self.first(seq).into_iter().for_each(|live| live.resumed()),
            SequenceEvent::Drafted { seq, draft_tokens, accepted_tokens } => {
                self.live(seq).into_iter().for_each(|(live, _)| live.add_drafts(draft_tokens, accepted_tokens));
            }
            SequenceEvent::PromptLogprobs { seq, logprobs } => self.add(seq, ChoiceEventKind::Prompt(logprobs)),
            SequenceEvent::Token { seq, token, logprobs } => self.add(seq, ChoiceEventKind::Token { token, logprobs }),
            SequenceEvent::Finished { seq, reason, logprobs } => {
                if let (FinishReason::Stop(_), Some((live, _))) = (reason, self.live(seq)) {
                    live.add_completion_tokens(1);
                }
                self.add(seq, ChoiceEventKind::Ended { end: TextEnd::Finished(reason), logprobs });
                self.forget(seq);
            }
        }
    }

    /// Sends what was noted. Answers the requests whose stream is gone or stuck: they are to be
    /// cancelled.
    pub(super) fn flush(&mut self) -> Vec<SeqId> {
        let mut orphans = Vec::new();
        for response in std::mem::take(&mut self.touched) {
            let Some(route) = self.responses.get_mut(&response) else { continue };
            let sent = route.feed.try_send(Feed(std::mem::take(&mut route.pending))).is_ok();
            if !sent {
                orphans.extend(self.close(response));
            } else if route.has_ended() {
                // Dropping the sender tells the StreamActor that nothing more comes.
                self.close(response);
            }
        }
        orphans
    }

    /// Forgets a response at once, with what was noted for it. Answers its request, if a part of it
    /// has not ended.
    pub(super) fn close(&mut self, response: ResponseId) -> Option<SeqId> {
        let route = self.responses.remove(&response)?;
        self.requests.remove(&route.request);
        for choice in &route.choices {
            if let ChoiceRoute::Live(seq) = choice {
                self.sequences.remove(seq);
            }
        }
        (!route.has_ended()).then_some(route.request)
    }

    /// Forgets one choice at once; its stream knows already. Answers its sequence, if it has not
    /// ended.
    pub(super) fn close_choice(&mut self, response: ResponseId, choice: u32) -> Option<SeqId> {
        let route = self.responses.get_mut(&response)?;
        let slot = route.choices.get_mut(choice as usize)?;
        let ChoiceRoute::Live(seq) = *slot else { return None };
        *slot = ChoiceRoute::Ended;
        self.sequences.remove(&seq);
        if route.has_ended() && route.pending.is_empty() {
            self.close(response);
        }
        Some(seq)
    }

    /// Notes `end` for every choice of a response that has not ended. Answers its request, if there
    /// was such a choice.
    pub(super) fn end(&mut self, response: ResponseId, end: &TextEnd) -> Option<SeqId> {
        let route = self.responses.get_mut(&response)?;
        let (request, had_ended, was_touched) = (route.request, route.has_ended(), !route.pending.is_empty());
        for (number, choice) in (0..).zip(&mut route.choices) {
            if let ChoiceRoute::Live(seq) = choice {
                self.sequences.remove(seq);
            }
            if std::mem::replace(choice, ChoiceRoute::Ended) != ChoiceRoute::Ended {
                let kind = ChoiceEventKind::Ended { end: end.clone(), logprobs: None };
                route.pending.push(ChoiceEvent { choice: number, kind });
            }
        }
        if !had_ended && !was_touched {
            self.touched.push(response);
        }
        (!had_ended).then_some(request)
    }

    /// As [`Routes::end`], for every response, oldest first.
    pub(super) fn end_all(&mut self, end: &TextEnd) -> Vec<SeqId> {
        let mut all: Vec<ResponseId> = self.responses.keys().copied().collect();
        all.sort_unstable();
        all.into_iter().filter_map(|response| self.end(response, end)).collect()
    }

    /// Whose a sequence is.
    pub(super) fn owner(&self, seq: SeqId) -> Owner {
        let owner =
            |(live, choice): (&Arc<LiveEntry>, u32)| Owner { request_id: live.request_id.clone(), key: live.owner, choice };
        self.live(seq).map_or_else(Owner::default, owner)
    }

    /// The request of a sequence, and which of its choices it is.
    fn live(&self, seq: SeqId) -> Option<(&Arc<LiveEntry>, u32)> {
        let (response, choice) = self.sequences.get(&seq)?;
        Some((&self.responses.get(response)?.live, *choice))
    }

    /// The request whose first choice a sequence is.
    fn first(&self, seq: SeqId) -> Option<&Arc<LiveEntry>> {
        self.live(seq).filter(|(_, choice)| *choice == 0).map(|(live, _)| live)
    }

    fn add(&mut self, seq: SeqId, kind: ChoiceEventKind) {
        let Some((response, choice)) = self.sequences.get(&seq).copied() else { return };
        let Some(route) = self.responses.get_mut(&response) else { return };
        if matches!(kind, ChoiceEventKind::Token { .. }) {
            route.live.reached(Phase::Decode);
            route.live.add_completion_tokens(1);
        }
        if route.pending.is_empty() {
            self.touched.push(response);
        }
        route.pending.push(ChoiceEvent { choice, kind });
    }

    fn forget(&mut self, seq: SeqId) {
        let Some((response, choice)) = self.sequences.remove(&seq) else { return };
        if let Some(slot) = self.responses.get_mut(&response).and_then(|route| route.choices.get_mut(choice as usize)) {
            *slot = ChoiceRoute::Ended;
        }
    }
}

/// How a cancelled response ends.
pub(super) const CANCELLED: TextEnd = TextEnd::Finished(FinishReason::Cancelled);

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
