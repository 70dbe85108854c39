//! `/v1/conversations`: items under one id, which responses are asked with and added to.
//!
//! A conversation is one record of the store, read and written whole: its items, and its labels. So
//! its size is bounded. Promises: items are those that `input` of a response takes, checked when
//! they are added; a response that ends adds what it was asked with and what it said, one that
//! failed nothing.

use actix_web::web::{Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::actors::budget::{Reserved, Use};
use crate::clock;
use crate::http::answer::sealing::owner_bytes;
use crate::http::body::{BODY_FACTOR, ReadBody, away, read_json};
use crate::http::errors::ApiError;
use crate::http::middleware::key::Access;
use crate::http::responses::items;
use crate::http::responses::kept::{ItemsQuery, page};
use crate::http::responses::labels;
use crate::http::responses::stored::{listed_item, referenced_value, seen_by};
use crate::http::state::{AppState, Sender, access};
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::{WireError, clip};
use crate::http::wire::fields::{RequestFields, note_unknown, unfit};
use crate::http::wire::history::InputItem;
use crate::store::{ResponseStore, StoreError, StoredRecord};

/// How ids of conversations begin; others are not looked for.
const PREFIX: &str = "conv_";
/// Most items that are added by one request, as OpenAI has it.
const ITEMS_MAX: usize = 20;

/// Largest record, in bytes: some ten contexts of gpt-oss. Each turn writes it anew, and reading it
/// takes [`BODY_FACTOR`] times as much memory.
const RECORD_MAX_BYTES: usize = 4 << 20;

/// Longest id of an item that is kept as it came.
const ID_MAX_BYTES: usize = 64;

/// A conversation as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct ConversationRecord {
    created_at: u64,
    metadata: Map<String, Value>,
    items: Vec<Value>,
    /// The number of the next item that comes without an id.
    next: usize,
}

impl ConversationRecord {
    fn read(record: &StoredRecord) -> Result<Self, ApiError> {
        serde_json::from_slice(&record.bytes).map_err(|error| {
            tracing::error!(%error, "a conversation of the response store cannot be read");
            ApiError::StoreFailed
        })
    }

    /// The record; `param` is what made it too large, if it is.
    fn bytes(&self, param: &str) -> Result<Vec<u8>, ApiError> {
        let bytes = serde_json::to_vec(self).expect("a tree of JSON is written as JSON");
        if bytes.len() > RECORD_MAX_BYTES { Err(too_large(param, RECORD_MAX_BYTES as u64)) } else { Ok(bytes) }
    }

    /// Adds items, which get what they lack; as they are listed. A call that is there already, or
    /// its output, is not added again: two turns at once may bring the same. An id that is taken,
    /// empty or too long is replaced, for lists go on behind an id.
    fn add(&mut self, id: &str, items: Vec<Value>) -> &[Value] {
        let digits = id.strip_prefix(PREFIX).unwrap_or(id);
        let begin = self.items.len();
        for mut item in items {
            let same = |key: &str, own: &Value| item[key].is_string() && own[key] == item[key];
            if self.items.iter().any(|own| own["type"] == item["type"] && same("call_id", own)) {
                continue;
            }
            let is_good = item["id"].as_str().is_some_and(|id| (1..=ID_MAX_BYTES).contains(&id.len()));
            if (!is_good || self.items.iter().any(|own| same("id", own)))
                && let Some(fields) = item.as_object_mut()
            {
                fields.remove("id");
            }
            self.items.push(listed_item(item, digits, self.next));
            self.next += 1;
        }
        &self.items[begin..]
    }

    fn object(&self, id: &str) -> Value {
        json!({"id": id, "object": "conversation", "created_at": self.created_at, "metadata": self.metadata})
    }

    fn place_of(&self, item_id: &str) -> Result<usize, ApiError> {
        let unknown = || ApiError::UnknownKept { what: "Item", id: clip(item_id), param: None };
        self.items.iter().position(|item| item["id"] == item_id).ok_or_else(unknown)
    }
}

fn unknown(id: &str, param: Option<&'static str>) -> ApiError {
    ApiError::UnknownKept { what: "Conversation", id: clip(id), param }
}

