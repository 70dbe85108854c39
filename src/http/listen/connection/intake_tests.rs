//! What is handed over, against what actix makes of it.

use actix_http::h1::{Codec, Message, MessageType};
use proptest::prelude::*;
use tokio_util::codec::Decoder;

use crate::http::listen::connection::intake::*;

/// What a connection hands over if its bytes come in `pieces` and each answer is sent at once: a
/// text a request, and what came of the last one.
fn handed(pieces: &[&[u8]], room: usize) -> (Vec<Vec<u8>>, Intake) {
    let (mut intake, mut requests) = (Intake::default(), vec![Vec::new()]);
    let mut pieces = pieces.iter();
    loop {
        let mut space = vec![0; room];
        let mut buffer = ReadBuf::new(&mut space);
        let moved = intake.hand(&mut buffer);
        assert_eq!(moved, !buffer.filled().is_empty());
        requests.last_mut().expect("one is open").extend_from_slice(buffer.filled());
        if matches!(intake.stage, IntakeStage::Answer) {
            assert_eq!(intake.heads_count, requests.len() as u64);
            intake.answered(intake.heads_count, true);
            requests.push(Vec::new());
        } else if !moved {
            let Some(piece) = pieces.next() else { return (requests, intake) };
            intake.arrive(piece);
        }
    }
}

fn whole(bytes: &[u8]) -> Vec<Vec<u8>> {
    handed(&[bytes], 4096).0
}

