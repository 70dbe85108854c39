//! `POST /tokenize` and `/detokenize`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::body::read_json;
use super::errors::ApiError;
use super::front::{Front, access};
use super::wire::tokens::{DetokenizeAnswer, TokenizeAnswer, TokenizeRequest, read_detokenize};

/// The tokens of a text or a chat.
pub(super) async fn tokenize(request: HttpRequest, payload: Payload, front: Data<Front>) -> Result<HttpResponse, ApiError> {
    let body = read_json(&request, payload, &front).await?;
    let terms = front.terms()?;
    let asked = TokenizeRequest::read(body, &terms)?;
    let tokens = front.backend.service.tokenize(asked.input, access(&request).key).await?;
    let text = |token: &_| String::from_utf8_lossy(&front.backend.service.token_bytes(*token)).into_owned();
    Ok(HttpResponse::Ok().json(TokenizeAnswer {
        count: tokens.len(),
        max_model_len: terms.context_tokens_max,
        token_strs: asked.return_token_strs.then(|| tokens.iter().map(text).collect()),
        tokens: tokens.iter().map(|token| token.0).collect(),
    }))
}

/// The text of tokens.
pub(super) async fn detokenize(request: HttpRequest, payload: Payload, front: Data<Front>) -> Result<HttpResponse, ApiError> {
    let body = read_json(&request, payload, &front).await?;
    let tokens = read_detokenize(body, &front.terms()?)?;
    Ok(HttpResponse::Ok().json(DetokenizeAnswer { prompt: front.backend.service.detokenize(tokens).await? }))
}
