//! `POST /tokenize` and `/detokenize`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use crate::http::answer::respond;
use crate::http::body::{ReadBody, read_json};
use crate::http::errors::ApiError;
use crate::http::state::{AppState, access};
use crate::http::wire::tokens::{DetokenizeAnswer, TokenizeAnswer, TokenizeRequest, read_detokenize};

/// What a token takes in an answer that lists it, as text and as JSON: the longest of o200k have
/// 128 bytes, a usual one has five.
pub(super) const TOKEN_BYTES: u64 = 80;

/// The tokens of a text or a chat.
pub(super) async fn tokenize(request: HttpRequest, payload: Payload, state: Data<AppState>) -> Result<HttpResponse, ApiError> {
    let ReadBody { asked, memory } = read_json(&request, payload, &state, TokenizeRequest::read).await?;
    let max_model_len = state.terms()?.context_tokens_max;
    let tokens = state.backend.service.tokenize(asked.input, access(&request).key, Some(memory.clone())).await?;
    let bytes = TOKEN_BYTES * tokens.len() as u64;
    let write = move || {
        let text = |token: &_| String::from_utf8_lossy(&state.backend.service.token_bytes(*token)).into_owned();
        to_json(&TokenizeAnswer {
            count: tokens.len(),
            max_model_len,
            token_strs: asked.return_token_strs.then(|| tokens.iter().map(text).collect()),
            tokens: tokens.iter().map(|token| token.0).collect(),
        })
    };
    respond::json(memory, bytes, write).await
}

/// The text of tokens.
pub(super) async fn detokenize(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let ReadBody { asked: tokens, memory } = read_json(&request, payload, &state, read_detokenize).await?;
    let bytes = TOKEN_BYTES * tokens.len() as u64;
    let prompt = state.backend.service.detokenize(tokens, Some(memory.clone())).await?;
    respond::json(memory, bytes, move || to_json(&DetokenizeAnswer { prompt })).await
}

fn to_json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("texts and numbers are JSON")
}
