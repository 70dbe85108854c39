//! Responses that are kept: what of them the store holds, and what is made of it again.
//!
//! A record is the response as its client got it, the items that it was asked with, and the
//! response before it. What was said is a chain of records: each turn keeps its own items alone, so
//! that much of it is written once. A conversation with an id of its own is another thing
//! (`conversations`).

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::actors::budget::{Reserved, Use};
use crate::actors::messages::KeyId;
use crate::http::answer::encoder::to_json;
use crate::http::answer::sealing::owner_bytes;
use crate::http::body::BODY_FACTOR;
use crate::http::errors::ApiError;
use crate::http::middleware::key::Access;
use crate::http::responses::{conversations, items};
use crate::http::wire::error::{WireError, clip};
use crate::http::wire::history::InputItem;
use crate::store::{ResponseStore, StoreError, StoredRecord};

/// Most turns of a conversation that is continued by id.
const TURNS_MAX: usize = 4_096;
/// How ids of this server begin; others are not looked for.
const PREFIX: &str = "resp_";

#[derive(Serialize)]
struct WrittenRecord<'a> {
    response: &'a RawValue,
    input: &'a RawValue,
    previous: Option<&'a str>,
}

/// A record, read: its parts are still text.
#[derive(Deserialize)]
pub(crate) struct ReadRecord<'a> {
    #[serde(borrow)]
    response: &'a RawValue,
    #[serde(borrow)]
    input: &'a RawValue,
    previous: Option<String>,
}

/// What of a kept response says how far it is.
#[derive(Debug, Deserialize)]
pub(crate) struct KeptHead {
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) background: bool,
}

/// What is to be kept of a response, besides what it says.
#[derive(Debug, Clone)]
pub(crate) struct Saving {
    pub(crate) store: ResponseStore,
    pub(crate) id: String,
    /// What the request may see: what it refers to is looked up so.
    pub(crate) access: Access,
    /// The items that it was asked with.
    pub(crate) input: Box<RawValue>,
    /// The response that it continues.
    pub(crate) previous: Option<String>,
    /// The conversation that it is added to.
    pub(crate) conversation: Option<String>,
    /// The response itself is kept, to be found by its id.
    pub(crate) keeps_response: bool,
}

impl Saving {
    /// Keeps the response, whose JSON this is; false if it was to be kept, and is not. May wait for
    /// the disk. A store that fails costs the client nothing but the next turn.
    pub(crate) fn save(&self, response: String, now_seconds: u64) -> bool {
        let response = RawValue::from_string(response).expect("a response is written as JSON");
        let put = |owner: &[u8], record: &[u8]| self.store.put(&self.id, owner, record, now_seconds);
        // What goes wrong is logged.
        let is_kept = !self.keeps_response || self.save_by(&response, put).is_ok();
        if let Some(conversation) = &self.conversation {
            conversations::add_turn(&self.store, self.access, conversation, &self.input, &response);
        }
        is_kept
    }

    /// The same for a response that is kept again once it has ended.
    ///
    /// # Errors
    /// Those of the store: the client could not find it.
    pub(crate) fn save_under_way(&self, response: String, now_seconds: u64) -> Result<(), StoreError> {
        let response = RawValue::from_string(response).expect("a response is written as JSON");
        self.save_by(&response, |owner, record| self.store.put_under_way(&self.id, owner, record, now_seconds))
    }

