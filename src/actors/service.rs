//! The door to the actors: what http calls. Cheap to clone, callable from any thread and runtime.

use std::time::Duration;

use crate::actors::messages::{Accepted, Generate, Input, Refusal};
use crate::actors::snapshot::{LiveRequest, ModelLimits, Snapshot};
use crate::batch::TokenId;

/// A handle to the running actors.
#[derive(Debug, Clone)]
pub struct Service {}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Responses that had to be ended before their time (with `server_shutdown`).
    pub ended_count: usize,
}

impl Service {
    /// Asks for a response; answered once the scheduler took it or not, before any of it is computed.
    ///
    /// Dropping the future takes the request back, dropping [`Accepted::parts`] cancels it, in any phase.
    ///
    /// # Errors
    /// [`Refusal`]: what the client sent cannot be served, too much waits, or the server does not take requests now.
    pub async fn generate(&self, _generate: Generate) -> Result<Accepted, Refusal> {
        todo!()
    }

    /// Cancels a request; true if it was live. Its blocks are free when this returns; its stream ends with
    /// [`FinishKind::Cancelled`](crate::actors::messages::FinishKind::Cancelled).
    pub async fn cancel(&self, _request_id: &str) -> bool {
        todo!()
    }

    /// The tokens of an input, as [`Service::generate`] would build them; on the text threads, behind their bound.
    ///
    /// # Errors
    /// As [`Service::generate`].
    pub async fn tokenize(&self, _input: Input) -> Result<Vec<TokenId>, Refusal> {
        todo!()
    }

    /// The text of tokens; bytes that are no UTF-8 become U+FFFD. On the text threads, behind their bound.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a token that is not in the vocabulary; else as [`Service::generate`].
    pub async fn detokenize(&self, _tokens: Vec<TokenId>) -> Result<String, Refusal> {
        todo!()
    }

    /// The bytes of a token; empty for a control token and for one that is not in the vocabulary. Cheap.
    #[must_use]
    pub fn token_bytes(&self, _token: TokenId) -> Vec<u8> {
        todo!()
    }

    /// The server at this moment; from atomics, never through a mailbox, so that it answers while everything else is stuck.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }

    /// The requests that have not ended, oldest first.
    #[must_use]
    pub fn live_requests(&self) -> Vec<LiveRequest> {
        todo!()
    }

    /// What the model can take; `None` until the engine is loaded.
    #[must_use]
    pub fn limits(&self) -> Option<ModelLimits> {
        todo!()
    }

    /// Takes no new request from now on ([`Refusal::Unavailable`], `draining`); running ones go on.
    pub fn begin_drain(&self) {
        todo!()
    }

    /// Waits until every request has ended; those that are still live after `deadline` are ended with an error
    /// (`server_shutdown`) first. Call [`Service::begin_drain`] before.
    pub async fn drained(&self, _deadline: Duration) -> Drained {
        todo!()
    }
}
