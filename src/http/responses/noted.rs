//! The readers of this API's bodies, for `/openapi.json`, which notes what they look for.

use serde_json::Value;

use crate::http::responses::conversations::{read_added, read_created, read_labels};
use crate::http::responses::request::ResponsesRequest;
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;

/// A response.
pub(in crate::http) fn response(body: Value, terms: &Terms<'_>) -> Result<(), WireError> {
    ResponsesRequest::read(body, terms, "resp_").map(drop)
}

/// A conversation that begins.
pub(in crate::http) fn conversation(body: Value) -> Result<(), WireError> {
    read_created(body).map(drop)
}

/// Labels of a conversation.
pub(in crate::http) fn labels(body: Value) -> Result<(), WireError> {
    read_labels(body).map(drop)
}

/// Items of a conversation.
pub(in crate::http) fn items(body: Value) -> Result<(), WireError> {
    read_added(body).map(drop)
}
