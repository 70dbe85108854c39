//! Where connections come in: a thread of its own, which answers probes itself and hands everything
//! else on.
//!
//! A worker may be busy with a body or with a thousand streams; a probe that waits for one has the
//! server restarted that it asks about. So the first bytes of a connection are looked at, not
//! taken, and a plain `GET` of a probe's path never leaves this thread. Whatever is not as plain
//! goes to a worker unread: every rule of the border holds there, and its routes answer the same.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{self, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::http::listen::connection::{ConnectionPlace, ConnectionPlaces, turn_away};
use crate::http::listen::probe::Probes;
use crate::http::listen::workers::Workers;

/// Longest head of a probe, in bytes; kubelet's has 130.
const HEAD_MAX_BYTES: usize = 2048;
/// How long the first bytes may take until the connection counts as no probe's: it connects and
/// asks.
const FIRST_BYTES_MAX: Duration = Duration::from_millis(100);
/// How long to wait after a connection could not be accepted: there are no descriptors left, or no
/// memory.
const PAUSE: Duration = Duration::from_millis(500);

/// The thread, running. Dropping this does not stop it.
#[derive(Debug)]
pub(in crate::http) struct Accepting {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Accepting {
    /// Waits until the thread has ended.
    pub(in crate::http) async fn ended(&mut self) {
        // A panic ends it without a word.
        let _ = (&mut self.ended).await;
    }

    /// Closes the listeners.
    pub(in crate::http) async fn stop(self) {
        // A thread that is gone has closed them.
        let _ = self.stop.send(());
        let _ = self.ended.await;
    }
}

/// What the thread works with.
pub(in crate::http) struct Acceptor {
    pub(in crate::http) workers: Workers,
    pub(in crate::http) places: Arc<ConnectionPlaces>,
    pub(in crate::http) probes: Probes,
    /// How long a connection may be idle between probes.
    pub(in crate::http) idle_deadline: Duration,
    /// How long an answer may wait for its client to take it.
    pub(in crate::http) send_deadline: Duration,
}

/// Starts the thread.
///
/// # Errors
/// The system gives no thread, or nothing to wait for sockets with.
pub(in crate::http) fn start(listeners: Vec<TcpListener>, acceptor: Acceptor) -> io::Result<Accepting> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    listeners.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
    let listeners = {
        let _inside = runtime.enter();
        listeners.into_iter().map(net::TcpListener::from_std).collect::<io::Result<Vec<_>>>()?
    };
    let ((stop, stopped), (ends, ended)) = (oneshot::channel(), oneshot::channel());
    let run = move || {
        let all = LocalSet::new();
        all.block_on(&runtime, async move {
            let acceptor = Rc::new(acceptor);
            let listening = listeners.into_iter().map(|listener| spawn_local(accept(listener, Rc::clone(&acceptor))));
            over(stopped, listening.collect()).await;
        });
        // The listeners are closed with their tasks.
        drop(all);
        let _ = ends.send(());
    };
    thread::Builder::new().name("accept".to_owned()).spawn(run)?;
    Ok(Accepting { stop, ended })
}

/// Waits until the server stops, or a task that accepts has panicked: its listener is closed then,
/// and the thread ends, so that the process does not stay behind a port that nothing accepts at.
async fn over(stopped: oneshot::Receiver<()>, listening: Vec<JoinHandle<()>>) {
    let stopped = async {
        if stopped.await.is_err() {
            // The handle was dropped: the server goes on.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = stopped => {}
        _ = select_all(listening) => {}
    }
}

async fn accept(listener: net::TcpListener, acceptor: Rc<Acceptor>) {
    loop {
        match listener.accept().await {
            Ok((connection, peer)) => match acceptor.places.take(peer.ip()) {
                Some(place) => _ = spawn_local(Rc::clone(&acceptor).receive(connection, place)),
                // Closed at once where it is not told: tasks run when this one waits, and a rush
                // would take every descriptor first.
                None => _ = acceptor.places.telling().map(|telling| spawn_local(turn_away(telling, connection))),
            },
            // The client left before its connection was taken.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(error) => {
                tracing::error!(%error, "a connection cannot be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Acceptor {
    /// Answers the probes of a connection; hands it on when something else is said on it, or
    /// nothing.
    async fn receive(self: Rc<Self>, mut connection: TcpStream, place: ConnectionPlace) {
        let mut probed = false;
        loop {
            let mut head = [0; HEAD_MAX_BYTES];
            let wait = if probed { self.idle_deadline } else { FIRST_BYTES_MAX };
            let length = match tokio::time::timeout(wait, connection.peek(&mut head)).await {
                Ok(Ok(length)) => length,
                // A worker would wait for a head once more, and answer 408 to a client that asked
                // nothing.
                Err(_elapsed) if probed => return,
                Ok(Err(_)) | Err(_) => break,
            };
            let Some(probe) = self.probes.read(&head[..length]) else { break };
            let answer = self.probes.answer(&probe);
            let taken = connection.read_exact(&mut head[..probe.head_bytes]).await;
            // A client that does not read holds up its own connection alone, and not for long.
            if taken.is_err() || !is_sent(&mut connection, &answer, self.send_deadline).await || probe.close {
                return;
            }
            probed = true;
        }
        if let Ok(connection) = connection.into_std() {
            self.workers.serve(connection, place);
        }
    }
}

/// Sends an answer; `false` if the client is gone, or takes too little of it. One answer fits into
/// what the system keeps for a socket, but a client that asks again and again and never reads fills
/// that, and would keep its place for ever.
async fn is_sent(connection: &mut TcpStream, answer: &[u8], deadline: Duration) -> bool {
    matches!(tokio::time::timeout(deadline, connection.write_all(answer)).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn the_thread_ends_with_a_task_that_accepts() {
        let (_stop, stopped) = oneshot::channel();
        let listening = vec![spawn_local(std::future::pending()), spawn_local(async { panic!("as told") })];
        over(stopped, listening).await;
    }

    #[actix_rt::test]
    async fn a_client_that_never_reads_its_answers_is_given_up() {
        let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut connection, _) = listener.accept().await.unwrap();
        let (answer, deadline) = ([b'a'; 512], Duration::from_millis(50));
        // What the system keeps for the two sockets is full long before that.
        let mut sent_count = 0;
        while sent_count < 100_000 && is_sent(&mut connection, &answer, deadline).await {
            sent_count += 1;
        }
        assert!((1..100_000).contains(&sent_count), "{sent_count} answers were sent to a client that read none");
        drop(client);
    }
}
