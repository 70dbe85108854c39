//! The parts of an answer, from one response of the actors or from several: each prompt of a text completion is one.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::actors::messages::Part;

/// Receives the parts of all prompts. Dropping it cancels what is not finished.
#[derive(Debug)]
pub(super) struct Parts {
    /// Each with the number of its first choice in the answer.
    receivers: Vec<(u32, mpsc::Receiver<Part>)>,
    /// Which one to ask first, so that a busy prompt does not hold back the others.
    next: usize,
}

impl Parts {
    /// The parts of one response after another, each of `choices_count` choices.
    pub(super) fn new(receivers: Vec<mpsc::Receiver<Part>>, choices_count: u32) -> Self {
        let firsts = (0..).step_by(choices_count as usize);
        Self { receivers: firsts.zip(receivers).collect(), next: 0 }
    }

    /// The next part, its choice counted through the whole answer; `None` once every response has ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Part>> {
        let mut tried = 0;
        while tried < self.receivers.len() {
            let at = (self.next + tried) % self.receivers.len();
            let (first, receiver) = &mut self.receivers[at];
            match receiver.poll_recv(context) {
                Poll::Ready(Some(part)) => {
                    let choice = *first + part.choice;
                    self.next = at + 1;
                    return Poll::Ready(Some(Part { choice, ..part }));
                }
                Poll::Ready(None) => {
                    self.receivers.remove(at);
                    // The order changed: ask all that are left.
                    tried = 0;
                }
                Poll::Pending => tried += 1,
            }
        }
        if self.receivers.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }

    /// The next part, as [`Parts::poll`].
    pub(super) async fn next(&mut self) -> Option<Part> {
        poll_fn(|context| self.poll(context)).await
    }

    /// Cancels what is not finished.
    pub(super) fn close(&mut self) {
        self.receivers.clear();
    }
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;
