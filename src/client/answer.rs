//! An answer: its head, then its bytes as they come, or whole, or as events.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use super::calls::ClientShared;
use super::dialect::Api;
use super::error::{ClientError, ErrorStatus, beginning};
use super::event::ErrorText;
use super::stream::EventStream;
use super::transport::{ClientConnection, reason};

/// When a request came how far.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// It was handed to the client.
    pub started: Instant,
    /// There was a connection.
    pub connected: Instant,
    /// The head of the answer was read.
    pub head: Instant,
    /// The connection had carried a request before.
    pub reused: bool,
}

/// An answer whose body is still to be read. Dropping it closes the connection.
pub struct Answer {
    shared: Arc<ClientShared>,
    /// `None` once the body was read to its end.
    connection: Option<ClientConnection>,
    path: String,
    status: u16,
    headers: HeaderMap,
    body: Incoming,
    timing: Timing,
}

impl Answer {
    pub(super) fn new(
        shared: Arc<ClientShared>,
        connection: ClientConnection,
        path: String,
        response: hyper::Response<Incoming>,
        timing: Timing,
    ) -> Self {
        let (head, body) = response.into_parts();
        Self { shared, connection: Some(connection), path, status: head.status.as_u16(), headers: head.headers, body, timing }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A header, if it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// When what came.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The next bytes of the body and when they were read; `None` at its end.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the connection ended before the body did.
    pub async fn bytes(&mut self) -> Result<Option<(Instant, Bytes)>, ClientError> {
        loop {
            let Some(connection) = &mut self.connection else { return Ok(None) };
            match connection.frame(&mut self.body).await {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some((Instant::now(), bytes)));
                    }
                }
                Some(Err(error)) => {
                    let message = connection.closed().map_or_else(|| reason(&error), str::to_owned);
                    self.connection = None;
                    return Err(self.shared.broken("in the middle of its answer", message));
                }
                None => {
                    if let Some(connection) = self.connection.take() {
                        self.shared.give_back(connection).await;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Reads the body to its end.
    ///
    /// # Errors
    /// As [`Answer::bytes`].
    pub async fn whole(mut self) -> Result<WholeAnswer, ClientError> {
        let (mut body, mut first_byte) = (Vec::new(), None);
        while let Some((at, bytes)) = self.bytes().await? {
            first_byte.get_or_insert(at);
            body.extend_from_slice(&bytes);
        }
        let Self { shared, path, status, headers, timing, .. } = self;
        Ok(WholeAnswer {
            url: shared.url(),
            path,
            status,
            headers,
            body: body.into(),
            timing,
            first_byte,
            ended: Instant::now(),
        })
    }

    /// Reads the body as an event stream.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the status is no success, [`ClientError::NotAStream`] if the
    /// content is none.
    pub async fn events(self, api: Api) -> Result<EventStream, ClientError> {
        if !(200..300).contains(&self.status) {
            return Err(self.whole().await?.refused());
        }
        let content_type = self.header(CONTENT_TYPE.as_str()).unwrap_or("no content type").to_owned();
        if !content_type.trim_start().to_ascii_lowercase().starts_with("text/event-stream") {
            let WholeAnswer { url, path, body, .. } = self.whole().await?;
            return Err(ClientError::NotAStream { url, path, content_type, beginning: beginning(&body) });
        }
        Ok(EventStream::new(self, api))
    }

    pub(super) fn server(&self) -> String {
        self.shared.url()
    }
}

/// An answer with its body.
#[derive(Debug, Clone)]
pub struct WholeAnswer {
    url: String,
    path: String,
    /// The status.
    pub status: u16,
    headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// When its head came.
    pub timing: Timing,
    /// When the first byte of the body came, if there was one.
    pub first_byte: Option<Instant>,
    /// When the body ended.
    pub ended: Instant,
}

impl WholeAnswer {
    /// A header, if it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`ClientError::Shape`].
    pub fn json(&self) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(|_| self.unexpected("JSON"))
    }

    /// The body as text; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// This answer if its status is a success.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what the server says.
    pub fn success(self) -> Result<Self, ClientError> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(self.refused()) }
    }

    /// What the server says instead of a success.
    #[must_use]
    pub fn refusal(&self) -> ErrorStatus {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let error = if body["error"].is_null() { &body["detail"] } else { &body["error"] };
        let text = match error {
            Value::Null => ErrorText { message: beginning(&self.body), ..ErrorText::default() },
            error => ErrorText::read(error),
        };
        ErrorStatus {
            status: self.status,
            message: text.message,
            kind: text.kind,
            code: text.code,
            retry_after: self.header("retry-after").map(str::to_owned),
        }
    }

    pub(super) fn refused(&self) -> ClientError {
        ClientError::Refused { url: self.url.clone(), path: self.path.clone(), refusal: Box::new(self.refusal()) }
    }

    pub(super) fn unexpected(&self, expected: &'static str) -> ClientError {
        ClientError::Shape { url: self.url.clone(), path: self.path.clone(), expected, beginning: beginning(&self.body) }
    }
}