fn texts(requests: &[Vec<u8>]) -> Vec<String> {
    requests.iter().map(|request| String::from_utf8_lossy(request).into_owned()).collect()
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12\r\n3";
const CHUNKS: &str = "POST /c HTTP/1.1\r\nhost: h\r\ntransfer-encoding:  Chunked \r\n\r\n2;x=\"y\"\r\nab\r\n00a\r\n0123456789\r\n0\r\nX: y\r\n\r\n";

#[test]
fn requests_are_cut_apart_however_they_arrive() {
    let all = format!("\r\n{GET}{POST}\r\n\r\n{CHUNKS}{GET}");
    let expected = [&format!("\r\n{GET}"), POST, &format!("\r\n\r\n{CHUNKS}"), GET, ""];
    for split in 0..all.len() {
        let (first, rest) = all.as_bytes().split_at(split);
        for room in [1, 7, 4096] {
            assert_eq!(texts(&handed(&[first, rest], room).0), expected, "split at {split}, room for {room}");
        }
    }
    let bytes: Vec<&[u8]> = all.as_bytes().chunks(1).collect();
    assert_eq!(texts(&handed(&bytes, 4096).0), expected);
}

#[test]
fn no_byte_of_the_next_request_is_handed_over_before_the_answer() {
    let mut intake = Intake::default();
    intake.arrive(format!("{POST}{GET}").as_bytes());
    let mut space = [0; 4096];
    let mut buffer = ReadBuf::new(&mut space);
    assert!(intake.hand(&mut buffer));
    assert_eq!(buffer.filled(), POST.as_bytes());
    assert!(!intake.hand(&mut buffer) && intake.need() == Need::Bytes, "a client that leaves is to be seen");
    for (count, sent) in [(0, false), (0, true), (1, false)] {
        assert!(!intake.answered(count, sent) && !intake.hand(&mut buffer));
    }
    intake.arrive(&vec![b'x'; KEPT_MAX_BYTES]);
    assert_eq!(intake.need(), Need::Answer);
    assert!(intake.answered(1, true));
    buffer.clear();
    assert!(intake.hand(&mut buffer));
    assert_eq!(buffer.filled(), GET.as_bytes());
}

#[test]
fn what_is_too_much_behind_a_request_ends_the_connection_with_the_answer() {
    let mut intake = Intake::default();
    intake.arrive(GET.as_bytes());
    let mut space = [0; 4096];
    assert!(intake.hand(&mut ReadBuf::new(&mut space)));
    intake.arrive(&vec![b'x'; KEPT_MAX_BYTES]);
    intake.overflow();
    for _ in 0..100 {
        assert_eq!(intake.need(), Need::Bytes);
        intake.arrive(&[b'x'; 4096]);
        assert!(intake.kept.is_empty());
    }
    assert!(!intake.answered(0, true) && !intake.answered(1, false));
    assert!(intake.answered(1, true) && !intake.hand(&mut ReadBuf::new(&mut space)));
    assert_eq!(intake.need(), Need::End);
}

#[test]
fn nothing_is_handed_over_behind_what_is_not_understood() {
    let nonsense = String::from_utf8_lossy(NONSENSE).into_owned();
    let head = |headers: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    let chunked = head("Transfer-Encoding: chunked\r\n");
    for wrong in [
        GET.replace("\r\n", "\n"),
        GET.replacen("\r\n", "\n", 1),
        GET.replace("Host", "\nHost"),
        GET.replace("h\r\n", "h\rx\r\n"),
        GET.replace("h\r\n", "h\r\n x\r\n"),
        GET.replace("Host: h", "Host : h"),
        GET.replace("1.1", "2.0"),
        GET.replace("/a", "/\0"),
        "\u{16}\u{3}\u{1}".to_owned(),
        "GET /\r\n".to_owned(),
        head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        head("Content-Length: 1\r\nContent-Length: 1\r\n"),
        head("Content-Length: 1, 1\r\n"),
        head("Content-Length: +1\r\n"),
        head("Content-Length: 0x1\r\n"),
        head("Content-Length: 1 1\r\n"),
        head("Content-Length:\r\n"),
        head("Content-Length: 18446744073709551616\r\n"),
        head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        head("Transfer-Encoding: gzip, chunked\r\n"),
        head("Transfer-Encoding: identity\r\n"),
        head("Transfer-Encoding: chunked\r\n").replace("1.1", "1.0"),
    ] {
        let (mut requests, intake) = handed(&[wrong.as_bytes(), GET.as_bytes()], 4096);
        assert_eq!(texts(&requests), [nonsense.as_str()], "{wrong:?}");
        assert!(matches!(intake.stage, IntakeStage::Closing) && intake.kept.is_empty());
        // actix refuses it too.
        assert_eq!(understood(&requests.remove(0)), None);
    }
    let extension = |length| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(length));
    for (body, right) in [
        ("0\n\r\n".to_owned(), 1),
        ("1\r\nx\n0\r\n\r\n".to_owned(), 4),
        ("1\r\nxy\r\n0\r\n\r\n".to_owned(), 4),
        ("1 \r\nx\r\n0\r\n\r\n".to_owned(), 1),
        ("\r\n".to_owned(), 0),
        (";\r\n".to_owned(), 0),
        ("-1\r\n".to_owned(), 0),
        ("0x1\r\n".to_owned(), 1),
        ("00000000000000001\r\n".to_owned(), 16),
        ("1;\n\r\nx\r\n0\r\n\r\n".to_owned(), 2),
        ("1;a\rb\r\n".to_owned(), 4),
        ("0\r\nX: y\n\r\n".to_owned(), 7),
        ("0\r\n\n".to_owned(), 3),
        (extension(20_000), 16_385),
        (format!("0\r\n{}\r\n\r\n", "X: y\r\n".repeat(4_097)), 3 + 4_096 * 6),
    ] {
        let raw = format!("{chunked}{body}{GET}");
        let requests = handed(&[raw.as_bytes()], 4096).0;
        assert_eq!(texts(&requests), [format!("{chunked}{}{nonsense}", &body[..right])], "{body:?}");
    }
    assert_eq!(whole(format!("{chunked}{}{GET}", extension(16_000)).as_bytes()).len(), 3, "a long extension is taken");
}

