//! The predecessors' routes: `POST /generate`, `/generate/stream` and `/cancel/{request_id}`.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::actors::messages::ResponseInput;
use crate::http::answer::encoder::Encoder;
use crate::http::answer::respond;
use crate::http::body::{ReadBody, read_json};
use crate::http::chat::request::BodyRoute;
use crate::http::chat::{self, Manner};
use crate::http::errors::ApiError;
use crate::http::legacy::text_answer::TextEncoder;
use crate::http::legacy::text_request::TextRequest;
use crate::http::middleware::checks::Border;
use crate::http::state::{AppState, ID_PREFIXES, Sender, access, response_id};
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::clip;
use crate::http::wire::models::CancelAnswer;
use crate::http::wire::streaming::Dialect;

/// `/generate`: a chat, or a prompt, answered with named typed events.
pub(in crate::http) async fn generate(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let manner = Manner { form: BodyRoute::Generate, dialect: Dialect::Events, named_events: true, id_prefix: "gen-" };
    chat::answer(request, payload, state, manner).await
}

/// `/generate/stream`: a prompt for code, answered with a stream of texts.
pub(in crate::http) async fn stream(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let asked = read(&request, payload, &state).await.map_err(|error| state.refused(error))?;
    let (ReadBody { asked: TextRequest { conversation, generation, coalescing }, memory }, sender) = asked;
    let id = response_id(&request, "gen-");
    let order = respond::order(id.clone(), vec![ResponseInput::Chat(conversation)], &generation, coalescing, sender, memory);
    let accepted = state.backend.service.generate(order).await?;
    Ok(respond::in_stream(&request, &state, &id, accepted.parts, Encoder::Text(TextEncoder)))
}

async fn read(
    request: &HttpRequest,
    payload: Payload,
    state: &Data<AppState>,
) -> Result<(ReadBody<TextRequest>, Sender), ApiError> {
    let coalescing = state.options.text_coalescing;
    let understand = move |body, terms: &Terms<'_>| TextRequest::read(body, &Terms { coalescing, ..*terms });
    Ok((read_json(request, payload, state, understand).await?, Sender::of(request)?))
}

/// `/cancel/{request_id}`: the owner's requests, or any with an admin's key. Another's is not
/// found. What a client calls its requests names them too.
pub(in crate::http) async fn cancel(
    request: HttpRequest,
    request_id: Path<String>,
    state: Data<AppState>,
    border: Data<Border>,
) -> HttpResponse {
    let (request_id, access) = (request_id.as_str(), access(&request));
    let service = &state.backend.service;
    let end = async |id: &str| match access.is_admin {
        true => service.cancel(id).await,
        false => service.cancel_own(id, access.key).await,
    };
    let mut found = end(request_id).await;
    for id in border.named.ids(request_id, access) {
        for prefix in ID_PREFIXES {
            found |= end(&format!("{prefix}{id}")).await;
        }
    }
    let status = if found { "cancelled" } else { "not_found" };
    HttpResponse::Ok().json(CancelAnswer { status, request_id: &clip(request_id) })
}
