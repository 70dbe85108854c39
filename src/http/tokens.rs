//! `POST /tokenize` and `/detokenize`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::body::{away, read_json};
use super::errors::ApiError;
use super::front::{Front, access};
use super::wire::tokens::{DetokenizeAnswer, TokenizeAnswer, TokenizeRequest, read_detokenize};

/// Most tokens whose list is written on the worker.
const HERE_MAX_TOKENS: usize = 4096;

/// The tokens of a text or a chat.
pub(super) async fn tokenize(request: HttpRequest, payload: Payload, front: Data<Front>) -> Result<HttpResponse, ApiError> {
    let asked = read_json(&request, payload, &front, TokenizeRequest::read).await?;
    let max_model_len = front.terms()?.context_tokens_max;
    let tokens = front.backend.service.tokenize(asked.input, access(&request).key).await?;
    json(tokens.len(), move || {
        let text = |token: &_| String::from_utf8_lossy(&front.backend.service.token_bytes(*token)).into_owned();
        TokenizeAnswer {
            count: tokens.len(),
            max_model_len,
            token_strs: asked.return_token_strs.then(|| tokens.iter().map(text).collect()),
            tokens: tokens.iter().map(|token| token.0).collect(),
        }
    })
    .await
}

/// The text of tokens.
pub(super) async fn detokenize(request: HttpRequest, payload: Payload, front: Data<Front>) -> Result<HttpResponse, ApiError> {
    let tokens = read_json(&request, payload, &front, read_detokenize).await?;
    let count = tokens.len();
    let prompt = front.backend.service.detokenize(tokens).await?;
    json(count, move || DetokenizeAnswer { prompt }).await
}

/// Answers with what `answer` makes of so many tokens.
async fn json<A: Serialize>(
    tokens_count: usize,
    answer: impl FnOnce() -> A + Send + 'static,
) -> Result<HttpResponse, ApiError> {
    let large = tokens_count > HERE_MAX_TOKENS;
    let body = away(large, move || serde_json::to_string(&answer()).expect("texts and numbers are JSON")).await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(body))
}