#[test]
fn a_head_that_is_too_large_is_left_to_actix() {
    let long = |length: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(length - 32));
    assert_eq!(whole(long(HEAD_MAX_BYTES).as_bytes()), [long(HEAD_MAX_BYTES).into_bytes(), Vec::new()]);
    let (requests, intake) = handed(&[long(HEAD_MAX_BYTES + 1).as_bytes(), GET.as_bytes()], 4096);
    assert_eq!((requests.len(), requests[0].len()), (1, HEAD_MAX_BYTES));
    assert!(matches!(intake.stage, IntakeStage::Closing));
    let many: String = (0..97).map(|index| format!("X-{index}: 1\r\n")).collect();
    let many = GET.replace("Host: h\r\n", &many);
    assert_eq!(whole(format!("{many}{GET}").as_bytes()), [many.into_bytes()]);
}

#[test]
fn another_protocol_is_not_asked_for() {
    let raw = "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c, websocket\r\n\
               CONNECTION:keep-alive ,upgrade\r\nX-Upgrade: upgrade\r\nContent-Length: 2\r\n\r\n{}";
    let blanked = "POST / HTTP/1.1\r\nHost: h\r\nConnection:        , HTTP2-Settings\r\nupgrade:    ,          \r\n\
                   CONNECTION:keep-alive ,       \r\nX-Upgrade: upgrade\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(texts(&whole(raw.as_bytes())), [blanked, ""]);
}

/// What actix makes of a request's bytes: how many heads it finds, whether a body is open, and how
/// many bytes it leaves; `None` if it refuses them.
fn understood(bytes: &[u8]) -> Option<(usize, bool, usize)> {
    let runtime = actix_web::rt::Runtime::new().expect("a thread has one");
    // The codec keeps a clock for its answers.
    runtime.block_on(async { decoded(Codec::default(), bytes.into()) })
}

fn decoded(mut codec: Codec, mut bytes: BytesMut) -> Option<(usize, bool, usize)> {
    let (mut heads, mut open) = (0, false);
    while let Some(message) = codec.decode(&mut bytes).ok()? {
        match message {
            Message::Item(_) => {
                heads += 1;
                open = !matches!(codec.message_type(), MessageType::None);
            }
            Message::Chunk(Some(_)) => assert!(open),
            Message::Chunk(None) => open = false,
        }
    }
    Some((heads, open, bytes.len()))
}

/// Pieces of which requests are made, right and wrong.
fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\n",
        "POST / HTTP/1.0\r\n",
        "HEAD / HTTP/1.1\r\n",
        "CONNECT h:1 HTTP/1.1\r\n",
        "Host: h\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "content-length:\t12 \r\n",
        "Content-Length: 00\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: CHUNKED\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 3,3\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Upgrade: h2c\r\n",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        "\0",
        ":",
        "0",
        "3",
        "a",
        "f;",
        "0\r\n\r\n",
        "3\r\nabc\r\n",
        "3;x=y\r\nabc\r\n",
        "10\r\n",
        "0\r\nX: y\r\n\r\n",
        "abc",
        "\u{e9}",
        "X: y\r\n",
    ])
}

proptest! {
    /// Each request that is handed over whole is one request to actix, to the byte, or none.
    #[test]
    fn actix_cuts_requests_where_they_are_cut_here(
        fragments in prop::collection::vec(fragment(), 1..24),
        begin in prop::sample::select(vec!["", GET, POST, CHUNKS, "POST / HTTP/1.1\r\nHost: h\r\n"]),
        sizes in prop::collection::vec(1_usize..40, 1..200),
    ) {
        let raw = format!("{begin}{}", fragments.concat());
        let (mut rest, mut pieces) = (raw.as_bytes(), Vec::new());
        for size in sizes.into_iter().cycle() {
            let (piece, behind) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        let (mut requests, _) = handed(&pieces, 64);
        let last = requests.pop().expect("one is open");
        for request in requests {
            let is_tunnel = request.trim_ascii_start().starts_with(b"CONNECT");
            let found = understood(&request);
            // To actix the rest of the connection belongs to a tunnel; none is opened, and the
            // connection ends.
            prop_assert!(matches!(found, None | Some((1, false, 0))) || is_tunnel, "{found:?} {:?}", texts(&[request]));
        }
        if let Some((heads, ..)) = understood(&last) {
            prop_assert!(heads <= 1, "{:?}", texts(&[last]));
        }
    }
}