fn too_large(param: &str, bytes_max: u64) -> ApiError {
    let message = format!("makes the conversation larger than {bytes_max} bytes; begin another one");
    WireError::Unsupported { param: param.to_owned(), message }.into()
}

/// The record of the conversation `id`, if `access` may see it; `param` names it, if not the path.
fn find(
    store: &ResponseStore,
    access: Access,
    id: &str,
    param: Option<&'static str>,
    now_seconds: u64,
) -> Result<StoredRecord, ApiError> {
    let found = if id.starts_with(PREFIX) { store.get(id, now_seconds)? } else { None };
    found.filter(|record| seen_by(access, record)).ok_or_else(|| unknown(id, param))
}

/// Changes the conversation `id` by `param` of a request, if `admit` lets its record be read; what
/// `work` says of it. One change is made at a time.
fn change<T>(
    store: &ResponseStore,
    id: &str,
    param: &str,
    admit: impl FnOnce(&StoredRecord) -> Result<(), ApiError>,
    work: impl FnOnce(&mut ConversationRecord) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let mut result = Err(unknown(id, None));
    let changed = store.update(id, clock::unix_seconds(), |record| {
        let changed = admit(record).and_then(|()| ConversationRecord::read(record)).and_then(|mut conversation| {
            let told = work(&mut conversation)?;
            Ok((told, conversation.bytes(param)?))
        });
        let (told, bytes) = changed.map_or_else(|error| (Err(error), None), |(told, bytes)| (Ok(told), Some(bytes)));
        result = told;
        bytes
    });
    changed.map_err(|error| stored(param, error))?;
    result
}

/// What a store says of a conversation that `param` of a request changed.
fn stored(param: &str, error: StoreError) -> ApiError {
    match error {
        StoreError::TooLarge { bytes_max, .. } => too_large(param, bytes_max),
        error => error.into(),
    }
}

/// What was said in the conversation `id`, oldest first; `memory` pays for it.
///
/// # Errors
/// [`ApiError::UnknownKept`] with the parameter `conversation`.
pub(super) fn said(
    store: &ResponseStore,
    access: Access,
    id: &str,
    memory: &Reserved,
    now_seconds: u64,
) -> Result<Vec<InputItem>, ApiError> {
    const PARAM: &str = "conversation";
    let record = find(store, access, id, Some(PARAM), now_seconds)?;
    memory.grow(Use::Request, BODY_FACTOR * record.bytes.len() as u64)?;
    let items = ConversationRecord::read(&record)?.items;
    store.touch(&[id.to_owned()], now_seconds)?;
    Ok(items::read(Value::Array(items), PARAM)?)
}

/// Adds to the conversation `id` what a response was asked with and what it said, unless it failed.
/// An item that was asked with by its id is added itself: its response may be forgotten first.
pub(super) fn add_turn(store: &ResponseStore, access: Access, id: &str, input: &RawValue, response: &RawValue) {
    #[derive(Deserialize)]
    struct Said {
        status: String,
        output: Vec<Value>,
    }
    let read = || -> Option<(Vec<Value>, Said)> {
        Some((serde_json::from_str(input.get()).ok()?, serde_json::from_str(response.get()).ok()?))
    };
    let Some((asked, Said { status, output })) = read() else { return };
    if !["completed", "incomplete"].contains(&status.as_str()) {
        return;
    }
    let itself = |item: Value| match item["type"].as_str() {
        Some("item_reference") => referenced_value(store, access, item["id"].as_str()?, clock::unix_seconds()).ok().flatten(),
        _ => Some(item),
    };
    let items = asked.into_iter().filter_map(itself).chain(output).collect();
    // Whether the request may see it was found when it was read.
    let added = change(
        store,
        id,
        "conversation",
        |_| Ok(()),
        |conversation| {
            conversation.add(id, items);
            Ok(())
        },
    );
    // A conversation that was deleted meanwhile has no turns.
    if let Err(error) = added {
        tracing::warn!(id, %error, "a turn is not added to its conversation");
    }
}

