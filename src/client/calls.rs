//! The client: it sends requests to one server, and keeps connections for the next ones.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use serde_json::Value;

use super::answer::{Answer, Timing, WholeAnswer};
use super::dialect::Api;
use super::error::ClientError;
use super::request::{Method, Request};
use super::stream::EventStream;
use super::transport::{ClientConnection, Connector, reason};
use super::url::BaseUrl;

/// A connection that was idle for longer is not used again. Common servers close theirs after 5
/// seconds, and a request that meets the close is lost.
const IDLE_MAX: Duration = Duration::from_secs(3);

/// How a server is reached.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Sent as `Authorization: Bearer`, if there is one.
    pub api_key: Option<String>,
    /// Certificates (PEM) to trust in place of Mozilla's.
    pub ca_file: Option<String>,
    /// How long a connection may take to be made.
    pub connect_max: Duration,
    /// Whether a connection is used again once its answer was read to its end.
    pub reuse: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { api_key: None, ca_file: None, connect_max: Duration::from_secs(10), reuse: true }
    }
}

/// A client of one server. Clones share their connections; it needs tokio's timers and sockets.
#[derive(Clone)]
pub struct Client {
    shared: Arc<ClientShared>,
}

pub(super) struct ClientShared {
    url: BaseUrl,
    host: HeaderValue,
    key: Option<HeaderValue>,
    connector: Connector,
    reuse: bool,
    idle: Mutex<Vec<ClientConnection>>,
}

impl ClientShared {
    /// Keeps a connection for the next request. The one that was used last is used first.
    pub(super) async fn give_back(&self, mut connection: ClientConnection) {
        if self.reuse && connection.is_free().await {
            connection.used_at = Instant::now();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }

    /// A connection that can be used again, if there is one.
    async fn take(&self) -> Option<ClientConnection> {
        // The runtime looks at its sockets now: a close that it has not yet seen would cost the
        // request.
        tokio::task::yield_now().await;
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if connection.used_at.elapsed() < IDLE_MAX && connection.is_free().await {
                return Some(connection);
            }
        }
    }

    pub(super) fn broken(&self, when: &'static str, message: String) -> ClientError {
        ClientError::Broken { url: self.url.to_string(), when, message }
    }
}

