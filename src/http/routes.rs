//! The route table. Each path answers to its methods; any other method gets 405 with `Allow`, any
//! other path 404.

use actix_web::guard::{self, Guard};
use actix_web::web::{self, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, Route};

use crate::http::chat;
use crate::http::completions;
use crate::http::errors::ApiError;
use crate::http::legacy::generate;
use crate::http::models;
use crate::http::page;
use crate::http::responses::{self, kept};
use crate::http::tokens;
use crate::http::wire::error::clip;

/// All routes of this room but those that observe the server.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(post("/v1/chat/completions", chat::completions))
        .service(post("/v1/completions", completions::completions))
        .service(post("/v1/responses", responses::create))
        .service(get_or_delete("/v1/responses/{id}", kept::get, kept::delete))
        .service(post("/v1/responses/{id}/cancel", kept::cancel))
        .service(get("/v1/responses/{id}/input_items", kept::input_items))
        .service(post("/generate", generate::generate))
        .service(post("/generate/stream", generate::stream))
        .service(post("/cancel/{request_id}", generate::cancel))
        .service(post("/tokenize", tokens::tokenize))
        .service(post("/detokenize", tokens::detokenize))
        .service(get("/v1/models", models::list))
        .service(get("/v1/models/{model:.+}", models::one))
        .service(get("/models", models::list))
        .service(get("/version", models::version))
        .service(get("/", page::root))
        .service(get("/page/settings.json", page::settings))
        .service(get("/page/{file}", page::file));
}

/// A path that answers to GET, and to HEAD with the same head.
pub(super) fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, guard::Any(guard::Get()).or(guard::Head()), handler, "GET, HEAD")
}

/// A path that answers to POST.
pub(super) fn post<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, guard::Post(), handler, "POST")
}

fn resource<F, Args>(path: &str, methods: impl Guard + 'static, handler: F, allowed: &'static str) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    only(web::resource(path).route(Route::new().guard(methods).to(handler)), allowed)
}

/// A path that answers to GET, to HEAD with the same head, and to DELETE.
fn get_or_delete<G, GetArgs, D, DeleteArgs>(path: &str, get: G, delete: D) -> Resource
where
    G: Handler<GetArgs>,
    GetArgs: FromRequest + 'static,
    G::Output: Responder + 'static,
    D: Handler<DeleteArgs>,
    DeleteArgs: FromRequest + 'static,
    D::Output: Responder + 'static,
{
    let get = Route::new().guard(guard::Any(guard::Get()).or(guard::Head())).to(get);
    only(web::resource(path).route(get).route(Route::new().guard(guard::Delete()).to(delete)), "GET, HEAD, DELETE")
}

/// `resource`, which answers to no other methods than `allowed`.
fn only(resource: Resource, allowed: &'static str) -> Resource {
    let other = move |request: HttpRequest| async move {
        let (method, path) = (clip(request.method().as_str()), clip(request.path()));
        Err::<String, _>(ApiError::WrongMethod { method, path, allowed })
    };
    resource.default_service(web::to(other))
}

/// The answer to a path that is not in the table.
pub(super) async fn unknown(request: HttpRequest) -> Result<String, ApiError> {
    Err(ApiError::UnknownPath { path: clip(request.path()) })
}