/// The items that a body brings, as they came; each is one that a response may be asked with.
fn items_of(fields: &mut RequestFields) -> Result<Option<Vec<Value>>, WireError> {
    let path = fields.path_of("items");
    let Some(items) = fields.list("items")? else { return Ok(None) };
    if items.len() > ITEMS_MAX {
        let found = format!("an array of {}", items.len());
        return Err(WireError::Unfit { param: path, found, expected: format!("at most {ITEMS_MAX} items") });
    }
    for (index, item) in items::read(Value::Array(items.clone()), &path)?.into_iter().enumerate() {
        if let InputItem::Reference { .. } = item {
            let message = "an item is added as it is, not by its id".to_owned();
            return Err(WireError::Unsupported { param: format!("{path}[{index}]"), message });
        }
    }
    Ok(Some(items))
}

fn metadata_of(fields: &mut RequestFields) -> Result<Option<Map<String, Value>>, WireError> {
    labels::check_metadata(fields)?;
    Ok(fields.object("metadata")?.map(RequestFields::into_rest))
}

/// The body of a new conversation: its items and its labels.
pub(super) fn read_created(body: Value) -> Result<(Vec<Value>, Map<String, Value>), WireError> {
    let mut fields = RequestFields::of(body, "")?;
    let read = (items_of(&mut fields)?.unwrap_or_default(), metadata_of(&mut fields)?.unwrap_or_default());
    note_unknown(fields);
    Ok(read)
}

/// A body with other labels.
pub(super) fn read_labels(body: Value) -> Result<Map<String, Value>, WireError> {
    let mut fields = RequestFields::of(body, "")?;
    let path = fields.path_of("metadata");
    let metadata = metadata_of(&mut fields)?;
    note_unknown(fields);
    metadata.ok_or(WireError::Missing { param: path, expected: "an object of texts" })
}

/// A body with items to add.
pub(super) fn read_added(body: Value) -> Result<Vec<Value>, WireError> {
    let mut fields = RequestFields::of(body, "")?;
    let path = fields.path_of("items");
    let items = items_of(&mut fields)?.filter(|items| !items.is_empty());
    note_unknown(fields);
    items.ok_or_else(|| unfit(&path, &Value::Array(Vec::new()), "at least one item"))
}

/// Refuses what needs a store, by a server that keeps nothing.
fn check_store(state: &AppState) -> Result<ResponseStore, ApiError> {
    if state.options.responses.is_on() {
        return Ok(state.options.responses.clone());
    }
    Err(ApiError::KeepsNothing)
}

/// Work with the conversation of the path, away from the workers, if `access` may see it.
async fn with<T: Send + 'static>(
    state: &Data<AppState>,
    access: Access,
    id: &str,
    work: impl FnOnce(&ResponseStore, &str, StoredRecord) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (store, id) = (check_store(state)?, id.to_owned());
    let memory = state.backend.service.budget().open();
    away(true, move || {
        let record = find(&store, access, &id, None, clock::unix_seconds())?;
        memory.grow(Use::Request, BODY_FACTOR * record.bytes.len() as u64)?;
        work(&store, &id, record)
    })
    .await?
}

/// The same of work that changes it by `param` of the request.
async fn changed<T: Send + 'static>(
    state: &Data<AppState>,
    access: Access,
    id: &str,
    param: &'static str,
    work: impl FnOnce(&str, &mut ConversationRecord) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (store, id) = (check_store(state)?, id.to_owned());
    let memory = state.backend.service.budget().open();
    away(true, move || {
        let admit = |record: &StoredRecord| {
            if !id.starts_with(PREFIX) || !seen_by(access, record) {
                return Err(unknown(&id, None));
            }
            Ok(memory.grow(Use::Request, BODY_FACTOR * record.bytes.len() as u64)?)
        };
        change(&store, &id, param, admit, |conversation| work(&id, conversation))
    })
    .await?
}

