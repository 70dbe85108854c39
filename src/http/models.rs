//! `GET /v1/models`, `/v1/models/{id}`, `/models` and `/version`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};

use crate::http::errors::ApiError;
use crate::http::state::AppState;
use crate::http::wire::error::{WireError, quoted};
use crate::http::wire::models::{ModelEntry, ModelFacts, ModelList, VersionAnswer};

/// The model under all its names.
pub(super) async fn list(state: Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(ModelList::new(&facts(&state)))
}

/// The model under one of its names, which may hold slashes.
pub(super) async fn one(name: Path<String>, state: Data<AppState>) -> Result<HttpResponse, ApiError> {
    match ModelEntry::new(&name, &facts(&state), &state.options.unlisted_names) {
        Some(entry) => Ok(HttpResponse::Ok().json(entry)),
        None => Err(WireError::UnknownModel { asked: quoted(&name), served: state.names.join(", ") }.into()),
    }
}

/// Which build this is.
pub(super) async fn version() -> HttpResponse {
    HttpResponse::Ok().json(VersionAnswer { version: crate::VERSION })
}

fn facts(state: &AppState) -> ModelFacts<'_> {
    ModelFacts {
        names: &state.names,
        created: state.started,
        context_tokens_max: state.backend.service.limits().map(|limits| limits.context_tokens_max),
        simulated: state.options.simulated.as_deref(),
    }
}
