//! The two records that stand for a request and for a stream from beginning to end.

use super::window::Ended;
use super::{Metrics, lock};
use crate::batch::Micros;

/// Why a request was refused before a byte was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectKind {
    /// The client's input cannot be served.
    Invalid,
    /// Too much waits already.
    QueueFull,
    /// Loading, draining, or the engine is being rebuilt.
    Unavailable,
    /// There is no memory for it.
    Memory,
    /// The client left before it was decided.
    Abandoned,
}

impl RejectKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Invalid, Self::QueueFull, Self::Unavailable, Self::Memory, Self::Abandoned];

    /// The kind as a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::QueueFull => "queue_full",
            Self::Unavailable => "unavailable",
            Self::Memory => "memory",
            Self::Abandoned => "abandoned",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// Success: every choice came to its own end (a stop token, a stop string, a function call).
    Stop,
    /// Success: at least one choice ended because the tokens asked for were generated.
    Length,
    /// The client left, or the request was cancelled by id.
    Cancelled,
    /// It failed through the server's fault.
    Failed,
}

impl RequestOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Cancelled, Self::Failed];

    /// The outcome as `/stats` counts it.
    #[must_use]
    pub fn status(self) -> &'static str {
        match self {
            Self::Stop | Self::Length => "success",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// The outcome as vLLM's `finished_reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "abort",
            Self::Failed => "error",
        }
    }
}

/// One request, from its arrival to its end. Dropped without an end it counts as cancelled, so none
/// is ever lost.
#[must_use = "a record that is dropped counts as a request whose client left"]
#[derive(Debug)]
pub struct RequestRecord {
    metrics: Metrics,
    received: Micros,
    admitted: bool,
    ttft_micros: Option<u64>,
    last_event: Vec<Option<Micros>>,
    completion_tokens: u64,
    ended: bool,
}

impl RequestRecord {
    pub(super) fn new(metrics: Metrics, now: Micros) -> Self {
        metrics.inner.families.requests.received.inc();
        Self {
            metrics,
            received: now,
            admitted: false,
            ttft_micros: None,
            last_event: Vec::new(),
            completion_tokens: 0,
            ended: false,
        }
    }

    /// The scheduler took it; from here on it is active.
    pub fn admitted(&mut self, prompt_tokens: usize) {
        self.admit();
        let requests = &self.metrics.inner.families.requests;
        requests.prompt_tokens.add(prompt_tokens as u64);
        requests.request_prompt_tokens.observe(prompt_tokens as f64);
    }

    fn admit(&mut self) {
        if self.admitted {
            return;
        }
        self.admitted = true;
        let requests = &self.metrics.inner.families.requests;
        let _whole = lock(&self.metrics.inner.recent);
        requests.admitted.inc();
        requests.active.inc();
        requests.admission.with_label_values(&["accept"]).inc();
    }

    /// It was refused. A failure inside the server is no refusal: that is [`RequestRecord::ended`]
    /// with [`RequestOutcome::Failed`], admitted or not.
    pub fn rejected(mut self, kind: RejectKind) {
        self.refuse(kind);
    }

    fn refuse(&mut self, kind: RejectKind) {
        self.ended = true;
        let requests = &self.metrics.inner.families.requests;
        requests.rejected.with_label_values(&[kind.name()]).inc();
        if kind != RejectKind::Abandoned {
            requests.admission.with_label_values(&["reject"]).inc();
        }
    }

    /// The first content is sent to the client; later calls change nothing.
    pub fn first_content(&mut self, now: Micros) {
        if self.ttft_micros.is_none() {
            let ttft = now.since(self.received);
            self.ttft_micros = Some(ttft);
            self.metrics.inner.families.requests.ttft.observe_micros(ttft);
            self.metrics.inner.watched.ttft(ttft, now);
        }
    }

    /// `count` tokens of a choice arrived together.
    pub fn tokens(&mut self, choice: u32, count: usize, now: Micros) {
        let choice = choice as usize;
        if self.last_event.len() <= choice {
            self.last_event.resize(choice + 1, None);
        }
        if let Some(last) = self.last_event[choice].replace(now) {
            let itl = now.since(last);
            self.metrics.inner.families.requests.itl.observe_micros(itl);
            self.metrics.inner.watched.itl(itl, now);
        }
        self.completion_tokens += count as u64;
    }

    /// Tokens that arrived so far, of all choices.
    #[must_use]
    pub fn completion_tokens(&self) -> u64 {
        self.completion_tokens
    }

    /// The request is at its end.
    pub fn ended(mut self, outcome: RequestOutcome, now: Micros) {
        self.admit();
        self.end(outcome, now);
    }

    fn end(&mut self, outcome: RequestOutcome, now: Micros) {
        self.ended = true;
        let requests = &self.metrics.inner.families.requests;
        let e2e = now.since(self.received);
        if outcome.status() == "success" {
            requests.e2e.observe_micros(e2e);
        }
        requests.request_completion_tokens.observe(self.completion_tokens as f64);
        requests.ended_by_reason.with_label_values(&[outcome.reason()]).inc();
        let mut recent = lock(&self.metrics.inner.recent);
        requests.active.dec();
        requests.ended.with_label_values(&[outcome.status()]).inc();
        recent.add(Ended { at: now, outcome, ttft_micros: self.ttft_micros, e2e_micros: e2e });
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.admitted {
            // No clock here: the last time that is known is near enough for a window of a minute.
            let last = self.last_event.iter().flatten().max().copied().unwrap_or(self.received);
            self.end(RequestOutcome::Cancelled, last);
        } else {
            self.refuse(RejectKind::Abandoned);
        }
    }
}

/// One open stream. Dropped before it is finished it counts as cancelled.
#[must_use = "a record that is dropped counts as a cancelled stream"]
#[derive(Debug)]
pub struct StreamRecord {
    metrics: Metrics,
    finished: bool,
}

impl StreamRecord {
    pub(super) fn new(metrics: Metrics) -> Self {
        metrics.inner.families.requests.stream_active.inc();
        Self { metrics, finished: false }
    }

    /// The last byte of the stream was handed over.
    pub fn finished(mut self) {
        self.finished = true;
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        let requests = &self.metrics.inner.families.requests;
        requests.stream_active.dec();
        if !self.finished {
            requests.stream_cancelled.inc();
        }
    }
}
