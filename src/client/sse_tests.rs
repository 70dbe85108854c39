//! Streams in any pieces give the same events, and what breaks the format is shown.

use proptest::prelude::*;

use super::*;

fn read(pieces: &[&[u8]]) -> Result<Vec<(Option<String>, String)>, SseError> {
    let (mut parser, mut events) = (SseParser::default(), Vec::new());
    for piece in pieces {
        parser.push(piece);
        while let Some(event) = parser.next_event()? {
            events.push((event.name, event.data));
        }
    }
    parser.finish()?;
    Ok(events)
}

fn plain(data: &str) -> (Option<String>, String) {
    (None, data.to_owned())
}

#[test]
fn fields_comments_and_line_ends_are_read_as_the_standard_says() {
    let stream = b"\xef\xbb\xbf: hello\n\ndata: a\n\ndata:b\r\n\r\nevent: token\nid: 7\nretry: 10\ndata:  c\ndata\ndata: d\n\nevent: lone\n\ndata: e\n\n";
    let named = (Some("token".to_owned()), " c\n\nd".to_owned());
    assert_eq!(read(&[stream]).unwrap(), [plain("a"), plain("b"), named, plain("e")]);
    let mut parser = SseParser::default();
    parser.push(b": one\n:two\n\n");
    assert_eq!(parser.next_event(), Ok(None));
    assert_eq!((parser.comments(), parser.finish()), (2, Ok(())));
}

#[test]
fn what_breaks_the_format_is_shown_with_its_line() {
    for (stream, said) in [
        (&b"data: a\n\n{\"error\":\"x\"}\n\n"[..], "line 3 is `{\"error\":\"x\"}`; expected data:"),
        (b"Data: a\n\n", "line 1 is `Data: a`"),
        (b" data: a\n\n", "line 1 is ` data: a`"),
        (b"data: \xff\n\n", "line 1 is no UTF-8"),
        (b"data: a\rdata: b\n\n", "line 1 holds a lone carriage return: `data: a data: b`"),
        (b"data: a\n\ndata: b\n", "ends within an event at line 3: `b`"),
        (b"data: a\n\ndata: b", "ends within an event at line 3: `data: b`"),
    ] {
        let error = read(&[stream]).unwrap_err().to_string();
        assert!(error.contains(said), "{stream:?}: {error}");
    }
    let mut parser = SseParser::default();
    parser.push(&vec![b'x'; LINE_BYTES_MAX + 1]);
    assert!(matches!(parser.next_event(), Err(SseError::TooLong { line: 1, .. })));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(texts in prop::collection::vec("[^\r\n]{0,40}", 1..8), cuts in prop::collection::vec(0_usize..400, 0..12)) {
        let stream: String = texts.iter().map(|text| format!("data: {text}\n\n")).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (stream.len() + 1)).chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream.as_bytes()[cut[0]..cut[1]]).collect();
        let wanted: Vec<_> = texts.iter().map(|text| plain(text)).collect();
        prop_assert_eq!(read(&pieces).unwrap(), wanted);
    }

    #[test]
    fn any_bytes_end_in_events_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&[&bytes]);
    }
}