impl Client {
    /// A client of the server at `url`; nothing is connected yet.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Unsendable`] for a key that no header can hold,
    /// [`ClientError::Certificates`].
    pub fn new(url: &str, options: &ClientOptions) -> Result<Self, ClientError> {
        let url = BaseUrl::parse(url)?;
        let header = |what: &str, text: String| {
            HeaderValue::try_from(text)
                .map_err(|error| ClientError::Unsendable { what: what.to_owned(), message: error.to_string() })
        };
        let key = options.api_key.as_ref().filter(|key| !key.is_empty());
        let mut key = key.map(|key| header("the API key", format!("Bearer {key}"))).transpose()?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        let shared = ClientShared {
            host: header("the host", url.authority())?,
            key,
            connector: Connector::new(url.clone(), options.ca_file.as_deref(), options.connect_max)?,
            reuse: options.reuse,
            idle: Mutex::default(),
            url,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where the server is.
    #[must_use]
    pub fn url(&self) -> &BaseUrl {
        &self.shared.url
    }

    /// Closes the connections that are kept for later requests.
    pub fn close_idle(&self) {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sends a request; the head of the answer, whatever its status.
    ///
    /// Dropping the future, or the answer before its end, closes the connection. A request that a
    /// used connection did not carry to an answer is sent once more, on a new one.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::Broken`], [`ClientError::Unsendable`].
    pub async fn send(&self, request: &Request) -> Result<Answer, ClientError> {
        let started = Instant::now();
        let mut message = self.message(request)?;
        if let Some(connection) = self.shared.take().await {
            let timing = Timing { started, connected: Instant::now(), head: started, reused: true };
            match self.ask(connection, message, timing).await {
                // Nothing was answered: the server closed the connection while the request was on
                // its way, as some do after a few requests, without a word. Browsers ask again
                // then, and so does this; a new connection is not asked twice.
                Ok(Err(ClientError::Broken { .. })) => message = self.message(request)?,
                Ok(answer) => return answer,
                // The server closed the connection while nothing was on it: the request was not
                // sent.
                Err(unsent) => message = unsent,
            }
        }
        let connection = self.shared.connector.connect().await?;
        let timing = Timing { started, connected: Instant::now(), head: started, reused: false };
        let refused = |_| Err(self.shared.broken("before the request", "the connection was closed".to_owned()));
        self.ask(connection, message, timing).await.unwrap_or_else(refused)
    }

    /// Sends a request and reads the answer to its end, whatever its status.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn call(&self, request: &Request) -> Result<WholeAnswer, ClientError> {
        self.send(request).await?.whole().await
    }

    /// Sends a request and reads JSON from an answer that is a success.
    ///
    /// # Errors
    /// As [`Client::send`]; [`ClientError::Refused`], [`ClientError::Shape`].
    pub async fn json(&self, request: &Request) -> Result<Value, ClientError> {
        self.call(request).await?.success()?.json()
    }

    /// Posts a body to the route of `api`, and reads the event stream that it answers with.
    ///
    /// # Errors
    /// As [`Client::send`]; [`ClientError::Refused`] with what the server says;
    /// [`ClientError::NotAStream`].
    pub async fn stream(&self, api: Api, body: Bytes) -> Result<EventStream, ClientError> {
        self.stream_of(api, Request::post(api.path(), body)).await
    }

    /// As [`Client::stream`], with a request of the caller's own.
    ///
    /// # Errors
    /// As [`Client::stream`].
    pub async fn stream_of(&self, api: Api, request: Request) -> Result<EventStream, ClientError> {
        self.send(&request.header("accept", "text/event-stream")).await?.events(api).await
    }

    /// The first model that the server names.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub async fn model(&self) -> Result<String, ClientError> {
        let whole = self.call(&Request::get("/v1/models")).await?.success()?;
        let list = whole.json()?;
        list["data"][0]["id"].as_str().map(str::to_owned).ok_or_else(|| whole.unexpected("a list of models"))
    }

    async fn ask(
        &self,
        mut connection: ClientConnection,
        message: hyper::Request<Full<Bytes>>,
        mut timing: Timing,
    ) -> Result<Result<Answer, ClientError>, hyper::Request<Full<Bytes>>> {
        let path = message.uri().path().to_owned();
        let asked = connection.sender.try_send_request(message);
        match connection.drive(asked).await {
            Ok(response) => {
                timing.head = Instant::now();
                Ok(Ok(Answer::new(Arc::clone(&self.shared), connection, path, response, timing)))
            }
            Err(mut error) => match error.take_message() {
                Some(message) => Err(message),
                None => {
                    let message = connection.closed().map_or_else(|| reason(error.error()), str::to_owned);
                    Ok(Err(self.shared.broken("before it answered", message)))
                }
            },
        }
    }

    fn message(&self, request: &Request) -> Result<hyper::Request<Full<Bytes>>, ClientError> {
        let wrong = |message: String| ClientError::Unsendable { what: format!("the request to {}", request.path), message };
        let method = match request.method {
            Method::Get => hyper::Method::GET,
            Method::Post => hyper::Method::POST,
            Method::Delete => hyper::Method::DELETE,
        };
        let builder = hyper::Request::builder().method(method).uri(format!("{}{}", self.shared.url.prefix, request.path));
        let body = Full::new(request.body.clone().unwrap_or_default());
        let mut message = builder.body(body).map_err(|error| wrong(error.to_string()))?;
        let headers = message.headers_mut();
        headers.insert(HOST, self.shared.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("antiphon/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if request.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(key) = &self.shared.key {
            headers.insert(AUTHORIZATION, key.clone());
        }
        for (name, value) in &request.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| wrong(format!("header {name}: {error}")))?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|error| wrong(format!("header {name}: {error}")))?;
            headers.insert(name, value);
        }
        Ok(message)
    }
}

impl ClientShared {
    pub(super) fn url(&self) -> String {
        self.url.to_string()
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
