//! Keeps a request's body until its answer is sent.
//!
//! actix closes a connection whose body nobody read to its end, except if the body is chunked and was dropped: that one it reads
//! on and throws away, for as long as the client likes to send. Held until the answer is sent, it counts as unread, and the
//! connection is closed a second after the answer.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_core::Stream;

/// A share in a request's body.
pub(super) struct Held(Rc<RefCell<Payload>>);

impl Held {
    /// Takes a share; the handler reads through another one. `None` for a request without a body.
    pub(super) fn of(request: &mut ServiceRequest) -> Option<Self> {
        let payload = request.take_payload();
        if matches!(payload, Payload::None) {
            return None;
        }
        let shared = Rc::new(RefCell::new(payload));
        request.set_payload(Payload::Stream { payload: Box::pin(Self(Rc::clone(&shared))) });
        Some(Self(shared))
    }

    /// `answer`, with the share in it.
    pub(super) fn until_sent(self, answer: BoxBody) -> BoxBody {
        BoxBody::new(Answer { answer, _held: self })
    }
}

impl Stream for Held {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(context)
    }
}

struct Answer {
    answer: BoxBody,
    _held: Held,
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.answer.size()
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().answer).poll_next(context)
    }
}
