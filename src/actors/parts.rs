//! The parts of a response on their way to its reader.

use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::actors::budget::Reserved;
use crate::actors::messages::Part;

/// The reader's end. Dropping it cancels the response.
#[derive(Debug)]
pub struct PartReceiver {
    parts: mpsc::Receiver<Part>,
    /// What the parts that are not taken yet hold.
    memory: Reserved,
}

impl PartReceiver {
    /// Takes from `parts`, for which `memory` is reserved.
    #[must_use]
    pub fn new(parts: mpsc::Receiver<Part>, memory: Reserved) -> Self {
        Self { parts, memory }
    }

    /// What pays for the parts that are not taken yet.
    pub(super) fn memory(&self) -> Reserved {
        self.memory.clone()
    }

    /// The next part; `None` once the response has ended. What keeps a part reserves memory for it.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Part>> {
        let part = self.parts.poll_recv(context);
        if let Poll::Ready(Some(part)) = &part {
            self.memory.shrink(part.bytes());
        }
        part
    }

    /// Cancels what is not finished; what was sent before still comes.
    pub fn close(&mut self) {
        self.parts.close();
    }

    /// The next part, as [`PartReceiver::poll_recv`].
    pub async fn recv(&mut self) -> Option<Part> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }
}