/// POST: a new conversation.
pub(in crate::http) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let store = check_store(&state)?;
    let owner = Sender::of(&request)?.owner;
    let understand = |body, _: &Terms<'_>| read_created(body);
    let ReadBody { asked: (items, metadata), memory } = read_json(&request, payload, &state, understand).await?;
    let object = away(true, move || {
        let _memory = memory;
        let (id, now) = (format!("{PREFIX}{}", Uuid::new_v4().simple()), clock::unix_seconds());
        let mut conversation = ConversationRecord { created_at: now, metadata, items: Vec::new(), next: 0 };
        conversation.add(&id, items);
        store.put(&id, &owner_bytes(owner), &conversation.bytes("items")?, now).map_err(|error| stored("items", error))?;
        Ok::<_, ApiError>(conversation.object(&id))
    })
    .await??;
    Ok(HttpResponse::Ok().json(object))
}

/// GET: the conversation, without its items.
pub(in crate::http) async fn get(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let told = |_: &ResponseStore, id: &str, record: StoredRecord| Ok(ConversationRecord::read(&record)?.object(id));
    Ok(HttpResponse::Ok().json(with(&state, access(&request), &id, told).await?))
}

/// POST …/{id}: other labels.
pub(in crate::http) async fn update(
    request: HttpRequest,
    payload: Payload,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let understand = |body, _: &Terms<'_>| read_labels(body);
    let ReadBody { asked: metadata, memory } = read_json(&request, payload, &state, understand).await?;
    let relabel = move |id: &str, conversation: &mut ConversationRecord| {
        let _memory = memory;
        conversation.metadata = metadata;
        Ok(conversation.object(id))
    };
    Ok(HttpResponse::Ok().json(changed(&state, access(&request), &id, "metadata", relabel).await?))
}

/// DELETE: the conversation is forgotten, with its items; responses that were added to it are not.
pub(in crate::http) async fn delete(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let forget = |store: &ResponseStore, id: &str, _: StoredRecord| {
        store.delete(id)?;
        Ok(json!({"id": id, "object": "conversation.deleted", "deleted": true}))
    };
    Ok(HttpResponse::Ok().json(with(&state, access(&request), &id, forget).await?))
}

/// POST …/items: items are added at the end.
pub(in crate::http) async fn add_items(
    request: HttpRequest,
    payload: Payload,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let understand = |body, _: &Terms<'_>| read_added(body);
    let ReadBody { asked: items, memory } = read_json(&request, payload, &state, understand).await?;
    let add = move |id: &str, conversation: &mut ConversationRecord| {
        let _memory = memory;
        let mut added = conversation.add(id, items).to_vec();
        let query = ItemsQuery { limit: Some(ITEMS_MAX.to_string()), order: Some("asc".to_owned()), after: None };
        Ok(page(&mut added, &query)?)
    };
    Ok(HttpResponse::Ok().json(changed(&state, access(&request), &id, "items", add).await?))
}

/// GET …/items: the items, latest first unless asked otherwise.
pub(in crate::http) async fn list_items(
    request: HttpRequest,
    id: Path<String>,
    query: Query<ItemsQuery>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let query = query.into_inner();
    let list = move |_: &ResponseStore, _: &str, record: StoredRecord| {
        let mut items = ConversationRecord::read(&record)?.items;
        Ok(page(&mut items, &query)?)
    };
    Ok(HttpResponse::Ok().json(with(&state, access(&request), &id, list).await?))
}

/// GET …/items/{item}: one item.
pub(in crate::http) async fn get_item(
    request: HttpRequest,
    path: Path<(String, String)>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (id, item_id) = path.into_inner();
    let told = move |_: &ResponseStore, _: &str, record: StoredRecord| {
        let mut conversation = ConversationRecord::read(&record)?;
        let place = conversation.place_of(&item_id)?;
        Ok(conversation.items.swap_remove(place))
    };
    Ok(HttpResponse::Ok().json(with(&state, access(&request), &id, told).await?))
}

/// DELETE …/items/{item}: one item goes; the conversation that is left.
pub(in crate::http) async fn delete_item(
    request: HttpRequest,
    path: Path<(String, String)>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (id, item_id) = path.into_inner();
    let remove = move |id: &str, conversation: &mut ConversationRecord| {
        let place = conversation.place_of(&item_id)?;
        conversation.items.remove(place);
        Ok(conversation.object(id))
    };
    Ok(HttpResponse::Ok().json(changed(&state, access(&request), &id, "item", remove).await?))
}
