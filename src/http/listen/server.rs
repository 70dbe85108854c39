//! Listening, and stopping.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{Extensions, HttpService};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::http::header::HeaderValue;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, Error};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;

use crate::clock;
use crate::http::batches::runner::{self, Batches};
use crate::http::body::PARSERS_COUNT;
use crate::http::listen::accept::{self, Accepting, Acceptor};
use crate::http::listen::connection::{self, Connection, ConnectionPlace, ConnectionPlaces};
use crate::http::listen::probe::Probes;
use crate::http::listen::workers::{Stopping, Workers};
use crate::http::middleware::checks::{self, Border};
use crate::http::middleware::client_ids::NamedRequests;
use crate::http::middleware::spans::Spans;
use crate::http::middleware::unread;
use crate::http::middleware::unread_body::PIECE_MAX_BYTES;
use crate::http::observe::{self, ObservedState};
use crate::http::options::{Backend, HttpOptions};
use crate::http::responses::kept::BackgroundRuns;
use crate::http::routes;
use crate::http::state::AppState;

/// How long connections that are still open may take to close, once everything is answered.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
/// The clock that actix reads deadlines off ticks so often, and a deadline counts from its last
/// tick: by so much too early.
const ACTIX_CLOCK: Duration = Duration::from_millis(500);
/// Connections that may wait to be accepted; the kernel takes less if it is set to.
const BACKLOG: i32 = 4096;

/// Why the server does not listen. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another process has the port.
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
    /// The system gives too few threads or descriptors.
    #[error("cannot start the threads that serve connections: {0}")]
    Threads(io::Error),
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
    state: Data<AppState>,
    accepting: Accepting,
    workers: Workers,
    /// What asks the lines of batches.
    batches: tokio::task::JoinHandle<()>,
}

impl ServerHandle {
    /// Where it listens; never empty.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until the server accepts no connection any more without being asked to stop, and says
    /// why. Not to be called again, nor [`ServerHandle::stop`], once it has returned.
    pub async fn died(&mut self) -> String {
        self.accepting.ended().await;
        "the thread that accepts connections is gone".to_owned()
    }

    /// Closes the listener and every connection, idle ones at once and others within five seconds.
    /// Before that, drain the service: while it drains this server still answers, with 503 to
    /// new requests.
    pub async fn stop(self) {
        self.accepting.stop().await;
        // Lines that have no outcome are asked by the next server.
        self.batches.abort();
        let _ = self.batches.await;
        // What no client waits for is made on the workers too.
        self.state.background.ended().await;
        self.workers.stop(SHUTDOWN_MAX).await;
    }
}

/// Listens, and serves until the handle is stopped. `observed` is what probes and the routes that
/// show the server's state are answered from; `more` adds routes, and is called once a worker. Must
/// be called inside an actix `System`.
///
/// # Errors
/// [`ServeError`] if it cannot listen; then nothing runs.
pub fn serve<O>(
    backend: Backend,
    options: HttpOptions,
    observed: Data<ObservedState>,
    more: O,
) -> Result<ServerHandle, ServeError>
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
        simulated: options.simulated.as_ref().and_then(|name| HeaderValue::from_str(name).ok()),
        metrics: backend.metrics.clone(),
        named: NamedRequests::default(),
        spans: options
            .spans
            .clone()
            .map(|sender| Spans::start(sender, backend.service.clone(), options.model.model_id.clone())),
    });
    let most = (options.connections_max_count, options.address_connections_max_count);
    let places = Arc::new(ConnectionPlaces::new(most.0, most.1, backend.metrics.clone()));
    let names = options.model_names();
    let parsers = Arc::new(Semaphore::new(PARSERS_COUNT));
    let (started, background) = (clock::unix_seconds(), BackgroundRuns::default());
    let state = Data::new(AppState {
        backend,
        options: Arc::clone(&options),
        names,
        started,
        parsers,
        background,
        batches: Batches::default(),
        document: OnceLock::new(),
    });
    let probes = Probes { border: border.clone(), observed: observed.clone() };
    let (shared, observe) = (Arc::clone(&options), move |config: &mut ServiceConfig| {
        config.app_data(observed.clone());
        observe::configure(config);
        more(config);
    });
    let served = state.clone();
    let connections = move |stopping| connections(&border, &served, &shared, observe.clone(), stopping);
    let workers = Workers::start(options.workers_count, connections).map_err(ServeError::Threads)?;
    let HttpOptions { idle_deadline, send_deadline, .. } = *options;
    let acceptor = Acceptor { workers: workers.clone(), places, probes, idle_deadline, send_deadline };
    let accepting = accept::start(listeners, acceptor).map_err(ServeError::Threads)?;
    let batches = actix_rt::spawn(runner::run(state.clone()));
    Ok(ServerHandle { addresses, state, accepting, workers, batches })
}

/// What a worker does with each connection: HTTP/1.1, and the routes.
fn connections<O>(
    border: &Data<Border>,
    state: &Data<AppState>,
    options: &HttpOptions,
    observe: O,
    stopping: Stopping,
) -> impl ServiceFactory<(TcpStream, ConnectionPlace), Config = (), Response = (), Error = DispatchError, InitError = ()> + use<O>
where
    O: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let app = App::new()
        .app_data(border.clone())
        .app_data(state.clone())
        .app_data(unread::query())
        .app_data(unread::path())
        .wrap(from_fn(checks::pass))
        .configure(routes::configure)
        .configure(&observe)
        .default_service(web::to(routes::unknown));
    // Nothing here asks actix under which name or port it is reached.
    let app = map_config(app.into_factory().map_err(|error: Error| error.error_response()), |()| AppConfig::default());
    let http = HttpService::build()
        .graceful_shutdown_signal(move || stopping.clone().notified())
        // Without this a client that leaves while nothing is written is never noticed.
        .h1_allow_half_closed(false)
        .keep_alive(options.idle_deadline)
        .client_request_timeout(options.head_deadline + ACTIX_CLOCK)
        .client_disconnect_timeout(Duration::from_secs(1))
        .h1_write_buffer_size(PIECE_MAX_BYTES)
        .on_connect_ext(|connection: &Connection, extensions: &mut Extensions| {
            extensions.insert(connection.answers());
        })
        .h1(app);
    let HttpOptions { head_deadline, send_deadline, .. } = *options;
    let accept = fn_service(move |(stream, place): (TcpStream, ConnectionPlace)| async move {
        connection::prepare(&stream, send_deadline);
        let peer = stream.peer_addr().map_err(DispatchError::Io)?;
        Ok((Connection::new(stream, place, head_deadline, send_deadline), Some(peer)))
    });
    accept.and_then(http)
}

/// Every address of the host. One that is busy is an error, one that this machine does not have
/// (IPv6, say) is not, as long as another one works.
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
