//! How long an answer may stand still.
//!
//! TCP's own deadline is not enough: a client that stops reading goes on acknowledging, and keeps
//! its answer for as long as it likes. What counts here is that the kernel takes more bytes, and it
//! takes them as the client does: little is kept unsent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use socket2::SockRef;
use tokio::time::{Sleep, sleep};

/// Bytes that the kernel keeps unsent. Without a bound it takes up to 4 MB, which a slow client
/// does not move for minutes; with this one a client that reads 300 bytes a second is seen to read
/// within 30 s.
const UNSENT_MAX_BYTES: u32 = 16 << 10;

/// The deadline of an answer's progress.
#[derive(Debug)]
pub(in crate::http) struct ProgressDeadline {
    deadline: Duration,
    /// Runs while the kernel takes nothing.
    still: Option<Pin<Box<Sleep>>>,
}

impl ProgressDeadline {
    pub(in crate::http) fn new(deadline: Duration) -> Self {
        Self { deadline, still: None }
    }

    /// Passes on what became of a write, unless the writes before it stood still for too long.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if the client took nothing within the deadline.
    pub(in crate::http) fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.still = None;
            return written;
        }
        let deadline = self.deadline;
        let still = self.still.get_or_insert_with(|| Box::pin(sleep(deadline)));
        ready!(still.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

/// Sets up a socket: small events are sent at once, little is kept unsent, and a client that
/// vanished without a word is given up once what was sent to it has waited for so long. Without
/// that it takes fifteen minutes.
pub(in crate::http) fn prepare(stream: &TcpStream, send_deadline: Duration) {
    let socket = SockRef::from(stream);
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_user_timeout(Some(send_deadline)))
        .and_then(|()| socket.set_tcp_notsent_lowat(UNSENT_MAX_BYTES));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set the deadline of a connection");
    }
}
