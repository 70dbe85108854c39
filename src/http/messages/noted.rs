//! The readers of this API's bodies, for `/openapi.json`, which notes what they look for.

use serde_json::Value;

use crate::http::messages::request::{MessagesRequest, MessagesRoute};
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;

/// A message that is asked for.
pub(in crate::http) fn message(body: Value, terms: &Terms<'_>) -> Result<(), WireError> {
    MessagesRequest::read(body, MessagesRoute::Create, terms, |_| None).map(drop)
}

/// One whose tokens are counted.
pub(in crate::http) fn counted(body: Value, terms: &Terms<'_>) -> Result<(), WireError> {
    MessagesRequest::read(body, MessagesRoute::Count, terms, |_| None).map(drop)
}
