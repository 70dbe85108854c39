//! What is asked.

use bytes::Bytes;
use serde_json::Value;

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Acts.
    Post,
    /// Removes.
    Delete,
}

/// A request to a path of a server.
#[derive(Debug, Clone)]
pub struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Option<Bytes>,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: None }
    }

    /// Reads a path.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new(Method::Get, path)
    }

    /// Posts a JSON body that is already text.
    #[must_use]
    pub fn post(path: &str, body: Bytes) -> Self {
        Self { body: Some(body), ..Self::new(Method::Post, path) }
    }

    /// Posts a JSON body.
    #[must_use]
    pub fn post_json(path: &str, body: &Value) -> Self {
        Self::post(path, body.to_string().into())
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The path that is asked.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}
