//! The threads that serve connections.
//!
//! Owns: the threads, and how many connections each has. Promises: a connection goes to the thread
//! that has the fewest, and stays there. Absent on purpose: accepting (`accept`), and what is said
//! on a connection.

use std::future::pending;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle};
use actix_service::{Service, ServiceFactory};
use actix_web::rt::net;
use tokio::sync::{mpsc, watch};

use crate::http::listen::connection::ConnectionPlace;

/// How often a server that stops looks whether its last connections are closed.
const LOOK: Duration = Duration::from_millis(5);

/// All threads; clones are handles to the same ones.
#[derive(Debug, Clone)]
pub(in crate::http) struct Workers {
    each: Vec<Worker>,
    stopping: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Clone)]
struct Worker {
    arbiter: ArbiterHandle,
    inbox: mpsc::UnboundedSender<(TcpStream, ConnectionPlace, CountedConnection)>,
    open_count: Arc<AtomicUsize>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
struct CountedConnection(Arc<AtomicUsize>);

impl CountedConnection {
    fn on(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells a connection that its server stops.
#[derive(Debug, Clone)]
pub(in crate::http) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Resolves once the server stops.
    pub(in crate::http) async fn notified(mut self) {
        if self.0.wait_for(|stopping| *stopping).await.is_err() {
            // The server is gone without having been stopped.
            pending::<()>().await;
        }
    }
}

impl Workers {
    /// Starts so many, at least one; `make` makes what serves the connections of one. Must be
    /// called inside an actix `System`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(in crate::http) fn start<M, F>(count: usize, make: M) -> io::Result<Self>
    where
        M: Fn(Stopping) -> F + Clone + Send + 'static,
        F: ServiceFactory<(net::TcpStream, ConnectionPlace), Config = (), InitError = ()> + 'static,
        F::Service: 'static,
    {
        let (stopping, heard) = watch::channel(false);
        let start = |_| {
            let (arbiter, (inbox, connections)) = (Arbiter::try_new()?, mpsc::unbounded_channel());
            let (make, heard) = (make.clone(), Stopping(heard.clone()));
            arbiter.spawn_fn(move || {
                actix_rt::spawn(serve(make(heard), connections));
            });
            Ok(Worker { arbiter: arbiter.handle(), inbox, open_count: Arc::default() })
        };
        let each = (0..count.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { each, stopping: Arc::new(stopping) })
    }

    /// Hands a connection to the thread that has the fewest; closes it if that thread is gone.
    pub(in crate::http) fn serve(&self, connection: TcpStream, place: ConnectionPlace) {
        let fewest = self.each.iter().min_by_key(|worker| worker.open_count.load(Ordering::Relaxed));
        let worker = fewest.expect("there is at least one");
        if worker.inbox.send((connection, place, CountedConnection::on(&worker.open_count))).is_err() {
            tracing::error!("a thread of the connections is gone");
        }
    }

    /// Has every connection closed, idle ones at once and others when they are answered, or when
    /// `most` has passed.
    pub(in crate::http) async fn stop(&self, most: Duration) {
        self.stopping.send_replace(true);
        let closed = async {
            while self.each.iter().any(|worker| worker.open_count.load(Ordering::Relaxed) > 0) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(most, closed).await;
        for worker in &self.each {
            worker.arbiter.stop();
        }
    }
}

/// Serves the connections of one thread.
async fn serve<F>(factory: F, mut connections: mpsc::UnboundedReceiver<(TcpStream, ConnectionPlace, CountedConnection)>)
where
    F: ServiceFactory<(net::TcpStream, ConnectionPlace), Config = (), InitError = ()>,
    F::Service: 'static,
{
    let Ok(service) = factory.new_service(()).await else { return tracing::error!("the routes cannot be set up") };
    let service = Rc::new(service);
    while let Some((connection, place, open)) = connections.recv().await {
        let service = Rc::clone(&service);
        actix_rt::spawn(async move {
            if let Ok(connection) = net::TcpStream::from_std(connection) {
                // How a connection broke is the client's affair; what of it is ours, the border has
                // logged.
                let _ = service.call((connection, place)).await;
            }
            drop(open);
        });
    }
}
