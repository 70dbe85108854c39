//! From a read request to its answer, as a stream or in one piece.

use std::sync::Arc;

use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};

use crate::actors::budget::{Reserved, Use};
use crate::actors::messages::{Coalescing, Generate, PromptReport, ResponseInput};
use crate::actors::parts::PartReceiver;
use crate::batch::TokenId;
use crate::clock;
use crate::http::answer::encoder::Encoder;
use crate::http::answer::heading::{Heading, Metadata, Params};
use crate::http::answer::stream;
use crate::http::answer::whole::Gather;
use crate::http::body::{HERE_MAX_BYTES, away};
use crate::http::errors::ApiError;
use crate::http::middleware::checks::REQUEST_ID;
use crate::http::middleware::client_ids::ClientRequestId;
use crate::http::middleware::unread_body::until_sent;
use crate::http::state::{AppState, Sender};
use crate::http::wire::sampling::Generation;

/// What the actors are asked for.
pub(in crate::http) fn order(
    request_id: String,
    inputs: Vec<ResponseInput>,
    generation: &Generation,
    coalescing: Coalescing,
    sender: Sender,
    memory: Reserved,
) -> Generate {
    Generate {
        request_id,
        inputs,
        choices_count: generation.choices_count,
        max_tokens: generation.max_tokens,
        cuts_at_context: generation.cuts_at_context,
        sampling: generation.sampling.clone(),
        written: generation.written,
        seed: generation.seed,
        form: generation.form.clone(),
        stop_strings: generation.stop_strings.clone(),
        ignore_eos: generation.ignore_eos,
        answer: generation.answer,
        tokens: generation.tokens.clone(),
        cut: generation.cut,
        coalescing,
        session: sender.session,
        owner: sender.owner,
        cache_salt: generation.cache_salt.clone(),
        has_cache_key: generation.has_cache_key,
        priority: generation.priority,
        memory: Some(memory),
    }
}

/// Answers with a stream.
pub(in crate::http) fn in_stream(
    request: &HttpRequest,
    state: &AppState,
    id: &str,
    parts: PartReceiver,
    encoder: Encoder,
) -> HttpResponse {
    let record = state.backend.metrics.stream_opened();
    named(stream::respond(request, parts, encoder, state.options.stream_keep_alive, record), id)
}

/// Answers in one piece: what is gathered in `whole`, as `write` has it. Dropping the future,
/// because the client left, cancels the response.
pub(in crate::http) async fn in_one_piece<G: Gather + Send + 'static>(
    state: &AppState,
    id: &str,
    parts: PartReceiver,
    whole: G,
    write: impl FnOnce(&G) -> String + Send + 'static,
) -> Result<HttpResponse, ApiError> {
    let memory = state.backend.service.budget().open();
    let whole = gathered(parts, whole, &memory).await?;
    let gathered_bytes = memory.bytes();
    let write = move || {
        let json = write(&whole);
        drop(whole);
        json
    };
    json(memory, gathered_bytes, write).await.map(|response| named(response, id))
}

/// All parts, gathered in `whole`; `memory` pays for them. Dropping the future cancels the
/// response.
pub(in crate::http) async fn gathered<G: Gather>(
    mut parts: PartReceiver,
    mut whole: G,
    memory: &Reserved,
) -> Result<G, ApiError> {
    while !whole.is_done() {
        let part = parts.recv().await.ok_or_else(stream::lost)?;
        memory.grow(Use::Answer, part.bytes())?;
        whole.take(part)?;
    }
    Ok(whole)
}

/// Answers with JSON that `write` makes, of about `bytes`, beside what `memory` holds already.
pub(in crate::http) async fn json(
    memory: Reserved,
    bytes: u64,
    write: impl FnOnce() -> String + Send + 'static,
) -> Result<HttpResponse, ApiError> {
    json_from(memory, bytes, bytes > HERE_MAX_BYTES as u64, write).await
}

/// The same, made away from the worker if `is_away`.
pub(in crate::http) async fn json_from(
    memory: Reserved,
    bytes: u64,
    is_away: bool,
    write: impl FnOnce() -> String + Send + 'static,
) -> Result<HttpResponse, ApiError> {
    memory.grow(Use::Answer, bytes)?;
    let written = away(is_away, write).await?;
    memory.set(Use::Answer, written.len() as u64)?;
    let response = HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(written);
    Ok(response.map_body(|_, body| until_sent(body, memory)))
}

/// Tells the answer's id, which is the one to cancel it by.
pub(in crate::http) fn named(mut response: HttpResponse, id: &str) -> HttpResponse {
    let id = HeaderValue::from_str(id).expect("ids are made here, of letters and digits");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Tokens of all prompts.
pub(in crate::http) fn prompt_tokens(reports: &[Arc<PromptReport>]) -> usize {
    reports.iter().map(|report| report.tokens.len()).sum()
}

/// The head of an answer.
pub(in crate::http) fn heading(request: &HttpRequest, id: &str, model: &str) -> Heading {
    let client_request_id = request.extensions().get::<ClientRequestId>().map(|ClientRequestId(id)| id.clone());
    Heading { id: id.to_owned(), created: clock::unix_seconds(), model: model.to_owned(), client_request_id }
}

/// The end of an answer. With several prompts the key is the first one's.
pub(in crate::http) fn metadata(
    state: &AppState,
    heading: &Heading,
    generation: &Generation,
    reports: &[Arc<PromptReport>],
) -> Metadata {
    let model = &state.options.model;
    let first = reports.first().expect("a request has a prompt");
    let tokens = prompt_tokens(reports);
    let tokens_before = reports.iter().map(|report| report.uncut_tokens).sum();
    let chat = !first.prompt_version.is_empty();
    Metadata {
        // A text is answered under no version of its own.
        prompt_version: if chat { first.prompt_version.clone() } else { model.prompt_version.clone() },
        model_id: model.model_id.clone(),
        model_size: model.model_size.clone(),
        dtype: model.dtype.clone(),
        gpu_mode: model.gpu_mode.clone(),
        cache_key: first.cache_key.clone(),
        cache_hit: first.cache_hit,
        tokens_before,
        tokens_after: tokens,
        truncated: tokens_before > tokens,
        truncation_info: None,
        params: Params {
            temperature: generation.written.temperature,
            top_p: generation.written.top_p,
            max_tokens: generation.max_tokens,
            seed: generation.seed,
            stop_sequences: generation.stop_strings.clone(),
        },
        timestamp: heading.created,
        request_id: heading.id.clone(),
        client_request_id: heading.client_request_id.clone(),
    }
}

/// The prompt's tokens, if the client wants token ids.
pub(in crate::http) fn token_ids(wanted: bool, report: &PromptReport) -> Option<Arc<[TokenId]>> {
    wanted.then(|| report.tokens.clone())
}
