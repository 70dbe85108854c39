//! Asks the lines of batches, one batch at a time, and writes what became of them.
//!
//! A line goes to the very handler of its route, with a body and an owner and no connection. It
//! begins while no request waits, in at most half of the running places, and at the lowest
//! priority, so that what clients wait for comes first. One line is always under way, so that a
//! batch gets on behind a queue that never empties. Each outcome is a record of the store until the
//! files are written.

use std::collections::{BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::body::to_bytes;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::test::TestRequest;
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{FromRequest, HttpMessage, HttpResponse, ResponseError};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use tokio::sync::Notify;

use super::files::{self, OUTPUT, owner_of};
use super::lines::{self, BatchLine, LineError, LineFault, LineResponse, LineResult, held_body};
use super::object::{BatchObject, BatchStatus, LineCounts, PREFIX};
use super::{changed, to_record};
use crate::actors::budget::Use;
use crate::actors::messages::KeyId;
use crate::clock;
use crate::http::answer::encoder::to_json;
use crate::http::answer::sealing::owner_bytes;
use crate::http::body::away;
use crate::http::chat;
use crate::http::completions;
use crate::http::errors::ApiError;
use crate::http::middleware::key::Access;
use crate::http::responses;
use crate::http::state::{AppState, RequestId};
use crate::http::wire::error::WireError;
use crate::store::{ResponseStore, StoreError};

/// The lowest priority that counts: 1,000 s behind what comes now, as the profiles have levels.
const PRIORITY: i32 = 100;
/// How often it is looked whether another line may begin, where none has ended.
const LOOK: Duration = Duration::from_millis(50);
/// Longest pause before a line is asked again that had no room, or before the store is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The batches of a server: the runner's bell, and what is called off.
#[derive(Debug, Default)]
pub(in crate::http) struct Batches {
    bell: Notify,
    called_off: Mutex<HashSet<String>>,
}

impl Batches {
    /// There may be a batch to run.
    pub(super) fn wake(&self) {
        self.bell.notify_one();
    }

    /// The lines of a batch are not to be asked any more.
    pub(super) fn call_off(&self, id: &str) {
        self.called_off.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        self.wake();
    }

    fn is_called_off(&self, id: &str) -> bool {
        self.called_off.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    fn forget(&self, id: &str) {
        self.called_off.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// Runs batches until it is dropped; then what has no outcome is asked by the next server.
pub(in crate::http) async fn run(state: Data<AppState>) {
    let store = state.options.responses.clone();
    if !store.is_on() || state.backend.service.loaded().await.is_err() {
        return;
    }
    loop {
        let (looked, next) = (store.clone(), state.batches.bell.notified());
        match away(true, move || first_under_way(&looked)).await {
            Ok(Ok(Some((batch, owner)))) => {
                let id = batch.id.clone();
                if let Err(error) = run_one(&state, batch, owner).await {
                    tracing::warn!(id, %error, "a batch is held up");
                    tokio::time::sleep(PAUSE_MAX).await;
                }
            }
            Ok(Ok(None)) => next.await,
            Ok(Err(_)) | Err(_) => tokio::time::sleep(PAUSE_MAX).await,
        }
    }
}

/// The oldest batch that is under way, and its owner.
fn first_under_way(store: &ResponseStore) -> Result<Option<(BatchObject, KeyId)>, StoreError> {
    let mut found: Vec<(BatchObject, KeyId)> = Vec::new();
    store.visit(PREFIX, clock::unix_seconds(), |_, owner, bytes| {
        if let Ok(batch) = serde_json::from_slice::<BatchObject>(bytes)
            && batch.is_under_way()
        {
            found.push((batch, owner_of(owner)));
        }
    })?;
    Ok(found.into_iter().min_by_key(|(batch, _)| (batch.created_at, batch.id.clone())))
}

/// How ids of the outcomes of a batch begin.
fn outcomes_prefix(id: &str) -> String {
    format!("line_{}_", id.trim_start_matches(PREFIX))
}

/// A line's outcome: where it stands, whether it is an answer, and its text.
struct Outcome {
    index: usize,
    is_answer: bool,
    text: String,
}

/// How the lines of a batch came to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinesEnd {
    All,
    CalledOff,
    Expired,
}

async fn run_one(state: &Data<AppState>, batch: BatchObject, owner: KeyId) -> Result<(), ApiError> {
    let (store, access) = (state.options.responses.clone(), Access { key: owner, is_admin: false });
    let memory = state.backend.service.budget().open();
    let (looked, file_id, held) = (store.clone(), batch.input_file_id.clone(), memory.clone());
    let (prefix, endpoint) = (outcomes_prefix(&batch.id), batch.endpoint.clone());
    let read = move || {
        let file = files::find(&looked, access, &file_id, None, &held)?;
        held.grow(Use::Request, lines::reading_bytes(&file.content))?;
        Ok(lines::read(&file.content, &endpoint))
    };
    let lines = match away(true, read).await? {
        Ok(Ok(lines)) => lines,
        Err(ApiError::UnknownKept { .. }) | Ok(Err(_)) => {
            return ended(state, &batch.id, None, LinesEnd::All, owner).await;
        }
        Err(error) => return Err(error),
    };
    let (looked, found) = (store.clone(), prefix.clone());
    let known = away(true, move || known_outcomes(&looked, &found)).await??;
    tracing::info!(id = batch.id, lines = lines.len(), known = known.len(), "a batch runs");
    let end = match batch.status {
        BatchStatus::Cancelling => LinesEnd::CalledOff,
        _ => ask_all(state, &batch, owner, &lines, known).await?,
    };
    ended(state, &batch.id, Some(lines), end, owner).await
}

/// The places of the lines that have an outcome.
fn known_outcomes(store: &ResponseStore, prefix: &str) -> Result<BTreeSet<usize>, StoreError> {
    let mut known = BTreeSet::new();
    store.visit(prefix, clock::unix_seconds(), |id, _, _| known.extend(id[prefix.len()..].parse::<usize>()))?;
    Ok(known)
}

/// Asks the lines that have no outcome.
async fn ask_all(
    state: &Data<AppState>,
    batch: &BatchObject,
    owner: KeyId,
    lines: &[BatchLine],
    known: BTreeSet<usize>,
) -> Result<LinesEnd, ApiError> {
    let mut missing = (0..lines.len()).filter(|index| !known.contains(index)).peekable();
    let mut running = FuturesUnordered::new();
    loop {
        if state.batches.is_called_off(&batch.id) {
            // Those that run are dropped, which cancels them.
            return Ok(LinesEnd::CalledOff);
        }
        if clock::unix_seconds() >= batch.expires_at {
            return Ok(LinesEnd::Expired);
        }
        while missing.peek().is_some() && may_begin(state, running.len()) {
            let index = missing.next().expect("it was looked at");
            running.push(ask(state, owner, &batch.endpoint, index, &lines[index]));
        }
        let ended = tokio::select! {
            ended = running.next(), if !running.is_empty() => ended,
            () = tokio::time::sleep(LOOK) => None,
        };
        match ended {
            Some(outcome) => keep(state, &batch.id, owner, outcome).await?,
            None if running.is_empty() && missing.peek().is_none() => return Ok(LinesEnd::All),
            None => {}
        }
    }
}

/// Whether a line may begin beside those of the batch that run.
fn may_begin(state: &AppState, running_count: usize) -> bool {
    let places = state.backend.service.limits().map_or(1, |limits| limits.running_max_count / 2);
    running_count == 0 || (running_count < places && state.backend.service.snapshot().scheduler.waiting_count == 0)
}

/// Asks a line until it has an outcome: one that had no room is asked again.
async fn ask(state: &Data<AppState>, owner: KeyId, endpoint: &str, index: usize, line: &BatchLine) -> Outcome {
    let request_id = RequestId::new();
    let result_id = format!("batch_req_{}", request_id.0);
    loop {
        let body: Value = serde_json::from_str(&line.body).expect("it was written as JSON");
        let response = match refused(&body) {
            Some(error) => error.error_response(),
            None => answered(state, owner, endpoint, body, request_id.clone()).await,
        };
        let status = response.status();
        if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status) {
            let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            tokio::time::sleep(Duration::from_secs(asked.unwrap_or(1)).min(PAUSE_MAX)).await;
            continue;
        }
        let body = to_bytes(response.into_body()).await.unwrap_or_default();
        let response = LineResponse { status_code: status.as_u16(), request_id: &request_id.0, body: held_body(&body) };
        let result = LineResult { id: result_id, custom_id: &line.custom_id, response: Some(response), error: None };
        return Outcome { index, is_answer: status.is_success(), text: to_json(&result) };
    }
}

/// What has no meaning where no client waits.
fn refused(body: &Value) -> Option<ApiError> {
    let asked = ["stream", "background"].into_iter().find(|name| body[*name] == true)?;
    let message = "a line of a batch is answered in one piece; leave it out".to_owned();
    Some(WireError::Unsupported { param: asked.to_owned(), message }.into())
}

/// The answer of the route.
async fn answered(state: &Data<AppState>, owner: KeyId, endpoint: &str, mut body: Value, id: RequestId) -> HttpResponse {
    body["priority"] = PRIORITY.into();
    let bytes = Bytes::from(body.to_string());
    let request = TestRequest::post().uri(endpoint).insert_header((CONTENT_TYPE, "application/json")).set_payload(bytes);
    let (request, mut payload) = request.to_http_parts();
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(Access { key: owner, is_admin: false });
    let payload = Payload::from_request(&request, &mut payload).await.expect("a body is there");
    let answer = match endpoint {
        "/v1/completions" => completions::completions(request, payload, state.clone()).boxed_local(),
        "/v1/responses" => responses::create(request, payload, state.clone()).boxed_local(),
        _ => chat::completions(request, payload, state.clone()).boxed_local(),
    };
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(answer) => answer.unwrap_or_else(|error| error.error_response()),
        Err(_panic) => {
            tracing::error!(error_id = id.0, "a line of a batch broke inside");
            ApiError::Internal { error_id: id.0 }.error_response()
        }
    }
}

/// Keeps an outcome, and counts it; tried until the store takes it.
async fn keep(state: &Data<AppState>, id: &str, owner: KeyId, outcome: Outcome) -> Result<(), ApiError> {
    let Outcome { index, is_answer, text } = outcome;
    let record_id = format!("{}{index:08}", outcomes_prefix(id));
    // What it says of itself is its first letter.
    let record = format!("{}{text}", if is_answer { 'a' } else { 'e' });
    let (store, id) = (state.options.responses.clone(), id.to_owned());
    away(true, move || {
        store.put_under_way(&record_id, &owner_bytes(owner), record.as_bytes(), clock::unix_seconds())?;
        changed(&store, &id, |batch| {
            let LineCounts { completed, failed, .. } = &mut batch.request_counts;
            *(if is_answer { completed } else { failed }) += 1;
        })
        .map(drop)
    })
    .await??;
    Ok(())
}

/// Writes the files of a batch, and forgets the outcomes that they hold.
async fn ended(
    state: &Data<AppState>,
    id: &str,
    lines: Option<Vec<BatchLine>>,
    end: LinesEnd,
    owner: KeyId,
) -> Result<(), ApiError> {
    let (store, written, memory) = (state.options.responses.clone(), id.to_owned(), state.backend.service.budget().open());
    let status = away(true, move || {
        let outcomes_bytes = outcomes_bytes(&store, &written)?;
        // Twice, for the record of a file is made of its bytes.
        memory.grow(Use::Answer, 2 * outcomes_bytes)?;
        Ok::<_, ApiError>(write(&store, &written, lines.as_deref(), end, owner)?)
    })
    .await??;
    state.batches.forget(id);
    tracing::info!(id, ?status, "a batch has ended");
    Ok(())
}

/// How large the outcomes of a batch are.
fn outcomes_bytes(store: &ResponseStore, id: &str) -> Result<u64, StoreError> {
    let mut bytes = 0;
    store.visit(&outcomes_prefix(id), clock::unix_seconds(), |_, _, record| bytes += record.len() as u64)?;
    Ok(bytes)
}

fn write(
    store: &ResponseStore,
    id: &str,
    lines: Option<&[BatchLine]>,
    end: LinesEnd,
    owner: KeyId,
) -> Result<BatchStatus, StoreError> {
    let (prefix, now) = (outcomes_prefix(id), clock::unix_seconds());
    let Some(lines) = lines else {
        let message = "the input file is not there any more".to_owned();
        return failed(store, id, owner, &prefix, "input_file_gone", message);
    };
    let (mut answers, mut errors, mut known) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut counts = LineCounts { total: lines.len(), ..LineCounts::default() };
    store.visit(&prefix, now, |id, _, record| {
        let Some((kind, text)) = record.split_first() else { return };
        known.extend(id[prefix.len()..].parse::<usize>());
        let (file, count) =
            if *kind == b'a' { (&mut answers, &mut counts.completed) } else { (&mut errors, &mut counts.failed) };
        file.extend_from_slice(text);
        file.push(b'\n');
        *count += 1;
    })?;
    if end == LinesEnd::Expired {
        for (index, line) in lines.iter().enumerate().filter(|(index, _)| !known.contains(index)) {
            let error = LineError { code: "batch_expired", message: "the batch took longer than its window" };
            let id = format!("batch_req_{}_{index}", id.trim_start_matches(PREFIX));
            let result = LineResult { id, custom_id: &line.custom_id, response: None, error: Some(error) };
            errors.extend_from_slice(to_json(&result).as_bytes());
            errors.push(b'\n');
            counts.failed += 1;
        }
    }
    let file = |kind: &str, content: &[u8]| match content.is_empty() {
        true => Ok(None),
        false => files::keep(store, owner, &format!("{id}_{kind}.jsonl"), OUTPUT, content).map(|file| Some(file.id)),
    };
    let kept = file("output", &answers).and_then(|output| Ok((output, file("error", &errors)?)));
    let (output_file_id, error_file_id) = match kept {
        Ok(kept) => kept,
        Err(error @ StoreError::TooLarge { .. }) => {
            return failed(store, id, owner, &prefix, "output_too_large", error.to_string());
        }
        Err(error) => return Err(error),
    };
    let status = match end {
        LinesEnd::All => BatchStatus::Completed,
        LinesEnd::CalledOff => BatchStatus::Cancelled,
        LinesEnd::Expired => BatchStatus::Expired,
    };
    finish(store, id, owner, |batch| {
        batch.request_counts = counts;
        (batch.output_file_id, batch.error_file_id) = (output_file_id, error_file_id);
        batch.set_status(BatchStatus::Finalizing, now);
        batch.set_status(status, now);
    })?;
    store.delete_all(&prefix)?;
    Ok(status)
}

fn failed(
    store: &ResponseStore,
    id: &str,
    owner: KeyId,
    prefix: &str,
    code: &str,
    message: String,
) -> Result<BatchStatus, StoreError> {
    let fault = LineFault { code: code.to_owned(), line: None, message, param: None };
    finish(store, id, owner, |batch| batch.fail(fault, clock::unix_seconds()))?;
    store.delete_all(prefix)?;
    Ok(BatchStatus::Failed)
}

/// Puts a batch that has ended in place of the one under way: from now on it is as old as others.
fn finish(store: &ResponseStore, id: &str, owner: KeyId, work: impl FnOnce(&mut BatchObject)) -> Result<(), StoreError> {
    // A batch that is not there any more is told to no client.
    let Some(batch) = changed(store, id, work)? else { return Ok(()) };
    store.put(id, &owner_bytes(owner), &to_record(&batch), clock::unix_seconds())
}
