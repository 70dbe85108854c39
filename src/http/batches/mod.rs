//! `/v1/batches` and `/v1/files`: requests by the file, answered when there is room for them.
//!
//! Promises: each line is answered as its route would answer it alone, or has its error in the
//! error file; what clients wait for comes first; a batch goes on after a restart with the lines
//! that have no outcome. All of it is kept in the response store, by its bounds.

pub(in crate::http) mod files;
mod lines;
mod object;
pub(in crate::http) mod runner;

use actix_web::web::{Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value};

use crate::actors::budget::Use;
use crate::clock;
use crate::http::answer::sealing::owner_bytes;
use crate::http::batches::files::{check_store, listed, owner_of};
use crate::http::batches::object::{BatchObject, BatchStatus, PREFIX, WINDOW};
use crate::http::body::{ReadBody, away, read_json};
use crate::http::errors::ApiError;
use crate::http::middleware::key::Access;
use crate::http::responses::kept::{ItemsQuery, page};
use crate::http::responses::labels;
use crate::http::state::{AppState, access};
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::{WireError, clip};
use crate::http::wire::fields::{RequestFields, note_unknown, text, unfit};
use crate::store::{ResponseStore, StoreError};

/// The routes that lines may ask.
const ENDPOINTS: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/responses"];

/// A batch that is asked for.
#[derive(Debug, PartialEq)]
struct BatchRequest {
    endpoint: String,
    input_file_id: String,
    metadata: Option<Map<String, Value>>,
}

impl BatchRequest {
    fn read(body: Value) -> Result<Self, WireError> {
        let mut fields = RequestFields::of(body, "")?;
        let path = fields.path_of("input_file_id");
        let input_file_id = text(fields.required("input_file_id", "the id of a file")?, &path)?;
        let path = fields.path_of("endpoint");
        let endpoint = text(fields.required("endpoint", "a route such as /v1/chat/completions")?, &path)?;
        if !ENDPOINTS.contains(&endpoint.as_str()) {
            return Err(unfit(&path, &Value::String(endpoint), &format!("one of: {}", ENDPOINTS.join(", "))));
        }
        let path = fields.path_of("completion_window");
        match fields.text("completion_window")?.as_deref() {
            None | Some(WINDOW) => {}
            Some(other) => return Err(unfit(&path, &Value::String(other.to_owned()), &format!("the string {WINDOW:?}"))),
        }
        labels::check_metadata(&fields)?;
        let metadata = fields.object("metadata")?.map(RequestFields::into_rest);
        note_unknown(fields);
        Ok(Self { endpoint, input_file_id, metadata })
    }
}

/// The reader of a batch's body, for `/openapi.json`, which notes what it looks for.
pub(in crate::http) fn noted(body: Value) -> Result<(), WireError> {
    BatchRequest::read(body).map(drop)
}

/// POST: a batch begins, or fails at once by what is wrong with its file.
pub(in crate::http) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let store = check_store(&state)?;
    let understand = |body, _: &Terms<'_>| BatchRequest::read(body);
    let ReadBody { asked, memory } = read_json(&request, payload, &state, understand).await?;
    let access = access(&request);
    let begin = move || {
        let BatchRequest { endpoint, input_file_id, metadata } = asked;
        let file = files::find(&store, access, &input_file_id, Some("input_file_id"), &memory)?;
        memory.grow(Use::Request, lines::reading_bytes(&file.content))?;
        let (read, now) = (lines::read(&file.content, &endpoint), clock::unix_seconds());
        let batch = BatchObject::new(&endpoint, &input_file_id, metadata, read.map(|lines| lines.len()), now);
        let (owner, record) = (owner_bytes(access.key), to_record(&batch));
        match batch.is_under_way() {
            true => store.put_under_way(&batch.id, &owner, &record, now)?,
            false => store.put(&batch.id, &owner, &record, now)?,
        }
        Ok::<_, ApiError>(batch)
    };
    let batch = away(true, begin).await??;
    state.batches.wake();
    Ok(HttpResponse::Ok().json(batch))
}

