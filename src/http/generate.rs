//! The predecessors' routes: `POST /generate`, `/generate/stream` and `/cancel/{request_id}`.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::actors::messages::ResponseInput;

use super::body::{ReadBody, read_json};
use super::chat::{self, Manner};
use super::errors::ApiError;
use super::front::{AppState, Sender, access, response_id};
use super::respond;
use super::wire::chat_request::BodyRoute;
use super::wire::encoder::Encoder;
use super::wire::error::clip;
use super::wire::models::CancelAnswer;
use super::wire::streaming::Dialect;
use super::wire::terms::Terms;
use super::wire::text_answer::TextEncoder;
use super::wire::text_request::TextRequest;

/// `/generate`: a chat, or a prompt, answered with named typed events.
pub(super) async fn generate(request: HttpRequest, payload: Payload, front: Data<AppState>) -> Result<HttpResponse, ApiError> {
    let manner = Manner { form: BodyRoute::Generate, dialect: Dialect::Events, named_events: true, id_prefix: "gen" };
    chat::answer(request, payload, front, manner).await
}

/// `/generate/stream`: a prompt for code, answered with a stream of texts.
pub(super) async fn stream(request: HttpRequest, payload: Payload, front: Data<AppState>) -> Result<HttpResponse, ApiError> {
    let asked = read(&request, payload, &front).await.map_err(|error| front.refused(error))?;
    let (ReadBody { asked: TextRequest { conversation, generation, coalescing }, memory }, sender) = asked;
    let id = response_id(&request, "gen");
    let order = respond::order(id.clone(), vec![ResponseInput::Chat(conversation)], &generation, coalescing, sender, memory);
    let accepted = front.backend.service.generate(order).await?;
    Ok(respond::in_stream(&request, &front, &id, accepted.parts, Encoder::Text(TextEncoder)))
}

async fn read(
    request: &HttpRequest,
    payload: Payload,
    front: &Data<AppState>,
) -> Result<(ReadBody<TextRequest>, Sender), ApiError> {
    let coalescing = front.options.text_coalescing;
    let understand = move |body, terms: &Terms<'_>| TextRequest::read(body, &Terms { coalescing, ..*terms });
    Ok((read_json(request, payload, front, understand).await?, Sender::of(request)?))
}

/// `/cancel/{request_id}`: the owner's requests, or any with an admin's key. Another's is not found.
pub(super) async fn cancel(request: HttpRequest, request_id: Path<String>, front: Data<AppState>) -> HttpResponse {
    let (request_id, access) = (request_id.as_str(), access(&request));
    let service = &front.backend.service;
    let found = match access.is_admin {
        true => service.cancel(request_id).await,
        false => service.cancel_own(request_id, access.key).await,
    };
    let status = if found { "cancelled" } else { "not_found" };
    HttpResponse::Ok().json(CancelAnswer { status, request_id: &clip(request_id) })
}
