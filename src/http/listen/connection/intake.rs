//! What of the bytes that arrive on a connection is handed to actix, and when.
//!
//! Promises: never more than one request whose answer is not sent; nothing behind bytes that were
//! not understood. Bounded: a head of [`HEAD_MAX_BYTES`], or what was read together with a
//! request's end. No sockets and no time here.

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

use crate::http::listen::connection::body::{FramedBody, Taken};
use crate::http::listen::connection::head::{self, HEAD_MAX_BYTES, HeadError, HeadScan, Scan};

/// Most bytes that are kept behind a request while it is answered. Clients do not pipeline (RFC
/// 9112, 9.3.2), and 1,000 connections that do it nevertheless take 12 MB so.
const KEPT_MAX_BYTES: usize = 8 << 10;
/// What actix understands nowhere, neither in a head nor between chunks: it answers with 400 and
/// closes.
const NONSENSE: &[u8] = b"\r\0";

/// The bytes of a connection that are not handed over yet, and how far its requests are read.
#[derive(Debug)]
pub(in crate::http) struct Intake {
    kept: BytesMut,
    stage: IntakeStage,
    /// Requests that are handed over, at least in part.
    heads_count: u64,
}

#[derive(Debug)]
enum IntakeStage {
    /// A head is being read; nothing of it is handed over before it is whole.
    Head(Scan),
    /// So many of the bytes that are kept are handed over, and then the body, if there is one.
    Handing(usize, Option<FramedBody>),
    /// A body passes through.
    Body(FramedBody),
    /// A request is handed over and its answer is awaited.
    Answer,
    /// The same, and too much came behind it: what is kept and what comes is thrown away, and the
    /// connection ends with the answer.
    Overfull,
    /// What comes is thrown away: actix ends the connection by itself, after a 400 or an answer
    /// that came before the body's end.
    Closing,
    /// No more requests.
    Over,
}

/// What should be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Need {
    /// Bytes of the client, at its leisure or as their reader allows.
    Bytes,
    /// The rest of a head that has begun.
    Rest,
    /// An answer's end: there is no room for more bytes.
    Answer,
    /// The end: nothing is answered any more.
    End,
}

impl Default for Intake {
    fn default() -> Self {
        Self { kept: BytesMut::new(), stage: IntakeStage::Head(Scan::default()), heads_count: 0 }
    }
}

impl Intake {
    /// Hands over what may be handed over, and says whether that was anything.
    pub(in crate::http) fn hand(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if let IntakeStage::Head(scan) = &mut self.stage {
            self.stage = match scan.look(&self.kept) {
                HeadScan::Part if self.kept.len() < HEAD_MAX_BYTES => return false,
                HeadScan::Head(end) if end <= HEAD_MAX_BYTES => match head::read(&mut self.kept[..end]) {
                    Ok(body) => {
                        self.heads_count += 1;
                        IntakeStage::Handing(end, Some(body))
                    }
                    // actix counts them too, and says so.
                    Err(HeadError::Headers) => IntakeStage::Handing(end, None),
                    Err(HeadError::Framing) => self.refuse(),
                },
                // The same is true of its size.
                HeadScan::Part | HeadScan::Head(_) => IntakeStage::Handing(HEAD_MAX_BYTES, None),
                HeadScan::Nonsense => self.refuse(),
            };
        }
        let before = buffer.filled().len();
        while buffer.remaining() > 0 {
            match &mut self.stage {
                IntakeStage::Handing(0, body) => {
                    self.stage = match body.take() {
                        Some(body) => IntakeStage::Body(body),
                        None => IntakeStage::Closing,
                    };
                }
                IntakeStage::Handing(left, _) => {
                    let length = buffer.remaining().min(*left);
                    *left -= length;
                    self.put(length, buffer);
                }
                IntakeStage::Body(body) => {
                    let length = buffer.remaining().min(self.kept.len());
                    let taken = body.take(&self.kept[..length]);
                    match taken {
                        Taken::All if length == 0 => break,
                        Taken::All => self.put(length, buffer),
                        Taken::End(end) => {
                            self.put(end, buffer);
                            self.stage = IntakeStage::Answer;
                        }
                        Taken::Wrong(at) => {
                            self.put(at, buffer);
                            self.stage = self.refuse();
                        }
                    }
                }
                IntakeStage::Head(_)
                | IntakeStage::Answer
                | IntakeStage::Overfull
                | IntakeStage::Closing
                | IntakeStage::Over => break,
            }
        }
        buffer.filled().len() > before
    }

    /// What to wait for while nothing can be handed over.
    pub(in crate::http) fn need(&self) -> Need {
        match self.stage {
            IntakeStage::Answer if self.kept.len() >= KEPT_MAX_BYTES => Need::Answer,
            IntakeStage::Over => Need::End,
            IntakeStage::Head(_) if !self.kept.is_empty() => Need::Rest,
            _ => Need::Bytes,
        }
    }

    /// Takes bytes that arrived.
    pub(in crate::http) fn arrive(&mut self, bytes: &[u8]) {
        if !matches!(self.stage, IntakeStage::Overfull | IntakeStage::Closing | IntakeStage::Over) {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// So many answers are over; `sent` says that the kernel has all of them. Returns whether the
    /// connection goes on to its next request, or its end.
    pub(in crate::http) fn answered(&mut self, count: u64, sent: bool) -> bool {
        if count < self.heads_count {
            return false;
        }
        match self.stage {
            IntakeStage::Answer if sent => {
                self.stage = IntakeStage::Head(Scan::default());
                true
            }
            IntakeStage::Overfull if sent => {
                self.stage = IntakeStage::Over;
                true
            }
            // What of the body is not read by now is not wanted: actix closes such a connection
            // after a second.
            IntakeStage::Handing(_, Some(_)) | IntakeStage::Body(_) => {
                self.throw_away(IntakeStage::Closing);
                false
            }
            _ => false,
        }
    }

    /// Waits no longer for the rest of a head.
    pub(in crate::http) fn give_up(&mut self) {
        self.stage = self.refuse();
    }

    /// Keeps nothing of what comes behind the request that is being answered.
    pub(in crate::http) fn overflow(&mut self) {
        self.throw_away(IntakeStage::Overfull);
    }

    fn throw_away(&mut self, stage: IntakeStage) {
        self.kept = BytesMut::new();
        self.stage = stage;
    }

    /// In place of what is kept and was not understood, what actix does not understand either.
    fn refuse(&mut self) -> IntakeStage {
        self.kept = BytesMut::from(NONSENSE);
        IntakeStage::Handing(NONSENSE.len(), None)
    }

    fn put(&mut self, length: usize, buffer: &mut ReadBuf<'_>) {
        buffer.put_slice(&self.kept[..length]);
        self.kept.advance(length);
        if self.kept.is_empty() {
            // An idle connection keeps no memory.
            self.kept = BytesMut::new();
        }
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
