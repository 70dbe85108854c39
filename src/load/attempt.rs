//! One request: sent, read, perhaps left or cancelled, and timed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::measure::RunShared;
use super::options::LoadOptions;
use super::record::{AttemptOutcome, Record};
use crate::client::{AnswerEvent, Client, ClientError, EventStream, Request, Usage};

/// What a client does before its answer is complete.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whim {
    /// Nothing.
    Stay,
    /// Leave after this time.
    Leave(Duration),
    /// Cancel after this time.
    Cancel(Duration),
}

/// Which request it is, and from when it counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedRequest {
    pub(super) index: usize,
    pub(super) turn: usize,
    pub(super) origin: Instant,
}

/// What was read so far.
#[derive(Default)]
struct AnswerSeen {
    id: Option<String>,
    text: String,
    first_reasoning: Option<Instant>,
    first_content: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    done: Option<Instant>,
    pieces: u64,
    gaps_us: Vec<u32>,
    usage: Option<Usage>,
    finish: Option<String>,
    error: Option<String>,
    first_byte: Option<Instant>,
    events: u64,
    cancelled_at: Option<Instant>,
}

impl AnswerSeen {
    fn take(&mut self, at: Instant, event: AnswerEvent, shared: &RunShared) {
        match event {
            AnswerEvent::Started { id } => self.id = Some(id),
            AnswerEvent::Reasoning { .. } => {
                self.first_reasoning.get_or_insert(at);
                self.piece(at, shared);
            }
            AnswerEvent::Content { text, .. } => {
                self.first_content.get_or_insert(at);
                self.text.push_str(&text);
                self.piece(at, shared);
            }
            AnswerEvent::ToolCall { .. } => self.piece(at, shared),
            AnswerEvent::Finish { reason, .. } => {
                self.finish = Some(reason);
                self.done.get_or_insert(at);
            }
            AnswerEvent::Usage(usage) => self.usage = Some(usage),
            AnswerEvent::Error(error) => self.error = Some(error.message),
            AnswerEvent::Done => {
                self.done.get_or_insert(at);
            }
        }
    }