    fn save_by(&self, response: &RawValue, put: impl FnOnce(&[u8], &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let record = to_json(&WrittenRecord { response, input: &self.input, previous: self.previous.as_deref() });
        let put = put(&owner_bytes(self.access.key), record.as_bytes());
        match &put {
            Ok(()) => {}
            // What a client sends makes no line of an error.
            Err(error @ StoreError::TooLarge { .. }) => tracing::info!(id = self.id, %error, "a response is not kept"),
            // The store has told it once.
            Err(error @ StoreError::Failed(_)) => tracing::debug!(id = self.id, %error, "a response is not kept"),
            Err(error) => tracing::error!(id = self.id, %error, "a response is not kept"),
        }
        put
    }

    /// Memory that it holds: the items, and those of the record once it is written.
    pub(crate) fn bytes(&self) -> u64 {
        2 * self.input.get().len() as u64
    }
}

/// `input` as it is kept and listed: items with a type, an id and parts.
pub(crate) fn listed_input(input: Value, response_id: &str) -> Box<RawValue> {
    let digits = response_id.rsplit('_').next().unwrap_or_default();
    let items = match input {
        Value::String(text) => vec![json!({"type": "message", "role": "user", "content": text})],
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    let listed: Vec<Value> = items.into_iter().enumerate().map(|(index, item)| listed_item(item, digits, index)).collect();
    to_raw_value(&listed).expect("a tree of JSON is written as JSON")
}

/// Where the numbers of a request's items begin, behind those of its answer.
const INPUT_PLACES: usize = 0x8000;

/// An item as it is kept and listed: with a type, an id and parts. One without an id gets one of
/// `digits` and `index`.
pub(super) fn listed_item(mut item: Value, digits: &str, index: usize) -> Value {
    let Some(fields) = item.as_object_mut() else { return item };
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or("message").to_owned();
    let prefix = match kind.as_str() {
        "reasoning" => "rs",
        "function_call" => "fc",
        "function_call_output" => "fco",
        "custom_tool_call" => "ctc",
        "custom_tool_call_output" => "ctco",
        _ => "msg",
    };
    match kind.as_str() {
        "message" => {
            let part = if fields.get("role").is_some_and(|role| role == "assistant") { "output_text" } else { "input_text" };
            if let Some(content) = fields.get_mut("content") {
                if let Value::String(text) = content {
                    *content = json!([{"type": part, "text": text}]);
                }
                content.as_array_mut().into_iter().flatten().for_each(|listed| complete_part(listed, part));
            }
        }
        "reasoning" if fields.get("summary").is_none_or(Value::is_null) => {
            fields.insert("summary".to_owned(), json!([]));
        }
        "function_call" => {
            if let Some(arguments) = fields.get_mut("arguments").filter(|arguments| arguments.is_object()) {
                *arguments = arguments.to_string().into();
            }
        }
        _ => {}
    }
    fields.insert("type".to_owned(), kind.into());
    if fields.get("id").is_none_or(Value::is_null) {
        fields.insert("id".to_owned(), format!("{prefix}_{digits}{:04x}", INPUT_PLACES + index).into());
    }
    if fields.get("status").is_none_or(Value::is_null) {
        fields.insert("status".to_owned(), "completed".into());
    }
    item
}

/// Gives a part of a message what typed clients look for: one of OpenAI's types, and annotations.
fn complete_part(part: &mut Value, kind: &str) {
    let Some(fields) = part.as_object_mut() else { return };
    if fields.get("type").is_none_or(|kind| kind.is_null() || kind == "text") {
        fields.insert("type".to_owned(), kind.into());
    }
    if fields["type"] == "output_text" && fields.get("annotations").is_none_or(Value::is_null) {
        fields.insert("annotations".to_owned(), json!([]));
    }
}

/// A record that a request may see.
pub(crate) struct KeptResponse {
    record: StoredRecord,
}

/// The record of the response `id`, if `access` may see it.
///
/// # Errors
/// [`ApiError::UnknownResponse`]; a store that cannot be read.
pub(crate) fn find(store: &ResponseStore, access: Access, id: &str, now_seconds: u64) -> Result<KeptResponse, ApiError> {
    let unknown = || ApiError::UnknownResponse { id: clip(id), param: None };
    if !id.starts_with(PREFIX) {
        return Err(unknown());
    }
    let record = store.get(id, now_seconds)?.ok_or_else(unknown)?;
    if seen_by(access, &record) { Ok(KeptResponse { record }) } else { Err(unknown()) }
}

/// Whether `access` may see a record.
pub(super) fn seen_by(access: Access, record: &StoredRecord) -> bool {
    access.sees(KeyId(<[u8; 16]>::try_from(record.owner.as_slice()).ok()))
}

impl KeptResponse {
    /// What the record says.
    pub(crate) fn read(&self) -> Result<ReadRecord<'_>, ApiError> {
        serde_json::from_slice(&self.record.bytes).map_err(|error| {
            tracing::error!(%error, "a record of the response store cannot be read");
            ApiError::StoreFailed
        })
    }
}

impl<'a> ReadRecord<'a> {
    /// The response's JSON.
    pub(crate) fn response(&self) -> &'a str {
        self.response.get()
    }

