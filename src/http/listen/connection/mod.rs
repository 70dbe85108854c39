//! A client's connection: which of its bytes reach actix and when, and what becomes of the answers.
//!
//! Promises: actix has one request at a time, whose framing can be read in one way ([`Intake`]). A
//! client that leaves is seen however much it sent behind its request. An answer goes on only while
//! the client takes it ([`ProgressDeadline`]). What actix answers by itself says what is wrong
//! ([`own`]). A connection that waits is not polled.

mod body;
mod head;
mod intake;
mod own;
mod places;
mod progress_deadline;

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::http::StatusCode;
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use intake::{Intake, Need};
use progress_deadline::ProgressDeadline;

pub(in crate::http) use places::{ConnectionPlace, ConnectionPlaces, turn_away};
pub(in crate::http) use progress_deadline::prepare;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 4 << 10;
/// How long an answer may take with more behind it than is kept. Then what is behind it is thrown
/// away, to see the client leave: a client that pipelines must be ready to ask again (RFC 9112,
/// 9.3.2), and short answers come in time.
const OVERFULL_AFTER: Duration = Duration::from_secs(1);
/// How long a client may take to read the last answer of a connection that ends so.
const LINGER: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub(in crate::http) struct Connection {
    stream: TcpStream,
    intake: Intake,
    /// Runs while what is needed may take so long and no longer: the rest of a head, an answer's
    /// end, the client's last look.
    timer: Option<(Need, Pin<Box<Sleep>>)>,
    head_deadline: Duration,
    /// A head took too long.
    late: bool,
    answers: Answers,
    pace: ProgressDeadline,
    /// An answer in place of actix's own: its bytes, and how many of them are sent.
    instead: Option<(Vec<u8>, usize)>,
    _place: ConnectionPlace,
}

/// How many answers of a connection are over, whole or given up.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Answers(Rc<Cell<u64>>);

/// An answer that is being made or sent; dropped, it is over.
#[derive(Debug)]
pub(in crate::http) struct Answering(Answers);

impl Answering {
    /// The answer to `request`; `None` in tests without connections.
    pub(in crate::http) fn of(request: &ServiceRequest) -> Option<Self> {
        request.conn_data::<Answers>().cloned().map(Self)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Answers(count) = &self.0;
        count.set(count.get() + 1);
    }
}

impl Connection {
    /// Wraps a connection, which is given up once its client takes longer than `head_deadline` for
    /// a head that has begun, or takes nothing of an answer for `send_deadline`.
    pub(in crate::http) fn new(
        stream: TcpStream,
        place: ConnectionPlace,
        head_deadline: Duration,
        send_deadline: Duration,
    ) -> Self {
        Self {
            stream,
            intake: Intake::default(),
            timer: None,
            head_deadline,
            late: false,
            answers: Answers::default(),
            pace: ProgressDeadline::new(send_deadline),
            instead: None,
            _place: place,
        }
    }

    /// What [`Answering::of`] looks for in the connection's data.
    pub(in crate::http) fn answers(&self) -> Answers {
        self.answers.clone()
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.pace.watch(context, written)
    }

    /// Sends the rest of the answer that goes out in place of `replaced` bytes.
    fn poll_instead(&mut self, context: &mut Context<'_>, replaced: usize) -> Poll<io::Result<usize>> {
        while let Some((answer, sent)) = self.instead.take() {
            if sent == answer.len() {
                break;
            }
            let written = self.poll_send(context, &answer[sent..]);
            let more = if let Poll::Ready(Ok(more)) = written { more } else { 0 };
            self.instead = Some((answer, sent + more));
            if ready!(written)? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
        Poll::Ready(Ok(replaced))
    }

    /// Reads a piece; `false` is the end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [MaybeUninit::uninit(); PIECE_BYTES];
        let mut piece = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
        self.intake.arrive(piece.filled());
        Poll::Ready(Ok(!piece.filled().is_empty()))
    }

    /// Whether `need` has lasted for `time`.
    fn poll_timer(&mut self, context: &mut Context<'_>, need: Need, time: Duration) -> Poll<()> {
        let running = self.timer.take().filter(|(of, _)| *of == need);
        let (_, timer) = self.timer.insert(running.unwrap_or_else(|| (need, Box::pin(sleep(time)))));
        timer.as_mut().poll(context)
    }

    /// Waits for the client to read the last answer: what is unread when a socket is closed may
    /// cost it the rest.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_timer(context, Need::End, LINGER).is_ready() {
            return Poll::Ready(Ok(()));
        }
        while ready!(self.poll_piece(context))? {}
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.intake.answered(this.answers.0.get(), false);
        while !this.intake.hand(buffer) {
            match this.intake.need() {
                // actix has a deadline for the first head only, and each byte of a later one starts
                // its idle time anew.
                need @ Need::Rest if this.poll_timer(context, need, this.head_deadline).is_ready() => {
                    this.late = true;
                    this.intake.give_up();
                }
                need @ (Need::Bytes | Need::Rest) => {
                    if need == Need::Bytes {
                        this.timer = None;
                    }
                    if !ready!(this.poll_piece(context))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                need @ Need::Answer => {
                    ready!(this.poll_timer(context, need, OVERFULL_AFTER));
                    this.intake.overflow();
                }
                // Nothing in the buffer is the end.
                Need::End => return this.poll_end(context),
            }
        }
        this.timer = None;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_some() {
            return this.poll_instead(context, bytes.len());
        }
        match own::head(bytes) {
            Some((0, status)) => {
                let status = if this.late { StatusCode::REQUEST_TIMEOUT } else { status };
                this.instead = Some((own::answer(status), 0));
                this.poll_instead(context, bytes.len())
            }
            // What stands before it goes first; it comes again by itself.
            Some((at, _)) => this.poll_send(context, &bytes[..at]),
            None => this.poll_send(context, bytes),
        }
    }

    /// actix flushes when it has written everything: an answer that is over is sent by then, and
    /// the next request may come.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        if this.intake.answered(this.answers.0.get(), true) {
            // The next answer has a time of its own.
            this.timer = None;
            // actix has read before it wrote, and would wait for bytes that have come already.
            context.waker().wake_by_ref();
            if this.intake.need() == Need::End {
                return Pin::new(&mut this.stream).poll_shutdown(context);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