fn to_record(batch: &BatchObject) -> Vec<u8> {
    serde_json::to_vec(batch).expect("texts and numbers are JSON")
}

/// The batch `id`, if `access` may see it.
fn find(store: &ResponseStore, access: Access, id: &str) -> Result<BatchObject, ApiError> {
    let unknown = || ApiError::UnknownKept { what: "Batch", id: clip(id), param: None };
    let found = if id.starts_with(PREFIX) { store.get(id, clock::unix_seconds())? } else { None };
    let record = found.filter(|record| access.sees(owner_of(&record.owner))).ok_or_else(unknown)?;
    serde_json::from_slice(&record.bytes).map_err(|_| ApiError::StoreFailed)
}

/// Changes a batch that is there; as it is then.
fn changed(store: &ResponseStore, id: &str, work: impl FnOnce(&mut BatchObject)) -> Result<Option<BatchObject>, StoreError> {
    let mut told = None;
    store.update(id, clock::unix_seconds(), |record| {
        let mut batch: BatchObject = serde_json::from_slice(&record.bytes).ok()?;
        work(&mut batch);
        let record = to_record(&batch);
        told = Some(batch);
        Some(record)
    })?;
    Ok(told)
}

/// GET …/{id}: the batch, as far as it is.
pub(in crate::http) async fn get(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (store, access) = (check_store(&state)?, access(&request));
    Ok(HttpResponse::Ok().json(away(true, move || find(&store, access, &id)).await??))
}

/// GET: the batches of the client, latest first.
pub(in crate::http) async fn list(
    request: HttpRequest,
    query: Query<ItemsQuery>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (store, access, query) = (check_store(&state)?, access(&request), query.into_inner());
    let told = move || {
        let mut batches = listed(&store, access, PREFIX, |record| serde_json::from_slice(record).ok())?;
        Ok::<_, ApiError>(page(&mut batches, &query)?)
    };
    Ok(HttpResponse::Ok().json(away(true, told).await??))
}

/// POST …/{id}/cancel: no more of its lines are asked; what was answered is kept.
pub(in crate::http) async fn cancel(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (store, access, called_off) = (check_store(&state)?, access(&request), id.clone());
    let call_off = move || {
        let batch = find(&store, access, &id)?;
        if !batch.is_under_way() {
            let message = "has ended; only a batch that is under way is called off".to_owned();
            return Err(WireError::Conflict { param: "batch_id".to_owned(), message }.into());
        }
        let changed = changed(&store, &id, |batch| {
            if batch.status == BatchStatus::InProgress {
                batch.set_status(BatchStatus::Cancelling, clock::unix_seconds());
            }
        })?;
        changed.ok_or(ApiError::UnknownKept { what: "Batch", id: clip(&id), param: None })
    };
    let batch = away(true, call_off).await??;
    state.batches.call_off(&called_off);
    Ok(HttpResponse::Ok().json(batch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::wire::samples::blame;

    #[test]
    fn a_batch_names_a_file_and_a_route_that_is_served() {
        let whole = json!({"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h", "metadata": {"a": "b"}});
        assert_eq!(BatchRequest::read(whole.clone()).unwrap().input_file_id, "file-1");
        for (field, value, code) in [
            ("endpoint", json!("/v1/embeddings"), "invalid_value"),
            ("endpoint", json!("/v1/messages"), "invalid_value"),
            ("endpoint", json!(null), "missing_required_parameter"),
            ("input_file_id", json!(null), "missing_required_parameter"),
            ("input_file_id", json!(5), "invalid_value"),
            ("completion_window", json!("1h"), "invalid_value"),
        ] {
            let mut body = whole.clone();
            body[field] = value;
            assert_eq!(blame(BatchRequest::read(body)), (field.to_owned(), code));
        }
    }
}
