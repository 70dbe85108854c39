//! Keeps a request's body until its answer is sent.
//!
//! actix closes a connection whose body was not read to its end, except if the body is chunked and
//! was dropped: that one it reads on and throws away, for as long as the client likes to send. Held
//! until the answer is sent, it counts as unread, and the connection is closed a second after the
//! answer.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_core::Stream;

/// Bytes of an answer that are handed to its connection at once.
pub(in crate::http) const PIECE_MAX_BYTES: usize = 8 << 10;

/// A share in a request's body.
pub(in crate::http) struct BodyShare(Rc<RefCell<Payload>>);

impl BodyShare {
    /// Takes a share; the handler reads through another one. `None` for a request without a body.
    pub(in crate::http) fn of(request: &mut ServiceRequest) -> Option<Self> {
        let payload = request.take_payload();
        if matches!(payload, Payload::None) {
            return None;
        }
        let shared = Rc::new(RefCell::new(payload));
        request.set_payload(Payload::Stream { payload: Box::pin(Self(Rc::clone(&shared))) });
        Some(Self(shared))
    }
}

impl Stream for BodyShare {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(context)
    }
}

/// `answer`, which keeps something until it is sent, and hands over little of what has a length at
/// once: actix takes what it is given, so that a thousand clients that do not read would cost a
/// thousand files.
pub(in crate::http) fn until_sent<K: Unpin + 'static>(answer: BoxBody, kept: K) -> BoxBody {
    BoxBody::new(HeldAnswer { answer, left: Bytes::new(), _kept: kept })
}

struct HeldAnswer<K> {
    answer: BoxBody,
    /// What of it is not handed over.
    left: Bytes,
    _kept: K,
}

impl<K: Unpin> MessageBody for HeldAnswer<K> {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.answer.size()
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            match ready!(Pin::new(&mut this.answer).poll_next(context)) {
                Some(Ok(bytes)) if matches!(this.answer.size(), BodySize::Sized(_)) => this.left = bytes,
                // Each piece of a stream is a chunk of its own.
                other => return Poll::Ready(other),
            }
        }
        let piece = this.left.split_to(this.left.len().min(PIECE_MAX_BYTES));
        Poll::Ready(Some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use actix_web::body::BodyStream;
    use futures_util::{future, stream};

    use super::*;

    /// The lengths of the pieces in which an answer is handed over.
    async fn pieces(answer: BoxBody) -> Vec<usize> {
        let mut answer = until_sent(answer, ());
        let mut lengths = Vec::new();
        while let Some(piece) = future::poll_fn(|context| Pin::new(&mut answer).poll_next(context)).await {
            lengths.push(piece.expect("it is made of bytes").len());
        }
        lengths
    }

    #[actix_web::test]
    async fn an_answer_of_a_known_length_goes_in_small_pieces_and_a_stream_in_its_own() {
        let whole = BoxBody::new(vec![7_u8; 2 * PIECE_MAX_BYTES + 5]);
        assert_eq!(pieces(whole).await, [PIECE_MAX_BYTES, PIECE_MAX_BYTES, 5]);
        assert_eq!(pieces(BoxBody::new(vec![7_u8; PIECE_MAX_BYTES])).await, [PIECE_MAX_BYTES]);
        let lengths = [3 * PIECE_MAX_BYTES, 1];
        let parts = lengths.map(|length| Ok::<_, Infallible>(Bytes::from(vec![7_u8; length])));
        assert_eq!(pieces(BoxBody::new(BodyStream::new(stream::iter(parts)))).await, lengths);
    }
}
