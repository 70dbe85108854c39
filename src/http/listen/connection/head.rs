//! A request's head: where it ends, how its body is framed, and what it asks for that is not
//! granted.
//!
//! Promises: each byte is looked at once, and a head that is taken means to actix what it means
//! here. httparse, which actix reads heads with, reads them here too; of what it leaves open (bare
//! line feeds, several lengths, codings) nothing is taken.

use std::mem;
use std::ops::Range;

use httparse::{EMPTY_HEADER, Header, Request, Status};

use crate::http::listen::connection::body::FramedBody;

/// Largest head: as much as actix keeps of one.
pub(in crate::http) const HEAD_MAX_BYTES: usize = 128 << 10;
/// Most headers that actix takes.
const HEADERS_MAX_COUNT: usize = 96;

/// How far a head was looked at.
#[derive(Debug, Default)]
pub(in crate::http) struct Scan {
    scanned: usize,
    line_begins: usize,
    /// The request line has come. Empty lines may stand before it (RFC 9112, 2.2).
    begun: bool,
}

/// What the bytes so far hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum HeadScan {
    /// The beginning of a head.
    Part,
    /// A head that ends before this byte.
    Head(usize),
    /// No HTTP.
    Nonsense,
}

impl Scan {
    /// Looks at what of `bytes`, which begin with the head, came since the last look.
    pub(in crate::http) fn look(&mut self, bytes: &[u8]) -> HeadScan {
        while let Some(&byte) = bytes.get(self.scanned) {
            let at = self.scanned;
            self.scanned += 1;
            let behind_return = at.checked_sub(1).is_some_and(|before| bytes[before] == b'\r');
            let is_text = byte == b'\t' || !byte.is_ascii_control();
            if behind_return != (byte == b'\n') || !(is_text || matches!(byte, b'\r' | b'\n')) {
                return HeadScan::Nonsense;
            }
            if byte != b'\n' {
                continue;
            }
            let line = &bytes[self.line_begins..self.scanned];
            self.line_begins = self.scanned;
            if line.len() > 2 {
                // What is no HTTP is refused at its first line: the rest of a head may never come.
                if !mem::replace(&mut self.begun, true) && Request::new(&mut []).parse(line).is_err() {
                    return HeadScan::Nonsense;
                }
            } else if self.begun {
                return HeadScan::Head(self.scanned);
            }
        }
        HeadScan::Part
    }
}

/// Why a head is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum HeadError {
    /// More headers than actix takes.
    Headers,
    /// No head, or one whose body could be read in two ways.
    Framing,
}

/// Reads a whole head: how its body is framed. What asks for another protocol is blanked, since
/// none is spoken here: a server may ignore it (RFC 9110, 7.8), but actix would read no body and
/// close the connection.
///
/// # Errors
/// [`HeadError`]: nothing behind such a head can be read.
pub(in crate::http) fn read(head: &mut [u8]) -> Result<FramedBody, HeadError> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX_COUNT];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::Headers),
        _ => return Err(HeadError::Framing),
    }
    let is_http_1_1 = request.version == Some(1);
    let body = framing(request.headers, is_http_1_1)?;
    let begin = head.as_ptr() as usize;
    let at = |part: &[u8]| {
        let from = part.as_ptr() as usize - begin;
        from..from + part.len()
    };
    let upgrades: Vec<Range<usize>> = request.headers.iter().flat_map(protocols).map(at).collect();
    for blank in upgrades {
        head[blank].fill(b' ');
    }
    Ok(body)
}

fn framing(headers: &[Header<'_>], is_http_1_1: bool) -> Result<FramedBody, HeadError> {
    let values = |name: &'static str| {
        let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.trim_ascii())
    };
    let (mut lengths, mut codings) = (values("content-length"), values("transfer-encoding"));
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(FramedBody::of_length(0)),
        (Some(length), None) if lengths.next().is_none() => {
            let digits = std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|text| text.parse().ok()).map(FramedBody::of_length).ok_or(HeadError::Framing)
        }
        (None, Some(coding)) if codings.next().is_none() && is_http_1_1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(FramedBody::in_chunks())
        }
        _ => Err(HeadError::Framing),
    }
}

/// The parts of a header that ask for another protocol.
fn protocols<'h>(header: &Header<'h>) -> impl Iterator<Item = &'h [u8]> {
    let (is_upgrade, is_connection) =
        (header.name.eq_ignore_ascii_case("upgrade"), header.name.eq_ignore_ascii_case("connection"));
    let options = header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    options.filter(move |option| is_upgrade || is_connection && option.eq_ignore_ascii_case(b"upgrade"))
}
