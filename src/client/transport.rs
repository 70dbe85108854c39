//! One connection: how it is made, and how it is driven.
//!
//! hyper's connection and its caller are polled by the same task. So an event costs one wake, and
//! an answer that is dropped drops the socket with it, at once: a server must see that its client
//! left also while it is silent.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_util::either::Either;

use super::error::ClientError;
use super::url::BaseUrl;

type Socket = TokioIo<Either<TcpStream, TlsStream<TcpStream>>>;
type Driver = http1::Connection<Socket, Full<Bytes>>;

/// A connection that carries one request at a time.
pub(super) struct ClientConnection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    driver: Pin<Box<Driver>>,
    /// Why the connection is over.
    closed: Option<String>,
    /// When it was last used.
    pub(super) used_at: Instant,
}

impl ClientConnection {
    /// Lets the connection work, and notes its end.
    fn work(&mut self, context: &mut Context<'_>) {
        if self.closed.is_none()
            && let Poll::Ready(ended) = self.driver.as_mut().poll(context)
        {
            self.closed = Some(ended.map_or_else(|error| reason(&error), |()| "the connection was closed".to_owned()));
        }
    }

    /// What `ask` makes of the sender, with the connection at work. `ask` is polled after the
    /// connection, and after it again, so that what the connection has just brought is taken in
    /// the same turn.
    pub(super) async fn drive<T>(&mut self, ask: impl Future<Output = T>) -> T {
        let mut ask = pin!(ask);
        std::future::poll_fn(|context| {
            if let Poll::Ready(done) = ask.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            self.work(context);
            ask.as_mut().poll(context)
        })
        .await
    }

    /// The next frame of a body.
    pub(super) async fn frame(&mut self, body: &mut Incoming) -> Option<Result<hyper::body::Frame<Bytes>, hyper::Error>> {
        std::future::poll_fn(|context| {
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(context) {
                return Poll::Ready(frame);
            }
            self.work(context);
            Pin::new(&mut *body).poll_frame(context)
        })
        .await
    }

    /// Whether another request can be sent: the last answer was read to its end, and the server has
    /// not closed.
    pub(super) async fn is_free(&mut self) -> bool {
        std::future::poll_fn(|context| {
            self.work(context);
            Poll::Ready(())
        })
        .await;
        self.closed.is_none() && self.sender.is_ready()
    }

    /// Why the connection is over, if it is.
    pub(super) fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }
}

/// Whether it is this machine that has no descriptor or port left, and not the server that is to
/// blame.
fn is_exhausted(error: &std::io::Error) -> bool {
    // The standard library has no kinds for these two; they are the same on every Unix.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    error.kind() == std::io::ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// What an error of hyper says with its causes, which hold the system's words.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// Makes connections to one server.
pub(super) struct Connector {
    url: BaseUrl,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connect_max: Duration,
    addresses: tokio::sync::OnceCell<Vec<std::net::SocketAddr>>,
}

impl Connector {
    pub(super) fn new(url: BaseUrl, ca_file: Option<&str>, connect_max: Duration) -> Result<Self, ClientError> {
        let tls = if url.tls { Some(tls(&url, ca_file)?) } else { None };
        Ok(Self { url, tls, connect_max, addresses: tokio::sync::OnceCell::new() })
    }

    /// A new connection, ready for a request.
    pub(super) async fn connect(&self) -> Result<ClientConnection, ClientError> {
        let wrong = |message: String| ClientError::Connect { url: self.url.to_string(), message };
        let connecting = tokio::time::timeout(self.connect_max, self.socket());
        let late = || format!("no connection within {} s", self.connect_max.as_secs_f64());
        let refused = |error: std::io::Error| {
            if is_exhausted(&error) {
                ClientError::Exhausted { url: self.url.to_string(), message: reason(&error) }
            } else {
                wrong(reason(&error))
            }
        };
        let socket = connecting.await.map_err(|_| wrong(late()))?.map_err(refused)?;
        let (sender, driver) = http1::handshake(TokioIo::new(socket)).await.map_err(|error| wrong(reason(&error)))?;
        Ok(ClientConnection { sender, driver: Box::pin(driver), closed: None, used_at: Instant::now() })
    }

    async fn socket(&self) -> std::io::Result<Either<TcpStream, TlsStream<TcpStream>>> {
        let socket = TcpStream::connect(self.addresses().await?).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Either::Left(socket)),
            Some((connector, name)) => Ok(Either::Right(connector.connect(name.clone(), socket).await?)),
        }
    }

    /// The server's addresses, asked for once: ten thousand connections must not ask ten thousand
    /// times.
    async fn addresses(&self) -> std::io::Result<&[std::net::SocketAddr]> {
        let ask = || async {
            let found = tokio::net::lookup_host((self.url.bare_host(), self.url.port)).await?;
            Ok::<_, std::io::Error>(found.collect())
        };
        Ok(self.addresses.get_or_try_init(ask).await?)
    }
}

/// TLS with Mozilla's root certificates, or with those of a file.
fn tls(url: &BaseUrl, ca_file: Option<&str>) -> Result<(TlsConnector, ServerName<'static>), ClientError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let wrong = |message: String| ClientError::Certificates { path: path.to_owned(), message };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("it holds no certificate".to_owned()));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(url.bare_host().to_owned()).map_err(|_| ClientError::Url { url: url.to_string() })?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::is_exhausted;

    #[test]
    fn a_machine_without_descriptors_is_told_from_a_server_that_is_not_there() {
        // As `ulimit -n` makes the system say: too many open files.
        assert!(is_exhausted(&Error::from_raw_os_error(24)) && is_exhausted(&ErrorKind::AddrNotAvailable.into()));
        assert!(!is_exhausted(&ErrorKind::ConnectionRefused.into()) && !is_exhausted(&Error::from_raw_os_error(110)));
    }
}
