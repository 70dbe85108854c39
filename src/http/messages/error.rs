//! Errors as Anthropic's clients read them: the same words, param and code as everywhere, under the
//! types of that API.

use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use serde::Serialize;

use crate::actors::budget::MEMORY_FULL;
use crate::http::answer::encoder::to_json;
use crate::http::errors::Complaint;
use crate::http::wire::error::{ErrorObject, INVALID, SERVER, UNAVAILABLE};

/// Where this API is, and below it.
const ROOT: &str = "/v1/messages";
/// The header under which Anthropic's clients look for the id.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// Anthropic's status of a server that has too much to do.
const OVERLOADED: u16 = 529;

/// An error as JSON has it, in a body or in a stream's last event.
#[derive(Debug, Serialize)]
pub(in crate::http) struct MessagesError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: MessagesErrorObject<'a>,
    request_id: &'a str,
}

#[derive(Debug, Serialize)]
struct MessagesErrorObject<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
    /// The parameter at fault, and this server's code: typed clients take fields that they do not
    /// know.
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl<'a> MessagesError<'a> {
    /// `object` in this API's form.
    pub(in crate::http) fn new(object: &'a ErrorObject, request_id: &'a str) -> Self {
        let ErrorObject { message, param, code, .. } = object;
        let error = MessagesErrorObject { kind: kind(object), message, param: param.as_deref(), code: *code };
        Self { kind: "error", error, request_id }
    }
}

/// Whether `path` is of this API; if so, its errors are, whatever refuses the request.
pub(in crate::http) fn is_route(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The answer of a route of this API, with its id where these clients look for it; an error in
/// their form.
pub(in crate::http) fn of_route(mut response: HttpResponse, complaint: Option<&Complaint>, request_id: &str) -> HttpResponse {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let Some(Complaint(object)) = complaint else { return response };
    *response.status_mut() = status(response.status(), object.code);
    response.set_body(BoxBody::new(to_json(&MessagesError::new(object, request_id))))
}

/// What the API has a status of its own for is too much work. A server that takes none now (it
/// loads, or leaves) stays 503, by which balancers ask another one.
fn status(status: StatusCode, code: Option<&str>) -> StatusCode {
    match code {
        Some(MEMORY_FULL | "queue_timeout" | "compiler_busy") => StatusCode::from_u16(OVERLOADED).expect("three digits"),
        _ => status,
    }
}

fn kind(object: &ErrorObject) -> &'static str {
    match (object.kind, object.code) {
        (INVALID, Some("body_too_large" | "request_too_large")) => "request_too_large",
        (UNAVAILABLE, _) => "overloaded_error",
        (SERVER, _) => "api_error",
        (kind, _) => kind,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError;
    use actix_web::body::MessageBody;
    use serde_json::{Value, json};

    use super::*;
    use crate::actors::messages::Refusal;
    use crate::http::answer::whole::Broken;
    use crate::http::errors::ApiError;
    use crate::http::wire::error::WireError;

    #[test]
    fn routes_are_told_by_their_path() {
        let routes = ["/v1/messages", "/v1/messages/", "/v1/messages/count_tokens", "/v1/messages/batches/x"];
        assert!(routes.into_iter().all(is_route));
        let others = ["/v1/messagesx", "/v1/message", "/messages", "/v1/responses", "/v1/chat/completions", ""];
        assert!(!others.into_iter().any(is_route));
    }

    /// Status and body of an error.
    fn seen(error: &ApiError) -> (u16, Value) {
        let mut response = error.error_response();
        let complaint = response.extensions_mut().remove::<Complaint>();
        let response = of_route(response, complaint.as_ref(), "req-1");
        assert_eq!(response.headers().get("request-id").unwrap(), "req-1");
        assert_eq!(response.headers().get("content-type").unwrap(), "application/json");
        let status = response.status().as_u16();
        let Ok(body) = response.into_body().try_into_bytes() else { panic!("an error has its body at hand") };
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn every_error_has_a_type_of_the_api() {
        let unavailable = |code| ApiError::from(Refusal::Unavailable { retry_after_seconds: 3, code });
        let broken = |code| ApiError::from(Broken { code, message: "It broke.".to_owned() });
        let unfit = WireError::Missing { param: "max_tokens".to_owned(), expected: "a number" };
        let unknown = WireError::UnknownModel { asked: "a".to_owned(), served: "b".to_owned() };
        let full = Refusal::QueueFull { retry_after_seconds: 3, message: "Full.".to_owned() };
        for (error, status, kind) in [
            (ApiError::from(unfit.clone()), 400, "invalid_request_error"),
            (ApiError::from(unknown), 404, "not_found_error"),
            (ApiError::UnknownPath { path: "/v1/messages/x".to_owned() }, 404, "not_found_error"),
            (ApiError::Unauthorized { given: true }, 401, "authentication_error"),
            (ApiError::HostForbidden { host: "a".to_owned() }, 403, "permission_error"),
            (ApiError::BodyTooLarge { max_bytes: 7 }, 413, "request_too_large"),
            (ApiError::BodyTooSlow { seconds: 7 }, 408, "invalid_request_error"),
            (ApiError::from(full), 429, "rate_limit_error"),
            (unavailable(MEMORY_FULL), 529, "overloaded_error"),
            (unavailable("compiler_busy"), 529, "overloaded_error"),
            (broken("queue_timeout"), 529, "overloaded_error"),
            (unavailable("draining"), 503, "overloaded_error"),
            (unavailable("loading"), 503, "overloaded_error"),
            (broken("server_shutdown"), 503, "overloaded_error"),
            (broken("engine_failed"), 500, "api_error"),
            (ApiError::Internal { error_id: "e".to_owned() }, 500, "api_error"),
        ] {
            let (told, body) = seen(&error);
            assert_eq!((told, &body["error"]["type"]), (status, &json!(kind)), "{error:?}");
            assert_eq!((&body["type"], &body["request_id"]), (&json!("error"), &json!("req-1")));
            assert_eq!(body["error"]["message"], error.to_string());
        }
        let (_, body) = seen(&unfit.into());
        let object = json!({"type": "invalid_request_error", "message": "max_tokens is missing; expected a number",
            "param": "max_tokens", "code": "missing_required_parameter"});
        assert_eq!(body, json!({"type": "error", "error": object, "request_id": "req-1"}));
    }
}
