//! Listening, and stopping.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_http::error::DispatchError;
use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, Error};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::clock;

use super::body::PARSERS_COUNT;
use super::border::{self, Border};
use super::front::Front;
use super::options::{Backend, HttpOptions};
use super::outspoken::Outspoken;
use super::routes;

/// How long connections that are still open may take to close, once everything is answered.
const SHUTDOWN_SECONDS: u64 = 5;
/// Connections that may wait to be accepted; the kernel takes less if it is set to.
const BACKLOG: i32 = 4096;

/// Why the server does not listen. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else has the port.
    #[error("{host}:{port} is in use by another process; choose another --port, or stop that process")]
    PortBusy {
        /// Where to listen.
        host: String,
        /// Which port.
        port: u16,
    },
    /// The port is one that needs rights.
    #[error("no permission to listen on {host}:{port}; ports below 1024 are reserved: choose another --port")]
    Forbidden {
        /// Where to listen.
        host: String,
        /// Which port.
        port: u16,
    },
    /// The address is none of this machine, or no address.
    #[error("cannot listen on {host}:{port}: {source}; expected an address of this machine, such as 127.0.0.1 or 0.0.0.0")]
    Address {
        /// Where to listen.
        host: String,
        /// Which port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// A running server. Dropping the handle does not stop it.
#[derive(Debug)]
pub struct ServerHandle {
    addresses: Vec<SocketAddr>,
    server: actix_web::dev::ServerHandle,
    running: JoinHandle<io::Result<()>>,
}

impl ServerHandle {
    /// Where it listens; never empty.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until the server ends without being asked to, and says why: no client can connect any more. Not to be called
    /// again, nor [`ServerHandle::stop`], once it has returned.
    pub async fn died(&mut self) -> String {
        match (&mut self.running).await.map_err(io::Error::other) {
            Ok(Ok(())) => "it stopped".to_owned(),
            Ok(Err(error)) | Err(error) => error.to_string(),
        }
    }

    /// Closes the listener and every connection, idle ones at once and others within five seconds. Before that, drain the
    /// service: while it drains this server still answers, with 503 to new requests.
    pub async fn stop(self) {
        self.server.stop(true).await;
        if let Ok(Err(error)) | Err(error) = self.running.await.map_err(io::Error::other) {
            tracing::warn!(%error, "the HTTP server did not end cleanly");
        }
    }
}

/// Listens, and serves until the handle is stopped. `observe` adds the routes that show the server's state; it is called once
/// a worker. Must be called inside a tokio or actix runtime.
///
/// # Errors
/// [`ServeError`] if it cannot listen; then nothing runs.
pub fn serve<O>(backend: Backend, options: HttpOptions, observe: O) -> Result<ServerHandle, ServeError>
where
    O: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let options = Arc::new(options);
    let listeners = listen(&options)?;
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let loopback = addresses.iter().all(|address| address.ip().is_loopback());
    let hosts = loopback.then(|| options.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect());
    let border = Data::new(Border {
        keys: options.keys.clone(),
        metrics_access: options.metrics_access,
        hosts,
        cors_origins: options.cors_origins.clone(),
        metrics: backend.metrics.clone(),
    });
    let names = options.model_names();
    let parsers = Semaphore::new(PARSERS_COUNT);
    let front = Data::new(Front { backend, options: Arc::clone(&options), names, started: clock::unix_seconds(), parsers });
    let mut server = Server::build().workers(options.workers_count.max(1)).disable_signals().shutdown_timeout(SHUTDOWN_SECONDS);
    let stopping = server.graceful_shutdown_signal();
    for (listener, address) in listeners.into_iter().zip(&addresses) {
        let (border, front, shared, observe) = (border.clone(), front.clone(), Arc::clone(&options), observe.clone());
        let (stopping, name) = (stopping.clone(), format!("http {address}"));
        let connections = move || connections(&border, &front, &shared, observe.clone(), stopping.clone());
        server = server.listen(name, listener, connections).map_err(|source| refused(&options, source))?;
    }
    let running = server.run();
    Ok(ServerHandle { addresses, server: running.handle(), running: tokio::spawn(running) })
}

/// What a worker does with each connection: HTTP/1.1, and the routes.
fn connections<O>(
    border: &Data<Border>,
    front: &Data<Front>,
    options: &HttpOptions,
    observe: O,
    stopping: GracefulShutdownSignal,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<O>
where
    O: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let app = App::new()
        .app_data(border.clone())
        .app_data(front.clone())
        .wrap(from_fn(border::pass))
        .configure(routes::configure)
        .configure(&observe)
        .default_service(web::to(routes::unknown));
    // Nothing here asks actix under which name or port it is reached.
    let app = map_config(app.into_factory().map_err(|error: Error| error.error_response()), |()| AppConfig::default());
    let http = HttpService::build()
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        // Without this a client that leaves while nothing is written is never noticed.
        .h1_allow_half_closed(false)
        .keep_alive(options.idle_deadline)
        .client_request_timeout(options.head_deadline)
        .client_disconnect_timeout(Duration::from_secs(1))
        .h1(app);
    let send_deadline = options.send_deadline;
    let accept = fn_service(move |stream: TcpStream| async move {
        watch(&stream, send_deadline);
        let peer = stream.peer_addr().ok();
        Ok((Outspoken::new(stream), peer))
    });
    accept.and_then(http)
}

/// Every address of the host. One that is busy is an error, one that this machine does not have (IPv6, say) is not, as long
/// as another one works.
fn listen(options: &HttpOptions) -> Result<Vec<TcpListener>, ServeError> {
    let addresses = (options.host.as_str(), options.port).to_socket_addrs().map_err(|source| refused(options, source))?;
    let mut listeners = Vec::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match listener(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(refused(options, error)),
            Err(error) => failure = error,
        }
    }
    if listeners.is_empty() { Err(refused(options, failure)) } else { Ok(listeners) }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections are still closing is not busy.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn refused(options: &HttpOptions, source: io::Error) -> ServeError {
    let (host, port) = (options.host.clone(), options.port);
    match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortBusy { host, port },
        io::ErrorKind::PermissionDenied => ServeError::Forbidden { host, port },
        _ => ServeError::Address { host, port, source },
    }
}

/// Lets the kernel send small events at once, and give up a client that vanished without a word, or that stopped reading, once
/// what was sent to it has waited for so long. Without it that takes fifteen minutes.
fn watch(stream: &TcpStream, send_deadline: Duration) {
    let socket = SockRef::from(stream);
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_user_timeout(Some(send_deadline))) {
        tracing::debug!(%error, "cannot set the deadline of a connection");
    }
}
