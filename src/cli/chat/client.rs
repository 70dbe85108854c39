//! The server that a talk is with.

use std::io;

use anyhow::{anyhow, bail};
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::client::{AnswerEvent, Api, Client, ClientOptions};

/// A message of the talk.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) role: &'static str,
    pub(super) content: String,
}

/// A piece of an answer.
pub(super) enum AnswerPiece<'a> {
    Reasoning(&'a str),
    Content(&'a str),
}

/// Whether Ctrl-C ended an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    Yes,
    No,
}

/// The request for the next message.
pub(super) fn body(model: &str, turns: &[Turn], settings: &Map<String, Value>) -> String {
    let messages: Vec<Value> = turns.iter().map(|turn| json!({"role": turn.role, "content": turn.content})).collect();
    let mut body = json!({"model": model, "messages": messages, "stream": true});
    for (name, value) in settings {
        body[name] = value.clone();
    }
    body.to_string()
}

/// A server to talk to; calls wait for it.
pub(super) struct ChatServer {
    runtime: Runtime,
    client: Client,
}

impl ChatServer {
    pub(super) fn new(url: &str, api_key: Option<String>) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // No limit on an answer: the first token of a long prompt may take minutes.
        let client = Client::new(url, &ClientOptions { api_key, ..ClientOptions::default() })?;
        Ok(Self { runtime, client })
    }

    /// The model that the server has.
    pub(super) fn model(&self) -> anyhow::Result<String> {
        Ok(self.runtime.block_on(self.client.model())?)
    }

    /// Sends a request, and hands over the pieces of the answer as they come. Ctrl-C ends an answer
    /// that is `stoppable`; from then on the process no longer ends by it.
    pub(super) fn stream(
        &self,
        body: String,
        stoppable: bool,
        take: &mut dyn FnMut(AnswerPiece<'_>) -> io::Result<()>,
    ) -> anyhow::Result<Stopped> {
        let answer = async {
            let mut stream = self.client.stream(Api::Chat, body.into()).await?;
            while let Some(arrival) = stream.next().await? {
                let taken = match &arrival.event {
                    AnswerEvent::Reasoning { text, .. } => take(AnswerPiece::Reasoning(text)),
                    AnswerEvent::Content { text, .. } => take(AnswerPiece::Content(text)),
                    AnswerEvent::Error(error) => bail!("{}", error.message),
                    _ => Ok(()),
                };
                taken.map_err(|error| anyhow!("standard output: {error}"))?;
            }
            Ok(Stopped::No)
        };
        self.runtime.block_on(async {
            if !stoppable {
                return answer.await;
            }
            tokio::select! {
                answered = answer => answered,
                // The answer is dropped, which closes its connection, which cancels the request.
                _ = tokio::signal::ctrl_c() => Ok(Stopped::Yes),
            }
        })
    }
}
