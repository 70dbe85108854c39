//! The live requests and the sessions that they belong to.
//!
//! Owns: one entry for each request from the moment it is received until its last byte is handed to
//! its reader, or until it is refused. Promises: an entry goes when its [`Ticket`] is dropped, also
//! in a panic; so nothing stays behind. Read by http and metrics without asking an actor. Absent on
//! purpose: blocks and sequences, which the scheduler owns.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::Notify;

use crate::actors::messages::KeyId;
use crate::actors::snapshot::{EndedRequest, LiveRequest, Phase, Timeline};
use crate::actors::ttft::{BegunPrompt, FirstTokenMarks};
use crate::batch::Micros;
use crate::clock::Clock;
use crate::metrics::RequestOutcome;

/// A session without a live request counts as active for five minutes: the time a reader takes for
/// an answer and a reply.
const SESSION_IDLE_MICROS: u64 = 300_000_000;
/// Sessions remembered at most; a client that names a new one with each request must not fill the
/// memory.
const SESSIONS_MAX_COUNT: usize = 16_384;
/// Ended requests remembered for the console: a lock and a copy of some 200 bytes a request.
const RECENT_MAX_COUNT: usize = 128;

/// What is known of a live request.
#[derive(Debug)]
pub(super) struct LiveEntry {
    /// Its id, made by http.
    pub(super) request_id: String,
    /// The key that it came with.
    pub(super) owner: KeyId,
    /// When it was received.
    pub(super) received: Micros,
    /// The response's number; never used twice.
    pub(super) response: ResponseId,
    session: Option<String>,
    phase: AtomicU8,
    clock: Clock,
    /// When each phase was reached, by its number; zero if it was not.
    reached: [AtomicU64; Phase::ALL.len()],
    /// When the first text was handed to the reader; zero before.
    first_text: AtomicU64,
    marks: FirstTokenMarks,
    outcome: OnceLock<RequestOutcome>,
    prompt_tokens: AtomicUsize,
    completion_tokens: AtomicU64,
    draft_tokens: AtomicU64,
    accepted_draft_tokens: AtomicU64,
    cancelled: AtomicBool,
}

/// A response, as the actors name it among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ResponseId(pub(super) u64);

impl LiveEntry {
    /// Notes how far it is; never goes back, so the furthest choice counts.
    pub(super) fn reached(&self, phase: Phase) {
        // The clock is read where something changes, not at every token.
        if self.phase.fetch_max(phase as u8, Ordering::Relaxed) < phase as u8 {
            self.reached[phase as usize].store(self.clock.now().0, Ordering::Relaxed);
        }
    }

    /// Notes what was found of its first prompt when it began.
    pub(super) fn began(&self, begun: BegunPrompt) {
        self.marks.began(begun);
    }

    /// Notes that a slice of its first prompt is in a step.
    pub(super) fn add_slice(&self) {
        self.marks.add_slice();
    }

    /// Notes that its first choice was sent back to the queue; after its first token that is no
    /// matter of its first text any more.
    pub(super) fn sent_back(&self) {
        if self.phase() < Phase::Decode {
            self.marks.sent_back(self.clock.now());
        }
    }

    /// Notes that its first choice runs again.
    pub(super) fn resumed(&self) {
        self.marks.resumed(self.clock.now());
    }

    /// Notes that the first text was handed to the reader.
    pub(super) fn sent_text(&self, now: Micros) {
        // Only the request's StreamActor writes it.
        if self.first_text.load(Ordering::Relaxed) == 0 {
            self.first_text.store(now.0, Ordering::Relaxed);
        }
    }

    /// Notes how it ended.
    pub(super) fn set_outcome(&self, outcome: RequestOutcome) {
        // The first one counts.
        let _ = self.outcome.set(outcome);
    }

    /// Notes how long its prompt is.
    pub(super) fn set_prompt_tokens(&self, tokens: usize) {
        self.prompt_tokens.store(tokens, Ordering::Relaxed);
    }

    /// Notes that more tokens were generated.
    pub(super) fn add_completion_tokens(&self, tokens: u64) {
        self.completion_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// Notes that so many of its tokens were guessed, and how many of them were right.
    pub(super) fn add_drafts(&self, draft_tokens: usize, accepted_tokens: usize) {
        self.draft_tokens.fetch_add(draft_tokens as u64, Ordering::Relaxed);
        self.accepted_draft_tokens.fetch_add(accepted_tokens as u64, Ordering::Relaxed);
    }

    /// Notes that it is to end; the scheduler looks when it takes the request.
    pub(super) fn set_cancelled(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether it is to end.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// How far it is.
    pub(super) fn phase(&self) -> Phase {
        let phase = self.phase.load(Ordering::Relaxed);
        Phase::ALL.into_iter().find(|candidate| *candidate as u8 == phase).unwrap_or(Phase::Sending)
    }

    fn timeline(&self) -> Timeline {
        let at = |mark: &AtomicU64| match mark.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Micros(at).since(self.received)),
        };
        let reached = |phase: Phase| at(&self.reached[phase as usize]);
        Timeline {
            received: self.received,
            queued_micros: reached(Phase::Queued),
            prefill_micros: reached(Phase::Prefill),
            decode_micros: reached(Phase::Decode),
            first_text_micros: at(&self.first_text),
            sending_micros: reached(Phase::Sending),
        }
    }

