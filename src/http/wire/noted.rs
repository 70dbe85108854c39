//! Which fields a reader looks for, noted while it reads a body: `/openapi.json` is made of it.
//!
//! Promises: what the document says of a request is what the reader of that request looks for.
//! Noting is off but while the document is made, on the thread that makes it.

use std::cell::RefCell;

use crate::http::wire::document::join;

/// What a reader takes a field for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NotedKind {
    /// Whatever it holds; the reader looks at it further.
    Any,
    /// A text.
    Text,
    /// True or false.
    Flag,
    /// An integer from the first to the second.
    Integer(i64, i64),
    /// A number, as the words say.
    Number(String),
    /// A list.
    List,
    /// An object.
    Object,
    /// A field that is known and not served.
    Refused,
}

/// A field that a reader looked for, by its path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NotedField {
    /// `stream_options.include_usage`.
    pub(crate) path: String,
    /// What it is taken for.
    pub(crate) kind: NotedKind,
}

thread_local! {
    static NOTED: RefCell<Option<Vec<NotedField>>> = const { RefCell::new(None) };
}

/// Notes that the field `name` of the object at `path` is looked for, if that is noted now.
pub(super) fn note(path: &str, name: &str, kind: impl FnOnce() -> NotedKind) {
    NOTED.with_borrow_mut(|noted| {
        if let Some(fields) = noted {
            fields.push(NotedField { path: join(path, name), kind: kind() });
        }
    });
}

/// What `read` returns, and the fields that it looked for, in their order.
pub(crate) fn noting<T>(read: impl FnOnce() -> T) -> (T, Vec<NotedField>) {
    NOTED.set(Some(Vec::new()));
    let result = read();
    (result, NOTED.take().unwrap_or_default())
}
