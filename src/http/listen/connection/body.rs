//! Where a request's body ends.
//!
//! Promises: each byte is looked at once, except that the data of a chunk and of a body with a
//! length are passed over. What is taken here is a part of what actix takes, and ends at the same
//! byte.

/// Most bytes of chunk extensions and trailers in one body. As much as hyper takes; none is of any
/// use here.
const ASIDE_MAX_BYTES: usize = 16 << 10;
/// Most digits of a chunk's size: 2^64 - 1.
const DIGITS_MAX_COUNT: u32 = 16;

/// A body, and what of it is still to come.
#[derive(Debug)]
pub(in crate::http) enum FramedBody {
    /// So many bytes.
    Length(u64),
    /// Chunks (RFC 9112, 7.1).
    Chunks(Chunks),
}

/// How much of some bytes belongs to the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Taken {
    /// All of them, and more is to come.
    All,
    /// The body ends before this byte.
    End(usize),
    /// This byte cannot stand where it stands.
    Wrong(usize),
}

impl FramedBody {
    pub(in crate::http) fn of_length(bytes: u64) -> Self {
        Self::Length(bytes)
    }

    pub(in crate::http) fn in_chunks() -> Self {
        Self::Chunks(Chunks { at: At::Size { digits: 0 }, size: 0, aside_bytes: 0 })
    }

    /// Takes the bytes that come next.
    pub(in crate::http) fn take(&mut self, bytes: &[u8]) -> Taken {
        match self {
            Self::Length(left) => match usize::try_from(*left) {
                Ok(length) if length <= bytes.len() => {
                    *left = 0;
                    Taken::End(length)
                }
                _ => {
                    *left -= bytes.len() as u64;
                    Taken::All
                }
            },
            Self::Chunks(chunks) => chunks.take(bytes),
        }
    }
}

/// A body in chunks.
#[derive(Debug)]
pub(in crate::http) struct Chunks {
    at: At,
    /// Bytes of the chunk's data that are still to come; zero is the last chunk.
    size: u64,
    aside_bytes: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum At {
    /// A digit of a chunk's size.
    Size {
        digits: u32,
    },
    /// More of an extension.
    Extension,
    /// The line feed behind a chunk's size.
    SizeEnd,
    /// A chunk's data.
    Data,
    /// The line's end behind it.
    DataReturn,
    DataEnd,
    /// A trailer, or the last line.
    Trailer,
    /// More of a trailer.
    InTrailer,
    /// The line feed behind a trailer.
    TrailerEnd,
    /// The line feed that ends the body.
    End,
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Taken {
        let mut index = 0;
        while let Some(&byte) = bytes.get(index) {
            if matches!(self.at, At::Data) {
                let here = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - index);
                self.size -= here as u64;
                index += here;
                if self.size == 0 {
                    self.at = At::DataReturn;
                }
                continue;
            }
            match self.step(byte) {
                Some(at) => self.at = at,
                None if matches!(self.at, At::End) && byte == b'\n' => return Taken::End(index + 1),
                None => return Taken::Wrong(index),
            }
            index += 1;
        }
        Taken::All
    }

    /// What comes behind `byte`; `None` is the end, or an error.
    fn step(&mut self, byte: u8) -> Option<At> {
        match (self.at, byte) {
            (At::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < DIGITS_MAX_COUNT => {
                let digit = char::from(byte).to_digit(16).expect("it is one of the digits above");
                // The size of the last chunk is zero, and so is that of the data that was passed
                // over.
                self.size = self.size << 4 | u64::from(digit);
                Some(At::Size { digits: digits + 1 })
            }
            (At::Size { digits: 1.. }, b';') => self.aside(At::Extension),
            (At::Size { digits: 1.. } | At::Extension, b'\r') => Some(At::SizeEnd),
            (At::Extension, _) if is_text(byte) => self.aside(At::Extension),
            (At::SizeEnd, b'\n') => Some(if self.size == 0 { At::Trailer } else { At::Data }),
            (At::DataReturn, b'\r') => Some(At::DataEnd),
            (At::DataEnd, b'\n') => Some(At::Size { digits: 0 }),
            (At::Trailer, b'\r') => Some(At::End),
            (At::InTrailer, b'\r') => Some(At::TrailerEnd),
            (At::Trailer | At::InTrailer, _) if is_text(byte) => self.aside(At::InTrailer),
            (At::TrailerEnd, b'\n') => Some(At::Trailer),
            _ => None,
        }
    }

    /// Counts a byte that is no part of the content.
    fn aside(&mut self, at: At) -> Option<At> {
        self.aside_bytes += 1;
        (self.aside_bytes <= ASIDE_MAX_BYTES).then_some(at)
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}