    /// How far the response is.
    pub(crate) fn head(&self) -> Result<KeptHead, ApiError> {
        serde_json::from_str(self.response()).map_err(|_| ApiError::StoreFailed)
    }

    /// The items that the response was asked with.
    pub(crate) fn input(&self) -> Result<Vec<Value>, ApiError> {
        serde_json::from_str(self.input.get()).map_err(|_| ApiError::StoreFailed)
    }

    /// The items of the response.
    fn output(&self) -> Result<Vec<Value>, ApiError> {
        #[derive(Deserialize)]
        struct Output {
            output: Vec<Value>,
        }
        let read: Output = serde_json::from_str(self.response()).map_err(|_| ApiError::StoreFailed)?;
        Ok(read.output)
    }
}

/// What was said up to and with the response `previous`, oldest first; `memory` pays for it.
///
/// # Errors
/// [`ApiError::UnknownResponse`] for one of the chain that is not there; one that is not done yet.
pub(crate) fn earlier(
    store: &ResponseStore,
    access: Access,
    previous: &str,
    memory: &Reserved,
    now_seconds: u64,
) -> Result<Vec<InputItem>, ApiError> {
    const PARAM: &str = "previous_response_id";
    let (mut turns, mut ids, mut next) = (Vec::new(), Vec::new(), Some(previous.to_owned()));
    while let Some(id) = next {
        let missing = |error| match error {
            ApiError::UnknownResponse { id, .. } => ApiError::UnknownResponse { id, param: Some(PARAM) },
            other => other,
        };
        let found = find(store, access, &id, now_seconds).map_err(missing)?;
        if ids.len() == TURNS_MAX {
            let message = format!("continues more than {TURNS_MAX} responses; send the items instead");
            return Err(WireError::Unsupported { param: PARAM.to_owned(), message }.into());
        }
        let record = found.read()?;
        if record.head()?.status == "in_progress" {
            let message =
                format!("{} has not ended: GET it to see whether it will, or failed when its server stopped", clip(&id));
            return Err(WireError::Conflict { param: PARAM.to_owned(), message }.into());
        }
        memory.grow(Use::Request, BODY_FACTOR * found.record.bytes.len() as u64)?;
        let mut items = record.input()?;
        items.extend(record.output()?);
        turns.push(items);
        next = record.previous;
        ids.push(id);
    }
    store.touch(&ids, now_seconds)?;
    let items = turns.into_iter().rev().flatten().collect();
    Ok(items::read(Value::Array(items), PARAM)?)
}

/// The item that a reference names: its id tells the response that it is of.
///
/// # Errors
/// [`WireError::Unfit`] if no response that `access` may see has it.
pub(crate) fn referenced(
    store: &ResponseStore,
    access: Access,
    id: &str,
    param: &str,
    now_seconds: u64,
) -> Result<Vec<InputItem>, ApiError> {
    let unknown = || {
        let expected = "the id of an item of a response that is kept".to_owned();
        WireError::Unfit { param: param.to_owned(), found: format!("the id {:?}", clip(id)), expected }
    };
    let item = referenced_value(store, access, id, now_seconds)?.ok_or_else(unknown)?;
    Ok(items::read(Value::Array(vec![item]), param)?)
}

/// The same as it was kept, if it is there.
pub(super) fn referenced_value(
    store: &ResponseStore,
    access: Access,
    id: &str,
    now_seconds: u64,
) -> Result<Option<Value>, ApiError> {
    let Some(digits) = id.split_once('_').and_then(|(_, digits)| digits.get(..32)) else { return Ok(None) };
    let found = match find(store, access, &format!("{PREFIX}{digits}"), now_seconds) {
        Err(ApiError::UnknownResponse { .. }) => return Ok(None),
        found => found?,
    };
    let record = found.read()?;
    let mut items = record.output()?;
    items.extend(record.input()?);
    Ok(items.into_iter().find(|item| item["id"] == id))
}
