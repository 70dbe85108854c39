//! `GET /openapi.json`: what this server takes and gives, for programs. The page at `/docs` shows
//! it.
//!
//! Promises: every route of the table is in it, and no other; a request's fields are those that its
//! reader looks for, with the bounds of this server's model. Absent on purpose: each event of a
//! stream, which OpenAPI has no words for; `docs/api.md` has them.

mod operations;
mod requests;

use std::collections::BTreeSet;

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::{Bytes, Data};
use serde_json::{Map, Value, json};

use operations::{EVERY, OPERATIONS, Operation, OperationAnswer};
use requests::BodyForm;

use crate::http::errors::ApiError;
use crate::http::state::AppState;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;

/// What readers look at by hand, the parameters and the answers.
const TOLD: &str = include_str!("schemas.json");

/// The handler. The document is made once, when it is first asked for.
pub(super) async fn document(state: Data<AppState>) -> Result<HttpResponse, ApiError> {
    let body = match state.document.get() {
        Some(body) => body.clone(),
        None => {
            let made = Bytes::from(made(&state.terms()?)?.to_string());
            state.document.get_or_init(|| made).clone()
        }
    };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-cache")).content_type("application/json").body(body))
}

/// The document of a server that reads requests against `terms`.
///
/// # Errors
/// Those of a reader that refuses its own sample: a bug.
fn made(terms: &Terms<'_>) -> Result<Value, WireError> {
    let told: Map<String, Value> = serde_json::from_str(TOLD).expect("the file is JSON");
    let part = |name: &str| told[name].as_object().cloned().expect("each part is an object");
    let (fields, parameters, mut schemas) = (part("fields"), part("parameters"), part("answers"));
    let forms: BTreeSet<_> = OPERATIONS.iter().filter_map(|operation| operation.body).collect();
    for form in forms {
        if let Some(name) = form.name() {
            schemas.insert(name.to_owned(), form.schema(terms, &fields)?);
        }
    }
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(shown_path(operation.path)).or_insert_with(|| json!({}));
        path[operation.method] = shown(operation, &parameters);
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "antiphon",
            "version": crate::VERSION,
            "description": "Serves OpenAI's gpt-oss models. A field that is not named here is ignored; one under x-refused is \
                            known and answered with 400. Null is as good as absent.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"apiKey": []}],
    }))
}

/// A path of the route table as OpenAPI writes it.
fn shown_path(path: &str) -> String {
    path.replace(":.+}", "}")
}

fn shown(operation: &Operation, parameters: &Map<String, Value>) -> Value {
    let path = shown_path(operation.path);
    let named = path.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let in_path = named.map(|(name, _)| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let asked = operation.parameters.iter().map(|name| parameters[*name].clone());
    let parameters: Vec<Value> = in_path.chain(asked).collect();
    let name = path.trim_matches('/').replace(['/', '{', '}', '.', '-'], "_");
    let mut shown = json!({
        "operationId": format!("{}_{name}", operation.method),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": parameters,
        "responses": answers(operation),
    });
    if let Some((body, name)) = operation.body.and_then(|body| Some((body, body.name()?))) {
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        let content = json!({"application/json": {"schema": schema, "example": body.example()}});
        shown["requestBody"] = json!({"required": true, "content": content});
    }
    if operation.body == Some(BodyForm::File) {
        let schema = json!({"$ref": "#/components/schemas/FileUpload"});
        shown["requestBody"] = json!({"required": true, "content": {"multipart/form-data": {"schema": schema}}});
    }
    shown
}

/// The answers of an operation by their status.
fn answers(operation: &Operation) -> Map<String, Value> {
    // OpenAPI 3.1 has no words for the events of a stream.
    let events = || json!({});
    let of = |name: &str| json!({"schema": {"$ref": format!("#/components/schemas/{name}")}});
    let content = match operation.answer {
        OperationAnswer::Json(name) => json!({"application/json": of(name)}),
        OperationAnswer::JsonOrEvents(name) => json!({"application/json": of(name), "text/event-stream": events()}),
        OperationAnswer::Events => json!({"text/event-stream": events()}),
        OperationAnswer::Bytes(kind) => json!({kind: {}}),
    };
    let error = if operation.tag == "Messages" { "MessagesError" } else { "Error" };
    let mut answers = Map::new();
    answers.insert("200".to_owned(), json!({"description": "Done", "content": content}));
    let statuses: BTreeSet<u16> = EVERY.iter().chain(operation.statuses).copied().collect();
    for status in statuses {
        let mut answer = json!({"description": description(status)});
        match (status, operation.answer) {
            (304, _) => {}
            // A probe that says no says why in its own form.
            (503, OperationAnswer::Json(name)) if operation.tag == "Health" => {
                answer["content"] = json!({"application/json": of(name)});
            }
            _ => answer["content"] = json!({"application/json": of(error)}),
        }
        if [429, 503, 529].contains(&status) {
            let schema = json!({"type": "integer"});
            answer["headers"] = json!({"Retry-After": {"description": "Seconds to wait", "schema": schema}});
        }
        answers.insert(status.to_string(), answer);
    }
    answers
}

/// What a status means here.
fn description(status: u16) -> &'static str {
    match status {
        304 => "The client has it",
        400 => "The request cannot be served as it is; param names the field",
        401 => "A key is needed, or the one given is none of this server's",
        403 => "The key opens less, or the host is not served",
        404 => "The path, the model or what it names is not here",
        408 => "The request did not arrive in time",
        409 => "It is not in the state that this needs",
        413 => "The body is too large",
        415 => "The body is not of the type that is read here",
        429 => "The queue is full",
        431 => "The head is too large",
        500 => "The answer broke inside; the log tells more",
        503 => "The server loads, leaves, or has no room at the moment",
        529 => "The server has too much to do",
        _ => "Another outcome",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::tabled;
    use crate::http::wire::samples::terms;

    #[test]
    fn the_document_has_the_routes_of_the_table_and_no_others() {
        let told: BTreeSet<(String, String)> =
            OPERATIONS.iter().map(|operation| (operation.path.to_owned(), operation.method.to_uppercase())).collect();
        assert_eq!(told.len(), OPERATIONS.len(), "an operation is told twice");
        let mut routed = BTreeSet::new();
        for (path, allowed) in tabled() {
            // HEAD is GET without a body, as everywhere.
            let methods = allowed.split(", ").filter(|method| *method != "HEAD");
            routed.extend(methods.map(|method| (path.clone(), method.to_owned())));
        }
        assert!(routed.len() > 40, "the table has {} routes", routed.len());
        assert_eq!(told, routed);
    }

    /// Every `$ref` of the document leads somewhere, every parameter of a path is named.
    #[test]
    fn the_document_refers_to_what_is_there() {
        let document = made(&terms()).unwrap();
        let text = document.to_string();
        let mut names: Vec<&str> =
            text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert!(document["components"]["schemas"].get(name).is_some(), "{name} is not there");
        }
        let models = &document["paths"]["/v1/models/{model}"]["get"];
        assert_eq!(models["parameters"][0]["name"], "model");
        assert_eq!(
            document["paths"]["/v1/messages"]["post"]["responses"]["529"]["headers"]["Retry-After"]["schema"]["type"],
            "integer"
        );
    }
}
