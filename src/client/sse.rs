//! A strict reader of event streams.
//!
//! Form: the HTML standard's `text/event-stream`. Stricter than a browser: a line that is no field,
//! no comment and not empty is an error and not skipped, as are bytes that are no UTF-8, a lone
//! carriage return, and a stream that ends within an event.

use super::error::beginning;

/// A line longer than this is not waited for.
const LINE_BYTES_MAX: usize = 8 << 20;
/// What a reader keeps of the bytes that it has read through before it makes room.
const SPENT_BYTES_MAX: usize = 1 << 16;

/// An event as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// What `event:` says.
    pub name: Option<String>,
    /// The lines of `data:`, joined by line feeds.
    pub data: String,
    /// The number of the line that ended the event, from one.
    pub line: u64,
}

/// What is wrong with a stream, and the line where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SseError {
    /// No field, no comment, not empty.
    #[error("line {line} is `{text}`; expected data:, event:, id:, retry:, a comment or an empty line")]
    UnknownField {
        /// Its number, from one.
        line: u64,
        /// How it begins.
        text: String,
    },
    /// Not UTF-8.
    #[error("line {line} is no UTF-8: `{text}`")]
    Encoding {
        /// Its number, from one.
        line: u64,
        /// How it begins.
        text: String,
    },
    /// A carriage return that ends no line.
    #[error("line {line} holds a lone carriage return: `{text}`")]
    LoneReturn {
        /// Its number, from one.
        line: u64,
        /// How it begins.
        text: String,
    },
    /// A line without an end.
    #[error("line {line} is longer than {LINE_BYTES_MAX} bytes; it begins `{text}`")]
    TooLong {
        /// Its number, from one.
        line: u64,
        /// How it begins.
        text: String,
    },
    /// The stream ended where an event was not complete.
    #[error("the stream ends within an event at line {line}: `{text}`; expected an empty line after it")]
    Unfinished {
        /// The number of the last line, from one.
        line: u64,
        /// How it begins.
        text: String,
    },
}

/// Reads events from bytes that come in any pieces.
#[derive(Debug, Default)]
pub struct SseParser {
    bytes: Vec<u8>,
    /// Bytes before this one are read.
    start: usize,
    /// Between `start` and this there is no line feed.
    searched: usize,
    lines: u64,
    name: Option<String>,
    data: Option<String>,
    comments: u64,
}

impl SseParser {
    /// Takes more of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() || self.start > SPENT_BYTES_MAX {
            self.bytes.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next event that is complete; `None` if more of the stream is needed.
    ///
    /// # Errors
    /// [`SseError`]; what follows in the stream is not to be trusted.
    pub fn next_event(&mut self) -> Result<Option<SseEvent>, SseError> {
        loop {
            let Some(feed) = memchr::memchr(b'\n', &self.bytes[self.searched..]) else {
                self.searched = self.bytes.len();
                if self.searched - self.start > LINE_BYTES_MAX {
                    return Err(SseError::TooLong { line: self.lines + 1, text: beginning(&self.bytes[self.start..]) });
                }
                return Ok(None);
            };
            let end = self.searched + feed;
            let line = &self.bytes[self.start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.lines += 1;
            let line = read_line(line, self.lines)?;
            let field = field(line, self.lines)?;
            (self.start, self.searched) = (end + 1, end + 1);
            match field {
                Field::Data(value) => match &mut self.data {
                    None => self.data = Some(value.to_owned()),
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                },
                Field::Event(value) => self.name = Some(value.to_owned()),
                Field::Comment => self.comments += 1,
                Field::Other => {}
                Field::End => {
                    // An event without data is none, says the standard.
                    let name = self.name.take();
                    if let Some(data) = self.data.take() {
                        return Ok(Some(SseEvent { name, data, line: self.lines }));
                    }
                }
            }
        }
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// [`SseError::Unfinished`].
    pub fn finish(&self) -> Result<(), SseError> {
        let rest = &self.bytes[self.start..];
        match (rest, &self.data) {
            ([], None) => Ok(()),
            ([], Some(data)) => Err(SseError::Unfinished { line: self.lines, text: beginning(data.as_bytes()) }),
            (rest, _) => Err(SseError::Unfinished { line: self.lines + 1, text: beginning(rest) }),
        }
    }

    /// How many comments there were: signs of life between events.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.comments
    }
}

enum Field<'a> {
    Data(&'a str),
    Event(&'a str),
    Comment,
    Other,
    End,
}

fn read_line(line: &[u8], number: u64) -> Result<&str, SseError> {
    // The standard lets a stream begin with a byte order mark.
    let line = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
    let text = std::str::from_utf8(line).map_err(|_| SseError::Encoding { line: number, text: beginning(line) })?;
    if memchr::memchr(b'\r', line).is_some() {
        return Err(SseError::LoneReturn { line: number, text: beginning(line) });
    }
    Ok(text)
}

fn field(line: &str, number: u64) -> Result<Field<'_>, SseError> {
    if line.is_empty() {
        return Ok(Field::End);
    }
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.strip_prefix(' ').unwrap_or(value);
    match name {
        "data" => Ok(Field::Data(value)),
        "event" => Ok(Field::Event(value)),
        "id" | "retry" => Ok(Field::Other),
        "" => Ok(Field::Comment),
        _ => Err(SseError::UnknownField { line: number, text: beginning(line.as_bytes()) }),
    }
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
