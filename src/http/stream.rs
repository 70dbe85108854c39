//! An answer as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, Responder};
use actix_web_lab::sse;
use futures_core::Stream;
use tokio::time::{Instant, Interval, interval_at};

use super::errors::ApiError;
use super::parts::Parts;
use super::wire::encoder::{Encoder, Frame};
use super::wire::whole::Broken;

/// Nginx would hold a stream back until its buffer is full.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers with a stream: from here on every failure travels inside it.
pub(super) fn respond(request: &HttpRequest, parts: Parts, encoder: Encoder, keep_alive: Duration) -> HttpResponse {
    let events = Events::new(parts, encoder, keep_alive);
    let mut response = sse::Sse::from_stream(events).respond_to(request).map_into_boxed_body();
    response.headers_mut().insert(NO_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// The events of an answer. Pulled by the connection: nothing is gathered here beyond the frames of one part.
struct Events {
    parts: Parts,
    encoder: Encoder,
    frames: VecDeque<Frame>,
    over: bool,
    /// Fires after silence. Our own, because actix-web-lab's also fires at once, and into a busy stream.
    silence: Interval,
}

impl Events {
    fn new(parts: Parts, mut encoder: Encoder, keep_alive: Duration) -> Self {
        let mut frames = VecDeque::new();
        encoder.begin(&mut frames);
        Self { parts, encoder, frames, over: false, silence: interval_at(Instant::now() + keep_alive, keep_alive) }
    }

    fn take(&mut self, part: Option<crate::actors::messages::Part>) {
        self.over = match part {
            Some(part) => self.encoder.part(&part, &mut self.frames),
            None => {
                self.encoder.fail(ApiError::from(lost()).object(), &mut self.frames);
                true
            }
        };
        if self.over {
            self.parts.close();
        }
    }
}

/// The actors let go of an answer before its end.
pub(super) fn lost() -> Broken {
    Broken { code: "stream_lost", message: "the answer ended before it was finished".to_owned() }
}

impl Stream for Events {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = this.frames.pop_front() {
                this.silence.reset();
                return Poll::Ready(Some(Ok(event(frame))));
            }
            if this.over {
                return Poll::Ready(None);
            }
            match this.parts.poll(context) {
                Poll::Ready(part) => this.take(part),
                Poll::Pending => {
                    let comment = |_| Some(Ok(sse::Event::Comment("keep-alive".into())));
                    return this.silence.poll_tick(context).map(comment);
                }
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