    fn describe(&self, now: Micros) -> LiveRequest {
        let (timeline, age_micros) = (self.timeline(), now.since(self.received));
        LiveRequest {
            request_id: self.request_id.clone(),
            owner: self.owner,
            phase: self.phase(),
            age_micros,
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            completion_tokens: self.completion_tokens.load(Ordering::Relaxed),
            draft_tokens: self.draft_tokens.load(Ordering::Relaxed),
            accepted_draft_tokens: self.accepted_draft_tokens.load(Ordering::Relaxed),
            session: self.session.clone(),
            first_text: self.marks.parts(&timeline, age_micros),
            timeline,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Session {
    live_count: usize,
    last_seen: Micros,
}

impl Session {
    fn is_active(&self, now: Micros) -> bool {
        self.live_count > 0 || now.since(self.last_seen) < SESSION_IDLE_MICROS
    }
}

/// All live requests.
#[derive(Debug)]
pub(super) struct Registry {
    clock: Clock,
    live: DashMap<String, Arc<LiveEntry>>,
    sessions: DashMap<String, Session>,
    responses: AtomicU64,
    ended: Notify,
    recent: Mutex<VecDeque<EndedRequest>>,
}

impl Registry {
    /// No request, no session.
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            live: DashMap::new(),
            sessions: DashMap::new(),
            responses: AtomicU64::new(0),
            ended: Notify::new(),
            recent: Mutex::default(),
        }
    }

    /// Enters a request; `None` if one with this id is live already.
    pub(super) fn enter(self: &Arc<Self>, request_id: String, owner: KeyId, session: Option<String>) -> Option<Ticket> {
        let now = self.clock.now();
        let live = match self.live.entry(request_id) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => {
                let live = Arc::new(LiveEntry {
                    request_id: vacant.key().clone(),
                    owner,
                    received: now,
                    response: ResponseId(self.responses.fetch_add(1, Ordering::Relaxed)),
                    session,
                    phase: AtomicU8::new(Phase::Building as u8),
                    clock: self.clock,
                    reached: Default::default(),
                    first_text: AtomicU64::new(0),
                    marks: FirstTokenMarks::default(),
                    outcome: OnceLock::new(),
                    prompt_tokens: AtomicUsize::new(0),
                    completion_tokens: AtomicU64::new(0),
                    draft_tokens: AtomicU64::new(0),
                    accepted_draft_tokens: AtomicU64::new(0),
                    cancelled: AtomicBool::new(false),
                });
                vacant.insert(Arc::clone(&live));
                live
            }
        };
        if let Some(session) = &live.session {
            self.enter_session(session, now);
        }
        Some(Ticket { registry: Arc::clone(self), live })
    }

    /// The live request of this id.
    pub(super) fn find(&self, request_id: &str) -> Option<Arc<LiveEntry>> {
        self.live.get(request_id).map(|entry| Arc::clone(entry.value()))
    }

    /// How many requests are live.
    pub(super) fn count(&self) -> usize {
        self.live.len()
    }

    /// How many of them the scheduler took.
    pub(super) fn streams_count(&self) -> usize {
        self.live.iter().filter(|entry| entry.value().phase() != Phase::Building).count()
    }

    /// The live requests, oldest first.
    pub(super) fn describe(&self, now: Micros) -> Vec<LiveRequest> {
        let mut all: Vec<Arc<LiveEntry>> = self.live.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_by_key(|live| live.response);
        all.iter().map(|live| live.describe(now)).collect()
    }

    /// The requests that ended last, latest first, at most `count`.
    pub(super) fn recent(&self, count: usize) -> Vec<EndedRequest> {
        self.remembered().iter().rev().take(count).cloned().collect()
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<EndedRequest>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sessions are active.
    pub(super) fn sessions_active(&self, now: Micros) -> usize {
        self.sessions.iter().filter(|entry| entry.value().is_active(now)).count()
    }

    /// Resolves once no request is live.
    pub(super) async fn emptied(&self) {
        loop {
            let ended = self.ended.notified();
            if self.live.is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn enter_session(&self, name: &str, now: Micros) {
        if self.sessions.len() >= SESSIONS_MAX_COUNT && !self.sessions.contains_key(name) {
            self.sessions.retain(|_, session| session.is_active(now));
            if self.sessions.len() >= SESSIONS_MAX_COUNT {
                self.sessions.retain(|_, session| session.live_count > 0);
            }
        }
        let mut session = self.sessions.entry(name.to_owned()).or_insert(Session { live_count: 0, last_seen: now });
        session.live_count += 1;
        session.last_seen = now;
    }

    fn leave(&self, live: &LiveEntry) {
        self.live.remove(&live.request_id);
        let ended = EndedRequest { request: live.describe(self.clock.now()), outcome: live.outcome.get().copied() };
        let mut recent = self.remembered();
        if recent.len() == RECENT_MAX_COUNT {
            recent.pop_front();
        }
        recent.push_back(ended);
        drop(recent);
        if let Some(name) = &live.session
            && let Some(mut session) = self.sessions.get_mut(name)
        {
            session.live_count = session.live_count.saturating_sub(1);
            session.last_seen = self.clock.now();
        }
        self.ended.notify_waiters();
    }
}

/// The right to be in the registry: dropping it takes the request out.
#[derive(Debug)]
pub(super) struct Ticket {
    registry: Arc<Registry>,
    live: Arc<LiveEntry>,
}

impl std::ops::Deref for Ticket {
    type Target = LiveEntry;

    fn deref(&self) -> &LiveEntry {
        &self.live
    }
}

impl Ticket {
    /// The entry, for callers that only note what happens to it.
    pub(super) fn live(&self) -> Arc<LiveEntry> {
        Arc::clone(&self.live)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.registry.leave(&self.live);
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
