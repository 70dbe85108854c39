//! `GET /v1/models`, `/v1/models/{id}`, `/models` and `/version`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};

use crate::http::errors::ApiError;
use crate::http::state::AppState;
use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::models::{ModelEntry, ModelList, VersionAnswer};

/// The model under all its names.
pub(super) async fn list(front: Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(ModelList::new(&front.names, front.started, context_tokens_max(&front)))
}

/// The model under one of its names, which may hold slashes.
pub(super) async fn one(name: Path<String>, front: Data<AppState>) -> Result<HttpResponse, ApiError> {
    let unlisted = &front.options.unlisted_names;
    match ModelEntry::new(&name, &front.names, unlisted, front.started, context_tokens_max(&front)) {
        Some(entry) => Ok(HttpResponse::Ok().json(entry)),
        None => Err(WireError::UnknownModel { asked: quoted(&name), served: front.names.join(", ") }.into()),
    }
}

/// Which build this is.
pub(super) async fn version() -> HttpResponse {
    HttpResponse::Ok().json(VersionAnswer { version: crate::VERSION })
}

fn context_tokens_max(front: &AppState) -> Option<usize> {
    front.backend.service.limits().map(|limits| limits.context_tokens_max)
}
