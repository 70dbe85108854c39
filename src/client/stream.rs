//! An event stream: bytes to lines to events, each with its time.

use std::collections::VecDeque;
use std::time::Instant;

use super::answer::{Answer, Timing};
use super::dialect::{Api, Decoder};
use super::error::ClientError;
use super::event::AnswerEvent;
use super::sse::SseParser;

/// An event, and when its bytes were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// What.
    pub event: AnswerEvent,
}

/// An answer that is read as a stream of events. Dropping it closes the connection.
pub struct EventStream {
    answer: Answer,
    parser: SseParser,
    decoder: Decoder,
    arrived: VecDeque<Arrival>,
    first_byte: Option<Instant>,
    read_bytes: u64,
    events: u64,
    ended: bool,
}

impl EventStream {
    pub(super) fn new(answer: Answer, api: Api) -> Self {
        Self {
            answer,
            parser: SseParser::default(),
            decoder: Decoder::new(api),
            arrived: VecDeque::new(),
            first_byte: None,
            read_bytes: 0,
            events: 0,
            ended: false,
        }
    }

    /// The next event; `None` once the stream has ended as its form demands.
    ///
    /// Every stream gives exactly one [`AnswerEvent::Done`] before its end.
    ///
    /// # Errors
    /// [`ClientError::Broken`], [`ClientError::Sse`], [`ClientError::Decode`],
    /// [`ClientError::EndedEarly`].
    pub async fn next(&mut self) -> Result<Option<Arrival>, ClientError> {
        loop {
            if let Some(arrival) = self.arrived.pop_front() {
                return Ok(Some(arrival));
            }
            if self.ended {
                return Ok(None);
            }
            match self.answer.bytes().await? {
                Some((at, bytes)) => {
                    self.first_byte.get_or_insert(at);
                    self.read_bytes += bytes.len() as u64;
                    self.parser.push(&bytes);
                    self.read(at)?;
                }
                None => {
                    self.ended = true;
                    let url = || self.answer.server();
                    self.parser.finish().map_err(|error| ClientError::Sse { url: url(), error })?;
                    self.decoder.finish().map_err(|expected| ClientError::EndedEarly { url: url(), expected })?;
                }
            }
        }
    }

    /// Turns what is complete into events.
    fn read(&mut self, at: Instant) -> Result<(), ClientError> {
        while let Some(event) =
            self.parser.next_event().map_err(|error| ClientError::Sse { url: self.answer.server(), error })?
        {
            self.events += 1;
            let arrived = &mut self.arrived;
            self.decoder
                .decode(&event, &mut |event| arrived.push_back(Arrival { at, event }))
                .map_err(|error| ClientError::Decode { url: self.answer.server(), error })?;
        }
        Ok(())
    }

    /// When the request was sent and its head came.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.answer.timing()
    }

    /// A header of the answer, if it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.answer.header(name)
    }

    /// When the first byte of the body came.
    #[must_use]
    pub fn first_byte(&self) -> Option<Instant> {
        self.first_byte
    }

    /// Bytes of the body so far.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Events as they were sent, so far: one of them may hold several of this room's, or none.
    #[must_use]
    pub fn sse_events(&self) -> u64 {
        self.events
    }

    /// Comments so far, by which a server shows that it is alive.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.parser.comments()
    }
}
