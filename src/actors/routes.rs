//! Which response a sequence belongs to, and what is on its way there.
//!
//! Owns: the senders to all StreamActors. Promises: a response's events go out in the order of the scheduler, one message a step;
//! a sequence is either known here or ended. Never waits: a stream whose inbox is full or gone is given up.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::actors::mail::{ChoiceEvent, ChoiceEventKind, Feed};
use crate::actors::registry::{Live, ResponseId};
use crate::actors::snapshot::{Owner, Phase};
use crate::actors::text::End;
use crate::batch::{Batch, SeqId};
use crate::scheduler::{Event, FinishReason};

/// Steps that a StreamActor may lag behind before its response is given up: seconds of the fastest engine. It takes
/// microseconds for each, so only a thread that hangs gets here.
pub(super) const FEED_MAX_COUNT: usize = 4_096;

#[derive(Debug)]
struct Route {
    live: Arc<Live>,
    feed: mpsc::Sender<Feed>,
    /// The choices' sequences; `None` once ended.
    sequences: Vec<Option<SeqId>>,
    pending: Vec<ChoiceEvent>,
}

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    responses: HashMap<ResponseId, Route>,
    sequences: HashMap<SeqId, (ResponseId, u32)>,
    /// Responses with pending events, oldest event first.
    touched: Vec<ResponseId>,
}

impl Routes {
    /// A response was admitted: choice `i` is `sequences[i]`.
    pub(super) fn open(&mut self, live: Arc<Live>, sequences: &[SeqId], feed: mpsc::Sender<Feed>) {
        let response = live.response;
        for (choice, seq) in (0..).zip(sequences) {
            self.sequences.insert(*seq, (response, choice));
        }
        let sequences = sequences.iter().copied().map(Some).collect();
        self.responses.insert(response, Route { live, feed, sequences, pending: Vec::new() });
    }

    /// The sequences of a planned step that compute their prompt are in prefill now.
    pub(super) fn planned(&self, batch: &Batch) {
        for slice in &batch.slices {
            if slice.draw.as_ref().is_some_and(|draw| draw.generated_count > 0) {
                continue;
            }
            if let Some(route) = self.sequences.get(&slice.seq).and_then(|(response, _)| self.responses.get(response)) {
                route.live.reached(Phase::Prefill);
            }
        }
    }

    /// Notes an event of the scheduler for its response. Events of sequences that were given up are dropped.
    pub(super) fn note(&mut self, event: Event) {
        match event {
            Event::PromptLogprobs { seq, logprobs } => self.add(seq, ChoiceEventKind::Prompt(logprobs)),
            Event::Token { seq, token, logprobs } => self.add(seq, ChoiceEventKind::Token { token, logprobs }),
            Event::Finished { seq, reason, logprobs } => {
                self.add(seq, ChoiceEventKind::Ended { end: End::Finished(reason), logprobs });
                self.forget(seq);
            }
        }
    }

    /// Sends what was noted. Answers the sequences whose stream is gone or stuck: they are to be cancelled.
    pub(super) fn flush(&mut self) -> Vec<SeqId> {
        let mut orphans = Vec::new();
        for response in std::mem::take(&mut self.touched) {
            let Some(route) = self.responses.get_mut(&response) else { continue };
            let sent = route.feed.try_send(Feed(std::mem::take(&mut route.pending))).is_ok();
            if !sent {
                orphans.extend(self.close(response));
            } else if route.sequences.iter().all(Option::is_none) {
                // Dropping the sender tells the StreamActor that nothing more comes.
                self.responses.remove(&response);
            }
        }
        orphans
    }

    /// Forgets a response at once, with what was noted for it. Answers its sequences that have not ended.
    pub(super) fn close(&mut self, response: ResponseId) -> Vec<SeqId> {
        let Some(route) = self.responses.remove(&response) else { return Vec::new() };
        let live: Vec<SeqId> = route.sequences.into_iter().flatten().collect();
        for seq in &live {
            self.sequences.remove(seq);
        }
        live
    }

    /// Forgets one choice at once; its stream knows already. Answers its sequence, if it has not ended.
    pub(super) fn close_choice(&mut self, response: ResponseId, choice: u32) -> Option<SeqId> {
        let route = self.responses.get_mut(&response)?;
        let seq = route.sequences.get_mut(choice as usize)?.take()?;
        self.sequences.remove(&seq);
        if route.sequences.iter().all(Option::is_none) && route.pending.is_empty() {
            self.responses.remove(&response);
        }
        Some(seq)
    }

    /// Notes `end` for every choice of a response that has not ended. Answers their sequences.
    pub(super) fn end(&mut self, response: ResponseId, end: &End) -> Vec<SeqId> {
        let Some(route) = self.responses.get(&response) else { return Vec::new() };
        let live: Vec<SeqId> = route.sequences.iter().copied().flatten().collect();
        for seq in &live {
            self.add(*seq, ChoiceEventKind::Ended { end: end.clone(), logprobs: None });
            self.forget(*seq);
        }
        live
    }

    /// As [`Routes::end`], for every response, oldest first.
    pub(super) fn end_all(&mut self, end: &End) -> Vec<SeqId> {
        let mut all: Vec<ResponseId> = self.responses.keys().copied().collect();
        all.sort_unstable();
        all.into_iter().flat_map(|response| self.end(response, end)).collect()
    }

    /// Whose a sequence is.
    pub(super) fn owner(&self, seq: SeqId) -> Owner {
        let found = self.sequences.get(&seq).and_then(|(response, choice)| Some((self.responses.get(response)?, *choice)));
        found.map_or_else(Owner::default, |(route, choice)| Owner {
            request_id: route.live.request_id.clone(),
            key: route.live.owner,
            choice,
        })
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
        if let Some(slot) = self.responses.get_mut(&response).and_then(|route| route.sequences.get_mut(choice as usize)) {
            *slot = None;
        }
    }
}

/// How a cancelled response ends.
pub(super) const CANCELLED: End = End::Finished(FinishReason::Cancelled);
