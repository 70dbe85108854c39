//! Spans of requests, told to a collector by OTLP over HTTP, as JSON.
//!
//! Owns: the form of OTLP's traces, the queue of spans, the connection. Promises: a span never
//! holds up a request; what the queue or the collector does not take is counted, and lost. Absent
//! on purpose: what a span says, sampling, metrics, logs.

mod form;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::client::{Client, ClientError, ClientOptions, Request};

pub use form::{Span, SpanEvent, SpanValue};

/// Most spans that wait, and most of a message.
const QUEUE_MAX_COUNT: usize = 4_096;
const MESSAGE_MAX_COUNT: usize = 512;
/// How long spans wait for others: a message a span would cost more than the spans.
const GATHER: Duration = Duration::from_millis(500);
/// How long a collector may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Where collectors take traces, below their address.
const PATH: &str = "/v1/traces";

/// Takes spans; cheap to clone.
#[derive(Debug, Clone)]
pub struct SpanSender {
    queue: Sender<Span>,
    lost_count: Arc<AtomicU64>,
}

impl SpanSender {
    /// Begins to tell the collector at `endpoint` (`http://127.0.0.1:4318`) of spans. Must be
    /// called inside a runtime of tokio.
    ///
    /// # Errors
    /// [`ClientError::Url`] for what is no address.
    pub fn start(endpoint: &str) -> Result<Self, ClientError> {
        let client = Client::new(endpoint, &ClientOptions::default())?;
        let (queue, spans) = channel(QUEUE_MAX_COUNT);
        let lost_count = Arc::<AtomicU64>::default();
        tokio::spawn(tell(client, spans, Arc::clone(&lost_count)));
        Ok(Self { queue, lost_count })
    }

    /// Tells of a span, if there is room for it.
    pub fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.lost_count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends spans as they come, some at a time, until no sender is left.
async fn tell(client: Client, mut spans: Receiver<Span>, lost_count: Arc<AtomicU64>) {
    let mut failing = false;
    while let Some(first) = spans.recv().await {
        tokio::time::sleep(GATHER).await;
        let mut message = vec![first];
        while message.len() < MESSAGE_MAX_COUNT
            && let Ok(span) = spans.try_recv()
        {
            message.push(span);
        }
        let request = Request::post(PATH, form::message(&message).into()).header("content-type", "application/json");
        let sent = tokio::time::timeout(ANSWER_MAX, client.call(&request)).await;
        let problem = match sent {
            Ok(Ok(answer)) if (200..300).contains(&answer.status) => None,
            Ok(Ok(answer)) => Some(format!("status {}", answer.status)),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => Some("no answer".to_owned()),
        };
        match problem {
            None if failing => tracing::info!("spans are told to the collector again"),
            None => {}
            Some(problem) => {
                let lost = lost_count.fetch_add(message.len() as u64, Ordering::Relaxed) + message.len() as u64;
                // Once: a collector that is gone would fill the log.
                if !failing {
                    tracing::warn!(problem, lost, "spans are not told: the collector does not take them");
                }
                failing = true;
                continue;
            }
        }
        failing = false;
    }
}
