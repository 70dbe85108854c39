//! An answer as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, Responder};
use actix_web_lab::sse;
use futures_core::Stream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, interval_at};

use crate::actors::messages::{FinishKind, Part, PartKind};
use crate::actors::parts::PartReceiver;
use crate::http::answer::encoder::{Encoder, Frame};
use crate::http::answer::whole::Broken;
use crate::http::errors::ApiError;
use crate::metrics::StreamRecord;

/// Nginx would hold a stream back until its buffer is full.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers with a stream: from here on every failure travels inside it.
pub(in crate::http) fn respond(
    request: &HttpRequest,
    parts: PartReceiver,
    encoder: Encoder,
    keep_alive: Duration,
    record: StreamRecord,
) -> HttpResponse {
    let events = Events::new(parts, encoder, keep_alive, record);
    let mut response = sse::Sse::from_stream(events).respond_to(request).map_into_boxed_body();
    response.headers_mut().insert(NO_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// The events of an answer. Pulled by the connection: nothing is gathered here beyond the frames of
/// one part.
struct Events {
    /// Counts as cancelled if it is dropped: the client left, or the answer was cancelled by id.
    /// The first to be dropped: once the actors learn of it, it is counted.
    record: Option<StreamRecord>,
    parts: PartReceiver,
    encoder: Encoder,
    frames: VecDeque<Frame>,
    over: bool,
    /// What must be done before the last frames are sent, on another thread.
    last_work: Option<JoinHandle<bool>>,
    /// Fires after silence. Our own, because actix-web-lab's also fires at once, and into a busy
    /// stream.
    silence: Interval,
}

impl Events {
    fn new(parts: PartReceiver, mut encoder: Encoder, keep_alive: Duration, record: StreamRecord) -> Self {
        let mut frames = VecDeque::new();
        encoder.begin(&mut frames);
        let silence = interval_at(Instant::now() + keep_alive, keep_alive);
        Self { parts, encoder, frames, over: false, last_work: None, silence, record: Some(record) }
    }

    fn take(&mut self, part: Option<Part>) {
        let cancelled = part.as_ref().is_some_and(is_cancelled);
        self.over = match part {
            Some(part) => self.encoder.part(&part, &mut self.frames),
            None => {
                self.encoder.fail(ApiError::from(lost()).object(), &mut self.frames);
                true
            }
        };
        if cancelled {
            self.record = None;
        }
        if self.over {
            self.parts.close();
            self.last_work = self.encoder.last_work().map(tokio::task::spawn_blocking);
            if let Some(record) = self.record.take() {
                record.finished();
            }
        }
    }
}

impl Events {
    /// Nothing is to be sent; after long silence a comment, or the dialect's own event for it.
    fn silent(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<sse::Event, Infallible>>> {
        let alive = |_| self.encoder.ping().map_or_else(|| sse::Event::Comment("keep-alive".into()), event);
        self.silence.poll_tick(context).map(|tick| Some(Ok(alive(tick))))
    }
}

fn is_cancelled(part: &Part) -> bool {
    matches!(&part.kind, PartKind::Finished(finish) if finish.kind == FinishKind::Cancelled)
}

/// The actors let go of an answer before its end.
pub(in crate::http) fn lost() -> Broken {
    Broken { code: "stream_lost", message: "the answer ended before it was finished".to_owned() }
}

impl Stream for Events {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            // It says itself what went wrong; the reader gets its answer all the same.
            match this.last_work.as_mut().map(|work| Pin::new(work).poll(context)) {
                Some(Poll::Pending) => return this.silent(context),
                Some(Poll::Ready(Ok(false))) => {
                    if let Some(frame) = this.encoder.end_unkept() {
                        this.frames.pop_back();
                        this.frames.push_back(frame);
                    }
                }
                Some(Poll::Ready(_)) | None => {}
            }
            this.last_work = None;
            if let Some(frame) = this.frames.pop_front() {
                this.silence.reset();
                return Poll::Ready(Some(Ok(event(frame))));
            }
            if this.over {
                return Poll::Ready(None);
            }
            match this.parts.poll_recv(context) {
                Poll::Ready(part) => this.take(part),
                Poll::Pending => return this.silent(context),
            }
        }
    }
}

fn event(frame: Frame) -> sse::Event {
    let data = sse::Data::new(frame.data);
    match frame.event {
        Some(name) => data.event(name).into(),
        None => data.into(),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