    fn piece(&mut self, at: Instant, shared: &RunShared) {
        self.first.get_or_insert(at);
        if let Some(last) = self.last {
            let gap = at.saturating_duration_since(last).as_micros();
            self.gaps_us.push(u32::try_from(gap).unwrap_or(u32::MAX));
        }
        self.last = Some(at);
        self.pieces += 1;
        shared.pieces.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends a request and reads its answer; the record, and the text of the answer.
pub(super) async fn attempt(
    client: &Client,
    options: &LoadOptions,
    body: Bytes,
    place: PlannedRequest,
    whim: Whim,
    shared: &RunShared,
) -> (Record, String) {
    let sent = Instant::now();
    let mut seen = AnswerSeen::default();
    let reading = tokio::time::timeout(options.answer_max, read(client, options, body, whim, &mut seen, shared));
    let ended = reading.await.ok();
    let (outcome, error, message) = ending(ended, &mut seen, options.answer_max);
    let record = record(place, sent, &seen, outcome, error, message, shared);
    shared.ended(&record, &seen.gaps_us);
    (record, seen.text)
}

/// How a request ended, with a word for the kind of failure and the failure in words. `ended` is
/// `None` if its time was up, and holds whether the answer was read to its end.
fn ending(
    ended: Option<Result<bool, ClientError>>,
    seen: &mut AnswerSeen,
    answer_max: Duration,
) -> (AttemptOutcome, Option<String>, Option<String>) {
    match ended {
        None => {
            let message = format!("no answer within {} s", answer_max.as_secs_f64());
            (AttemptOutcome::Failed, Some("timeout".to_owned()), Some(message))
        }
        Some(Ok(false)) => (AttemptOutcome::Left, None, None),
        Some(Ok(true)) => match seen.error.take() {
            Some(message) => (AttemptOutcome::Failed, Some("error_event".to_owned()), Some(message)),
            None if seen.cancelled_at.is_some() && seen.finish.as_deref() == Some("cancelled") => {
                (AttemptOutcome::Cancelled, None, None)
            }
            None => (AttemptOutcome::Completed, None, None),
        },
        // A server may also end the stream of a cancelled request in its own way.
        Some(Err(_)) if seen.cancelled_at.is_some() => (AttemptOutcome::Cancelled, None, None),
        Some(Err(error)) => {
            let refused = matches!(&error, ClientError::Refused { refusal, .. } if refusal.status == 429);
            let outcome = if refused { AttemptOutcome::Refused } else { AttemptOutcome::Failed };
            (outcome, Some(error.kind()), Some(error.to_string()))
        }
    }
}

/// Reads to the end; false if the client left before.
async fn read(
    client: &Client,
    options: &LoadOptions,
    body: Bytes,
    whim: Whim,
    seen: &mut AnswerSeen,
    shared: &RunShared,
) -> Result<bool, ClientError> {
    match whim {
        Whim::Stay => follow(client.stream(options.api, body).await?, seen, shared).await.map(|()| true),
        Whim::Leave(after) => {
            let work = async { follow(client.stream(options.api, body).await?, seen, shared).await };
            match tokio::time::timeout(after, work).await {
                Ok(ended) => ended.map(|()| true),
                Err(_) => Ok(false),
            }
        }
        Whim::Cancel(after) => {
            let moment = tokio::time::Instant::now() + after;
            let mut stream = client.stream(options.api, body).await?;
            loop {
                // Without an id nothing can be cancelled.
                let next = match seen.id {
                    None => stream.next().await,
                    Some(_) => match tokio::time::timeout_at(moment, stream.next()).await {
                        Ok(next) => next,
                        Err(_) => break,
                    },
                };
                match next? {
                    Some(arrival) => seen.take(arrival.at, arrival.event, shared),
                    None => return Ok(true),
                }
            }
            let id = seen.id.clone().unwrap_or_default();
            seen.cancelled_at = Some(Instant::now());
            client.call(&Request::post_json(&format!("/cancel/{id}"), &serde_json::json!({}))).await?.success()?;
            follow(stream, seen, shared).await.map(|()| true)
        }
    }
}

async fn follow(mut stream: EventStream, seen: &mut AnswerSeen, shared: &RunShared) -> Result<(), ClientError> {
    let ended = loop {
        match stream.next().await {
            Ok(Some(arrival)) => {
                seen.first_byte = stream.first_byte();
                seen.events = stream.sse_events();
                seen.take(arrival.at, arrival.event, shared);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    seen.first_byte = stream.first_byte();
    seen.events = stream.sse_events();
    ended
}

fn record(
    place: PlannedRequest,
    sent: Instant,
    seen: &AnswerSeen,
    outcome: AttemptOutcome,
    error: Option<String>,
    message: Option<String>,
    shared: &RunShared,
) -> Record {
    let since = |at: Instant| at.saturating_duration_since(place.origin).as_secs_f64() * 1e3;
    let output_tokens = seen.usage.map_or(seen.pieces, |usage| usage.completion_tokens);
    let tpot_ms = match (seen.first, seen.last) {
        (Some(first), Some(last)) if output_tokens > 1 => {
            Some(last.saturating_duration_since(first).as_secs_f64() * 1e3 / (output_tokens - 1) as f64)
        }
        _ => None,
    };
    let complete = outcome == AttemptOutcome::Completed;
    Record {
        index: place.index,
        turn: place.turn,
        begun_s: place.origin.saturating_duration_since(shared.started).as_secs_f64(),
        late_ms: since(sent),
        first_byte_ms: seen.first_byte.map(since),
        first_reasoning_ms: seen.first_reasoning.map(since),
        first_content_ms: seen.first_content.map(since),
        ttft_ms: seen.first.map(since),
        tpot_ms: tpot_ms.filter(|_| complete),
        e2e_ms: seen.done.filter(|_| complete).map(since),
        cancel_ms: match (seen.cancelled_at, seen.done) {
            (Some(at), Some(done)) => Some(done.saturating_duration_since(at).as_secs_f64() * 1e3),
            _ => None,
        },
        prompt_tokens: seen.usage.map(|usage| usage.prompt_tokens),
        cached_tokens: seen.usage.and_then(|usage| usage.cached_tokens),
        output_tokens,
        counted_by_server: seen.usage.is_some(),
        events: seen.events,
        outcome,
        error,
        message,
    }
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
