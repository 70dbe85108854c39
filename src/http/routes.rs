//! The route table. Each path answers to its methods; any other method gets 405 with `Allow`, any
//! other path 404.

use actix_web::guard::{self, Guard};
use actix_web::web::{self, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, Route};

use crate::http::batches::{self, files};
use crate::http::chat;
use crate::http::completions;
use crate::http::errors::ApiError;
use crate::http::legacy::generate;
use crate::http::messages;
use crate::http::models;
use crate::http::openapi;
use crate::http::page;
use crate::http::render;
use crate::http::responses::{self, conversations, kept};
use crate::http::tokens;
use crate::http::wire::error::clip;

/// All routes of this room but those that observe the server.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(post("/v1/chat/completions", chat::completions))
        .service(post("/v1/chat/completions/render", render::chat))
        .service(post("/v1/completions", completions::completions))
        .service(post("/v1/responses", responses::create))
        .service(routed("/v1/responses/{id}", [on(reads(), kept::get), on(guard::Delete(), kept::delete)], "GET, HEAD, DELETE"))
        .service(post("/v1/responses/{id}/cancel", kept::cancel))
        .service(get("/v1/responses/{id}/input_items", kept::input_items))
        .service(post("/v1/conversations", conversations::create))
        .service(routed(
            "/v1/conversations/{id}",
            [
                on(reads(), conversations::get),
                on(guard::Post(), conversations::update),
                on(guard::Delete(), conversations::delete),
            ],
            "GET, HEAD, POST, DELETE",
        ))
        .service(routed(
            "/v1/conversations/{id}/items",
            [on(reads(), conversations::list_items), on(guard::Post(), conversations::add_items)],
            "GET, HEAD, POST",
        ))
        .service(routed(
            "/v1/conversations/{id}/items/{item}",
            [on(reads(), conversations::get_item), on(guard::Delete(), conversations::delete_item)],
            "GET, HEAD, DELETE",
        ))
        .service(post("/v1/messages", messages::create))
        .service(post("/v1/messages/count_tokens", messages::count_tokens))
        .service(post("/v1/messages/render", messages::render))
        .service(routed("/v1/files", [on(reads(), files::list), on(guard::Post(), files::upload)], "GET, HEAD, POST"))
        .service(routed("/v1/files/{id}", [on(reads(), files::get), on(guard::Delete(), files::delete)], "GET, HEAD, DELETE"))
        .service(get("/v1/files/{id}/content", files::content))
        .service(routed("/v1/batches", [on(reads(), batches::list), on(guard::Post(), batches::create)], "GET, HEAD, POST"))
        .service(get("/v1/batches/{id}", batches::get))
        .service(post("/v1/batches/{id}/cancel", batches::cancel))
        .service(post("/apply-template", render::apply_template))
        .service(post("/generate", generate::generate))
        .service(post("/generate/stream", generate::stream))
        .service(post("/cancel/{request_id}", generate::cancel))
        .service(post("/tokenize", tokens::tokenize))
        .service(post("/detokenize", tokens::detokenize))
        .service(get("/v1/models", models::list))
        .service(get("/v1/models/{model:.+}", models::one))
        .service(get("/models", models::list))
        .service(get("/version", models::version))
        .service(get("/openapi.json", openapi::document))
        .service(get("/", page::root))
        .service(get("/docs", page::docs))
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
    routed(path, [on(reads(), handler)], "GET, HEAD")
}

/// A path that answers to POST.
pub(super) fn post<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    routed(path, [on(guard::Post(), handler)], "POST")
}

/// A path that answers to the methods of these routes, which `allowed` names.
fn routed<const N: usize>(path: &str, routes: [Route; N], allowed: &'static str) -> Resource {
    #[cfg(test)]
    TABLE.with_borrow_mut(|table| table.push((path.to_owned(), allowed)));
    only(routes.into_iter().fold(web::resource(path), Resource::route), allowed)
}

/// The requests that `methods` lets through go to `handler`.
fn on<F, Args>(methods: impl Guard + 'static, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Route::new().guard(methods).to(handler)
}

/// GET, and HEAD with the same head.
fn reads() -> impl Guard {
    guard::Any(guard::Get()).or(guard::Head())
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

#[cfg(test)]
thread_local! {
    /// Each path that this thread has made a resource of, with its methods.
    static TABLE: std::cell::RefCell<Vec<(String, &'static str)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The whole table: each path with its methods, as `Allow` has them.
#[cfg(test)]
pub(in crate::http) fn tabled() -> Vec<(String, &'static str)> {
    TABLE.take();
    let _app = actix_web::App::new().configure(configure).configure(crate::http::observe::configure);
    TABLE.take()
}
